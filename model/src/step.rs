//! The protocol: every atomic step there is, when it can be taken, and what it changes.
//!
//! A step is one read of one item, one change of one item becoming visible, one message, or one fault. What a worker
//! does between two of them touches nobody else and belongs to the step before.

use crate::config::{Broken, SHARDS, Sale, Set, Time, USERS, WORKERS, bit, has};
use crate::state::{
    Batch, Buyers, Chunk, Closing, CouponReason, Progress, Refusal, Response, STOCK_ITEM, Said,
    State, Step, StockReason, Transaction, Verdict, Worker,
};

/// What can happen next. Transactions are named by their place in the state's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A worker receives messages.
    Receive {
        /// Who.
        worker: usize,
        /// Which.
        messages: Set,
    },
    /// A worker reads the campaign's record, one coupon or one shard, whichever comes next, or reads all its waiting
    /// users' coupons in one transaction, or sends its answers, or acknowledges.
    Proceed {
        /// Who.
        worker: usize,
    },
    /// A worker sends its waiting users' chunks, several at once on different shards.
    Sell {
        /// Who.
        worker: usize,
        /// The shard that is filled first.
        first: usize,
    },
    /// The store checks a transaction and cancels it or holds its items.
    Judge {
        /// Which transaction.
        transaction: usize,
        /// Which of its reasons it tells.
        reasons: Reasons,
    },
    /// One item of a transaction becomes visible.
    Show {
        /// Which transaction.
        transaction: usize,
        /// Which item: 0 is the stock counter, 1 + u the coupon of user u.
        item: usize,
    },
    /// A request that nobody waits for never arrives.
    Vanish {
        /// Which transaction.
        transaction: usize,
    },
    /// A worker takes the response.
    Learn {
        /// Which transaction.
        transaction: usize,
    },
    /// A worker stops waiting for the response.
    Lose {
        /// Which transaction.
        transaction: usize,
    },
    /// A worker sends a chunk of unknown outcome again.
    Repeat {
        /// Who.
        worker: usize,
        /// The chunk's shard.
        shard: usize,
    },
    /// A worker gives a chunk of unknown outcome up and looks for its coupons.
    LookUp {
        /// Who.
        worker: usize,
        /// The chunk's shard.
        shard: usize,
    },
    /// A worker runs out of time.
    GiveBack {
        /// Who.
        worker: usize,
    },
    /// A worker dies.
    Crash {
        /// Who.
        worker: usize,
    },
    /// The partner closes the campaign early: that is noted on the record.
    Close,
    /// A closer freezes a shard. While a transaction holds it, the store refuses, and the closer tries again.
    Freeze {
        /// Which one.
        shard: usize,
    },
    /// A closer that found every shard empty marks the campaign as sold out.
    MarkSold,
    /// A closer closes the record.
    EndClosing,
    /// Time passes: the campaign opens, or its window ends.
    Pass,
    /// A user asks again at the claim door, which may refuse by now.
    AskAtTheDoor {
        /// With which claim.
        claim: usize,
    },
}

/// A cancellation need not tell every reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reasons {
    /// All.
    All,
    /// Only the stock counter's.
    Stock,
    /// Only the coupons'.
    Coupons,
}

impl Sale {
    /// Whether this may also never happen: outside events, and requests that get lost after nobody waits for them. A closing
    /// that was begun goes on: somebody repeats it, or the refresher finishes it.
    pub(crate) fn is_optional(&self, action: Action) -> bool {
        match action {
            Action::Close | Action::AskAtTheDoor { .. } | Action::Vanish { .. } => true,
            Action::Freeze { .. } | Action::MarkSold | Action::EndClosing => {
                self.breaks(Broken::NobodyFinishes)
            }
            _ => false,
        }
    }

    pub(crate) fn start(&self) -> State {
        let mut remaining = [0; SHARDS];
        for (left, quota) in remaining.iter_mut().zip(&self.quotas) {
            *left = i8::try_from(*quota).unwrap_or(i8::MAX);
        }
        State {
            coupons: [None; USERS],
            puts: [0; USERS],
            remaining,
            closing: Closing {
                begun: false,
                frozen: 0,
                ended: false,
            },
            sold: false,
            acknowledged: 0,
            answered: 0,
            said: Default::default(),
            contradicted: false,
            time: self.begins(),
            issued_early: false,
            issued_late: false,
            workers: [Worker::default(); WORKERS],
            transactions: Vec::new(),
            applied: 0,
            faults_left: self.faults,
        }
    }

