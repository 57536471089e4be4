//! Wallets in memory: one lock makes every posting atomic, over the coupons of a [`MemoryLedger`].

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{MemoryLedger, redemptions};
use crate::{
    Begin, Coupon, DuePointer, DueWallets, Entry, EntryId, EntryPage, Guard, Holder, LEASE_SECONDS,
    OPERATION_SECONDS, Operation, OperationAnswer, Operations, PartnerId, PortError, PostOutcome,
    Posting, Recorded, Refusal, Timestamp, Wallet, WalletBook,
};

/// What the next call of [`WalletBook::post`] shall meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PostFault {
    /// Somebody else is writing.
    Busy,
    /// It is written, and the response is lost.
    LostAfterWrite,
    /// It is lost on the way.
    LostBeforeWrite,
    /// The port fails.
    Error,
    /// The caller dies waiting; nothing is written.
    Hang,
}

#[derive(Debug)]
struct Remembered {
    request_sha256: String,
    attempt: u128,
    /// `None` once it has ended.
    lease_until: Option<Timestamp>,
    answer: Option<OperationAnswer>,
    forgotten_at: Timestamp,
}

#[derive(Debug, Default)]
struct State {
    wallets: HashMap<Holder, Wallet>,
    entries: BTreeMap<(Holder, EntryId), Entry>,
    due: BTreeSet<DuePointer>,
    operations: HashMap<(PartnerId, String), Remembered>,
    faults: VecDeque<PostFault>,
    posts: usize,
}

/// A book of wallets in memory; clones share it.
#[derive(Clone, Debug, Default)]
pub struct MemoryWallets {
    coupons: MemoryLedger,
    state: Arc<Mutex<State>>,
}

