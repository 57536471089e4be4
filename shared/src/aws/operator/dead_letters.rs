//! Dead letters as an operator handles them: looked at, sent again, dropped. Whoever looks hides them from others for at most
//! a minute, and lets them go as soon as possible.

use std::collections::{HashMap, HashSet};
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use aws_sdk_sqs::types::{Message, MessageSystemAttributeName};
use futures_util::{StreamExt, stream};
use tokio::time::Instant;

use super::queues::QUEUE_BATCH;
use super::{Operator, OperatorError, RawMessage, now};
use crate::{
    CampaignId, DeadLetter, MAX_RECEIVES, PartnerId, Queue, Reason, Replay, ReplayRefusal, Subject,
    Timestamp,
};

/// How long a dead letter stays hidden from others once it was looked at, in seconds: time to send it again and delete it,
/// each of which takes 20 s at most (operator.rs). Whoever sends or deletes one renews that first: a look at thousands of
/// letters takes longer.
const HOLD_SECONDS: i32 = 60;
const HOLD: Duration = Duration::from_secs(HOLD_SECONDS as u64);
/// How long to go on looking; what was received first is held for long enough after it.
const LOOKING: Duration = Duration::from_secs(20);
/// How long an empty queue is asked, in seconds. A long poll asks all of the queue's servers, a short one only some.
const LONG_POLL_SECONDS: i32 = 1;
/// Calls in flight at once.
const CALLS_AT_ONCE: usize = 10;

/// By a queue's URL, receipts and until when each holds.
pub(super) type HeldReceipts = HashMap<String, HashMap<String, Instant>>;

/// A dead letter, held by whoever looks at it.
#[derive(Clone, Debug)]
pub struct HeldLetter {
    /// The queue's id of it.
    pub message_id: String,
    /// Its body. It may hold personal data: for an operator's explicit request only.
    pub body: String,
    /// `MessageGroupId`.
    pub group: Option<String>,
    /// When it was first sent.
    pub sent_at: Option<Timestamp>,
    /// When it was first received.
    pub first_received_at: Option<Timestamp>,
    /// How often its worker has received it. Looks count as receives as well: this one is left out, and so are earlier ones
    /// unless the letter came here before its worker had received it as often as the queue allows.
    pub receives: u32,
    /// Why it is here.
    pub reason: Reason,
    /// As its worker would read it.
    pub letter: DeadLetter,
    receipt: String,
}

/// What a look into a dead-letter queue has shown.
#[derive(Debug)]
pub struct DeadLetters {
    /// The letters, each once, the oldest first. They are held: let them go, or they reappear after a minute.
    pub letters: Vec<HeldLetter>,
    /// How many letters the queue counted before, approximately.
    pub counted: u64,
    /// How many of those somebody else held.
    pub held_by_others: u64,
    /// Whether the look ended because there was nothing more, and not because it had seen or waited enough.
    pub ended: bool,
}

impl DeadLetters {
    /// Whether every letter was seen, as far as the queue's approximate counts can tell.
    pub fn complete(&self) -> bool {
        self.ended && self.held_by_others == 0 && self.letters.len() as u64 >= self.counted
    }
}

/// What became of a letter that was to be sent again.
#[derive(Debug)]
pub enum Replayed {
    /// It is in its queue again, and no longer a dead letter.
    Moved,
    /// It is in its queue again, but still a dead letter, too: to send it once more is harmless.
    SentOnly(OperatorError),
    /// It was not sent, and must not be.
    Refused(ReplayRefusal),
    /// It was not sent. It is still a dead letter, unless its hold has ended and somebody else has handled it since.
    NotSent(OperatorError),
}