    /// Everything that can happen next.
    pub(crate) fn possible(&self, state: &State, actions: &mut Vec<Action>) {
        for worker in 0..WORKERS {
            match &state.workers[worker].batch {
                None => self.receivable(state, worker, actions),
                Some(batch) => self.possible_for(state, worker, batch, actions),
            }
        }
        for (transaction, one) in state.transactions.iter().enumerate() {
            match one.progress {
                Progress::Sent => {
                    for reasons in self.tellable(state, transaction) {
                        actions.push(Action::Judge {
                            transaction,
                            reasons,
                        });
                    }
                    if one.owner.is_none() {
                        actions.push(Action::Vanish { transaction });
                    }
                }
                Progress::Committed { .. } => {
                    let hidden = one.items().filter(|item| one.locks(*item));
                    actions.extend(hidden.map(|item| Action::Show { transaction, item }));
                }
                Progress::Settled(_) => actions.push(Action::Learn { transaction }),
            }
            if one.owner.is_some() && state.faults_left.losses > 0 {
                actions.push(Action::Lose { transaction });
            }
        }
        if state.time < self.last_sent() {
            actions.push(Action::Pass);
        }
        self.possible_closing(state, actions);
        if self.door && self.door_may_refuse(state) {
            let users =
                (0..state.said.len()).filter_map(|claim| Some((claim, self.user_of(claim)?)));
            let unlocked = users.filter(|(_, user)| {
                self.breaks(Broken::PlainReadAtTheDoor) || !state.locked(1 + user)
            });
            actions.extend(unlocked.map(|(claim, _)| Action::AskAtTheDoor { claim }));
        }
    }

    /// The steps of an early close, in their order. Whoever takes them: each may be repeated, and by another closer.
    fn possible_closing(&self, state: &State, actions: &mut Vec<Action>) {
        let Closing {
            begun,
            frozen,
            ended,
        } = state.closing;
        if !begun {
            actions.extend(self.closes.then_some(Action::Close));
            return;
        }
        let unfrozen = (0..self.quotas.len()).filter(|shard| !has(frozen, *shard));
        let free = unfrozen.filter(|shard| !state.shard_locked(*shard));
        actions.extend(free.map(|shard| Action::Freeze { shard }));
        if ended {
            return;
        }
        let all_frozen = frozen == self.all_shards();
        let unmarked = !state.sold && state.remaining.iter().all(|left| *left <= 0);
        if all_frozen && unmarked && !self.breaks(Broken::ClosedUnmarked) {
            actions.push(Action::MarkSold);
        } else if all_frozen || self.breaks(Broken::RecordClosedFirst) {
            actions.push(Action::EndClosing);
        }
    }

    /// Whether the door knows enough to refuse: the sold mark, or the closed record.
    fn door_may_refuse(&self, state: &State) -> bool {
        state.sold || state.closing.ended
    }

    /// What the door tells a user who holds nothing.
    fn refusal_at_the_door(&self, state: &State) -> Refusal {
        if state.sold {
            Refusal::SoldOut
        } else {
            Refusal::Closed
        }
    }

    /// Every batch that an idle worker may receive. A message that another worker holds, or that was acknowledged,
    /// costs a redelivery.
    fn receivable(&self, state: &State, worker: usize, actions: &mut Vec<Action>) {
        let all: Set = self
            .messages_in(Set::MAX)
            .map(|(index, _)| bit(index))
            .sum();
        for messages in 1..=all {
            let mut sent = self.messages_in(messages).map(|(_, message)| message.sent);
            if messages.count_ones() <= self.batch
                && sent.all(|sent| sent <= state.time)
                && self.redelivered(state, messages).count_ones()
                    <= u32::from(state.faults_left.redeliveries)
            {
                actions.push(Action::Receive { worker, messages });
            }
        }
    }

    fn redelivered(&self, state: &State, messages: Set) -> Set {
        let held = state
            .workers
            .iter()
            .filter_map(|worker| worker.batch.as_ref())
            .fold(0, |held, batch| held | batch.messages);
        messages & (held | state.acknowledged)
    }

