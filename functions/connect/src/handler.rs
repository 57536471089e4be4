//! One new socket: its ticket is consumed, it is registered, and it hears its partner and perhaps one campaign.
//! Nothing is ever posted from here: the gateway answers 410 until this function has answered.

use std::time::Instant;

use firstcome_core::{
    CampaignId, CampaignRecords, Clock, Connection, Fate, InvalidValue, PartnerId, PortError,
    Registration, Registry, Timestamp, Topic, UserId,
    lambda::{SocketEvent, UnreadableEvent, read},
    metric::{self, Metric},
};
use lambda_runtime::{Diagnostic, tracing};
use serde_json::{Value, json};

/// What a connection needs.
pub(crate) struct Reception<R, C, K> {
    pub(crate) connections: R,
    pub(crate) campaigns: C,
    pub(crate) clock: K,
}

/// What the gateway is told; only 200 opens the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Welcome {
    Registered,
    TicketUsed,
    UnknownCampaign,
    /// The query names several campaigns.
    CampaignDoubled,
}

impl Welcome {
    fn status(self) -> u16 {
        match self {
            Self::Registered => 200,
            Self::TicketUsed => 403,
            Self::UnknownCampaign => 404,
            Self::CampaignDoubled => 400,
        }
    }
}

/// A `$connect` event, as far as it matters.
struct Arrival {
    connection: Connection,
    ticket_id: String,
    campaign: Result<Option<String>, InvalidValue>,
}

impl<R: Registry, C: CampaignRecords, K: Clock> Reception<R, C, K> {
    /// Registers the socket of an event as it came.
    pub(crate) async fn answer(&self, event: &str) -> Result<Value, Diagnostic> {
        self.handle(read(event).map_err(unreadable)?).await
    }

    /// Registers the socket. An error refuses it, and the client comes again.
    async fn handle(&self, event: SocketEvent) -> Result<Value, Diagnostic> {
        let started = Instant::now();
        let arrival = Arrival::read(&event, self.clock.now()).map_err(|error| {
            tracing::error!(%error, "event is not from this API's authorizer");
            Diagnostic {
                error_type: "Event".into(),
                error_message: error.to_string(),
            }
        })?;
        let connection_id = arrival.connection.connection_id.clone();
        let welcome = self.welcome(arrival).await.map_err(|error| {
            tracing::error!(connection.id = %connection_id, error = &error as &dyn std::error::Error, "connection not registered");
            diagnostic(&error)
        })?;
        tracing::info!(
            connection.id = %connection_id,
            outcome = ?welcome,
            duration_ms = started.elapsed().as_millis() as u64,
            "connection received"
        );
        metric::count(
            match welcome {
                Welcome::Registered => Metric::SocketsOpened,
                Welcome::TicketUsed | Welcome::UnknownCampaign | Welcome::CampaignDoubled => {
                    Metric::SocketsRefused
                }
            },
            1,
        );
        Ok(json!({"statusCode": welcome.status()}))
    }

    async fn welcome(&self, arrival: Arrival) -> Result<Welcome, PortError> {
        let Arrival {
            mut connection,
            ticket_id,
            campaign,
        } = arrival;
        let Ok(campaign) = campaign else {
            return Ok(Welcome::CampaignDoubled);
        };
        if let Some(campaign) = campaign {
            match self.topic_of(&campaign, &connection.partner_id).await? {
                Some(topic) => connection.topics.push(topic),
                None => return Ok(Welcome::UnknownCampaign),
            }
        }
        Ok(
            match self.connections.register(&connection, &ticket_id).await? {
                Registration::Registered => Welcome::Registered,
                Registration::TicketUsed => Welcome::TicketUsed,
            },
        )
    }

    /// The campaign's topic; another partner's campaign looks like none at all.
    async fn topic_of(
        &self,
        campaign: &str,
        partner: &PartnerId,
    ) -> Result<Option<Topic>, PortError> {
        // Only a minted id can name a campaign: others cost no read.
        let Some(id) = CampaignId::new(campaign)
            .ok()
            .filter(|id| id.minted_at().is_some())
        else {
            return Ok(None);
        };
        let found = self
            .campaigns
            .find(&id)
            .await?
            .filter(|campaign| campaign.partner_id == *partner);
        Ok(found.map(|_| Topic::Campaign(id)))
    }
}

impl Arrival {
    fn read(event: &SocketEvent, now: Timestamp) -> Result<Self, InvalidValue> {
        let partner_id = PartnerId::new(event.vouched("partnerId"))?;
        let ticket_id = event.vouched("ticketId").to_owned();
        if ticket_id.is_empty() {
            return Err(InvalidValue {
                field: "ticketId",
                expected: "the ticket's id",
            });
        }
        Ok(Self {
            connection: Connection {
                connection_id: event.connection_id()?,
                topics: vec![Topic::Partner(partner_id.clone())],
                partner_id,
                user_id: UserId::new(event.vouched("userId"))?,
                connected_at: now,
            },
            ticket_id,
            campaign: event
                .parameter("campaignId")
                .map(|campaign| campaign.map(String::from)),
        })
    }
}

