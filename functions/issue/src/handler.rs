//! One batch of ClaimsQueue, or of PriorityClaimsQueue: every claim is decided, its answer made durable, and only then is
//! it acknowledged. The rules of deciding are the domain's ([`Issuer`]); nothing here knows a table.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lambda_events::sqs::{BatchItemFailure, SqsBatchResponse, SqsEvent, SqsMessage};
use firstcome_core::{
    Answer, BroadcastOutbox, Campaign, CampaignRecords, Claim, ClaimMessage, ClaimMessageError,
    ClaimReturns, Clock, CouponLedger, Decisions, DeliveryJob, DeliveryOutbox, Entropy,
    InvalidValue, Issuer, LOOK_UP_GRACE, MAX_ANSWERS_PER_JOB, MAX_JOB_BYTES, Outcome, PortError,
    ServerFrame, SoldMarks, StockCounters, StockNews, StockTicks, Timestamp, TraceHeader, Verdict,
    claim_list,
    lambda::{RawEvent, UnreadableEvent, read},
    metric::Metric,
};
use lambda_runtime::{Context, Diagnostic, tracing};
use tokio::time::{Instant, timeout_at};

use crate::measure;

/// The function's timeout (template.yaml).
const TIMEOUT: Duration = Duration::from_secs(10);

/// Kept back from the invocation's time, to send answers and return what is undecided.
const RESERVE: Duration = Duration::from_millis(2500);
/// So long after the deadline, and after the last look-up, the sold marks have to stand,
const MARKED_BY: Duration = Duration::from_millis(1300);
/// … the answers have to be in DeliveriesQueue,
const ANSWERED_BY: Duration = Duration::from_millis(1900);
/// … and everything else is given up, so that the invocation ends by itself: one that is cut off has acknowledged nothing.
const ENDED_BY: Duration = Duration::from_millis(2300);
/// How long a batch that is decided and answered waits for its news to be told.
const NEWS: Duration = Duration::from_secs(3);
const _: () = {
    assert!(LOOK_UP_GRACE.as_millis() < MARKED_BY.as_millis());
    assert!(MARKED_BY.as_millis() < ANSWERED_BY.as_millis());
    assert!(ANSWERED_BY.as_millis() < ENDED_BY.as_millis());
    assert!(ENDED_BY.as_millis() < RESERVE.as_millis());
};

/// An undecided claim comes back after a random time of up to so many seconds, at first; from its third visit on the bound
/// doubles each time, so that the ten receives of template.yaml outlast minutes of trouble and not seconds.
const FIRST_RETURN_SECONDS: u16 = 5;
/// After so many receives a message that fails goes to the dead-letter queue (template.yaml, `maxReceiveCount`).
const MAX_RECEIVES: u32 = 10;
/// The longest such time.
const LAST_RETURN_SECONDS: u16 = 60;

/// When deciding has to end for the invocation to end in time.
pub fn deadline(context: &Context) -> Instant {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let left = Duration::from_millis(context.deadline).saturating_sub(now);
    // `cargo lambda watch` gives no time of day; a real invocation never begins past its deadline.
    let left = if left.is_zero() { TIMEOUT } else { left };
    Instant::now() + left.saturating_sub(RESERVE)
}

/// What a batch needs. One per execution environment.
#[derive(Debug)]
pub struct Worker<C, L, M, B, D, R, K, E> {
    /// Decides the claims.
    pub issuer: Issuer<C, L, K, E>,
    /// Tells the public.
    pub news: StockNews<M, B, K>,
    /// DeliveriesQueue.
    pub deliveries: D,
    /// The queues of claims, for what has to come back.
    pub returns: R,
}

/// A message that holds a claim.
struct Received<'a> {
    message: &'a SqsMessage,
    claim: Claim,
}

/// Messages that stay in the queue, with the seconds until they come back.
type Returns<'a> = Vec<(&'a SqsMessage, u16)>;