    fn possible_for(&self, state: &State, worker: usize, batch: &Batch, actions: &mut Vec<Action>) {
        if state.faults_left.crashes > 0 {
            actions.push(Action::Crash { worker });
        }
        if batch.step != Step::Sell {
            actions.push(Action::Proceed { worker });
            return;
        }
        for (shard, chunk) in batch.chunks.iter().enumerate() {
            if chunk.is_some_and(|chunk| chunk.unknown) {
                actions.push(Action::Repeat { worker, shard });
                if !self.patient {
                    actions.push(Action::LookUp { worker, shard });
                }
            }
        }
        if batch.chunks.iter().all(Option::is_none) {
            let selling = (0..self.quotas.len())
                .filter(|shard| batch.bounds[*shard] > 0 && !has(batch.frozen, *shard));
            actions.extend(selling.map(|first| Action::Sell { worker, first }));
            if state.faults_left.deadlines > 0 {
                actions.push(Action::GiveBack { worker });
            }
        }
    }

    /// The ways in which the store may explain itself.
    fn tellable(&self, state: &State, transaction: usize) -> Vec<Reasons> {
        match self.judgement(state, transaction, Reasons::All) {
            Some(Response::Cancelled(stock, coupons))
                if stock != StockReason::None
                    && coupons.iter().any(|reason| *reason != CouponReason::None) =>
            {
                vec![Reasons::All, Reasons::Stock, Reasons::Coupons]
            }
            _ => vec![Reasons::All],
        }
    }

    /// The state after an action that was possible.
    pub(crate) fn after(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        match action {
            Action::Receive { worker, messages } => self.receive(&mut next, worker, messages),
            Action::Proceed { worker } => self.proceed(&mut next, worker)?,
            Action::Sell { worker, first } => self.sell(&mut next, worker, first)?,
            Action::Judge {
                transaction,
                reasons,
            } => self.judge(&mut next, transaction, reasons),
            Action::Show { transaction, item } => next.show(transaction, item),
            Action::Vanish { transaction } => {
                next.transactions.remove(transaction);
            }
            Action::Learn { transaction } => self.learn(&mut next, transaction)?,
            Action::Lose { transaction } => self.lose(&mut next, transaction)?,
            Action::Repeat { worker, shard } => self.repeat(&mut next, worker, shard)?,
            Action::LookUp { worker, shard } => self.look_up(&mut next, worker, shard)?,
            Action::GiveBack { worker } => {
                next.faults_left.deadlines -= 1;
                let batch = next.workers[worker].batch.as_mut()?;
                batch.waiting = 0;
                batch.step = Step::Answer;
            }
            Action::Crash { worker } => {
                next.faults_left.crashes -= 1;
                next.workers[worker] = Worker::default();
                next.abandon(|transaction| transaction.owner.map(usize::from) == Some(worker));
            }
            Action::Close => next.closing.begun = true,
            Action::Freeze { shard } => next.closing.frozen |= bit(shard),
            Action::MarkSold => next.sold = true,
            Action::EndClosing => next.closing.ended = true,
            Action::Pass => next.time = next.time.next(),
            Action::AskAtTheDoor { claim } => {
                let coupon = next.coupons[self.user_of(claim)?];
                let refusal = Said::Refused(self.refusal_at_the_door(state));
                next.say(claim, coupon.map_or(refusal, Said::Holds));
            }
        }
        self.settle(&mut next);
        next.canonical();
        (next != *state).then_some(next)
    }

    fn receive(&self, state: &mut State, worker: usize, messages: Set) {
        let redelivered = self.redelivered(state, messages).count_ones();
        state.faults_left.redeliveries -= u8::try_from(redelivered).unwrap_or_default();
        if self.breaks(Broken::AcknowledgedBeforeWrite) {
            state.acknowledged |= messages;
        }
        let late = self
            .messages_in(messages)
            .filter(|(_, message)| !self.in_time(message))
            .map(|(_, message)| usize::from(message.claim));
        let told = late
            .filter(|claim| matches!(state.said[*claim], Some(Said::Holds(_))))
            .fold(0, |set, claim| set | bit(claim));
        state.workers[worker].batch = Some(Batch {
            told,
            ..Batch::new(messages, Step::ReadRecord)
        });
    }

