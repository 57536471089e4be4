//! What people see: plain lines, and progress bars where somebody watches. The only place that writes to the streams.

use std::io::{self, IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// When a step first says where it is if nobody sees bars; then after twice the time, and so on.
const FIRST_PLAIN_LINE: Duration = Duration::from_secs(5);
/// But at least this often.
const PLAIN_INTERVAL: Duration = Duration::from_secs(40);

/// The streams. With `--json` stdout belongs to the one JSON object and people read stderr.
pub(crate) struct Terminal {
    json: bool,
    watched: bool,
    bars: MultiProgress,
}

impl Terminal {
    pub(crate) fn new(json: bool) -> Self {
        let watched = io::stderr().is_terminal();
        let target = if watched {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        Self {
            json,
            watched,
            bars: MultiProgress::with_draw_target(target),
        }
    }

    /// A line for people.
    pub(crate) fn say(&self, line: &str) {
        let write = || {
            if self.json {
                writeln!(io::stderr(), "{line}")
            } else {
                writeln!(io::stdout(), "{line}")
            }
        };
        // A reader who went away misses the line; the work goes on.
        drop(self.bars.suspend(write));
    }

    /// A finished step: what, with which result, in what time.
    pub(crate) fn step(&self, name: &str, result: &str, took: Duration) {
        self.say(&format!(
            "  {name:<11} {result:<58} {:>6.1} s",
            took.as_secs_f64()
        ));
    }

    /// An error line.
    pub(crate) fn complain(&self, line: &str) {
        // With stderr closed there is nobody left to tell.
        drop(self.bars.suspend(|| writeln!(io::stderr(), "{line}")));
    }

    /// The command's result for programs, one object.
    pub(crate) fn print_json(&self, value: &serde_json::Value) {
        // A reader who went away misses the result; the exit code still tells.
        drop(writeln!(io::stdout(), "{value}"));
    }

    /// Whether stdout is to carry JSON.
    pub(crate) fn speaks_json(&self) -> bool {
        self.json
    }

    /// A step that counts up to `total`.
    pub(crate) fn meter(&self, name: &'static str, unit: &'static str, total: u64) -> Meter<'_> {
        let bar = self.bars.add(ProgressBar::new(total));
        // The template is a constant; were it wrong, the default style would do.
        let template = "  {prefix:<11} {bar:32} {human_pos}/{human_len} {msg}";
        let style =
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style.progress_chars("█▉▊▋▌▍▎▏ "));
        bar.set_prefix(name);
        bar.set_message(unit);
        Meter {
            terminal: self,
            bar,
            name,
            unit,
            total,
            started: Instant::now(),
            next_plain: Mutex::new(FIRST_PLAIN_LINE),
        }
    }
}

/// A step under way: a bar where somebody watches, a line every few seconds elsewhere.
pub(crate) struct Meter<'terminal> {
    terminal: &'terminal Terminal,
    bar: ProgressBar,
    name: &'static str,
    unit: &'static str,
    total: u64,
    started: Instant,
    /// When the next plain line is due, after the start.
    next_plain: Mutex<Duration>,
}

impl Meter<'_> {
    /// So many are done.
    pub(crate) fn set(&self, done: u64) {
        self.bar.set_position(done);
        if !self.terminal.watched && self.plain_line_is_due() {
            let (done, total) = (grouped(done), grouped(self.total));
            self.terminal.step(
                self.name,
                &format!("… {done} of {total} {}", self.unit),
                self.started.elapsed(),
            );
        }
    }

    /// Takes the bar away and says how the step ended.
    pub(crate) fn finish(self, result: &str) {
        self.bar.finish_and_clear();
        self.terminal
            .step(self.name, result, self.started.elapsed());
    }

    fn plain_line_is_due(&self) -> bool {
        let Ok(mut next) = self.next_plain.lock() else {
            return false;
        };
        let due = self.started.elapsed() >= *next;
        if due {
            let wait = (*next).min(PLAIN_INTERVAL);
            *next += wait;
        }
        due
    }
}

/// A number with its thousands apart: 12,345.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.char_indices() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_stand_apart() {
        let shown: Vec<String> = [0, 12, 999, 1000, 12_345, 1_234_567].map(grouped).to_vec();
        assert_eq!(shown, ["0", "12", "999", "1,000", "12,345", "1,234,567"]);
    }
}
