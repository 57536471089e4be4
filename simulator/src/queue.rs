//! SQS at its worst: at least once, in any order, to several at once. Receives are counted; what was received too often
//! goes to the dead-letter queue.

use std::collections::BTreeMap;

use fastrand::Rng;

use crate::fault::{Rates, Stats, happens};

/// A message in a queue. Times are virtual milliseconds.
#[derive(Clone, Debug)]
pub(crate) struct Message<T> {
    pub(crate) id: u32,
    pub(crate) body: T,
    pub(crate) sent_at: u64,
    pub(crate) receives: u32,
    visible_at: u64,
    /// Until when somebody who received it may be at work on it.
    held_until: u64,
}

/// A queue with its dead-letter queue.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    messages: BTreeMap<u32, Message<T>>,
    pub(crate) dead: Vec<Message<T>>,
    next_id: u32,
    visibility_millis: u64,
    max_receives: u32,
}

impl<T: Clone> Queue<T> {
    pub(crate) fn new(visibility_millis: u64, max_receives: u32) -> Self {
        Self {
            messages: BTreeMap::new(),
            dead: Vec::new(),
            next_id: 0,
            visibility_millis,
            max_receives,
        }
    }

    /// Takes a message in; it can be received `delay` later.
    pub(crate) fn send(&mut self, body: T, now: u64, delay: u64) -> u32 {
        self.next_id += 1;
        let message = Message {
            id: self.next_id,
            body,
            sent_at: now,
            receives: 0,
            visible_at: now + delay,
            held_until: 0,
        };
        self.messages.insert(self.next_id, message);
        self.next_id
    }

    /// Hands out up to `most` messages in random order. In a storm some stay receivable, and one may come twice at once.
    pub(crate) fn receive(
        &mut self,
        now: u64,
        most: usize,
        rng: &mut Rng,
        rates: &Rates,
        stats: &mut Stats,
    ) -> Vec<Message<T>> {
        let mut ready: Vec<u32> = self
            .messages
            .values()
            .filter(|message| message.visible_at <= now)
            .map(|message| message.id)
            .collect();
        rng.shuffle(&mut ready);
        let mut received = Vec::new();
        for id in ready {
            if received.len() >= most {
                break;
            }
            let Some(message) = self.messages.get_mut(&id) else {
                continue;
            };
            if message.receives >= self.max_receives {
                self.dead.extend(self.messages.remove(&id));
                continue;
            }
            message.receives += 1;
            if message.held_until > now {
                stats.duplicates += 1;
            } else if message.receives > 1 {
                stats.redeliveries += 1;
            }
            let hold = self.visibility_millis;
            message.held_until = now + hold;
            message.visible_at = if happens(rng, rates.duplicate) {
                now + rng.u64(0..=3000)
            } else {
                now + hold
            };
            received.push(message.clone());
            if happens(rng, rates.duplicate / 4) && message.receives < self.max_receives {
                message.receives += 1;
                stats.duplicates += 1;
                received.push(message.clone());
            }
        }
        received
    }

    /// The message is done with. A receipt that is not the newest may count or not.
    pub(crate) fn delete(&mut self, id: u32, receives: u32, rng: &mut Rng) -> bool {
        let is_stale = self
            .messages
            .get(&id)
            .is_some_and(|m| m.receives > receives);
        if is_stale && rng.bool() {
            return false;
        }
        self.messages.remove(&id).is_some()
    }

    /// The message can be received again `delay` from now.
    pub(crate) fn come_back(&mut self, id: u32, now: u64, delay: u64) {
        if let Some(message) = self.messages.get_mut(&id) {
            message.visible_at = now + delay;
            message.held_until = now;
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// When the next message can be received.
    pub(crate) fn next_visible(&self) -> Option<u64> {
        self.messages
            .values()
            .map(|message| message.visible_at)
            .min()
    }

    /// All that is still in it.
    pub(crate) fn messages(&self) -> impl Iterator<Item = &Message<T>> {
        self.messages.values()
    }
}
