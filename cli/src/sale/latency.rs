//! Percentiles of durations. Pure.

use std::time::Duration;

/// Durations, sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Latencies(Vec<Duration>);

impl Latencies {
    pub(crate) fn new(mut durations: Vec<Duration>) -> Self {
        durations.sort_unstable();
        Self(durations)
    }

    /// The smallest duration that at least `percent` of them do not exceed (nearest rank); `None` if there are none.
    pub(crate) fn percentile(&self, percent: u32) -> Option<Duration> {
        let rank = (self.0.len() * percent as usize).div_ceil(100);
        self.0.get(rank.saturating_sub(1)).copied()
    }

    pub(crate) fn max(&self) -> Option<Duration> {
        self.0.last().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_durations() {
        let latencies = Latencies::new((1..=100).rev().map(Duration::from_millis).collect());
        let shown =
            [50, 95, 99, 100].map(|percent| latencies.percentile(percent).unwrap().as_millis());
        assert_eq!(shown, [50, 95, 99, 100]);
        assert_eq!(
            Latencies::new(vec![Duration::from_secs(7)]).percentile(50),
            Some(Duration::from_secs(7))
        );
    }

    #[test]
    fn nothing_measured_is_not_zero() {
        assert_eq!(Latencies::default().percentile(99), None);
        assert_eq!(Latencies::default().max(), None);
    }
}