/// Refuses the socket.
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
    use firstcome_core::memory::{MemoryClock, MemoryConnections, MemoryLedger};
    use firstcome_core::{
        Campaign, ConnectionId, Forgetting, NewCampaign, Subscription, Subscriptions,
    };

    use super::*;

    fn reception() -> Reception<MemoryConnections, MemoryLedger, MemoryClock> {
        let clock = MemoryClock::at(Timestamp::from_millis(1_790_000_000_000));
        Reception {
            connections: MemoryConnections::default(),
            campaigns: MemoryLedger::default(),
            clock,
        }
    }

    fn campaign_of(
        partner: &str,
        reception: &Reception<MemoryConnections, MemoryLedger, MemoryClock>,
    ) -> Campaign {
        let new: NewCampaign = serde_json::from_value(json!({"title": "t", "total": 1})).unwrap();
        let (now, partner) = (reception.clock.now(), PartnerId::new(partner).unwrap());
        let campaign = new
            .into_campaign(CampaignId::mint(now, 1), partner, now)
            .unwrap();
        reception.campaigns.add(&campaign);
        campaign
    }

    fn event() -> Value {
        serde_json::from_str(include_str!("../../../events/connect-socket.json")).unwrap()
    }

    fn event_for(campaign: &str) -> Value {
        let text = include_str!("../../../events/connect-campaign.json");
        let mut event: Value = serde_json::from_str(text).unwrap();
        event["queryStringParameters"]["campaignId"] = campaign.into();
        event
    }

    async fn status(
        reception: &Reception<MemoryConnections, MemoryLedger, MemoryClock>,
        event: Value,
    ) -> Value {
        reception
            .handle(serde_json::from_value(event).unwrap())
            .await
            .unwrap()["statusCode"]
            .clone()
    }

    fn connection_id() -> ConnectionId {
        ConnectionId::new("L0SM9cOFvHcCIhw=").unwrap()
    }

    #[tokio::test]
    async fn a_new_socket_hears_its_partner() {
        let reception = reception();
        assert_eq!(status(&reception, event()).await, 200);
        let stored = reception
            .connections
            .connection(&connection_id())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            stored.topics,
            [Topic::Partner(PartnerId::new("acme").unwrap())]
        );
        assert_eq!(stored.user_id.as_str(), "user-1");
        assert_eq!(stored.connected_at, reception.clock.now());
    }

    #[tokio::test]
    async fn a_ticket_opens_one_socket_and_only_the_same_socket_again() {
        let reception = reception();
        assert_eq!(status(&reception, event()).await, 200);
        assert_eq!(status(&reception, event()).await, 200);
        let mut other = event();
        other["requestContext"]["connectionId"] = "another=".into();
        assert_eq!(status(&reception, other).await, 403);
        assert_eq!(
            reception
                .connections
                .connection(&ConnectionId::new("another=").unwrap())
                .await
                .unwrap(),
            None
        );
    }

    #[tokio::test]
    async fn a_socket_can_hear_a_campaign_at_once() {
        let reception = reception();
        let campaign = campaign_of("acme", &reception);
        assert_eq!(
            status(&reception, event_for(campaign.campaign_id.as_str())).await,
            200
        );
        let topic = Topic::Campaign(campaign.campaign_id);
        assert_eq!(reception.connections.listeners(&topic), [connection_id()]);
        let again = reception
            .connections
            .subscribe(&connection_id(), &topic)
            .await
            .unwrap();
        assert_eq!(again, Subscription::Subscribed);
    }

    #[tokio::test]
    async fn two_campaigns_at_once_open_no_socket_and_leave_the_ticket() {
        let reception = reception();
        let campaign = campaign_of("acme", &reception).campaign_id;
        let mut twice = event_for(campaign.as_str());
        twice["multiValueQueryStringParameters"]["campaignId"] =
            json!(["01KEZ5C3Q0XAMPE0CAMPA1GN0X", campaign]);
        assert_eq!(status(&reception, twice.clone()).await, 400);
        assert!(reception.connections.is_empty());
        twice["multiValueQueryStringParameters"]["campaignId"] = json!([campaign]);
        assert_eq!(status(&reception, twice).await, 200);
    }

    #[tokio::test]
    async fn an_unknown_campaign_and_another_partners_look_alike_and_leave_the_ticket() {
        let reception = reception();
        let foreign = campaign_of("globex", &reception).campaign_id;
        let absent = CampaignId::mint(reception.clock.now(), 2);
        for campaign in [foreign.as_str(), absent.as_str(), "no such thing", ""] {
            assert_eq!(
                status(&reception, event_for(campaign)).await,
                404,
                "{campaign}"
            );
        }
        assert!(reception.connections.is_empty());
        assert_eq!(
            status(&reception, event()).await,
            200,
            "the ticket was not consumed"
        );
    }

    #[tokio::test]
    async fn an_event_without_the_authorizers_word_or_a_failing_store_is_an_error() {
        let reception = reception();
        let mut stranger = event();
        stranger["requestContext"]["authorizer"] = Value::Null;
        assert!(
            reception
                .handle(serde_json::from_value(stranger).unwrap())
                .await
                .is_err()
        );
        reception.campaigns.fail(true);
        let id = CampaignId::mint(reception.clock.now(), 1);
        let error = reception
            .handle(serde_json::from_value(event_for(id.as_str())).unwrap())
            .await
            .unwrap_err();
        assert_eq!(error.error_type, "Port.Retry");
    }

    proptest::proptest! {
        #![proptest_config(firstcome_core::hostile::cases(1000))]

        #[test]
        fn whatever_the_event_is_nothing_panics(event in firstcome_core::hostile::events(&[
            include_str!("../../../events/connect-socket.json"),
            include_str!("../../../events/connect-campaign.json"),
        ])) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let answer = runtime.block_on(reception().answer(&event));
            if let Ok(answer) = answer {
                proptest::prop_assert!([200, 400, 403, 404].contains(&answer["statusCode"].as_u64().unwrap()));
            }
        }
    }

    #[test]
    fn a_panic_refuses_the_socket() {
        assert_eq!(after_panic(), json!({"statusCode": 500}));
    }
}
