//! What the product is known to do against the letter of an invariant. Each is left out of the check as long as it stands in
//! [`EXCUSED`]: take it out with its fix. `simulate --strict NAME` checks it all the same and finds a seed.

use clap::ValueEnum;

/// A known departure. All of them concern what is said, none what is issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Known {
    /// I5: a door judges the end of the window by its own clock, at the time it answers. It says `closed` to a claim that
    /// was accepted in time, asked for by `result` or repeated, while that waits in the queue; and a door whose clock is
    /// behind accepts what one whose clock is ahead has called `closed`. The claim may then be `issued` or `sold_out`.
    DoorClock,
    /// I5: a claim that its own time refuses (`not_open`, `closed`, `rejected`) is not stored, and a door asked for its
    /// answer by `result` does not know that time: it says what stands against a claim made now.
    DoorBlind,
}

/// Left out of the check.
const EXCUSED: &[Known] = &[Known::DoorClock, Known::DoorBlind];

impl Known {
    /// Whether it is left out, unless it is what is looked for.
    pub(crate) fn is_excused(self, looked_for: Option<Self>) -> bool {
        EXCUSED.contains(&self) && looked_for != Some(self)
    }
}