impl<C, L, M, B, D, R, K, E> Worker<C, L, M, B, D, R, K, E>
where
    C: CampaignRecords + StockCounters,
    L: CouponLedger,
    M: SoldMarks + StockTicks,
    B: BroadcastOutbox,
    D: DeliveryOutbox,
    R: ClaimReturns,
    K: Clock,
    E: Entropy,
{
    /// As [`Self::handle`], of an event as it came.
    ///
    /// # Errors
    /// That the event is no batch of messages.
    pub async fn handle_event(
        &self,
        event: &str,
        deadline: Instant,
    ) -> Result<SqsBatchResponse, Diagnostic> {
        Ok(self
            .handle(read(event).map_err(unreadable)?, deadline)
            .await)
    }

    /// Decides the batch's claims before `deadline` and tells which messages must come again.
    pub async fn handle(&self, event: SqsEvent, deadline: Instant) -> SqsBatchResponse {
        let started = Instant::now();
        let (received, poison) = parse(&event.records);
        let claims: Vec<Claim> = received
            .iter()
            .map(|received| received.claim.clone())
            .collect();
        let mut decisions = self.issuer.decide(&claims, deadline).await;
        self.mark(&claims, &mut decisions, deadline + MARKED_BY)
            .await;

        let undecided = undecided(&received, &decisions);
        let unanswered = self
            .answer(&received, &decisions, deadline + ANSWERED_BY)
            .await;
        let returns = [poison.as_slice(), &undecided, &unanswered].concat();
        let end = deadline + ENDED_BY;
        let news = timeout_at(end.min(Instant::now() + NEWS), self.tell(&decisions));
        let ((), told) = tokio::join!(self.come_back(&returns, end), news);
        if told.is_err() {
            tracing::warn!("out of time: news not told");
        }
        let list = |outcome| claims_answered(outcome, &claims, &decisions);
        tracing::info!(
            claims = claims.len(),
            claims.issued = list(Some(Outcome::Issued)),
            claims.already_issued = list(Some(Outcome::AlreadyIssued)),
            claims.sold_out = list(Some(Outcome::SoldOut)),
            claims.not_open = list(Some(Outcome::NotOpen)),
            claims.closed = list(Some(Outcome::Closed)),
            claims.unknown_campaign = list(Some(Outcome::UnknownCampaign)),
            claims.rejected = list(Some(Outcome::Rejected)),
            claims.undecided = list(None),
            issued = decisions.issued,
            undecided = undecided.len(),
            unanswered = unanswered.len(),
            poison = poison.len(),
            transactions = decisions.transactions,
            conflicts = decisions.conflicts,
            duration_ms = started.elapsed().as_millis() as u64,
            "batch decided"
        );
        let counts = [
            (Metric::Undecided, undecided.len()),
            (Metric::Unanswered, unanswered.len()),
            (Metric::Poison, poison.len()),
            (Metric::LastTries, last_tries(&returns)),
        ];
        measure::note(&claims, &decisions, event.records.len(), &counts);
        failures(&returns)
    }

    /// Sets the sold marks before anybody is told `sold_out`, so that the answer can be asked for again. Where the mark could
    /// not be set, those claims are undecided after all, and the end is no news yet.
    async fn mark(&self, claims: &[Claim], decisions: &mut Decisions, until: Instant) {
        let mut unmarked = Vec::new();
        for campaign in &decisions.sold_out {
            let id = &campaign.campaign_id;
            let marked = in_time(until, self.news.mark_sold_out(campaign));
            if let Err(error) = marked.await {
                tracing::warn!(campaign.id = %id, error = &error as &dyn std::error::Error, "sold out not marked");
                let mut pairs = claims.iter().zip(&mut decisions.verdicts);
                for (_, verdict) in pairs.by_ref().filter(|(claim, _)| claim.campaign_id == *id) {
                    verdict.take_if(|v| *v == Verdict::Refused(Outcome::SoldOut));
                }
                unmarked.push(id.clone());
            }
        }
        let marked = |campaign: &Campaign| !unmarked.contains(&campaign.campaign_id);
        decisions.sold_out.retain(marked);
    }

    /// Makes the answers durable: once its job is in DeliveriesQueue, a claim needs no second visit here. Those whose
    /// job could not be sent come again; the replay rule gives them the same answer.
    async fn answer<'a>(
        &self,
        received: &[Received<'a>],
        decisions: &Decisions,
        until: Instant,
    ) -> Returns<'a> {
        let mut unanswered = Vec::new();
        for (messages, job) in jobs(answers(received, decisions)) {
            if let Err(error) = in_time(until, self.deliveries.deliver(&job)).await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    answers = messages.len(),
                    "answers not sent"
                );
                let back = |message| (message, seconds_away(message));
                unanswered.extend(messages.into_iter().map(back));
            }
        }
        unanswered
    }

    /// Has the public told. Nothing of it decides a claim, so a failure is only logged.
    async fn tell(&self, decisions: &Decisions) {
        for campaign in &decisions.changed {
            if let Err(error) = self.news.stock_changed(campaign).await {
                tracing::warn!(campaign.id = %campaign.campaign_id, error = &error as &dyn std::error::Error, "stock not told");
            }
        }
        for campaign in &decisions.sold_out {
            if let Err(error) = self.news.announce_sold_out(campaign).await {
                tracing::warn!(campaign.id = %campaign.campaign_id, error = &error as &dyn std::error::Error, "sold out not told");
            }
        }
    }

    /// Hurries the return of what stays in the queue; the queue's own visibility time-out covers a failure.
    async fn come_back(&self, returns: &Returns<'_>, until: Instant) {
        let receipt = |(message, seconds): &(&SqsMessage, u16)| {
            Some((message.receipt_handle.clone()?, *seconds))
        };
        let receipts: Vec<_> = returns.iter().filter_map(receipt).collect();
        if receipts.is_empty() {
            return;
        }
        // One batch is from one queue.
        let queue = returns
            .iter()
            .find_map(|(message, _)| message.event_source_arn.as_deref());
        let returns = self.returns.come_back(queue.unwrap_or_default(), &receipts);
        if let Err(error) = in_time(until, returns).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "return of claims not hurried"
            );
        }
    }
}

