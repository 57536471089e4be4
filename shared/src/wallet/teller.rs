//! Carries operations out: reads the wallets, plans, posts, and goes again when somebody else was faster. Bounded in
//! tries and time; no step holds a lock, so that nothing can deadlock.

use std::time::Duration;

use futures_util::future::try_join_all;
use tokio::time::Instant;

use super::{
    Amount, Begin, Cause, Entry, EntryKind, EntryReason, Guard, Holder, Obstacle, Operation,
    OperationAnswer, Operations, PostOutcome, Posting, Refusal, Wallet, WalletBook, WalletChange,
    earned,
};
use crate::{Entropy, PartnerId, PortError, Timestamp, UserId};

/// How long an operation may be tried. A wallet that many write at once must not hold executions that others need: after this the
/// caller is told to come again, with the same key (503 with `Retry-After`).
pub const WALLET_PATIENCE: Duration = Duration::from_secs(3);
/// How often.
const MAX_TRIES: u32 = 100;
/// The shortest bound of the pause between two tries; it doubles with every try.
const MIN_PAUSE: Duration = Duration::from_millis(20);
/// The longest. Fewer writers at once get more through: of ten on one wallet, one in six tries stands.
const MAX_PAUSE: Duration = Duration::from_millis(500);

/// What a partner asks of its users' wallets.
#[derive(Clone, Debug, PartialEq)]
pub enum Order {
    /// Give points.
    Earn {
        /// To whom.
        holder: Holder,
        /// How many.
        amount: Amount,
        /// The first instant at which they are gone; later than now.
        expires_at: Option<Timestamp>,
        /// Why.
        reason: EntryReason,
    },
    /// Spend points.
    Use {
        /// Whose.
        holder: Holder,
        /// How many.
        amount: Amount,
        /// Why.
        reason: EntryReason,
    },
    /// Move points; each keeps its lot and expiry.
    Transfer {
        /// The partner of both.
        partner_id: PartnerId,
        /// From whom.
        from: UserId,
        /// To whom; somebody else.
        to: UserId,
        /// How many.
        amount: Amount,
    },
}

/// What became of an operation.
#[derive(Clone, Debug, PartialEq)]
pub enum Carried {
    /// This entry stands; of a transfer, the giver's.
    Entered(Entry),
    /// It was refused, for good.
    Refused(Refusal),
    /// Another attempt at it is under way.
    InProgress,
    /// Its key came before with another request.
    Mismatch,
    /// It would give points that have expired. Not an answer to be kept: the key is still free.
    PastExpiry,
}

/// What became of a plan.
#[derive(Clone, Debug, PartialEq)]
pub enum Settled {
    /// This stands.
    Done(Box<Posting>),
    /// No wallet changed, for this reason.
    Refused(Refusal),
    /// No wallet changed: the guard does not hold, or does no longer.
    Guarded,
}

/// Carries out one request's operations, all as of one time.
#[derive(Clone, Copy)]
pub struct Teller<'a, B> {
    /// The book of wallets.
    pub book: &'a B,
    /// Randomness.
    pub entropy: &'a dyn Entropy,
    /// The request's time: what has expired by then is gone.
    pub now: Timestamp,
}

