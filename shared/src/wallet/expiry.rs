//! The sweep: takes expired points out of wallets that nobody touches. Each lot expires in the posting that takes it, so
//! that a sweep that is repeated, doubled or killed half-way takes none twice; whatever it left, the next one finds.

use futures_util::{StreamExt, stream};
use tokio::time::{Instant, timeout_at};

use super::{DUE_SHARDS, DuePointer, DueWallets, Teller, WalletBook};
use crate::{Clock, Entropy, PortError};

/// Pointers read at once.
const PAGE: u16 = 100;
/// Wallets settled at once.
const AT_ONCE: usize = 16;

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sweep {
    /// Wallets in which nothing expired is left.
    pub settled: usize,
    /// Wallets that could not be settled this time.
    pub failed: usize,
    /// Whether the deadline came before the end; the next sweep goes on.
    pub cut_short: bool,
}

/// Settles every wallet in which something has expired, until `deadline`. One that fails does not stop the others.
///
/// # Errors
/// [`PortError`] if the pointers cannot be read.
pub async fn expire_points<S, K>(
    store: &S,
    clock: &K,
    entropy: &dyn Entropy,
    deadline: Instant,
) -> Result<Sweep, PortError>
where
    S: WalletBook + DueWallets + Sync,
    K: Clock,
{
    let teller = Teller {
        book: store,
        entropy,
        now: clock.now(),
    };
    let mut sweep = Sweep::default();
    for shard in 0..DUE_SHARDS {
        let mut after: Option<DuePointer> = None;
        loop {
            if Instant::now() >= deadline {
                sweep.cut_short = true;
                return Ok(sweep);
            }
            let page = store.due(shard, teller.now, after.as_ref(), PAGE).await?;
            let Some(last) = page.last().cloned() else {
                break;
            };
            settle_all(&teller, &page, deadline, &mut sweep).await;
            after = Some(last);
        }
    }
    Ok(sweep)
}

async fn settle_all<S: WalletBook + Sync>(
    teller: &Teller<'_, S>,
    page: &[DuePointer],
    deadline: Instant,
    sweep: &mut Sweep,
) {
    let settle = async |pointer: &DuePointer| {
        if Instant::now() >= deadline {
            return None;
        }
        // A write that is under way then stands or does not; either way the next sweep goes on from there.
        timeout_at(deadline, teller.settled(&pointer.holder))
            .await
            .ok()
    };
    let mut settled = stream::iter(page).map(settle).buffer_unordered(AT_ONCE);
    while let Some(outcome) = settled.next().await {
        match outcome {
            Some(Ok(_)) => sweep.settled += 1,
            Some(Err(error)) => {
                sweep.failed += 1;
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "wallet not settled; the next sweep tries again"
                );
            }
            None => sweep.cut_short = true,
        }
    }
}