/// What the call comes to, or that it took too long.
async fn in_time<T>(
    until: Instant,
    call: impl Future<Output = Result<T, PortError>>,
) -> Result<T, PortError> {
    let late = |elapsed| Err(PortError::retry("end before the invocation does", elapsed));
    timeout_at(until, call).await.unwrap_or_else(late)
}

/// Reads every message by itself. What is no claim comes back at once, until the queue's receive count sends it to the
/// dead-letter queue alone.
fn parse(messages: &[SqsMessage]) -> (Vec<Received<'_>>, Returns<'_>) {
    let mut received = Vec::with_capacity(messages.len());
    let mut poison = Vec::new();
    for message in messages {
        match claim(message) {
            Ok(claim) => received.push(Received { message, claim }),
            Err(error) => {
                tracing::error!(sqs.message_id = message.message_id, %error, "message is no claim");
                poison.push((message, 0));
            }
        }
    }
    (received, poison)
}

fn claim(message: &SqsMessage) -> Result<Claim, ClaimMessageError> {
    let sent = message
        .attributes
        .get("SentTimestamp")
        .and_then(|millis| millis.parse().ok());
    let missing = InvalidValue {
        field: "SentTimestamp",
        expected: "set by the queue",
    };
    let sent = sent.map(Timestamp::from_millis).ok_or(missing)?;
    let mut claim = ClaimMessage::parse(message.body.as_deref().unwrap_or_default(), sent)?;
    let header = message.attributes.get("AWSTraceHeader");
    claim.trace = header.and_then(|header| TraceHeader::read(header));
    Ok(claim)
}

fn undecided<'a>(received: &[Received<'a>], decisions: &Decisions) -> Returns<'a> {
    let pairs = received
        .iter()
        .zip(&decisions.verdicts)
        .filter(|(_, verdict)| verdict.is_none());
    pairs
        .map(|(received, _)| (received.message, seconds_away(received.message)))
        .collect()
}

/// How often the message was received, this time included.
fn visits(message: &SqsMessage) -> u32 {
    let receives = message.attributes.get("ApproximateReceiveCount");
    receives.and_then(|count| count.parse().ok()).unwrap_or(1)
}

