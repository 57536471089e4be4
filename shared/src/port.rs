//! What every port shares: how a remote call fails, and where randomness comes from.

use thiserror::Error;

/// What the caller can do about a failed call. Classified once, in the adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It may work later: a throttle, a time-out, a lost connection.
    Retry,
    /// It will not work as asked: a missing right, a missing table, a malformed request.
    Reject,
}

/// A remote call that failed after the adapter's own bounded retries.
#[derive(Debug, Error)]
#[error("failed to {operation}")]
pub struct PortError {
    /// What was tried, as a verb phrase: "read the stock".
    pub operation: &'static str,
    /// Whether trying again can help.
    pub fate: Fate,
    /// What the other side or the network said.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

impl PortError {
    /// A failure that may pass.
    pub fn retry(
        operation: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self {
            operation,
            fate: Fate::Retry,
            source: source.into(),
        }
    }

    /// A failure that stays.
    pub fn reject(
        operation: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self {
            operation,
            fate: Fate::Reject,
            source: source.into(),
        }
    }
}

/// Where random bits come from; a seeded one replays a run.
pub trait Entropy: Send + Sync {
    /// 128 random bits that nobody can guess.
    fn bits(&self) -> u128;
}

/// The operating system's generator.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn bits(&self) -> u128 {
        let mut bytes = [0; 16];
        match getrandom::fill(&mut bytes) {
            Ok(()) => u128::from_le_bytes(bytes),
            // Linux gives these bits without fail once booted; a guessable code would be worse than none.
            Err(error) => {
                tracing::error!(%error, "no randomness from the operating system");
                std::process::abort()
            }
        }
    }
}