impl Operator {
    /// Looks through a queue's dead letters, at most so many.
    ///
    /// # Errors
    /// [`OperatorError`] if a call fails; what was received by then reappears after a minute.
    pub async fn hold_dead_letters(
        &self,
        queue: Queue,
        most: usize,
    ) -> Result<DeadLetters, OperatorError> {
        let url = self.dead_letter_url(queue).await?;
        let depth = self.depth_at(&url).await?;
        let deadline = Instant::now() + LOOKING;
        let (mut received, mut looks) = (Vec::new(), HashMap::<Option<String>, u32>::new());
        let mut ended = false;
        while !ended && received.len() < most && Instant::now() < deadline {
            let held_until = Instant::now() + HOLD;
            let messages = self.receive_dead(&url, most - received.len()).await?;
            ended = messages.is_empty();
            let receipts = messages.iter().filter_map(|one| one.receipt_handle.clone());
            self.note_held(&url, receipts, held_until);
            // At least once: the same letter may come twice, and its last receipt is the one that counts.
            for message in messages {
                let look = looks.entry(message.message_id.clone()).or_default();
                *look += 1;
                if *look == 1 {
                    received.push(message);
                } else if let Some(known) = received
                    .iter_mut()
                    .find(|known| known.message_id == message.message_id)
                {
                    *known = message;
                }
            }
        }
        let mut letters = self.read_letters(queue, received).await?;
        for letter in &mut letters {
            let looks = looks.get(&Some(letter.message_id.clone()));
            letter.receives = workers_receives(letter.receives, looks.copied().unwrap_or(1));
        }
        letters.sort_by_key(|letter| letter.sent_at);
        Ok(DeadLetters {
            letters,
            counted: depth.visible + depth.in_flight,
            held_by_others: depth.in_flight,
            ended,
        })
    }

    /// Lets letters go at once, for others to see. Those whose call fails reappear by themselves after a minute, so that
    /// a failure is none.
    pub async fn let_go(&self, queue: Queue, letters: &[HeldLetter]) {
        if letters.is_empty() {
            return;
        }
        let Ok(url) = self.dead_letter_url(queue).await else {
            return;
        };
        let receipts = letters.iter().map(|letter| letter.receipt.clone());
        self.let_receipts_go(&url, receipts).await;
    }

    /// Lets go what is still held, as when a look was cut short. As [`Self::let_go`].
    pub async fn let_all_go(&self) {
        let held = self.held().clone();
        for (url, receipts) in held {
            self.let_receipts_go(&url, receipts.into_keys()).await;
        }
    }

    /// Lets go what is still held of these. An old receipt might end the hold that somebody else has by now.
    async fn let_receipts_go(&self, url: &str, receipts: impl IntoIterator<Item = String>) {
        let calls = receipts.into_iter().map(async |receipt| {
            if self.still_held(url, &receipt).is_err() {
                return self.no_longer_held(&receipt);
            }
            let call = self.sqs.change_message_visibility().queue_url(url);
            let call = call.receipt_handle(&receipt).visibility_timeout(0);
            // It reappears by itself.
            drop(call.send().await);
            self.no_longer_held(&receipt);
        });
        stream::iter(calls)
            .buffer_unordered(CALLS_AT_ONCE)
            .for_each(async |()| {})
            .await;
    }