    /// The next read, answer or acknowledgement.
    fn proceed(&self, state: &mut State, worker: usize) -> Option<()> {
        let step = state.workers[worker].batch.as_ref()?.step;
        match step {
            Step::ReadRecord => {
                let closed = state.closing.ended;
                let batch = state.workers[worker].batch.as_mut()?;
                batch.closed = closed;
                batch.step = Step::ReadCoupon { user: 0 };
            }
            Step::ReadCoupon { user } => {
                let coupon = state.coupons[usize::from(user)];
                let batch = state.workers[worker].batch.as_mut()?;
                match coupon {
                    Some(coupon) => {
                        batch.verdicts[usize::from(user)] = Some(Verdict::Holds(coupon))
                    }
                    None if self.leader(batch.messages, usize::from(user)).is_some() => {
                        batch.waiting |= bit(usize::from(user));
                    }
                    None => {}
                }
                batch.step = Step::ReadCoupon { user: user + 1 };
            }
            Step::ReadShard { shard } => {
                let left = u8::try_from(state.remaining[usize::from(shard)]).unwrap_or_default();
                let frozen = has(state.closing.frozen, usize::from(shard));
                let worker = &mut state.workers[worker];
                let batch = worker.batch.as_mut()?;
                if frozen {
                    batch.frozen |= bit(usize::from(shard));
                }
                batch.step = Step::ReadShard { shard: shard + 1 };
                worker.bound(usize::from(shard), left);
            }
            Step::Confirm(refusal) => self.confirm(state, worker, refusal)?,
            Step::Answer => self.answer(state, worker)?,
            Step::Acknowledge => {
                let batch = state.workers[worker].batch.take()?;
                state.acknowledged |= batch.decided;
            }
            Step::Sell => return None,
        }
        Some(())
    }

    /// Takes the steps that nobody could tell from the ones before: a response that can no longer be lost is learned at
    /// once, and an answer that no crash can part from its acknowledgement is acknowledged with it.
    fn settle(&self, state: &mut State) {
        if state.faults_left.losses == 0 {
            let settled = |one: &Transaction| matches!(one.progress, Progress::Settled(_));
            while let Some(transaction) = state.transactions.iter().position(settled) {
                self.learn(state, transaction);
            }
        }
        for worker in 0..WORKERS {
            self.settle_step(state, worker);
            let acknowledges = |batch: &Batch| batch.step == Step::Acknowledge;
            if state.faults_left.crashes == 0
                && state.workers[worker]
                    .batch
                    .as_ref()
                    .is_some_and(acknowledges)
            {
                self.proceed(state, worker);
            }
        }
    }

    /// Skips what need not be done: reads of coupons nobody asks for and of shards known empty, sales to nobody.
    fn settle_step(&self, state: &mut State, worker: usize) {
        let Worker { empty, batch } = &mut state.workers[worker];
        let Some(open) = batch.as_mut() else { return };
        // What shards say decides; the record's mark is for the doors.
        if open.step == Step::ReadRecord && !self.breaks(Broken::ClosedBeforeCoupon) {
            open.step = Step::ReadCoupon { user: 0 };
        }
        if let Step::ReadCoupon { user } = open.step {
            let asked = |user: &usize| {
                self.messages_in(open.messages)
                    .any(|(_, message)| usize::from(message.user) == *user)
            };
            open.step = match (usize::from(user)..USERS).find(asked) {
                Some(user) => Step::ReadCoupon {
                    user: u8::try_from(user).unwrap_or_default(),
                },
                None if open.waiting == 0 => Step::Answer,
                None => {
                    for shard in 0..self.quotas.len() {
                        open.bounds[shard] = if has(*empty, shard) { 0 } else { u8::MAX };
                    }
                    Step::ReadShard { shard: 0 }
                }
            };
        }
        if let Step::ReadShard { shard } = open.step {
            let mut unread = (usize::from(shard)..self.quotas.len()).filter(|s| !has(*empty, *s));
            open.step = match unread.next() {
                Some(shard) => Step::ReadShard {
                    shard: u8::try_from(shard).unwrap_or_default(),
                },
                None => Step::Sell,
            };
        }
        if open.step == Step::Sell && open.chunks.iter().all(Option::is_none) {
            open.step = self.next_sale(open);
        }
        if matches!(open.step, Step::Confirm(_) | Step::Answer) {
            // What it knew of the stock has done its work.
            open.bounds = [0; SHARDS];
            open.frozen = 0;
            open.resting = 0;
            open.closed &= self.breaks(Broken::ClosedBeforeCoupon);
        }
        if open.resting == open.waiting {
            open.resting = 0;
        }
        if open.step == Step::Answer && self.decisions(open).next().is_none() {
            // Nothing is decided: the messages are simply not acknowledged.
            *batch = None;
        }
    }

