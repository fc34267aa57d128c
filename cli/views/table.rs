//! Plain tables.

use anstyle::Style;
use unicode_width::UnicodeWidthStr;

use super::{labelled, one_line};

/// Columns between two cells.
const GAP: usize = 2;
/// What the last column gets at least, on whatever terminal.
const LAST_MIN: usize = 10;
/// Where the notes of a row begin.
const NOTE_INDENT: usize = 6;

/// What a row says below its line: names and texts.
pub(crate) type Notes = Vec<(&'static str, String)>;

/// A table with a line per row: every column is as wide as its widest cell, so that ids can be copied, and the
/// last one is cut to what is left of `width` columns.
pub(crate) fn render(header: &[&str], rows: Vec<Vec<String>>, width: u16) -> String {
    render_styled(header, rows, width, |_| Style::new())
}

/// The same, with a style for the last cell but one of each row, by its text.
pub(crate) fn render_styled(
    header: &[&str],
    rows: Vec<Vec<String>>,
    width: u16,
    style: impl Fn(&str) -> Style,
) -> String {
    let rows = cleaned(rows);
    let layout = Layout::of(header, rows.iter());
    let room = usize::from(width).saturating_sub(layout.before).max(LAST_MIN);
    let marked = layout.widths.len().checked_sub(1);
    let by_text = |column: usize, cell: &str| if Some(column) == marked { style(cell) } else { Style::new() };
    let body = rows.iter().map(|row| layout.line(row, &by_text, |cell| one_line(cell, room)));
    std::iter::once(layout.head(header)).chain(body).collect::<Vec<_>>().join("\n")
}

/// A table whose rows have more to say than a line holds: nothing is cut, the last column is broken between words, and
/// the notes of a row stand below it.
pub(crate) fn render_noted(header: &[&str], rows: Vec<(Vec<String>, Notes)>, width: u16) -> String {
    let (rows, notes): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
    let rows = cleaned(rows);
    let layout = Layout::of(header, rows.iter());
    let mut lines = vec![layout.head(header)];
    for (row, notes) in rows.iter().zip(&notes) {
        lines.push(
            layout.line(row, &|_, _| Style::new(), |cell| labelled::hanging(cell, layout.before, width)),
        );
        lines.extend(Some(labelled::render(notes, NOTE_INDENT, width)).filter(|notes| !notes.is_empty()));
    }
    lines.join("\n")
}

/// Every cell on one line: names are of others too.
fn cleaned(mut rows: Vec<Vec<String>>) -> Vec<Vec<String>> {
    for cell in rows.iter_mut().flatten() {
        *cell = one_line(cell, usize::MAX);
    }
    rows
}

/// Where the columns are.
struct Layout {
    /// Of all columns but the last.
    widths: Vec<usize>,
    /// Where the last one begins.
    before: usize,
}

impl Layout {
    fn of<'r>(header: &[&str], rows: impl Iterator<Item = &'r Vec<String>> + Clone) -> Layout {
        let widths: Vec<usize> = header
            .split_last()
            .map_or(&[][..], |(_, fixed)| fixed)
            .iter()
            .enumerate()
            .map(|(column, name)| {
                let cells = rows.clone().filter_map(|row| row.get(column));
                cells.map(|cell| cell.width()).fold(name.width(), usize::max)
            })
            .collect();
        let before = 1 + widths.iter().map(|width| width + GAP).sum::<usize>();
        Layout { widths, before }
    }

    fn head(&self, header: &[&str]) -> String {
        let header: Vec<String> = header.iter().map(|name| (*name).to_owned()).collect();
        self.line(&header, &|_, _| Style::new().bold(), str::to_owned)
    }

    /// One row; `last` lays its last cell out.
    fn line(
        &self,
        row: &[String],
        style_of: &dyn Fn(usize, &str) -> Style,
        last: impl Fn(&str) -> String,
    ) -> String {
        let mut text = " ".to_owned();
        for (column, cell) in row.iter().enumerate() {
            let style = style_of(column, cell);
            let Some(width) = self.widths.get(column) else {
                text.push_str(&format!("{style}{}{style:#}", last(cell)));
                break;
            };
            let pad = " ".repeat(width.saturating_sub(cell.width()) + GAP);
            text.push_str(&format!("{style}{cell}{style:#}{pad}"));
        }
        text.trim_end().to_owned()
    }
}
