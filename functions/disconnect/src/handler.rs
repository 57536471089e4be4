//! One closed socket: its record and all its memberships go. API Gateway does not promise this event; `broadcast` and
//! the items' TTL clean up what it leaves.

use std::time::Instant;

use firstcome_core::{
    ConnectionId, Fate, Forgetting, PortError,
    lambda::{SocketEvent, UnreadableEvent, read},
    metric::{self, Metric},
};
use lambda_runtime::{Diagnostic, tracing};
use serde_json::{Value, json};

/// Forgets the socket of an event as it came.
pub(crate) async fn answer(
    connections: &impl Forgetting,
    event: &str,
) -> Result<Value, Diagnostic> {
    handle(connections, read(event).map_err(unreadable)?).await
}

/// What the gateway is told, and does not look at.
pub(crate) fn after_panic() -> Value {
    json!({"statusCode": 500})
}

fn unreadable(error: UnreadableEvent) -> Diagnostic {
    tracing::error!(%error, "event not read");
    Diagnostic {
        error_type: "Event".into(),
        error_message: error.to_string(),
    }
}

/// Forgets the socket; one that is not known (any more) is fine.
async fn handle(connections: &impl Forgetting, event: SocketEvent) -> Result<Value, Diagnostic> {
    let started = Instant::now();
    let id = event.connection_id().map_err(|error| {
        tracing::error!(%error, "event names no connection");
        Diagnostic {
            error_type: "Event".into(),
            error_message: error.to_string(),
        }
    })?;
    let outcome = forget(connections, &id).await.map_err(|error| {
        tracing::error!(connection.id = %id, error = &error as &dyn std::error::Error, "connection not forgotten");
        diagnostic(&error)
    })?;
    tracing::info!(connection.id = %id, outcome, duration_ms = started.elapsed().as_millis() as u64, "connection closed");
    metric::count(Metric::SocketsClosed, 1);
    Ok(json!({"statusCode": 200}))
}

async fn forget(
    connections: &impl Forgetting,
    id: &ConnectionId,
) -> Result<&'static str, PortError> {
    let Some(connection) = connections.connection(id).await? else {
        return Ok("unknown");
    };
    connections.forget(&[connection]).await?;
    Ok("forgotten")
}

/// A stable error type for CloudWatch.
fn diagnostic(error: &PortError) -> Diagnostic {
    let error_type = match error.fate {
        Fate::Retry => "Port.Retry",
        Fate::Reject => "Port.Reject",
    };
    Diagnostic {
        error_type: error_type.into(),
        error_message: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use firstcome_core::memory::MemoryConnections;
    use firstcome_core::{CampaignId, Connection, PartnerId, Timestamp, Topic, UserId};

    use super::*;

    async fn disconnect(connections: &MemoryConnections) -> Value {
        let event = include_str!("../../../events/disconnect-socket.json");
        handle(connections, serde_json::from_str(event).unwrap())
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn a_closed_socket_is_forgotten_with_all_its_memberships() {
        let connections = MemoryConnections::default();
        let partner_id = PartnerId::new("acme").unwrap();
        let topics = ["a", "b", "c"].map(|id| Topic::Campaign(CampaignId::new(id).unwrap()));
        connections.insert(Connection {
            connection_id: ConnectionId::new("L0SM9cOFvHcCIhw=").unwrap(),
            user_id: UserId::new("user-1").unwrap(),
            connected_at: Timestamp::EPOCH,
            topics: topics
                .into_iter()
                .chain([Topic::Partner(partner_id.clone())])
                .collect(),
            partner_id,
        });
        assert_eq!(disconnect(&connections).await, json!({"statusCode": 200}));
        assert!(connections.is_empty());
    }

    #[tokio::test]
    async fn a_socket_that_is_not_known_is_fine() {
        let connections = MemoryConnections::default();
        assert_eq!(disconnect(&connections).await, json!({"statusCode": 200}));
    }

    proptest::proptest! {
        #![proptest_config(firstcome_core::hostile::cases(1000))]

        #[test]
        fn whatever_the_event_is_nothing_panics(event in firstcome_core::hostile::events(&[include_str!("../../../events/disconnect-socket.json")])) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let connections = MemoryConnections::default();
            if let Ok(answer) = runtime.block_on(answer(&connections, &event)) {
                proptest::prop_assert_eq!(answer, json!({"statusCode": 200}));
            }
        }
    }
}