    /// What a worker with no chunk under way turns to. It refuses once every shard is empty or frozen, and judges emptiness first:
    /// a shard that is empty after the close was empty at it.
    fn next_sale(&self, batch: &Batch) -> Step {
        let holding: Set = (0..self.quotas.len())
            .filter(|shard| batch.bounds[*shard] > 0)
            .map(bit)
            .sum();
        let empty = if self.breaks(Broken::SoldOutAfterOneEmptyShard) {
            holding != self.all_shards()
        } else {
            holding == 0
        };
        let closed_first =
            self.breaks(Broken::ClosedBeforeStock) && batch.frozen == self.all_shards();
        let closed = holding & !batch.frozen == 0
            || self.breaks(Broken::ClosedAfterOneFrozenShard) && batch.frozen != 0;
        if batch.waiting == 0 {
            Step::Answer
        } else if closed_first {
            Step::Confirm(Refusal::Closed)
        } else if empty {
            Step::Confirm(Refusal::SoldOut)
        } else if closed {
            Step::Confirm(Refusal::Closed)
        } else {
            Step::Sell
        }
    }

    fn sell(&self, state: &mut State, worker: usize, first: usize) -> Option<()> {
        let messages = state.workers[worker].batch.as_ref()?.messages;
        let shards = (0..self.quotas.len()).map(|n| (first + n) % self.quotas.len());
        for shard in shards {
            let token = state.free_token();
            let batch = state.workers[worker].batch.as_mut()?;
            if has(batch.frozen, shard) {
                continue;
            }
            let mut buyers: Buyers = [None; USERS];
            let eligible = match batch.waiting & !batch.resting {
                0 => batch.waiting,
                awake => awake,
            };
            let chunked = batch
                .chunks
                .iter()
                .flatten()
                .fold(0, |set, chunk| set | users(&chunk.buyers));
            (0..USERS)
                .filter(|user| has(eligible & !chunked, *user))
                .take(usize::from(batch.bounds[shard]))
                .for_each(|user| buyers[user] = self.leader(messages, user));
            if users(&buyers) == 0 {
                continue;
            }
            batch.chunks[shard] = Some(Chunk {
                buyers,
                unknown: false,
                token,
            });
            let transaction = Transaction {
                owner: u8::try_from(worker).ok(),
                shard: u8::try_from(shard).ok()?,
                buyers,
                progress: Progress::Sent,
                token,
            };
            state.transactions.push(transaction);
        }
        let batch = state.workers[worker].batch.as_mut()?;
        batch.resting = 0;
        if self.breaks(Broken::AnsweredBeforeDurable) {
            for (shard, chunk) in std::mem::take(&mut batch.chunks).into_iter().enumerate() {
                for (user, claim) in chunk.into_iter().flat_map(|chunk| buyers(&chunk.buyers)) {
                    let shard = u8::try_from(shard).ok()?;
                    batch.decide(user, Verdict::Holds(crate::Coupon { claim, shard }));
                }
            }
            state.abandon(|transaction| transaction.owner.map(usize::from) == Some(worker));
        }
        Some(())
    }

    /// What the store says to a transaction that arrives now; `None` if nothing stands against it.
    fn judgement(&self, state: &State, transaction: usize, reasons: Reasons) -> Option<Response> {
        let asked = state.transactions[transaction];
        if has(state.applied, usize::from(asked.token)) {
            return Some(Response::Issued);
        }
        let under_way = |other: &Transaction| {
            other.token == asked.token && matches!(other.progress, Progress::Committed { .. })
        };
        if state.transactions.iter().any(under_way) {
            return Some(Response::InProgress);
        }
        let shard = usize::from(asked.shard);
        let size = users(&asked.buyers).count_ones();
        let left = u8::try_from(state.remaining[shard]).unwrap_or_default();
        let stock = if state.shard_locked(shard) {
            StockReason::Busy
        } else if has(state.closing.frozen, shard) && !self.breaks(Broken::FrozenCondition) {
            StockReason::Closed(left)
        } else if u32::from(left) < size && !self.breaks(Broken::StockCondition) {
            StockReason::Short(left)
        } else {
            StockReason::None
        };
        let mut coupons = [CouponReason::None; USERS];
        for (user, _) in buyers(&asked.buyers) {
            coupons[user] = match state.coupons[user] {
                _ if state.locked(1 + user) => CouponReason::Busy,
                Some(coupon) if !self.breaks(Broken::CouponCondition) => {
                    CouponReason::Stands(coupon)
                }
                _ => CouponReason::None,
            };
        }
        let told = match reasons {
            Reasons::All => Response::Cancelled(stock, coupons),
            Reasons::Stock => Response::Cancelled(stock, [CouponReason::None; USERS]),
            Reasons::Coupons => Response::Cancelled(StockReason::None, coupons),
        };
        let refused =
            stock != StockReason::None || coupons.iter().any(|one| *one != CouponReason::None);
        refused.then_some(told)
    }

