//! Lines with a name in front, and numbers with the noun that fits them.

use anstyle::Style;
use unicode_width::UnicodeWidthStr;

use super::{one_line, wrapped};

/// Columns between a name and its text.
const GAP: usize = 2;
/// What a text gets at least, on whatever terminal.
const TEXT_MIN: usize = 20;

/// Each name with its text, indented by so many columns; texts begin below each other and are broken between words
/// where `width` columns end, so nothing is cut. What has no text is left out.
pub(crate) fn render(lines: &[(&str, String)], indent: usize, width: u16) -> String {
    let lines: Vec<_> = lines.iter().filter(|(_, text)| !text.is_empty()).collect();
    let names = lines.iter().map(|(name, _)| name.width()).max().unwrap_or(0);
    let dimmed = Style::new().dimmed();
    let shown = lines.iter().map(|(name, text)| {
        let pad = " ".repeat(names - name.width() + GAP);
        let before = indent + names + GAP;
        format!("{}{dimmed}{name}{dimmed:#}{pad}{}", " ".repeat(indent), hanging(text, before, width))
    });
    shown.collect::<Vec<_>>().join("\n")
}

/// Text on as many lines as it needs, where its first line begins after so many columns and the others below that.
pub(crate) fn hanging(text: &str, before: usize, width: u16) -> String {
    let room = usize::from(width).saturating_sub(before).max(TEXT_MIN);
    let lines = wrapped(&one_line(text, usize::MAX), room);
    lines.replace('\n', &format!("\n{}", " ".repeat(before)))
}

/// `1 book`, `2 books`.
pub(crate) fn count(number: impl TryInto<u64> + Copy + std::fmt::Display, noun: &str) -> String {
    let plural = if number.try_into().is_ok_and(|number| number == 1) { "" } else { "s" };
    match (noun.strip_suffix('y'), plural) {
        (Some(stem), "s") => format!("{number} {stem}ies"),
        _ => format!("{number} {noun}{plural}"),
    }
}
