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

/// A time as people write it, milliseconds since the epoch: `2026-01-31T12:00:00Z` (an offset works too), as [`time`]
/// shows it, or a day, which is its beginning. UTC where nothing else is said.
pub(crate) fn parse_time(text: &str) -> Option<i64> {
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Some(time.as_millisecond());
    }
    let plain = text.chars().all(|c| c.is_ascii_digit() || matches!(c, '-' | ':' | '.' | ' ' | 'T'));
    let time = text.parse::<jiff::civil::DateTime>().ok().filter(|_| plain)?;
    Some(time.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_millisecond())
}

/// Text of others as a terminal may have it: without control characters, and without characters that nobody sees or that
/// turn the order of others around. Line breaks stay, a tab becomes a space. Whatever is printed goes through here.
pub(crate) fn clean(text: &str) -> String {
    let spaced = text.chars().map(|c| if c == '\t' { ' ' } else { c });
    spaced.filter(|c| *c == '\n' || !is_unseen(*c)).collect()
}

/// Whether a character does something to a terminal or its reader instead of being read: controls, zero-width characters,
/// those that set the direction of what follows, and letters that look like blanks, with which a line could be filled up
/// so that the next one seems to be another's.
pub(crate) fn is_unseen(c: char) -> bool {
    let marks = matches!(c, '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}');
    let fillers = matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}');
    let blanks =
        matches!(c, '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{2800}' | '\u{3164}' | '\u{ffa0}');
    c.is_control() || marks || fillers || blanks || matches!(c, '\u{e0000}'..='\u{e007f}')
}

/// A text of ours with its colours, as a terminal may have it, whatever of others is in it: of all control sequences
/// those that set a style stay.
pub(crate) fn clean_styled(text: &str) -> String {
    let mut parts = text.split('\u{1b}');
    let mut shown = clean(parts.next().unwrap_or_default());
    for part in parts {
        let set = part.strip_prefix('[').and_then(|codes| codes.split_once('m'));
        match set.filter(|(codes, _)| codes.bytes().all(|byte| byte.is_ascii_digit() || byte == b';')) {
            Some((codes, rest)) => shown.push_str(&format!("\u{1b}[{codes}m{}", clean(rest))),
            None => shown.push_str(&clean(part)),
        }
    }
    shown
}

/// JSON as a terminal may have it, and the same JSON: what [`clean`] takes away is written as `\u…`.
pub(crate) fn clean_json(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unseen(c) {
            let mut units = [0; 2];
            shown.extend(c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")));
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Text whose lines are broken between words so that none is wider than `columns`, as far as words allow. Its own
/// line breaks stay; what [`clean`] takes away goes.
pub(crate) fn wrapped(text: &str, columns: usize) -> String {
    use unicode_width::UnicodeWidthStr;
    let mut lines: Vec<String> = Vec::new();
    for clean in clean(text).lines() {
        if clean.width() <= columns {
            lines.push(clean.to_owned());
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

/// Text on one line and clean (see [`clean`]), at most `columns` wide; cut with `…`.
pub(crate) fn one_line(text: &str, columns: usize) -> String {
    use unicode_width::UnicodeWidthChar;
    let words = text.split_whitespace().map(clean).filter(|word| !word.is_empty());
    let clean = words.collect::<Vec<_>>().join(" ");
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