    /// By the queue's URL, the receipts of what a look has received and not yet let go or deleted, and until when each holds.
    fn held(&self) -> MutexGuard<'_, HeldReceipts> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_held(&self, url: &str, receipts: impl IntoIterator<Item = String>, until: Instant) {
        let receipts = receipts.into_iter().map(|receipt| (receipt, until));
        self.held()
            .entry(url.to_owned())
            .or_default()
            .extend(receipts);
    }

    /// Refuses a receipt whose hold has ended, by the clock of this machine and from before the call that began it: somebody
    /// else may have received the letter since, and "if you use an old ReceiptHandle, the request will succeed, but the
    /// message might not be deleted"
    /// (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_DeleteMessage.html>).
    fn still_held(&self, url: &str, receipt: &str) -> Result<(), OperatorError> {
        let held = self.held();
        let until = held.get(url).and_then(|receipts| receipts.get(receipt));
        let is_held = until.is_some_and(|until| Instant::now() < *until);
        is_held.then_some(()).ok_or(OperatorError::LapsedHold)
    }

    /// Begins a letter's hold anew.
    async fn hold_on(&self, url: &str, letter: &HeldLetter) -> Result<(), OperatorError> {
        self.still_held(url, &letter.receipt)?;
        let held_until = Instant::now() + HOLD;
        let call = self.sqs.change_message_visibility().queue_url(url);
        let call = call
            .receipt_handle(&letter.receipt)
            .visibility_timeout(HOLD_SECONDS);
        let renewed = call.send().await;
        renewed.map_err(|error| self.failed("hold a dead letter", error))?;
        self.note_held(url, [letter.receipt.clone()], held_until);
        Ok(())
    }

    fn no_longer_held(&self, receipt: &str) {
        for receipts in self.held().values_mut() {
            receipts.remove(receipt);
        }
    }

    /// Sends letters to their queue again and deletes each from the dead letters once its send was accepted. A crash
    /// between leaves it in both, which is harmless: a repeat of a claim gets the same answer, one of a job the same frames.
    ///
    /// # Errors
    /// [`OperatorError`] if the queue is not found; what became of each letter is in the result, in their order.
    pub async fn replay_dead_letters(
        &self,
        queue: Queue,
        letters: &[HeldLetter],
    ) -> Result<Vec<Replayed>, OperatorError> {
        let (from, to) = (self.dead_letter_url(queue).await?, self.url(queue));
        let calls = letters.iter().map(|letter| self.replay(&from, to, letter));
        Ok(stream::iter(calls).buffered(CALLS_AT_ONCE).collect().await)
    }

    async fn replay(&self, from: &str, to: &str, letter: &HeldLetter) -> Replayed {
        let replay = match letter.letter.replay(now()) {
            Ok(replay) => replay,
            Err(refusal) => return Replayed::Refused(refusal),
        };
        let sent = match self.hold_on(from, letter).await {
            Ok(()) => self.send_again(to, &replay).await,
            Err(error) => Err(error),
        };
        if let Err(error) = sent {
            return Replayed::NotSent(error);
        }
        match self.delete_dead(from, letter).await {
            Ok(()) => Replayed::Moved,
            Err(error) => Replayed::SentOnly(error),
        }
    }

    /// Deletes letters for good; what became of each is in the result, in their order.
    ///
    /// # Errors
    /// [`OperatorError`] if the queue is not found.
    pub async fn drop_dead_letters(
        &self,
        queue: Queue,
        letters: &[HeldLetter],
    ) -> Result<Vec<Result<(), OperatorError>>, OperatorError> {
        let url = self.dead_letter_url(queue).await?;
        let calls = letters.iter().map(async |letter| {
            self.hold_on(&url, letter).await?;
            self.delete_dead(&url, letter).await
        });
        Ok(stream::iter(calls).buffered(CALLS_AT_ONCE).collect().await)
    }

    /// Puts messages among a queue's dead letters, as if they had been given up. For rehearsals.
    ///
    /// # Errors
    /// [`OperatorError`] if a call fails or the queue refuses a message.
    pub async fn bury(&self, queue: Queue, messages: &[RawMessage]) -> Result<(), OperatorError> {
        let url = self.dead_letter_url(queue).await?;
        self.send_to(&url, messages).await
    }

    async fn receive_dead(&self, url: &str, most: usize) -> Result<Vec<Message>, OperatorError> {
        use MessageSystemAttributeName::{
            ApproximateFirstReceiveTimestamp, ApproximateReceiveCount, MessageGroupId,
            SentTimestamp,
        };
        let names = vec![
            SentTimestamp,
            ApproximateFirstReceiveTimestamp,
            ApproximateReceiveCount,
            MessageGroupId,
        ];
        let most = i32::try_from(most.min(QUEUE_BATCH)).unwrap_or(1);
        let receive = self
            .sqs
            .receive_message()
            .queue_url(url)
            .max_number_of_messages(most)
            .visibility_timeout(HOLD_SECONDS)
            .wait_time_seconds(LONG_POLL_SECONDS)
            .set_message_system_attribute_names(Some(names));
        let received = receive
            .send()
            .await
            .map_err(|error| self.failed("receive dead letters", error))?;
        Ok(received.messages.unwrap_or_default())
    }

    async fn read_letters(
        &self,
        queue: Queue,
        messages: Vec<Message>,
    ) -> Result<Vec<HeldLetter>, OperatorError> {
        let mut letters: Vec<HeldLetter> = messages
            .into_iter()
            .map(|message| held_letter(queue, message))
            .collect();
        let named: HashSet<CampaignId> = letters
            .iter()
            .flat_map(|held| held.letter.subjects())
            .map(|subject| subject.campaign_id)
            .collect();
        let found = self.campaigns.find_all(&Vec::from_iter(named)).await?;
        let owners: HashMap<CampaignId, PartnerId> = found
            .into_iter()
            .map(|campaign| (campaign.campaign_id, campaign.partner_id))
            .collect();
        for held in &mut letters {
            held.reason = held.letter.reason(|subject| is_known(&owners, subject));
        }
        Ok(letters)
    }

    async fn send_again(&self, url: &str, replay: &Replay) -> Result<(), OperatorError> {
        let send = self.sqs.send_message().queue_url(url);
        let sent = send
            .message_body(&replay.body)
            .set_message_group_id(replay.group.clone())
            .send()
            .await;
        sent.map(drop)
            .map_err(|error| self.failed("send a dead letter again", error))
    }

    async fn delete_dead(&self, url: &str, letter: &HeldLetter) -> Result<(), OperatorError> {
        self.still_held(url, &letter.receipt)?;
        let delete = self.sqs.delete_message().queue_url(url);
        let deleted = delete.receipt_handle(&letter.receipt).send().await;
        deleted
            .map(|_| self.no_longer_held(&letter.receipt))
            .map_err(|error| self.failed("delete a dead letter", error))
    }
}

