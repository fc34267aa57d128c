//! Printing: data to stdout, remarks to stderr, both without failing on a closed pipe.

use std::io::{IsTerminal, Write};

use anstyle::Style;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::signals::OUTPUT_CLOSED;

/// Where and how to print.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    /// Data as JSON.
    pub json: bool,
    /// Columns.
    pub width: u16,
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
        Output { json, width, animate: !json && std::io::stderr().is_terminal(), silent: false }
    }

    /// A line of text to stdout.
    pub(crate) fn line(&self, text: &str) {
        if self.silent {
            return;
        }
        let mut out = anstream::stdout();
        if writeln!(out, "{text}").and_then(|()| out.flush()).is_err() {
            // Whoever read our output has gone; what is under way still ends in order.
            OUTPUT_CLOSED.notify_one();
        }
    }

    /// A JSON value to stdout, on one line.
    pub(crate) fn data(&self, value: &Value) {
        self.line(&value.to_string());
    }

    /// An error to stderr.
    pub(crate) fn error(&self, text: &str) {
        let style = Style::new().bold().fg_color(Some(anstyle::AnsiColor::Red.into()));
        let _ = writeln!(anstream::stderr(), "{style}error:{style:#} {text}");
    }

    /// A question to stderr, for the person at the terminal.
    pub(crate) fn question(&self, text: &str) {
        let style = Style::new().bold().fg_color(Some(anstyle::AnsiColor::Magenta.into()));
        let text = crate::views::wrapped(&format!("? {text}"), usize::from(self.width));
        let _ = writeln!(anstream::stderr(), "{style}{text}{style:#}");
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
        let text = crate::views::wrapped(text, usize::from(self.width));
        let _ = writeln!(anstream::stderr(), "{style}{text}{style:#}");
    }
}