    fn judge(&self, state: &mut State, transaction: usize, reasons: Reasons) {
        match self.judgement(state, transaction, reasons) {
            Some(response) => state.respond(transaction, response),
            None => {
                state.transactions[transaction].progress = Progress::Committed { visible: 0 };
                state.issued_early |= state.time < Time::Open;
                state.issued_late |= state.closing.ended;
            }
        }
    }

    /// A worker learns what became of a chunk. A reason that is not told proves nothing.
    fn learn(&self, state: &mut State, transaction: usize) -> Option<()> {
        let settled = state.transactions.remove(transaction);
        let Progress::Settled(response) = settled.progress else {
            return None;
        };
        let shard = usize::from(settled.shard);
        let worker = &mut state.workers[usize::from(settled.owner?)];
        let batch = worker.batch.as_mut()?;
        let size = u8::try_from(users(&settled.buyers).count_ones()).ok()?;
        let mut at_most = u8::MAX;
        match response {
            Response::InProgress => {
                batch.chunks[shard].as_mut()?.unknown = true;
                return Some(());
            }
            Response::Issued => {
                at_most = batch.bounds[shard].saturating_sub(size);
                for (user, claim) in buyers(&settled.buyers) {
                    let shard = settled.shard;
                    batch.decide(user, Verdict::Holds(crate::Coupon { claim, shard }));
                }
            }
            Response::Cancelled(stock, coupons) => {
                match stock {
                    StockReason::None => {}
                    StockReason::Short(left) => at_most = left,
                    StockReason::Closed(left) => {
                        batch.frozen |= bit(shard);
                        if !self.breaks(Broken::ClosedByStaleStock) {
                            at_most = left;
                        }
                    }
                    StockReason::Busy if self.breaks(Broken::ConflictMeansEmpty) => at_most = 0,
                    StockReason::Busy => {}
                }
                for (user, reason) in coupons.into_iter().enumerate() {
                    match reason {
                        CouponReason::None => {}
                        CouponReason::Stands(coupon) => batch.decide(user, Verdict::Holds(coupon)),
                        CouponReason::Busy => batch.resting |= bit(user),
                    }
                }
            }
        }
        batch.chunks[shard] = None;
        worker.bound(shard, at_most);
        Some(())
    }

    fn lose(&self, state: &mut State, transaction: usize) -> Option<()> {
        state.faults_left.losses -= 1;
        let lost = state.transactions[transaction];
        let batch = state.workers[usize::from(lost.owner?)].batch.as_mut()?;
        let chunk = &mut batch.chunks[usize::from(lost.shard)];
        if self.breaks(Broken::UnknownMeansRefused) {
            *chunk = None;
            for (user, _) in buyers(&lost.buyers) {
                batch.decide(user, Verdict::Refused(Refusal::Rejected));
            }
        } else {
            chunk.as_mut()?.unknown = true;
        }
        state.abandon_one(transaction);
        Some(())
    }

    fn repeat(&self, state: &mut State, worker: usize, shard: usize) -> Option<()> {
        let new_token = state.free_token();
        let chunk = state.workers[worker].batch.as_mut()?.chunks[shard].as_mut()?;
        if self.breaks(Broken::NewTokenOnRepeat) {
            chunk.token = new_token;
        }
        chunk.unknown = false;
        let transaction = Transaction {
            owner: u8::try_from(worker).ok(),
            shard: u8::try_from(shard).ok()?,
            buyers: chunk.buyers,
            progress: Progress::Sent,
            token: chunk.token,
        };
        state.transactions.push(transaction);
        Some(())
    }

    /// Whoever turns out to hold a coupon is decided; the others stay undecided, whatever else the batch learns.
    fn look_up(&self, state: &mut State, worker: usize, shard: usize) -> Option<()> {
        let coupons = state.coupons;
        let batch = state.workers[worker].batch.as_mut()?;
        let chunk = batch.chunks[shard].take()?;
        for (user, _) in buyers(&chunk.buyers) {
            batch.waiting &= !bit(user);
            batch.verdicts[user] = coupons[user].map(Verdict::Holds);
        }
        Some(())
    }