/// How often the worker has received a letter that was received so often, and that this look has received `looks` times.
/// SQS counts receives "across all queues" (ReceiveMessage, `ApproximateReceiveCount`), so that every look at a dead letter
/// counts; what a worker gave up it has received exactly as often as the queue allows.
fn workers_receives(receives: u32, looks: u32) -> u32 {
    receives.saturating_sub(looks).min(MAX_RECEIVES)
}

/// Whether the campaign exists and is the partner's that the letter names, if it names one.
fn is_known(owners: &HashMap<CampaignId, PartnerId>, subject: &Subject) -> bool {
    let is_owner = |owner| {
        subject
            .partner_id
            .as_ref()
            .is_none_or(|partner| partner == owner)
    };
    owners.get(&subject.campaign_id).is_some_and(is_owner)
}

/// A received message; its reason is still to be found.
fn held_letter(queue: Queue, message: Message) -> HeldLetter {
    use MessageSystemAttributeName::{
        ApproximateFirstReceiveTimestamp, ApproximateReceiveCount, MessageGroupId, SentTimestamp,
    };
    let attributes = message.attributes.unwrap_or_default();
    let time = |name| {
        let millis = attributes.get(&name)?.parse().ok()?;
        Some(Timestamp::from_millis(millis))
    };
    let body = message.body.unwrap_or_default();
    let (group, sent_at) = (
        attributes.get(&MessageGroupId).cloned(),
        time(SentTimestamp),
    );
    HeldLetter {
        message_id: message.message_id.unwrap_or_default(),
        letter: DeadLetter::read(queue, &body, group.as_deref(), sent_at),
        body,
        group,
        sent_at,
        first_received_at: time(ApproximateFirstReceiveTimestamp),
        receives: attributes
            .get(&ApproximateReceiveCount)
            .and_then(|count| count.parse().ok())
            .unwrap_or_default(),
        reason: Reason::Unparseable,
        receipt: message.receipt_handle.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::operator;
    use super::*;
    use crate::aws::replay::requests;
    use crate::memory::sample_campaign;

    const SENT: i64 = 1_790_000_000_000;

    fn claim_body(claim_id: &str) -> String {
        json!({"version": 1, "claimId": claim_id, "partnerId": "acme", "campaignId": "k", "userId": "ann"})
            .to_string()
    }

    fn message(id: &str, body: &str) -> Value {
        json!({"MessageId": id, "ReceiptHandle": format!("receipt-{id}"), "Body": body, "Attributes": {
            "SentTimestamp": SENT.to_string(), "ApproximateReceiveCount": "11",
            "ApproximateFirstReceiveTimestamp": (SENT + 5).to_string(), "MessageGroupId": "k",
        }})
    }

    fn depth(visible: u32, in_flight: u32) -> (u16, Value) {
        let attributes = json!({
            "ApproximateNumberOfMessages": visible.to_string(),
            "ApproximateNumberOfMessagesNotVisible": in_flight.to_string(),
            "ApproximateNumberOfMessagesDelayed": "0",
        });
        (200, json!({ "Attributes": attributes }))
    }

    fn received(messages: &[Value]) -> (u16, Value) {
        (200, json!({ "Messages": messages }))
    }

    /// A campaign's record, as the Campaigns table answers.
    fn campaign_of(partner: &str) -> (u16, Value) {
        let campaign = sample_campaign(10, Timestamp::from_millis(SENT));
        let text = |text: &str| json!({ "S": text });
        let number = |number: u32| json!({ "N": number.to_string() });
        let item = json!({
            "campaignId": text("k"), "partnerId": text(partner), "title": text("t"), "total": number(10),
            "opensAt": text(&campaign.opens_at.to_string()), "closesAt": text(&campaign.closes_at.to_string()),
            "couponTtlSeconds": number(60), "shards": number(1), "createdAt": text(&campaign.created_at.to_string()),
        });
        (200, json!({"Responses": {"campaigns": [item]}}))
    }

    fn held(id: &str, body: &str) -> HeldLetter {
        let message = Message::builder()
            .message_id(id)
            .receipt_handle(format!("receipt-{id}"))
            .body(body)
            .attributes(MessageSystemAttributeName::MessageGroupId, "k")
            .attributes(
                MessageSystemAttributeName::SentTimestamp,
                (now().millis() - 5000).to_string(),
            )
            .build();
        held_letter(Queue::Claims, message)
    }

    #[tokio::test]
    async fn a_look_tells_each_letter_once_with_its_reason_and_holds_it() {
        let (operator, http) = operator(&[
            depth(3, 0),
            received(&[message("1", &claim_body("c1")), message("2", "garbage")]),
            received(&[message("1", &claim_body("c1"))]),
            (200, json!({})),
            campaign_of("acme"),
        ]);
        let dead = operator
            .hold_dead_letters(Queue::Claims, 100)
            .await
            .unwrap();
        let found: Vec<_> = dead
            .letters
            .iter()
            .map(|letter| (letter.message_id.as_str(), letter.reason, letter.receives))
            .collect();
        let expected = [
            ("1", Reason::ExhaustedRetries, 9),
            ("2", Reason::Unparseable, 10),
        ];
        assert_eq!(found, expected);
        assert!(dead.ended && !dead.complete(), "the queue counted three");
        let asked = &requests(&http)[1];
        assert_eq!(asked.0, "ReceiveMessage");
        assert_eq!(asked.1["VisibilityTimeout"], HOLD_SECONDS);
        assert_eq!(asked.1["WaitTimeSeconds"], LONG_POLL_SECONDS);
        assert_eq!(asked.1["QueueUrl"], "http://queues/claims-dead");
    }

    #[tokio::test]
    async fn a_campaign_of_another_partner_is_unknown() {
        for (campaign, reason) in [
            (campaign_of("acme"), Reason::ExhaustedRetries),
            (campaign_of("rival"), Reason::UnknownCampaign),
            (
                (200, json!({"Responses": {"campaigns": []}})),
                Reason::UnknownCampaign,
            ),
        ] {
            let (operator, _) = operator(&[
                depth(1, 0),
                received(&[message("1", &claim_body("c1"))]),
                (200, json!({})),
                campaign,
            ]);
            let dead = operator
                .hold_dead_letters(Queue::Claims, 100)
                .await
                .unwrap();
            assert_eq!(dead.letters[0].reason, reason);
            assert!(dead.complete());
        }
    }

    #[tokio::test]
    async fn a_look_ends_at_its_limit_and_says_so() {
        let (operator, http) = operator(&[depth(3, 1), received(&[message("1", "garbage")])]);
        let dead = operator.hold_dead_letters(Queue::Claims, 1).await.unwrap();
        assert_eq!(
            (dead.letters.len(), dead.ended, dead.complete()),
            (1, false, false)
        );
        assert_eq!((dead.counted, dead.held_by_others), (4, 1));
        assert_eq!(requests(&http)[1].1["MaxNumberOfMessages"], 1);
    }

    /// As if the operator had just received it.
    fn received_by(operator: &Operator, id: &str, body: &str) -> HeldLetter {
        let letter = held(id, body);
        let until = Instant::now() + HOLD;
        operator.note_held("http://queues/claims-dead", [letter.receipt.clone()], until);
        letter
    }

    #[tokio::test]
    async fn a_letter_is_deleted_only_after_its_send_was_accepted() {
        let (operator, http) = operator(&[
            (200, json!({})),
            (200, json!({"MessageId": "new", "MD5OfMessageBody": "x"})),
            (200, json!({})),
        ]);
        let letter = received_by(&operator, "1", &claim_body("c1"));
        let done = operator
            .replay_dead_letters(Queue::Claims, std::slice::from_ref(&letter))
            .await
            .unwrap();
        assert!(matches!(done[..], [Replayed::Moved]), "{done:?}");
        let [renew, send, delete] = &requests(&http)[..] else {
            panic!("three calls");
        };
        assert_eq!(
            (renew.0.as_str(), send.0.as_str(), delete.0.as_str()),
            ("ChangeMessageVisibility", "SendMessage", "DeleteMessage")
        );
        assert_eq!(renew.1["VisibilityTimeout"], HOLD_SECONDS);
        assert_eq!(renew.1["ReceiptHandle"], "receipt-1");
        assert_eq!(send.1["QueueUrl"], "http://queues/claims");
        assert_eq!(send.1["MessageGroupId"], "k");
        let body: Value = serde_json::from_str(send.1["MessageBody"].as_str().unwrap()).unwrap();
        assert_eq!(body["requestedAt"], letter.sent_at.unwrap().to_string());
        assert_eq!(delete.1["QueueUrl"], "http://queues/claims-dead");
        assert_eq!(delete.1["ReceiptHandle"], "receipt-1");
    }

    #[tokio::test]
    async fn a_letter_whose_send_failed_stays() {
        let (operator, http) = operator(&[
            (200, json!({})),
            (403, json!({"__type": "AccessDenied", "message": "no"})),
        ]);
        let letter = received_by(&operator, "1", &claim_body("c1"));
        let done = operator
            .replay_dead_letters(Queue::Claims, &[letter])
            .await
            .unwrap();
        assert!(matches!(done[..], [Replayed::NotSent(_)]), "{done:?}");
        assert_eq!(requests(&http).len(), 2, "nothing is deleted");
    }

    #[tokio::test]
    async fn a_letter_that_was_sent_and_not_deleted_is_told() {
        let (operator, _) = operator(&[
            (200, json!({})),
            (200, json!({"MessageId": "new"})),
            (403, json!({"__type": "AccessDenied", "message": "no"})),
        ]);
        let letter = received_by(&operator, "1", &claim_body("c1"));
        let done = operator
            .replay_dead_letters(Queue::Claims, &[letter])
            .await
            .unwrap();
        assert!(matches!(done[..], [Replayed::SentOnly(_)]), "{done:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_letter_whose_hold_has_ended_is_neither_sent_nor_deleted_nor_let_go() {
        let (operator, http) = operator(&[
            depth(1, 0),
            received(&[message("1", "garbage")]),
            (200, json!({})),
        ]);
        let dead = operator.hold_dead_letters(Queue::Claims, 1).await.unwrap();
        tokio::time::advance(HOLD - Duration::from_millis(1)).await;
        let receipt = &dead.letters[0].receipt;
        let url = "http://queues/claims-dead";
        assert!(operator.still_held(url, receipt).is_ok());
        tokio::time::advance(Duration::from_millis(1)).await;

        let claim = received_by(&operator, "2", &claim_body("c1"));
        tokio::time::advance(HOLD).await;
        let replayed = operator
            .replay_dead_letters(Queue::Claims, &[claim])
            .await
            .unwrap();
        let lapsed = matches!(replayed[..], [Replayed::NotSent(OperatorError::LapsedHold)]);
        assert!(lapsed, "{replayed:?}");
        let dropped = operator
            .drop_dead_letters(Queue::Claims, &dead.letters)
            .await
            .unwrap();
        let lapsed = matches!(dropped[..], [Err(OperatorError::LapsedHold)]);
        assert!(lapsed, "{dropped:?}");
        operator.let_go(Queue::Claims, &dead.letters).await;
        operator.let_all_go().await;
        let asked: Vec<_> = requests(&http).into_iter().map(|(name, _)| name).collect();
        assert_eq!(asked, ["GetQueueAttributes", "ReceiveMessage"]);
    }

    #[tokio::test(start_paused = true)]
    async fn each_letter_is_held_anew_before_it_is_dropped() {
        let (operator, http) = operator(&vec![(200, json!({})); 2]);
        let letter = received_by(&operator, "1", "garbage");
        tokio::time::advance(HOLD - Duration::from_millis(1)).await;
        let dropped = operator
            .drop_dead_letters(Queue::Claims, &[letter])
            .await
            .unwrap();
        assert!(matches!(dropped[..], [Ok(())]), "{dropped:?}");
        let asked = requests(&http);
        assert_eq!(
            (asked[0].0.as_str(), &asked[0].1["VisibilityTimeout"]),
            ("ChangeMessageVisibility", &json!(HOLD_SECONDS))
        );
        assert_eq!(asked[1].0, "DeleteMessage");
    }

    #[tokio::test]
    async fn what_must_not_be_sent_again_is_not_touched() {
        let (operator, http) = operator(&[]);
        let mut body: Value = serde_json::from_str(&claim_body("c1")).unwrap();
        body["requestedAt"] = json!(now().plus_seconds(600).to_string());
        let letters = [held("1", &body.to_string()), held("2", "garbage")];
        let done = operator
            .replay_dead_letters(Queue::Claims, &letters)
            .await
            .unwrap();
        assert!(
            matches!(
                done[..],
                [
                    Replayed::Refused(ReplayRefusal::FromTheFuture { .. }),
                    Replayed::Refused(ReplayRefusal::Unparseable(_))
                ]
            ),
            "{done:?}"
        );
        assert!(requests(&http).is_empty());
    }

    #[test]
    fn who_looks_is_not_the_worker() {
        // Given up after ten receives; then the first look, and the fifth.
        assert_eq!(workers_receives(11, 1), 10);
        assert_eq!(workers_receives(15, 1), 10);
        // Buried by hand: no worker has seen it.
        assert_eq!(workers_receives(1, 1), 0);
        assert_eq!(workers_receives(2, 2), 0);
    }

    #[tokio::test]
    async fn a_look_that_is_cut_short_lets_go_what_it_held() {
        let (operator, http) = operator(&[
            depth(3, 0),
            received(&[message("1", "garbage"), message("2", "garbage")]),
            (403, json!({"__type": "AccessDenied", "message": "no"})),
            (200, json!({})),
            (200, json!({})),
        ]);
        let cut_short = operator.hold_dead_letters(Queue::Claims, 100).await;
        assert!(cut_short.is_err());
        operator.let_all_go().await;
        let sent = requests(&http);
        let mut freed: Vec<_> = sent[3..]
            .iter()
            .map(|(_, body)| body["ReceiptHandle"].as_str())
            .collect();
        freed.sort_unstable();
        assert_eq!(freed, [Some("receipt-1"), Some("receipt-2")]);
        operator.let_all_go().await;
        assert_eq!(requests(&http).len(), 5, "each once");
    }

    #[tokio::test]
    async fn letters_let_go_are_visible_at_once() {
        let (operator, http) = operator(&[(200, json!({}))]);
        let letter = received_by(&operator, "1", "x");
        operator.let_go(Queue::Claims, &[letter]).await;
        let sent = requests(&http);
        assert_eq!(sent[0].0, "ChangeMessageVisibility");
        assert_eq!(
            (&sent[0].1["ReceiptHandle"], &sent[0].1["VisibilityTimeout"]),
            (&json!("receipt-1"), &json!(0))
        );
    }
}
