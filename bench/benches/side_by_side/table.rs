//! The trials of a scene, their medians, and how they are printed.

use crate::lab::{Program, Trial};

/// A line of a table: one variant with so many posts.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) name: &'static str,
    pub(crate) program: Program,
    pub(crate) posts: u32,
    pub(crate) trials: Vec<Trial>,
}

impl Line {
    pub(crate) fn new(name: &'static str, program: Program, posts: u32) -> Self {
        Self {
            name,
            program,
            posts,
            trials: Vec::new(),
        }
    }

    /// The median over the trials.
    pub(crate) fn median(&self, value: impl Fn(&Trial) -> f64) -> f64 {
        median(self.trials.iter().map(value).collect())
    }

    pub(crate) fn wall_ms(&self) -> f64 {
        self.median(|trial| trial.run.wall_micros as f64 / 1000.0)
    }

    /// CPU microseconds per post.
    pub(crate) fn cpu(&self) -> f64 {
        self.median(|trial| trial.run.cpu_micros as f64 / f64::from(trial.run.posts))
    }

    pub(crate) fn peak_mib(&self) -> f64 {
        self.median(|trial| trial.run.peak_kib as f64 / 1024.0)
    }

    fn range(&self, value: impl Fn(&Trial) -> f64) -> String {
        let values = || self.trials.iter().map(&value);
        let (low, high) = (
            values().fold(f64::INFINITY, f64::min),
            values().fold(0.0, f64::max),
        );
        format!("{low:.0}–{high:.0}")
    }
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The table, with a heading.
pub(crate) fn table(title: &str, lines: &[Line]) -> String {
    let mut text = format!(
        "\n{title}\n  {:<28}{:>7}{:>10}{:>15}{:>10}{:>12}{:>9}{:>11}{:>7}{:>7}{:>8}\n",
        "",
        "posts",
        "wall ms",
        "(range)",
        "CPU µs",
        "(range)",
        "peak MB",
        "delivered",
        "gone",
        "429",
        "failed"
    );
    for line in lines {
        let count = |value: fn(&Trial) -> u32| line.median(|trial| f64::from(value(trial)));
        text += &format!(
            "  {:<28}{:>7}{:>10.0}{:>15}{:>10.1}{:>12}{:>9.0}{:>11}{:>7}{:>7}{:>8}\n",
            line.name,
            line.posts,
            line.wall_ms(),
            line.range(|trial| trial.run.wall_micros as f64 / 1000.0),
            line.cpu(),
            line.range(|trial| trial.run.cpu_micros as f64 / f64::from(trial.run.posts)),
            line.peak_mib(),
            count(|trial| trial.run.delivered),
            count(|trial| trial.run.gone),
            count(|trial| trial.run.throttled),
            count(|trial| trial.run.failed),
        );
    }
    text
}