    /// The last read before a refusal: as of one instant, or not at all.
    fn confirm(&self, state: &mut State, worker: usize, refusal: Refusal) -> Option<()> {
        let waiting = state.workers[worker].batch.as_ref()?.waiting;
        let plain = self.breaks(Broken::PlainConfirmation) || self.breaks(Broken::NoConfirmation);
        let busy = (0..USERS).any(|user| has(waiting, user) && state.locked(1 + user));
        let coupons = state.coupons;
        state.sold |= (self.door || self.closes) && refusal == Refusal::SoldOut;
        let batch = state.workers[worker].batch.as_mut()?;
        for user in (0..USERS).filter(|user| has(waiting, *user)) {
            let coupon = coupons[user].filter(|_| !self.breaks(Broken::NoConfirmation));
            if plain || !busy {
                let verdict = coupon.map_or(Verdict::Refused(refusal), Verdict::Holds);
                batch.decide(user, verdict);
            }
        }
        batch.waiting = 0;
        batch.resting = 0;
        batch.step = Step::Answer;
        Some(())
    }

    fn answer(&self, state: &mut State, worker: usize) -> Option<()> {
        let batch = *state.workers[worker].batch.as_ref()?;
        for (index, said) in self.decisions(&batch) {
            let claim = usize::from(self.messages[index].claim);
            state.say(claim, said);
            state.contradicted |= said == Said::OutOfTime && has(batch.told, claim);
            state.answered |= bit(index);
        }
        let decided = self
            .decisions(&batch)
            .fold(0, |set, (index, _)| set | bit(index));
        *state.workers[worker].batch.as_mut()? = Batch {
            decided,
            ..Batch::new(batch.messages, Step::Acknowledge)
        };
        Some(())
    }

    /// The order of verdict: a standing coupon, then the message's own time, then what its leader met. Undecided while
    /// the leader is, even out of time: the leader may yet win the coupon that answers both.
    fn decisions(&self, batch: &Batch) -> impl Iterator<Item = (usize, Said)> {
        self.messages_in(batch.messages)
            .filter_map(|(index, message)| {
                let user = usize::from(message.user);
                let verdict = batch.verdicts[user];
                let undecided = verdict.is_none() && self.leader(batch.messages, user).is_some();
                let said = match verdict {
                    _ if !self.in_time(&message) && self.breaks(Broken::TimeBeforeCoupon) => {
                        Some(Said::OutOfTime)
                    }
                    Some(Verdict::Holds(_))
                        if batch.closed && self.breaks(Broken::ClosedBeforeCoupon) =>
                    {
                        Some(Said::Refused(Refusal::Closed))
                    }
                    Some(Verdict::Holds(coupon)) => Some(Said::Holds(coupon)),
                    None if undecided => None,
                    _ if !self.in_time(&message) => Some(Said::OutOfTime),
                    Some(Verdict::Refused(refusal)) => Some(Said::Refused(refusal)),
                    None => None,
                };
                Some((index, said?))
            })
            .collect::<Vec<_>>()
            .into_iter()
    }
}

impl Worker {
    /// Learns that a shard holds at most this much; remembers an empty one for good.
    fn bound(&mut self, shard: usize, at_most: u8) {
        if let Some(batch) = &mut self.batch {
            batch.bounds[shard] = batch.bounds[shard].min(at_most);
            if batch.bounds[shard] == 0 {
                self.empty |= bit(shard);
            }
        }
    }
}

impl Batch {
    fn new(messages: Set, step: Step) -> Self {
        Self {
            messages,
            step,
            verdicts: [None; USERS],
            closed: false,
            waiting: 0,
            resting: 0,
            bounds: [0; SHARDS],
            frozen: 0,
            chunks: [None; SHARDS],
            decided: 0,
            told: 0,
        }
    }

    fn decide(&mut self, user: usize, verdict: Verdict) {
        self.waiting &= !bit(user);
        self.resting &= !bit(user);
        self.verdicts[user] = Some(verdict);
    }
}

impl State {
    /// An action in words, as it is taken in this state. Workers have no lasting number: a step sorts them anew.
    pub(crate) fn describe(&self, action: Action) -> String {
        let step = |worker: usize| {
            let batch = self.workers[worker].batch.as_ref();
            batch.map(|batch| (batch.messages, batch.step))
        };
        match action {
            Action::Proceed { worker } => match step(worker) {
                Some((messages, step)) => {
                    format!("the worker with messages {messages:#05b}: {step:?}")
                }
                None => format!("{action:?}"),
            },
            _ => format!("{action:?}"),
        }
    }

    /// Whether a transaction holds this coupon's key (item 1 + u).
    fn locked(&self, coupon: usize) -> bool {
        self.transactions
            .iter()
            .any(|transaction| transaction.locks(coupon))
    }

    fn shard_locked(&self, shard: usize) -> bool {
        self.transactions.iter().any(|transaction| {
            usize::from(transaction.shard) == shard && transaction.locks(STOCK_ITEM)
        })
    }

