//! A pusher that keeps what it is given, and answers as told.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{ConnectionId, PushOutcome, Pusher, ServerFrame};

/// Delivers at once, unless told otherwise.
#[derive(Debug, Default)]
pub struct MemoryPusher {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    delays: HashMap<String, Duration>,
    answers: HashMap<String, VecDeque<PushOutcome>>,
    posts: Vec<(String, PushOutcome, Arc<[u8]>)>,
}

impl MemoryPusher {
    /// Every post to `connection` takes this long.
    pub fn takes(&self, connection: &str, delay: Duration) {
        self.state().delays.insert(connection.into(), delay);
    }

    /// The next posts to `connection` are answered so, later ones delivered.
    pub fn answers(&self, connection: &str, outcomes: &[PushOutcome]) {
        self.state()
            .answers
            .insert(connection.into(), outcomes.iter().copied().collect());
    }

    /// How often a post to `connection` was started.
    pub fn attempts(&self, connection: &str) -> usize {
        self.state()
            .posts
            .iter()
            .filter(|(name, ..)| name == connection)
            .count()
    }

    /// The frames that `connection` has, in order.
    pub fn frames(&self, connection: &str) -> Vec<ServerFrame> {
        let is_delivered = |outcome: &PushOutcome| *outcome == PushOutcome::Delivered;
        let state = self.state();
        let posts = state
            .posts
            .iter()
            .filter(|(name, outcome, _)| name == connection && is_delivered(outcome));
        posts
            .filter_map(|(.., payload)| serde_json::from_slice(payload).ok())
            .collect()
    }

    /// How many posts were delivered.
    pub fn delivered(&self) -> usize {
        self.state()
            .posts
            .iter()
            .filter(|(_, outcome, _)| *outcome == PushOutcome::Delivered)
            .count()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pusher for MemoryPusher {
    async fn push(&self, connection: &ConnectionId, payload: Arc<[u8]>) -> PushOutcome {
        let (outcome, delay) = {
            let mut state = self.state();
            let name = connection.as_str();
            let outcome = state
                .answers
                .get_mut(name)
                .and_then(VecDeque::pop_front)
                .unwrap_or(PushOutcome::Delivered);
            state.posts.push((name.into(), outcome, payload));
            (outcome, state.delays.get(name).copied())
        };
        if let Some(delay) = delay {
            tokio::time::sleep(delay).await;
        }
        outcome
    }
}

impl<P: Pusher + Sync> Pusher for &P {
    fn push(
        &self,
        connection: &ConnectionId,
        payload: Arc<[u8]>,
    ) -> impl Future<Output = PushOutcome> + Send {
        (**self).push(connection, payload)
    }
}
