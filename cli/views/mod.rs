//! What people see: pure functions from data to text.

pub(crate) mod branches;
pub(crate) mod lineage;
pub(crate) mod stack;
pub(crate) mod table;
#[cfg(test)]
mod tests;

/// UTC, `2026-01-31 12:00:00`.
pub(crate) fn time(ms: i64) -> String {
    let seconds = ms.div_euclid(1_000);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let (hour, minute) = (second / 3_600, second / 60 % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{:02}", second % 60)
}

/// The date of a day counted from 1970-01-01, in the proleptic Gregorian calendar.
fn civil(days: i64) -> (i64, i64, i64) {
    // Years are taken to begin in March, so that the leap day is the last of its year; 146,097 days are 400
    // years.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
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