impl<B: WalletBook + Operations + Sync> Teller<'_, B> {
    /// Carries the order out once, whoever repeats it how often.
    ///
    /// # Errors
    /// [`PortError`]: nothing is known to have been done; the same request may be repeated.
    pub async fn carry_out(
        &self,
        order: &Order,
        operation: &Operation,
    ) -> Result<Carried, PortError> {
        if order.is_past(self.now) {
            // What was in time when it came first is answered as it was then.
            return match self.book.standing(operation, self.now).await? {
                Some(standing) => self.recall(operation, standing).await,
                None => Ok(Carried::PastExpiry),
            };
        }
        match self.book.begin(operation, self.now).await? {
            Begin::Begun => {}
            standing => return self.recall(operation, standing).await,
        }
        let posted = self
            .post(&order.holders(), |wallets| {
                order.plan(wallets, operation, self)
            })
            .await;
        match posted {
            Ok(Settled::Done(posting)) => order
                .answer(posting.changes)
                .map(Carried::Entered)
                .ok_or_else(|| PortError::reject("carry the order out", "no entry was planned")),
            Ok(Settled::Refused(refusal)) => {
                let standing = self.book.refuse(operation, refusal).await?;
                self.recall(operation, standing).await
            }
            // An earlier try of ours was applied and its answer lost, or another attempt took over.
            Ok(Settled::Guarded) => {
                let standing = self.book.standing(operation, self.now).await?;
                self.recall(operation, standing.unwrap_or(Begin::InProgress))
                    .await
            }
            Err(error) => {
                // Best effort: the lease ends by itself.
                if let Err(error) = self.book.release(operation).await {
                    tracing::debug!(
                        error = &error as &dyn std::error::Error,
                        "lease not given back"
                    );
                }
                Err(error)
            }
        }
    }

    async fn recall(&self, operation: &Operation, standing: Begin) -> Result<Carried, PortError> {
        const OPERATION: &str = "recall the operation's answer";
        match standing {
            Begin::Begun | Begin::InProgress => Ok(Carried::InProgress),
            Begin::Mismatch => Ok(Carried::Mismatch),
            Begin::Answered(OperationAnswer::Refused { refusal }) => Ok(Carried::Refused(refusal)),
            Begin::Answered(OperationAnswer::Entered {
                entry_user,
                entry_id,
            }) => {
                let holder = Holder {
                    partner_id: operation.partner_id.clone(),
                    user_id: entry_user,
                };
                let entry = self.book.entry(&holder, &entry_id).await?;
                entry
                    .map(Carried::Entered)
                    .ok_or_else(|| PortError::reject(OPERATION, "its entry is missing"))
            }
        }
    }
}

impl<B: WalletBook + Sync> Teller<'_, B> {
    /// The wallet, with what has expired taken out of it.
    ///
    /// # Errors
    /// [`PortError`] of the book, or that others kept writing.
    pub async fn settled(&self, holder: &Holder) -> Result<Wallet, PortError> {
        let mut found = None;
        self.post(std::slice::from_ref(holder), |wallets| {
            found = wallets.first().cloned();
            Ok(Posting {
                guard: Guard::None,
                changes: Vec::new(),
            })
        })
        .await?;
        found.ok_or_else(|| PortError::reject("settle the wallet", "no wallet was read"))
    }

    /// Posts what `plan` makes of the holders' wallets (in their order), settled; goes again with fresh ones for as long
    /// as somebody else was faster.
    ///
    /// # Errors
    /// [`PortError`] of the book, or that others kept writing for [`WALLET_PATIENCE`].
    pub async fn post(
        &self,
        holders: &[Holder],
        plan: impl FnMut(&[Wallet]) -> Result<Posting, Obstacle> + Send,
    ) -> Result<Settled, PortError> {
        let late = |_| {
            Err(PortError::retry(
                POST,
                "others kept writing the same wallet for 3 s",
            ))
        };
        tokio::time::timeout(WALLET_PATIENCE, self.tries(holders, plan))
            .await
            .unwrap_or_else(late)
    }

    async fn tries(
        &self,
        holders: &[Holder],
        mut plan: impl FnMut(&[Wallet]) -> Result<Posting, Obstacle> + Send,
    ) -> Result<Settled, PortError> {
        let mut torn = false;
        let mut unlucky = 0;
        for _ in 0..MAX_TRIES {
            let started = Instant::now();
            let wallets =
                try_join_all(holders.iter().map(|holder| self.book.wallet(holder))).await?;
            torn = !wallets.iter().all(Wallet::adds_up);
            let outcome = if torn {
                PostOutcome::Stale
            } else if let Some(chore) = self.chore(&wallets) {
                self.tidy(chore).await?
            } else {
                match plan(&wallets) {
                    Ok(posting) if posting.changes.is_empty() => {
                        return Ok(Settled::Done(Box::new(posting)));
                    }
                    Ok(posting) => match self.book.post(&posting).await? {
                        PostOutcome::Posted => return Ok(Settled::Done(Box::new(posting))),
                        PostOutcome::Refused => return Ok(Settled::Guarded),
                        outcome => outcome,
                    },
                    Err(Obstacle::Refused(refusal)) => return Ok(Settled::Refused(refusal)),
                    Err(Obstacle::Crowded(bundling)) => self.tidy(*bundling).await?,
                }
            };
            if outcome != PostOutcome::Posted {
                pause(unlucky, started.elapsed()).await;
                unlucky += 1;
            }
        }
        Err(if torn {
            PortError::reject(POST, "the wallet does not add up")
        } else {
            PortError::retry(POST, "others kept writing the same wallet")
        })
    }

    /// What must be done before anything is planned.
    fn chore(&self, wallets: &[Wallet]) -> Option<WalletChange> {
        wallets
            .iter()
            .find_map(|wallet| wallet.settlement(self.now, self.entropy.bits()))
    }

    async fn tidy(&self, change: WalletChange) -> Result<PostOutcome, PortError> {
        self.book
            .post(&Posting {
                guard: Guard::None,
                changes: vec![change],
            })
            .await
    }
}