    fn show(&mut self, transaction: usize, item: usize) {
        let shown = self.transactions[transaction];
        let Progress::Committed { visible } = shown.progress else {
            return;
        };
        if item == STOCK_ITEM {
            let size = i8::try_from(users(&shown.buyers).count_ones()).unwrap_or_default();
            self.remaining[usize::from(shown.shard)] -= size;
        } else if let Some(claim) = shown.buyers[item - 1] {
            let shard = shown.shard;
            self.coupons[item - 1] = Some(crate::Coupon { claim, shard });
            self.puts[item - 1] = (self.puts[item - 1] + 1).min(2);
        }
        let visible = visible | bit(item);
        self.transactions[transaction].progress = Progress::Committed { visible };
        if shown.items().all(|item| has(visible, item)) {
            self.applied |= bit(usize::from(shown.token));
            self.respond(transaction, Response::Issued);
        }
    }

    /// Sends a response, if somebody waits for it.
    fn respond(&mut self, transaction: usize, response: Response) {
        if self.transactions[transaction].owner.is_some() {
            self.transactions[transaction].progress = Progress::Settled(response);
        } else {
            self.transactions.remove(transaction);
        }
    }

    /// Nobody waits for these any more; responses under way are lost.
    fn abandon(&mut self, which: impl Fn(&Transaction) -> bool) {
        self.transactions.retain(|transaction| {
            !(which(transaction) && matches!(transaction.progress, Progress::Settled(_)))
        });
        for transaction in &mut self.transactions {
            if which(transaction) {
                transaction.owner = None;
            }
        }
    }

    fn abandon_one(&mut self, transaction: usize) {
        if matches!(
            self.transactions[transaction].progress,
            Progress::Settled(_)
        ) {
            self.transactions.remove(transaction);
        } else {
            self.transactions[transaction].owner = None;
        }
    }

    /// Tells a claim something. A refusal by time binds only the message it was for; any other answer stays.
    fn say(&mut self, claim: usize, said: Said) {
        let before = &mut self.said[claim];
        match (*before, said) {
            (None | Some(Said::OutOfTime), _) => *before = Some(said),
            (_, Said::OutOfTime) => {}
            (Some(before), now) => self.contradicted |= before != now,
        }
    }

    fn tokens(&self) -> impl Iterator<Item = u8> + '_ {
        let chunks = self
            .workers
            .iter()
            .filter_map(|worker| worker.batch.as_ref())
            .flat_map(|batch| batch.chunks.iter().flatten());
        chunks
            .map(|chunk| chunk.token)
            .chain(self.transactions.iter().map(|one| one.token))
    }

    fn free_token(&self) -> u8 {
        (0..u8::MAX)
            .find(|token| self.tokens().all(|used| used != *token))
            .unwrap_or(u8::MAX)
    }

    /// Names what is alike alike: workers and tokens have no identity but what they hold, so that states which differ
    /// only in those names count once. Tokens nobody will send again are forgotten.
    fn canonical(&mut self) {
        if self.workers[0] > self.workers[1] {
            self.workers.swap(0, 1);
            for transaction in &mut self.transactions {
                transaction.owner = transaction.owner.map(|owner| 1 - owner);
            }
        }
        self.transactions.sort_unstable();
        let mut order: Vec<u8> = Vec::new();
        for token in self.tokens() {
            if !order.contains(&token) {
                order.push(token);
            }
        }
        let rename = |token: u8| {
            let place = order.iter().position(|known| *known == token);
            place
                .and_then(|place| u8::try_from(place).ok())
                .unwrap_or_default()
        };
        let applied = self.applied;
        self.applied = order
            .iter()
            .filter(|token| has(applied, usize::from(**token)))
            .fold(0, |set, token| set | bit(usize::from(rename(*token))));
        for worker in &mut self.workers {
            for chunk in worker
                .batch
                .iter_mut()
                .flat_map(|batch| batch.chunks.iter_mut().flatten())
            {
                chunk.token = rename(chunk.token);
            }
        }
        for transaction in &mut self.transactions {
            transaction.token = rename(transaction.token);
        }
    }
}

/// The users of a chunk.
pub(crate) fn users(buyers: &Buyers) -> Set {
    (0..USERS)
        .filter(|user| buyers[*user].is_some())
        .map(bit)
        .sum()
}

/// The users of a chunk and their claims.
fn buyers(buyers: &Buyers) -> impl Iterator<Item = (usize, u8)> + use<> {
    let buyers = *buyers;
    (0..USERS).filter_map(move |user| Some((user, buyers[user]?)))
}
