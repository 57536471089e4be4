//! One frame from a client: who it is from, what the gate says, and the answer as the response's body, which API
//! Gateway sends to the socket (template.yaml: the routes' `RouteResponseSelectionExpression`).

use std::time::{Duration, Instant};

use aws_lambda_events::apigw::ApiGatewayProxyResponse;
use aws_lambda_events::encodings::Body;
use firstcome_core::{
    Caller, CampaignDirectory, CampaignRecords, ClaimOutbox, Clock, DeliveryOutbox, Entropy,
    FrameBody, Gate, InvalidValue, PartnerId, ServerFrame, Snapshots, SoldMarks, StandingCoupons,
    Subscriptions, TraceHeader, UserId,
    lambda::{SocketEvent, read},
    metric::{self, Metric},
};
use lambda_runtime::{Error, tracing};

/// How long the start of an environment may wait for the snapshot. Lambda ends an init phase after 10 s and starts it anew, billed
/// and with a frame waiting (Lambda developer guide, lambda-runtime-environment.html); one call of the SDK with its retries may
/// take 4.5 s, and the snapshot takes three.
const WARM_UP: Duration = Duration::from_secs(2);

/// Loads the snapshot if that is quick.
pub(crate) async fn warm<S, K>(directory: &CampaignDirectory<S, K>)
where
    S: Snapshots + CampaignRecords,
    K: Clock + Clone,
{
    match tokio::time::timeout(WARM_UP, directory.warm()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(
                error = &*error as &dyn std::error::Error,
                "snapshot not loaded at the start"
            );
        }
        Err(_) => tracing::warn!("no time to load the snapshot at the start"),
    }
}

/// Answers the frame of an event as it came; `trace` is the platform's header for its journey. An error means that the gateway
/// called without what the authorizer vouches for.
pub(crate) async fn answer<S, P, C, Q, U, D, K, E>(
    gate: &Gate<S, P, C, Q, U, D, K, E>,
    event: &str,
    trace: Option<&str>,
) -> Result<ApiGatewayProxyResponse, Error>
where
    S: Snapshots + CampaignRecords,
    P: CampaignRecords + SoldMarks,
    C: StandingCoupons,
    Q: ClaimOutbox,
    U: Subscriptions,
    D: DeliveryOutbox,
    K: Clock + Clone,
    E: Entropy,
{
    handle(gate, read(event)?, trace).await
}

/// What the client is told after a panic. Not to send it again at once: it would come to the same.
pub(crate) fn after_panic(entropy: &impl Entropy) -> Result<ApiGatewayProxyResponse, Error> {
    let body = FrameBody::Error {
        code: "internal".into(),
        message: "not carried out; the fault is on our side".into(),
    };
    let frame = ServerFrame::unique(entropy.bits(), body);
    measure(&frame);
    response(&frame)
}

fn response(frame: &ServerFrame) -> Result<ApiGatewayProxyResponse, Error> {
    let mut response = ApiGatewayProxyResponse::default();
    response.status_code = 200;
    response.body = Some(Body::Text(serde_json::to_string(frame)?));
    Ok(response)
}

async fn handle<S, P, C, Q, U, D, K, E>(
    gate: &Gate<S, P, C, Q, U, D, K, E>,
    event: SocketEvent,
    trace: Option<&str>,
) -> Result<ApiGatewayProxyResponse, Error>
where
    S: Snapshots + CampaignRecords,
    P: CampaignRecords + SoldMarks,
    C: StandingCoupons,
    Q: ClaimOutbox,
    U: Subscriptions,
    D: DeliveryOutbox,
    K: Clock + Clone,
    E: Entropy,
{
    let started = Instant::now();
    // The local AWS names no journeys; one is made up, so that its claims can be followed the same way.
    let trace = trace
        .and_then(TraceHeader::read)
        .unwrap_or_else(|| TraceHeader::mint(gate.clock.now(), gate.entropy.bits()));
    let caller = caller(&event, trace)?;
    let frame = gate.respond(&caller, event.body()).await;
    summarize(&caller, &frame, started);
    measure(&frame);
    let (cache, age) = gate.directory.take_stats();
    metric::count(Metric::CacheHits, cache.hits);
    metric::count(Metric::CacheStale, cache.stale);
    metric::count(Metric::CacheLoads, cache.loads);
    metric::count(Metric::CacheFailures, cache.failures);
    if let Some(millis) = age {
        metric::gauge(Metric::SnapshotAgeSeconds, millis as f64 / 1000.0);
    }
    response(&frame)
}

fn caller(event: &SocketEvent, trace: TraceHeader) -> Result<Caller, InvalidValue> {
    Ok(Caller {
        partner_id: PartnerId::new(event.vouched("partnerId"))?,
        user_id: UserId::new(event.vouched("userId"))?,
        connection_id: event.connection_id()?,
        trace: Some(trace),
    })
}

fn summarize(caller: &Caller, frame: &ServerFrame, started: Instant) {
    let (campaign_id, claim_id, answer) = match &frame.body {
        FrameBody::ClaimAccepted {
            claim_id,
            campaign_id,
        } => (Some(campaign_id), Some(claim_id), "claim.accepted"),
        FrameBody::ClaimResult {
            claim_id,
            campaign_id,
            outcome,
            ..
        } => (Some(campaign_id), claim_id.as_ref(), outcome.as_str()),
        FrameBody::ClaimUndecided { campaign_id } => (Some(campaign_id), None, "claim.undecided"),
        FrameBody::Subscribed { campaign_id } => (Some(campaign_id), None, "subscribed"),
        FrameBody::Unsubscribed { campaign_id } => (Some(campaign_id), None, "unsubscribed"),
        FrameBody::Error { code, .. } => (None, None, code.as_str()),
        _ => (None, None, "pong"),
    };
    tracing::info!(
        connection.id = %caller.connection_id,
        trace.id = caller.trace.as_ref().map(tracing::field::display),
        partner.id = %caller.partner_id,
        campaign.id = campaign_id.map(tracing::field::display),
        claim.id = claim_id.map(tracing::field::display),
        answer,
        duration_ms = started.elapsed().as_millis() as u64,
        "frame answered"
    );
}

fn measure(frame: &ServerFrame) {
    match &frame.body {
        FrameBody::ClaimAccepted { campaign_id, .. } => {
            metric::count_of(Metric::ClaimsAccepted, campaign_id, 1);
        }
        FrameBody::ClaimResult { outcome, .. } => {
            let metric = Metric::of_refusal(*outcome).unwrap_or(Metric::ClaimsStanding);
            metric::count(metric, 1);
        }
        FrameBody::Error { .. } => metric::count(Metric::FramesRefused, 1),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
