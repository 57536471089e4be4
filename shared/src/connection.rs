//! Open sockets: who is behind each, and which topics it hears.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{CampaignId, ConnectionId, InvalidValue, PartnerId, PortError, Timestamp, UserId};

/// Over how many partitions a topic's members are spread. A partition takes 1,000 writes/s; API Gateway lets 500 new
/// connections/s in, each of which writes two memberships.
pub const MEMBERSHIP_SHARDS: u16 = 8;

/// How long a connection's items may outlive it if nobody cleans up: API Gateway ends a socket after 2 h; 10 min more.
pub const CONNECTION_TTL_SECONDS: i64 = 2 * 3600 + 600;

/// What a socket can listen to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(extend("pattern" = "^(partner|campaign):[A-Za-z0-9._:-]{1,64}$")))]
pub enum Topic {
    /// Everything a partner tells all of its users.
    Partner(PartnerId),
    /// Everything about one campaign.
    Campaign(CampaignId),
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Partner(id) => write!(f, "partner:{id}"),
            Self::Campaign(id) => write!(f, "campaign:{id}"),
        }
    }
}

impl From<Topic> for String {
    fn from(topic: Topic) -> Self {
        topic.to_string()
    }
}

impl TryFrom<String> for Topic {
    type Error = InvalidValue;
    fn try_from(text: String) -> Result<Self, InvalidValue> {
        match text.split_once(':') {
            Some(("partner", id)) => PartnerId::new(id).map(Self::Partner),
            Some(("campaign", id)) => CampaignId::new(id).map(Self::Campaign),
            _ => Err(InvalidValue {
                field: "topic",
                expected: "partner:<id> or campaign:<id>",
            }),
        }
    }
}

/// The membership shard of a connection: a stable hash (FNV-1a) of its id, so that every function finds the same one.
pub fn membership_shard(connection: &ConnectionId) -> u16 {
    let hash = connection
        .as_str()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    u16::try_from(hash % u64::from(MEMBERSHIP_SHARDS)).unwrap_or(0)
}

/// A socket and who is behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// API Gateway's name for it.
    pub connection_id: ConnectionId,
    /// The partner whose ticket opened it.
    pub partner_id: PartnerId,
    /// The user the ticket was for.
    pub user_id: UserId,
    /// When it was opened.
    pub connected_at: Timestamp,
    /// What it hears.
    pub topics: Vec<Topic>,
}

/// One listener of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its socket.
    pub connection_id: ConnectionId,
    /// When that was opened.
    pub connected_at: Timestamp,
}

/// A page of a topic shard's listeners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberPage {
    /// The listeners.
    pub members: Vec<Member>,
    /// Where the next page starts; `None` after the last.
    pub next: Option<ConnectionId>,
}

/// What became of a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registration {
    /// The connection stands, now or since an earlier call with the same connection.
    Registered,
    /// Another connection has used the ticket.
    TicketUsed,
}

/// Takes connections in (function `connect`).
pub trait Registry {
    /// Consumes the ticket and stores the connection with its memberships, all or nothing; repeating is harmless.
    fn register(
        &self,
        connection: &Connection,
        ticket_id: &str,
    ) -> impl Future<Output = Result<Registration, PortError>> + Send;
}

/// Changes what a connection hears (function `claim`).
pub trait Subscriptions {
    /// Adds a membership; repeating is harmless. MUST NOT leave one behind for a connection that is not registered.
    fn subscribe(
        &self,
        connection: &ConnectionId,
        topic: &Topic,
    ) -> impl Future<Output = Result<Subscription, PortError>> + Send;
    /// Takes a membership away; repeating is harmless.
    fn unsubscribe(
        &self,
        connection: &ConnectionId,
        topic: &Topic,
    ) -> impl Future<Output = Result<(), PortError>> + Send;
}

/// What became of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subscription {
    /// The connection hears the topic.
    Subscribed,
    /// The connection is not registered (any more).
    Gone,
}

/// Lets connections go (functions `disconnect` and `broadcast`).
pub trait Forgetting {
    /// The connection as registered.
    fn connection(
        &self,
        id: &ConnectionId,
    ) -> impl Future<Output = Result<Option<Connection>, PortError>> + Send;
    /// Removes these connections wholly: every membership first, the record last. Repeating is harmless.
    fn forget(
        &self,
        connections: &[Connection],
    ) -> impl Future<Output = Result<(), PortError>> + Send;
    /// Removes single memberships whose connection record is gone already.
    fn forget_members(
        &self,
        topic: &Topic,
        members: &[ConnectionId],
    ) -> impl Future<Output = Result<(), PortError>> + Send;
}

/// Finds who hears a topic (function `broadcast`).
pub trait Audience {
    /// The members of one shard of the topic after `after`, at most `limit`, in key order.
    fn members(
        &self,
        topic: &Topic,
        shard: u16,
        after: Option<&ConnectionId>,
        limit: u16,
    ) -> impl Future<Output = Result<MemberPage, PortError>> + Send;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_reads_back_as_written() {
        for text in ["partner:acme", "campaign:01ARZ3NDEKTSV4RRFFQ69G5FAV"] {
            assert_eq!(Topic::try_from(text.to_owned()).unwrap().to_string(), text);
        }
        assert!(Topic::try_from("user:1".to_owned()).is_err());
    }

    #[test]
    fn connections_spread_over_all_membership_shards() {
        let shard =
            |i: u32| membership_shard(&ConnectionId::new(format!("L0SM9cOF{i}cCIhw=")).unwrap());
        let mut counts = [0; MEMBERSHIP_SHARDS as usize];
        (0..8000).for_each(|i| counts[usize::from(shard(i))] += 1);
        assert!(
            counts.iter().all(|count| (800..1200).contains(count)),
            "{counts:?}"
        );
    }
}