const POST: &str = "post to the wallet";

/// Waits, with full jitter, up to what the try took, doubled with every try: where tries are slow, many are under way.
async fn pause(attempt: u32, took: Duration) {
    let most = took.max(MIN_PAUSE) * (1 << attempt.min(7));
    let millis = u64::try_from(most.min(MAX_PAUSE).as_millis()).unwrap_or(u64::MAX);
    tokio::time::sleep(Duration::from_millis(fastrand::u64(1..=millis))).await;
}

impl Order {
    /// Whether it gives points that have expired at `now`.
    fn is_past(&self, now: Timestamp) -> bool {
        matches!(self, Self::Earn { expires_at: Some(end), .. } if *end <= now)
    }

    /// Whose wallets it changes; a giver comes first.
    fn holders(&self) -> Vec<Holder> {
        match self {
            Self::Earn { holder, .. } | Self::Use { holder, .. } => vec![holder.clone()],
            Self::Transfer {
                partner_id,
                from,
                to,
                ..
            } => [from, to]
                .map(|user| Holder {
                    partner_id: partner_id.clone(),
                    user_id: user.clone(),
                })
                .into(),
        }
    }

    fn plan<B>(
        &self,
        wallets: &[Wallet],
        operation: &Operation,
        teller: &Teller<'_, B>,
    ) -> Result<Posting, Obstacle> {
        let mut changes = match (self, wallets) {
            (
                Self::Earn {
                    amount,
                    expires_at,
                    reason,
                    ..
                },
                [wallet],
            ) => {
                let cause = Cause {
                    reason: Some(reason.clone()),
                    ..Cause::of(EntryKind::Earn)
                };
                let shares = earned(amount.points(), *expires_at);
                vec![wallet.addition(shares, cause, teller.now, teller.entropy.bits())?]
            }
            (Self::Use { amount, reason, .. }, [wallet]) => {
                let cause = Cause {
                    reason: Some(reason.clone()),
                    ..Cause::of(EntryKind::Use)
                };
                let bits = teller.entropy.bits();
                vec![wallet.withdrawal(amount.points(), None, cause, teller.now, bits)?]
            }
            (
                Self::Transfer {
                    from, to, amount, ..
                },
                [giver, taker],
            ) => teller.transfer((giver, from), (taker, to), *amount)?,
            _ => Vec::new(),
        };
        let answer = changes.first().and_then(|change| {
            Some(OperationAnswer::Entered {
                entry_user: change.holder.user_id.clone(),
                entry_id: change.last_entry.clone()?,
            })
        });
        changes.sort_by(|a, b| a.holder.cmp(&b.holder));
        let guard = answer.map_or(Guard::None, |answer| {
            Guard::Operation(operation.clone(), answer)
        });
        Ok(Posting { guard, changes })
    }

    /// The entry that answers it: of a transfer, the giver's.
    fn answer(&self, changes: Vec<WalletChange>) -> Option<Entry> {
        let whose = self.holders().into_iter().next()?;
        let mut change = changes.into_iter().find(|change| change.holder == whose)?;
        change.entries.pop()
    }
}

impl<B> Teller<'_, B> {
    /// Takes from one wallet what it adds to the other, share by share. The giver's change comes first.
    fn transfer(
        &self,
        (giver, from): (&Wallet, &UserId),
        (taker, to): (&Wallet, &UserId),
        amount: Amount,
    ) -> Result<Vec<WalletChange>, Obstacle> {
        let cause = |kind, counterpart: &UserId| Cause {
            counterpart: Some(counterpart.clone()),
            ..Cause::of(kind)
        };
        let out = cause(EntryKind::TransferOut, to);
        let bits = self.entropy.bits();
        let taken = giver.withdrawal(amount.points(), None, out, self.now, bits)?;
        let moved: Vec<_> = taken
            .entries
            .iter()
            .flat_map(|entry| entry.lots.clone())
            .collect();
        let given = taker.addition(
            |_| moved,
            cause(EntryKind::TransferIn, from),
            self.now,
            self.entropy.bits(),
        )?;
        Ok(vec![taken, given])
    }
}
