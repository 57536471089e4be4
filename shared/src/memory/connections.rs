//! Connections and memberships in memory, with the rules of the stored ones.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    Audience, Connection, ConnectionId, Forgetting, Member, MemberPage, PortError, Registration,
    Registry, Subscription, Subscriptions, Timestamp, Topic, membership_shard,
};

/// Open sockets, by what a test puts in.
#[derive(Debug, Default)]
pub struct MemoryConnections {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    records: HashMap<ConnectionId, Connection>,
    memberships: BTreeMap<(String, u16, ConnectionId), Timestamp>,
    tickets: HashMap<String, ConnectionId>,
}

impl State {
    fn join(&mut self, topic: &Topic, connection: &ConnectionId, connected_at: Timestamp) {
        self.memberships
            .insert(key(topic, connection), connected_at);
    }
}

fn key(topic: &Topic, connection: &ConnectionId) -> (String, u16, ConnectionId) {
    (
        topic.to_string(),
        membership_shard(connection),
        connection.clone(),
    )
}

impl MemoryConnections {
    /// Puts a connection in with its memberships, without a ticket.
    pub fn insert(&self, connection: Connection) {
        let mut state = self.state();
        for topic in &connection.topics {
            state.join(topic, &connection.connection_id, connection.connected_at);
        }
        state
            .records
            .insert(connection.connection_id.clone(), connection);
    }

    /// Puts a membership in whose connection has no record.
    pub fn insert_orphan(&self, topic: &Topic, connection: &ConnectionId, connected_at: Timestamp) {
        self.state().join(topic, connection, connected_at);
    }

    /// Who hears a topic, in the order of their ids.
    pub fn listeners(&self, topic: &Topic) -> Vec<ConnectionId> {
        let topic = topic.to_string();
        let state = self.state();
        let mut ids: Vec<_> = state
            .memberships
            .keys()
            .filter(|key| key.0 == topic)
            .map(|key| key.2.clone())
            .collect();
        ids.sort();
        ids
    }

    /// Whether nothing is stored but consumed tickets.
    pub fn is_empty(&self) -> bool {
        let state = self.state();
        state.records.is_empty() && state.memberships.is_empty()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registry for MemoryConnections {
    async fn register(
        &self,
        connection: &Connection,
        ticket_id: &str,
    ) -> Result<Registration, PortError> {
        {
            let mut state = self.state();
            let holder = state
                .tickets
                .entry(ticket_id.into())
                .or_insert_with(|| connection.connection_id.clone());
            if *holder != connection.connection_id {
                return Ok(Registration::TicketUsed);
            }
        }
        self.insert(connection.clone());
        Ok(Registration::Registered)
    }
}

impl Subscriptions for MemoryConnections {
    async fn subscribe(
        &self,
        connection: &ConnectionId,
        topic: &Topic,
    ) -> Result<Subscription, PortError> {
        let mut state = self.state();
        let Some(record) = state.records.get_mut(connection) else {
            return Ok(Subscription::Gone);
        };
        if !record.topics.contains(topic) {
            record.topics.push(topic.clone());
        }
        let connected_at = record.connected_at;
        state.join(topic, connection, connected_at);
        Ok(Subscription::Subscribed)
    }

    async fn unsubscribe(&self, connection: &ConnectionId, topic: &Topic) -> Result<(), PortError> {
        let mut state = self.state();
        state.memberships.remove(&key(topic, connection));
        if let Some(record) = state.records.get_mut(connection) {
            record.topics.retain(|other| other != topic);
        }
        Ok(())
    }
}

impl Forgetting for MemoryConnections {
    async fn connection(&self, id: &ConnectionId) -> Result<Option<Connection>, PortError> {
        Ok(self.state().records.get(id).cloned())
    }

    async fn forget(&self, connections: &[Connection]) -> Result<(), PortError> {
        let mut state = self.state();
        for connection in connections {
            let id = &connection.connection_id;
            let joined_since = state
                .records
                .remove(id)
                .map(|record| record.topics)
                .unwrap_or_default();
            for topic in connection.topics.iter().chain(&joined_since) {
                state.memberships.remove(&key(topic, id));
            }
        }
        Ok(())
    }

    async fn forget_members(
        &self,
        topic: &Topic,
        members: &[ConnectionId],
    ) -> Result<(), PortError> {
        let mut state = self.state();
        for member in members {
            state.memberships.remove(&key(topic, member));
        }
        Ok(())
    }
}

impl Audience for MemoryConnections {
    async fn members(
        &self,
        topic: &Topic,
        shard: u16,
        after: Option<&ConnectionId>,
        limit: u16,
    ) -> Result<MemberPage, PortError> {
        let topic = topic.to_string();
        let state = self.state();
        let follows = |id: &ConnectionId| after.is_none_or(|after| id > after);
        let mut members: Vec<Member> = state
            .memberships
            .iter()
            .filter(|((name, of, id), _)| *name == topic && *of == shard && follows(id))
            .map(|((.., id), connected_at)| Member {
                connection_id: id.clone(),
                connected_at: *connected_at,
            })
            .collect();
        let is_last = members.len() <= usize::from(limit);
        members.truncate(usize::from(limit));
        let next = members
            .last()
            .filter(|_| !is_last)
            .map(|member| member.connection_id.clone());
        Ok(MemberPage { members, next })
    }
}