impl MemoryWallets {
    /// A book whose coupons are in this ledger.
    pub fn over(coupons: &MemoryLedger) -> Self {
        Self {
            coupons: coupons.clone(),
            state: Arc::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next postings meet these, in order.
    pub fn fail_next(&self, faults: impl IntoIterator<Item = PostFault>) {
        self.state().faults.extend(faults);
    }

    /// No more of them.
    pub fn forget_faults(&self) {
        self.state().faults.clear();
    }

    /// How often [`WalletBook::post`] was called.
    pub fn posts(&self) -> usize {
        self.state().posts
    }

    /// Every pointer of the sweep.
    pub fn pointers(&self) -> Vec<DuePointer> {
        self.state().due.iter().cloned().collect()
    }

    /// The whole ledger of a wallet, oldest first.
    pub fn ledger(&self, holder: &Holder) -> Vec<Entry> {
        let state = self.state();
        let theirs = state.entries.iter().filter(|((of, _), _)| of == holder);
        theirs.map(|(_, entry)| entry.clone()).collect()
    }

    fn apply(&self, posting: &Posting) -> PostOutcome {
        let mut state = self.state();
        let mut after = Vec::with_capacity(posting.changes.len());
        for change in &posting.changes {
            let empty = || Wallet::empty(change.holder.clone());
            let before = state
                .wallets
                .get(&change.holder)
                .cloned()
                .unwrap_or_else(empty);
            let is_new = |entry: &Entry| {
                let key = (change.holder.clone(), entry.entry_id.clone());
                !state.entries.contains_key(&key)
            };
            match change.applied_to(&before) {
                Some(wallet) if change.entries.iter().all(is_new) => after.push(wallet),
                _ => return self.stale(&state, &posting.guard),
            }
        }
        if !self.hold(&mut state, &posting.guard) {
            return PostOutcome::Refused;
        }
        for (change, wallet) in posting.changes.iter().zip(after) {
            if let Some(due) = change.due {
                let pointer = |due_at| DuePointer {
                    due_at,
                    holder: change.holder.clone(),
                };
                due.from.map(|at| state.due.remove(&pointer(at)));
                due.to.map(|at| state.due.insert(pointer(at)));
            }
            for entry in &change.entries {
                let key = (change.holder.clone(), entry.entry_id.clone());
                state.entries.insert(key, entry.clone());
            }
            state.wallets.insert(change.holder.clone(), wallet);
        }
        PostOutcome::Posted
    }

    /// A guard that does not hold outranks a stale wallet: the guard is final.
    fn stale(&self, state: &State, guard: &Guard) -> PostOutcome {
        let holds = match guard {
            Guard::None => true,
            Guard::Operation(operation, _) => state.is_held(operation),
            Guard::Coupon(change) => self.with_coupon(&change.judged, |standing| {
                standing.is_some_and(|standing| *standing == change.judged)
            }),
        };
        if holds {
            PostOutcome::Stale
        } else {
            PostOutcome::Refused
        }
    }

    fn hold(&self, state: &mut State, guard: &Guard) -> bool {
        match guard {
            Guard::None => true,
            Guard::Operation(operation, answer) => state.end(operation, answer.clone()),
            Guard::Coupon(change) => self.with_coupon(&change.judged, |standing| {
                redemptions::change(standing, change) == Recorded::Recorded
            }),
        }
    }

    fn with_coupon<T>(&self, of: &Coupon, look: impl FnOnce(Option<&mut Coupon>) -> T) -> T {
        self.coupons
            .with_coupon(&of.partner_id, &of.user_id, &of.campaign_id, look)
    }
}

fn name(operation: &Operation) -> (PartnerId, String) {
    (operation.partner_id.clone(), operation.key_sha256.clone())
}

impl State {
    fn is_held(&self, operation: &Operation) -> bool {
        self.operations
            .get(&name(operation))
            .is_some_and(|stands| stands.answer.is_none() && stands.attempt == operation.attempt)
    }

    fn end(&mut self, operation: &Operation, answer: OperationAnswer) -> bool {
        let held = self.is_held(operation);
        if let Some(stands) = self.operations.get_mut(&name(operation)).filter(|_| held) {
            stands.answer = Some(answer);
            stands.lease_until = None;
        }
        held
    }

    fn standing(&self, operation: &Operation, now: Timestamp) -> Option<Begin> {
        let stands = self.operations.get(&name(operation))?;
        let is_same = stands.request_sha256 == operation.request_sha256;
        let is_abandoned = stands.lease_until.is_some_and(|until| until <= now);
        if stands.forgotten_at <= now || is_same && is_abandoned {
            return None;
        }
        Some(if !is_same {
            Begin::Mismatch
        } else {
            let answer = stands.answer.clone();
            answer.map_or(Begin::InProgress, Begin::Answered)
        })
    }
}

impl Operations for MemoryWallets {
    async fn begin(&self, operation: &Operation, now: Timestamp) -> Result<Begin, PortError> {
        tokio::task::yield_now().await;
        let mut state = self.state();
        let standing = state.operations.get(&name(operation));
        let is_free = standing.is_none_or(|stands| {
            let abandoned = stands.lease_until.is_some_and(|until| until <= now);
            stands.forgotten_at <= now
                || abandoned && stands.request_sha256 == operation.request_sha256
        });
        if !is_free {
            return Ok(state.standing(operation, now).unwrap_or(Begin::InProgress));
        }
        let remembered = Remembered {
            request_sha256: operation.request_sha256.clone(),
            attempt: operation.attempt,
            lease_until: Some(now.plus_seconds(LEASE_SECONDS)),
            answer: None,
            forgotten_at: now.plus_seconds(OPERATION_SECONDS),
        };
        state.operations.insert(name(operation), remembered);
        Ok(Begin::Begun)
    }

    async fn standing(
        &self,
        operation: &Operation,
        now: Timestamp,
    ) -> Result<Option<Begin>, PortError> {
        Ok(self.state().standing(operation, now))
    }

    async fn refuse(&self, operation: &Operation, refusal: Refusal) -> Result<Begin, PortError> {
        let mut state = self.state();
        state.end(operation, OperationAnswer::Refused { refusal });
        let standing = state.standing(operation, Timestamp::EPOCH);
        Ok(standing.unwrap_or(Begin::InProgress))
    }

    async fn release(&self, operation: &Operation) -> Result<(), PortError> {
        let mut state = self.state();
        let held = state.is_held(operation);
        if let Some(stands) = state.operations.get_mut(&name(operation)).filter(|_| held) {
            stands.lease_until = Some(Timestamp::EPOCH);
        }
        Ok(())
    }
}

impl WalletBook for MemoryWallets {
    async fn wallet(&self, holder: &Holder) -> Result<Wallet, PortError> {
        // Lets concurrent callers meet.
        tokio::task::yield_now().await;
        let found = self.state().wallets.get(holder).cloned();
        Ok(found.unwrap_or_else(|| Wallet::empty(holder.clone())))
    }

    async fn post(&self, posting: &Posting) -> Result<PostOutcome, PortError> {
        tokio::task::yield_now().await;
        let fault = {
            let mut state = self.state();
            state.posts += 1;
            state.faults.pop_front()
        };
        match fault {
            None => Ok(self.apply(posting)),
            Some(PostFault::Busy) => Ok(PostOutcome::Busy),
            Some(PostFault::LostBeforeWrite) => Ok(PostOutcome::Unknown),
            Some(PostFault::LostAfterWrite) => {
                self.apply(posting);
                Ok(PostOutcome::Unknown)
            }
            Some(PostFault::Hang) => std::future::pending().await,
            Some(PostFault::Error) => Err(PortError::retry("post to the wallet", "told to fail")),
        }
    }

    async fn entry(&self, holder: &Holder, id: &EntryId) -> Result<Option<Entry>, PortError> {
        let key = (holder.clone(), id.clone());
        Ok(self.state().entries.get(&key).cloned())
    }

    async fn entries(
        &self,
        holder: &Holder,
        before: Option<&EntryId>,
        limit: u16,
    ) -> Result<EntryPage, PortError> {
        let state = self.state();
        let theirs = state
            .entries
            .iter()
            .rev()
            .filter(|((of, id), _)| of == holder && before.is_none_or(|before| id < before));
        let limit = usize::from(limit);
        let mut theirs = theirs.map(|(_, entry)| entry.clone());
        let entries: Vec<Entry> = theirs.by_ref().take(limit).collect();
        let last = entries.last().filter(|_| theirs.next().is_some());
        let next = last.map(|entry| entry.entry_id.clone());
        Ok(EntryPage { entries, next })
    }
}

impl DueWallets for MemoryWallets {
    async fn due(
        &self,
        shard: u16,
        now: Timestamp,
        after: Option<&DuePointer>,
        limit: u16,
    ) -> Result<Vec<DuePointer>, PortError> {
        let state = self.state();
        let due = state.due.iter().filter(|pointer| {
            DuePointer::shard(&pointer.holder) == shard
                && pointer.due_at <= now
                && after.is_none_or(|after| *pointer > after)
        });
        Ok(due.take(usize::from(limit)).cloned().collect())
    }
}