/// How many of these the dead-letter queue takes instead of another try.
fn last_tries(returns: &Returns<'_>) -> usize {
    let last = |(message, _): &&(&SqsMessage, u16)| visits(message) >= MAX_RECEIVES;
    returns.iter().filter(last).count()
}

/// How long a message that could not be decided stays away.
fn seconds_away(message: &SqsMessage) -> u16 {
    let doublings = visits(message).saturating_sub(2);
    let bound = FIRST_RETURN_SECONDS.saturating_mul(2_u16.saturating_pow(doublings));
    fastrand::u16(1..=bound.min(LAST_RETURN_SECONDS))
}

/// The answers somebody waits for on a socket.
fn answers<'a>(received: &[Received<'a>], decisions: &Decisions) -> Vec<(&'a SqsMessage, Answer)> {
    let answer = |(received, verdict): (&Received<'a>, &Option<Verdict>)| {
        let claim = &received.claim;
        let connection_id = claim.connection_id.clone()?;
        let frame = ServerFrame::claim_result(
            &claim.campaign_id,
            &claim.user_id,
            &claim.claim_id,
            verdict.as_ref()?,
        );
        Some((
            received.message,
            Answer {
                connection_id,
                frame,
                requested_at: Some(claim.own_time()),
                trace: claim.trace.clone(),
            },
        ))
    };
    received
        .iter()
        .zip(&decisions.verdicts)
        .filter_map(answer)
        .collect()
}

/// Packs answers into jobs of at most [`MAX_ANSWERS_PER_JOB`]. An answer is at most about 1,100 bytes, so that a full job
/// stays below [`MAX_JOB_BYTES`].
fn jobs(answers: Vec<(&SqsMessage, Answer)>) -> Vec<(Vec<&SqsMessage>, DeliveryJob)> {
    const { assert!(MAX_ANSWERS_PER_JOB * 1280 <= MAX_JOB_BYTES) };
    let mut jobs = Vec::new();
    let mut answers = answers.into_iter().peekable();
    while answers.peek().is_some() {
        let (messages, answers) = answers.by_ref().take(MAX_ANSWERS_PER_JOB).unzip();
        let job = DeliveryJob::Deliver {
            answers,
            generation: 0,
        };
        jobs.push((messages, job));
    }
    jobs
}

/// The claims with this answer, or undecided, as the log names them.
fn claims_answered(
    outcome: Option<Outcome>,
    claims: &[Claim],
    decisions: &Decisions,
) -> Option<String> {
    let answered = claims.iter().zip(&decisions.verdicts);
    let of_it = answered.filter(|(claim, verdict)| {
        verdict
            .as_ref()
            .map(|verdict| verdict.outcome_for(&claim.claim_id))
            == outcome
    });
    claim_list(of_it.map(|(claim, _)| (&claim.claim_id, claim.trace.as_ref())))
}

/// The partial batch response. A message without an id, which SQS never sends, would name nothing; Lambda takes that as
/// the failure of the whole batch, and everything comes again.
fn failures(returns: &Returns<'_>) -> SqsBatchResponse {
    let failure = |(message, _): &(&SqsMessage, u16)| {
        let mut failure = BatchItemFailure::default();
        failure.item_identifier = message.message_id.clone().unwrap_or_default();
        failure
    };
    let mut response = SqsBatchResponse::default();
    response.batch_item_failures = returns.iter().map(failure).collect();
    response
}

fn unreadable(error: UnreadableEvent) -> Diagnostic {
    tracing::error!(%error, "event not read");
    Diagnostic {
        error_type: "Event".into(),
        error_message: error.to_string(),
    }
}

/// The response after a panic: every message comes again, after the queue's visibility time-out.
///
/// # Errors
/// That the event is no batch of messages.
pub fn all_again(event: &RawEvent) -> Result<SqsBatchResponse, Diagnostic> {
    let ids = event.message_ids().map_err(unreadable)?.into_iter();
    let failure = |id| {
        let mut failure = BatchItemFailure::default();
        failure.item_identifier = id;
        failure
    };
    let mut response = SqsBatchResponse::default();
    response.batch_item_failures = ids.map(failure).collect();
    Ok(response)
}

#[cfg(test)]
mod tests;
