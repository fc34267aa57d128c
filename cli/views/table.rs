//! Plain tables.

use anstyle::Style;
use unicode_width::UnicodeWidthStr;

use super::one_line;

/// Columns between two cells.
const GAP: usize = 2;
/// What the last column gets at least, on whatever terminal.
const LAST_MIN: usize = 10;

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
    let header: Vec<String> = header.iter().map(|name| (*name).to_owned()).collect();
    let fixed = header.len().saturating_sub(1);
    let widths: Vec<usize> = (0..fixed)
        .map(|column| {
            let cells = std::iter::once(&header).chain(&rows).filter_map(|row| row.get(column));
            cells.map(|cell| cell.width()).max().unwrap_or(0)
        })
        .collect();
    let before: usize = 1 + widths.iter().map(|width| width + GAP).sum::<usize>();
    let room = usize::from(width).saturating_sub(before).max(LAST_MIN);
    let line = |row: &[String], style_of: &dyn Fn(usize, &str) -> Style| {
        let mut text = " ".to_owned();
        for (column, cell) in row.iter().enumerate() {
            let style = style_of(column, cell);
            let Some(width) = widths.get(column) else {
                text.push_str(&format!("{style}{}{style:#}", one_line(cell, room)));
                break;
            };
            let pad = " ".repeat(width.saturating_sub(cell.width()) + GAP);
            text.push_str(&format!("{style}{cell}{style:#}{pad}"));
        }
        text.trim_end().to_owned()
    };
    let head = line(&header, &|_, _| Style::new().bold());
    let marked = fixed.checked_sub(1);
    let body = rows.iter().map(|row| {
        line(row, &|column, cell| if Some(column) == marked { style(cell) } else { Style::new() })
    });
    std::iter::once(head).chain(body).collect::<Vec<_>>().join("\n")
}
