//! What people see: pure functions from data to text.

pub(crate) mod branches;
pub(crate) mod evaluation;
pub(crate) mod labelled;
pub(crate) mod lineage;
pub(crate) mod stack;
pub(crate) mod table;
#[cfg(test)]
mod tests;

/// UTC, `2026-01-31 12:00:00`; empty for a time that no calendar has.
pub(crate) fn time(ms: i64) -> String {
    let time = jiff::Timestamp::from_millisecond(ms);
    time.map(|time| time.strftime("%Y-%m-%d %H:%M:%S").to_string()).unwrap_or_default()
}

/// A time as people write it (`2026-01-31T12:00:00Z`, an offset works too), milliseconds since the epoch.
pub(crate) fn parse_time(text: &str) -> Option<i64> {
    text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_millisecond)
}

/// Text whose lines are broken between words so that none is wider than `columns`, as far as words allow. Its own
/// line breaks stay; control characters go.
pub(crate) fn wrapped(text: &str, columns: usize) -> String {
    use unicode_width::UnicodeWidthStr;
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        let clean: String = line.chars().filter(|c| !c.is_control()).collect();
        if clean.width() <= columns {
            lines.push(clean);
            continue;
        }
        let mut current = String::new();
        for word in clean.split(' ') {
            if !current.is_empty() && current.width() + 1 + word.width() > columns {
                lines.push(std::mem::take(&mut current));
            } else if !current.is_empty() {
                current.push(' ');
            }
            // An indent is made of empty words.
            current.push_str(if word.is_empty() { " " } else { word });
        }
        lines.push(current);
    }
    lines.join("\n")
}

/// Text on one line, without control characters, at most `columns` wide; cut with `…`.
pub(crate) fn one_line(text: &str, columns: usize) -> String {
    use unicode_width::UnicodeWidthChar;
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let clean: String = words.chars().filter(|c| !c.is_control()).collect();
    if unicode_width::UnicodeWidthStr::width(clean.as_str()) <= columns {
        return clean;
    }
    let mut width = 0;
    let mut cut: String = clean
        .chars()
        .take_while(|c| {
            width += c.width().unwrap_or(0);
            width < columns
        })
        .collect();
    cut.push('…');
    cut
}
