//! When to try again. Pure: randomness comes in as an argument.

use std::time::Duration;

/// The shortest wait after a refusal by the gateway (interface.md: 0.2–5 s with jitter).
const SHORTEST: Duration = Duration::from_millis(200);
/// The longest.
const LONGEST: Duration = Duration::from_secs(5);

/// How long to wait before try `attempt` (from 0) is repeated: anywhere between the shortest wait and a bound that
/// doubles with every attempt. `chance` is in 0..1; jitter keeps a refused crowd from coming back as one.
pub(crate) fn wait(attempt: u32, chance: f64) -> Duration {
    let bound = SHORTEST
        .saturating_mul(2_u32.saturating_pow(attempt.saturating_add(1)))
        .min(LONGEST);
    SHORTEST + (bound - SHORTEST).mul_f64(chance.clamp(0.0, 1.0))
}

/// `base`, give or take a quarter of it.
pub(crate) fn around(base: Duration, chance: f64) -> Duration {
    base.mul_f64(0.75 + chance.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_never_shorter_or_longer_than_the_interface_says() {
        for attempt in [0, 1, 5, 31, u32::MAX] {
            assert_eq!(wait(attempt, 0.0), SHORTEST);
            assert!(wait(attempt, 1.0) <= LONGEST);
        }
    }

    #[test]
    fn the_wait_may_double_with_every_attempt() {
        let longest: Vec<u128> = (0..6)
            .map(|attempt| wait(attempt, 1.0).as_millis())
            .collect();
        assert_eq!(longest, [400, 800, 1600, 3200, 5000, 5000]);
    }

    #[test]
    fn a_crowd_spreads_around_the_base() {
        let base = Duration::from_secs(8);
        assert_eq!(around(base, 0.0), Duration::from_secs(6));
        assert_eq!(around(base, 1.0), Duration::from_secs(10));
    }
}
