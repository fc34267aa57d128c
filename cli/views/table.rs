//! Plain tables.

use comfy_table::{ContentArrangement, Table, presets};

/// A table of at most `width` columns; long cells wrap.
pub(crate) fn render(header: &[&str], rows: Vec<Vec<String>>, width: u16) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(width)
        .set_header(header.iter().map(|name| (*name).to_owned()))
        .add_rows(rows);
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}
