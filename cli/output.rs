//! Printing: data to stdout, remarks to stderr, both without failing on a closed pipe.

use std::io::{IsTerminal, Write};

use anstyle::Style;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::signals::OUTPUT_CLOSED;
use crate::views::labelled::hanging;
use crate::views::{clean, clean_json, clean_styled, wrapped};

/// What a question begins with.
const QUESTION: &str = "? ";

/// Where and how to print.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    /// Data as JSON.
    pub json: bool,
    /// Columns.
    pub width: u16,
    /// Whether stdout is a terminal: what is printed there is looked at, elsewhere it is read exactly.
    pub terminal: bool,
    /// Whether progress may be animated on stderr.
    pub animate: bool,
    /// Nothing goes to stdout: a command within another one, whose data is the other's.
    pub silent: bool,
}

impl Output {
    /// For the terminal that we have. Where output goes elsewhere, nothing is cut, unless `COLUMNS` is set.
    pub(crate) fn new(json: bool) -> Output {
        let columns = || std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
        let width = terminal_size::terminal_size_of(std::io::stdout())
            .map(|(width, _)| width.0)
            .or_else(columns)
            .map_or(u16::MAX, |width: u16| width.max(40));
        let terminal = std::io::stdout().is_terminal();
        Output { json, width, terminal, animate: !json && std::io::stderr().is_terminal(), silent: false }
    }

    /// A line of text to stdout. Views clean what they show of others; on a terminal nothing depends on it.
    pub(crate) fn line(&self, text: &str) {
        match self.terminal {
            true => self.print(&clean_styled(text)),
            false => self.print(text),
        }
    }

    /// A file for other programs to stdout: exactly these bytes, unless somebody looks at them.
    pub(crate) fn file(&self, text: &str) {
        if self.terminal {
            return self.print(&clean(text.trim_end()));
        }
        if !self.silent {
            let mut out = std::io::stdout();
            told(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
        }
    }

    fn print(&self, text: &str) {
        if !self.silent {
            let mut out = anstream::stdout();
            told(writeln!(out, "{text}").and_then(|()| out.flush()));
        }
    }

    /// A JSON value to stdout, on one line.
    pub(crate) fn data(&self, value: &Value) {
        let text = value.to_string();
        self.print(&if self.terminal { clean_json(&text) } else { text });
    }

    /// An error to stderr. It may repeat what it was given: further lines stand below the first one's text.
    pub(crate) fn error(&self, text: &str) {
        let style = Style::new().bold().fg_color(Some(anstyle::AnsiColor::Red.into()));
        let _ = writeln!(anstream::stderr(), "{style}error:{style:#} {}", mistake(text));
    }

    /// A question to stderr, for the person at the terminal. Who asks cannot begin a line of its own.
    pub(crate) fn question(&self, text: &str) {
        let style = Style::new().bold().fg_color(Some(anstyle::AnsiColor::Magenta.into()));
        let _ = writeln!(anstream::stderr(), "{style}{}{style:#}", question(text, self.width));
    }

    /// A bar on stderr for work of known size; hidden where nothing may be animated.
    pub(crate) fn progress(self, size: u64, unit: &str) -> ProgressBar {
        if !self.animate {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::new(size);
        let style =
            ProgressStyle::with_template(&format!("{{bar:40}} {{pos}}/{{len}} {unit} {{per_sec}} {{eta}}"));
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar
    }

    /// A remark to stderr.
    pub(crate) fn remark(&self, text: &str) {
        let style = Style::new().dimmed();
        let text = wrapped(text, usize::from(self.width));
        let _ = writeln!(anstream::stderr(), "{style}{text}{style:#}");
    }
}

fn question(text: &str, width: u16) -> String {
    format!("{QUESTION}{}", hanging(text, QUESTION.len(), width))
}

/// What was wrong, behind `error: `.
fn mistake(text: &str) -> String {
    clean(text).replace('\n', "\n       ")
}

/// Whoever read our output may have gone; what is under way still ends in order.
fn told(written: std::io::Result<()>) {
    if written.is_err() {
        OUTPUT_CLOSED.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_begins_a_line_of_his_own_in_a_question_or_an_error() {
        let asked = "Name?\n? Approve transfer of 1.00\u{1b}[1A\r\u{202e}";
        assert_eq!(question(asked, 80), "? Name? ? Approve transfer of 1.00[1A");
        let long = question(&"word ".repeat(9), 40);
        assert_eq!(long.lines().collect::<Vec<_>>(), ["? word word word word word word word", "  word word"]);
        assert_eq!(mistake("no 'a\u{1b}[2K\nerror: b'\tc"), "no 'a[2K\n       error: b' c");
    }
}
