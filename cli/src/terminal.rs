//! What people see: plain lines, and progress bars where somebody watches. The only place that writes to the streams.

use std::io::{self, IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use firstcome_core::{ApiKey, is_obeyed};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

/// When a step first says where it is if nobody sees bars; then after twice the time, and so on.
const FIRST_PLAIN_LINE: Duration = Duration::from_secs(5);
/// But at least this often.
const PLAIN_INTERVAL: Duration = Duration::from_secs(40);

/// The streams. With `--json` stdout belongs to the one JSON object and people read stderr.
#[derive(Clone)]
pub(crate) struct Terminal {
    json: bool,
    watched: bool,
    /// What was typed and may be a secret in a wrong place, and what is shown of it.
    secrets: Vec<(String, String)>,
    bars: MultiProgress,
}

impl Terminal {
    /// `typed` is the command line: whatever repeats it shows no secret of it.
    pub(crate) fn new(json: bool, typed: impl IntoIterator<Item = String>) -> Self {
        let watched = io::stderr().is_terminal();
        let target = if watched {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        Self {
            json,
            watched,
            secrets: secrets_in(typed),
            bars: MultiProgress::with_draw_target(target),
        }
    }

    /// A line for people. What a terminal would obey instead of showing is shown in its place, so that no data can do more
    /// than be read.
    pub(crate) fn say(&self, line: &str) {
        let line = visible(&self.masked(line));
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

    /// Several lines for people, each as [`Self::say`] tells it.
    pub(crate) fn say_lines(&self, text: &str) {
        text.split('\n').for_each(|line| self.say(line));
    }

    /// A finished step: what, with which result, in what time.
    pub(crate) fn step(&self, name: &str, result: &str, took: Duration) {
        self.say(&format!(
            "  {name:<11} {result:<58} {:>6.1} s",
            took.as_secs_f64()
        ));
    }

    /// An error, as one line. It may quote what somebody typed, and so a secret in a wrong place.
    pub(crate) fn complain(&self, line: &str) {
        let line = without_secrets(&line.split_whitespace().collect::<Vec<_>>().join(" "));
        let line = visible(&self.masked(&line));
        // With stderr closed there is nobody left to tell.
        drop(self.bars.suspend(|| writeln!(io::stderr(), "{line}")));
    }

    /// The command's result for programs, one object.
    pub(crate) fn print_json(&self, value: &Value) {
        // Only texts hold such characters; JSON itself escapes those below the space, and none of the others.
        let text = escaped(&self.masked_json(value).to_string(), |c| {
            format!("\\u{:04x}", u32::from(c))
        });
        // A reader who went away misses the result; the exit code still tells.
        drop(writeln!(io::stdout(), "{text}"));
    }

    fn masked(&self, text: &str) -> String {
        let mask = |text: String, (typed, shown): &(String, String)| text.replace(typed, shown);
        self.secrets.iter().fold(text.to_owned(), mask)
    }

    fn masked_json(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.masked(text)),
            Value::Array(all) => all.iter().map(|one| self.masked_json(one)).collect(),
            Value::Object(fields) => {
                let masked =
                    |(name, value): (&String, &Value)| (name.clone(), self.masked_json(value));
                Value::Object(fields.iter().map(masked).collect())
            }
            other => other.clone(),
        }
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

/// The text as a terminal can show it: a tabulator as a space, an escape as `\u{1b}`.
pub(crate) fn visible(text: &str) -> String {
    escaped(&text.replace('\t', " "), |c| c.escape_unicode().to_string())
}

fn escaped(text: &str, escape: impl Fn(char) -> String) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if is_obeyed(c) {
            safe += &escape(c);
        } else {
            safe.push(c);
        }
    }
    safe
}

fn of_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// What of a command line may be a secret, the longest first, with what may be shown of it: keys, and whole URLs, as one of a
/// webhook is.
fn secrets_in(typed: impl IntoIterator<Item = String>) -> Vec<(String, String)> {
    let mut secrets = Vec::new();
    for argument in typed {
        for piece in argument.split_whitespace() {
            // `--alarm=https://…`
            let option = piece
                .split_once('=')
                .filter(|(name, _)| name.starts_with("--"));
            let piece = option.map_or(piece, |(_, value)| value);
            if piece.contains("://") {
                secrets.push((piece.to_owned(), "…".to_owned()));
            }
            let words = piece.split(|c| !of_word(c)).filter(|word| !word.is_empty());
            let shown = words.map(|word| (word.to_owned(), without_secrets(word)));
            secrets.extend(shown.filter(|(word, shown)| word != shown));
        }
    }
    secrets.sort_by_key(|(typed, _)| std::cmp::Reverse(typed.len()));
    secrets
}

/// The text without what may be the secret of an API key: of `fck_<id>_<secret>` the id is left, of what only looks similar
/// nothing is.
pub(crate) fn without_secrets(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(of_word) {
        let (before, from) = rest.split_at(start);
        let (word, after) = from.split_at(from.find(|c| !of_word(c)).unwrap_or(from.len()));
        safe += before;
        match ApiKey::parse(word) {
            Some(key) => safe += &format!("fck_{}_…", key.key_id()),
            None if may_hold_secret(word) => safe.push('…'),
            None => safe += word,
        }
        rest = after;
    }
    safe + rest
}

/// Whether it is meant as a key, or has the secret or a good part of it in it.
fn may_hold_secret(word: &str) -> bool {
    let is_long_hex = |part: &str| part.len() >= 40 && part.bytes().all(|b| b.is_ascii_hexdigit());
    word.to_ascii_lowercase().starts_with("fck_") || word.split('_').any(is_long_hex)
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
    fn what_a_terminal_would_obey_is_shown() {
        assert_eq!(
            visible("a\u{1b}[2J\tb\rc\nd\u{9b}e\u{202e}f\u{200e}\u{200f}\u{61c}"),
            "a\\u{1b}[2J b\\u{d}c\\u{a}d\\u{9b}e\\u{202e}f\\u{200e}\\u{200f}\\u{61c}"
        );
        assert_eq!(visible("Söhne 家族 →"), "Söhne 家族 →");
    }

    #[test]
    fn json_stays_json_when_its_characters_are_escaped() {
        let value = serde_json::json!({"name": "a\u{1b}\u{7f}\u{9b}\u{202e}b"});
        let text = escaped(&value.to_string(), |c| format!("\\u{:04x}", u32::from(c)));
        assert!(!text.contains(is_obeyed), "{text}");
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&text).unwrap(),
            value
        );
    }

    #[test]
    fn of_a_key_only_the_id_is_ever_quoted() {
        let key = ApiKey::from_random(1, [u128::MAX / 3; 2]).reveal();
        let secret = key.rsplit('_').next().unwrap();
        let quoted = without_secrets(&format!("there is no key '{key}', sir"));
        assert_eq!(quoted, "there is no key 'fck_0000000000000001_…', sir");
        for mangled in [
            format!("fck_{secret}"),
            secret.to_owned(),
            key.to_uppercase(),
            key[..60].to_owned(),
        ] {
            let quoted = without_secrets(&format!("a {mangled} b"));
            assert_eq!(quoted, "a … b", "{mangled}");
        }
        let harmless = "partner 01J9ZZZZZZ0000000000000000 (1-5f84c7a4-0123456789abcdef01234567)";
        assert_eq!(without_secrets(harmless), harmless);
    }

    #[test]
    fn what_was_typed_and_may_be_a_secret_is_shown_nowhere_and_a_fresh_key_is() {
        let typed = ApiKey::from_random(1, [u128::MAX / 3; 2]).reveal();
        let fresh = ApiKey::from_random(2, [u128::MAX / 5; 2]).reveal();
        let url = "https://discord.example/api/webhooks/1/hush?a=b";
        let line = [
            "firstcome".to_owned(),
            format!("--id={typed}"),
            format!(" {url} "),
            format!("--alarm={url}"),
            "--stack=shop".to_owned(),
        ];
        let terminal = Terminal::new(false, line);
        let said = terminal.masked(&format!("left {typed}, {url}, http://127.0.0.1:1, shop"));
        assert_eq!(
            said,
            "left fck_0000000000000001_…, …, http://127.0.0.1:1, shop"
        );
        let told = terminal
            .masked_json(&serde_json::json!({"left": [{"id": typed}], "n": 1, "apiKey": fresh}));
        assert_eq!(
            told,
            serde_json::json!({"left": [{"id": "fck_0000000000000001_…"}], "n": 1, "apiKey": fresh})
        );
    }

    #[test]
    fn thousands_stand_apart() {
        let shown: Vec<String> = [0, 12, 999, 1000, 12_345, 1_234_567].map(grouped).to_vec();
        assert_eq!(shown, ["0", "12", "999", "1,000", "12,345", "1,234,567"]);
    }
}
