//! One customer of the sale: a task that keeps one socket open, claims when told to, and insists until answered.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep, sleep_until};

use super::api::PartnerApi;
use super::backoff;
use super::client::Socket;
use super::frame::{self, Frame};
use super::wishes::{Answer, Heard, Wishes};

/// How long a customer waits for an answer before it asks again; each time in vain doubles it.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest such wait.
const LONGEST_PATIENCE: Duration = Duration::from_secs(60);
/// Repeats that the whole crowd has under way at once. The first claims come all together; but who was refused comes again
/// only as fast as others are answered, or the refusing would take all the time of whoever could answer.
const REPEATS_AT_ONCE: usize = 32;
/// How long to wait for a place among those who repeat.
const QUEUEING: Duration = Duration::from_millis(400);
/// The gateway closes a socket that is silent for 10 min; the interface asks for a ping every 5.
const PING_INTERVAL: Duration = Duration::from_secs(240);
/// How often a handshake is tried before the customer goes home.
const HANDSHAKES: u32 = 15;

/// What the director of the sale can ask of a customer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Claim, now.
    Claim,
    /// Vanish without a close frame.
    Cut,
    /// Close the socket and go.
    Leave,
}

/// What a customer tells the director.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Its socket is open and hears the campaign.
    Present,
    /// A handshake failed and is tried again.
    HandshakeRepeated(String),
    /// It stays away: no handshake worked.
    StayedAway(String),
    /// Its socket ended by itself; it comes back with a new ticket.
    Lost,
    /// It heard a broadcast for the first time.
    Heard { message: String, at: Instant },
    /// It got a frame that it had already.
    HeardAgain,
    /// A claim has its answer, this long after it was first sent.
    Answered {
        claim_id: String,
        answer: Answer,
        sent: Instant,
        took: Duration,
    },
    /// An answer that cannot be true together with another.
    Contradicted(String),
    /// The gateway or the service did not take a frame; it is sent again.
    Refused(String),
    /// It asked again, having waited in vain.
    AskedAgain,
    /// Its socket is closed, by its own will.
    Gone,
}

/// What all customers share: the way in.
pub(crate) struct Entrance {
    pub(crate) api: PartnerApi,
    pub(crate) campaign: String,
    pace: Mutex<Interval>,
    handshakes: Semaphore,
    repeats: Arc<Semaphore>,
}

impl Entrance {
    /// Lets `rate` customers a second in, of whom `at_once` may be in a handshake.
    pub(crate) fn new(api: PartnerApi, campaign: String, rate: u32, at_once: usize) -> Self {
        let mut pace = interval(Duration::from_secs(1) / rate.max(1));
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            api,
            campaign,
            pace: Mutex::new(pace),
            handshakes: Semaphore::new(at_once),
            repeats: Arc::new(Semaphore::new(REPEATS_AT_ONCE)),
        }
    }

    async fn enter(&self, user: &str) -> Result<Socket, String> {
        // The semaphore is never closed; were it, the crowd would be let in unbounded.
        let _place = self.handshakes.acquire().await;
        self.pace.lock().await.tick().await;
        let ticket = self
            .api
            .ticket(user)
            .await
            .map_err(|error| error.to_string())?;
        Socket::open(&ticket.web_socket_url, &ticket.ticket)
            .await
            .map_err(|error| error.to_string())
    }
}

pub(crate) struct Customer {
    pub(crate) number: usize,
    pub(crate) user: String,
    pub(crate) wishes: Wishes,
    pub(crate) entrance: Arc<Entrance>,
    pub(crate) commands: mpsc::UnboundedReceiver<Command>,
    pub(crate) events: mpsc::UnboundedSender<(usize, Event)>,
    pub(crate) state: State,
}

/// What a customer remembers from socket to socket.
#[derive(Debug, Default)]
pub(crate) struct State {
    subscribed: bool,
    claiming: bool,
    heard: HashSet<String>,
    /// Refusals by the gateway in a row.
    refusals: u32,
    /// Times in a row that it asked and got no final answer.
    unheard: u32,
    /// When to say something again, and what.
    due: Option<(Instant, Due)>,
    /// Whether it is due because the gateway refused it, not because nothing came.
    was_refused: bool,
    /// Its place among those who repeat, until something answers.
    place: Option<OwnedSemaphorePermit>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Subscribe,
    Claim,
    Result,
}

enum End {
    Lost,
    Done,
}

impl Customer {
    /// Lives until it is told to go or is never let in.
    pub(crate) async fn live(mut self) {
        loop {
            let Some(socket) = self.come_in().await else {
                return;
            };
            match self.attend(socket).await {
                End::Done => return self.tell(Event::Gone),
                End::Lost => self.tell(Event::Lost),
            }
        }
    }

    async fn come_in(&mut self) -> Option<Socket> {
        let mut last = String::new();
        for attempt in 0..HANDSHAKES {
            match self.entrance.enter(&self.user).await {
                Ok(socket) => return Some(socket),
                Err(reason) => {
                    self.tell(Event::HandshakeRepeated(reason.clone()));
                    last = reason;
                    sleep(backoff::wait(attempt, fastrand::f64())).await;
                }
            }
        }
        self.tell(Event::StayedAway(last));
        None
    }

    async fn attend(&mut self, mut socket: Socket) -> End {
        self.state.subscribed = false;
        self.state.place = None;
        self.say(Due::Subscribe, &mut socket).await;
        let mut ping = interval(PING_INTERVAL);
        ping.reset();
        loop {
            let due = self.state.due;
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(Command::Claim) => self.claim_first(&mut socket).await,
                    Some(Command::Cut) => {
                        socket.cut();
                        return End::Done;
                    }
                    Some(Command::Leave) | None => {
                        socket.close().await;
                        return End::Done;
                    }
                },
                frame = socket.next() => match frame {
                    Some(frame) => self.hear(frame),
                    None => return End::Lost,
                },
                () = until(due) => if let Some((_, due)) = due {
                    self.say_again(due, &mut socket).await;
                },
                _ = ping.tick() => socket.send(frame::ping()).await,
            }
        }
    }

    async fn claim_first(&mut self, socket: &mut Socket) {
        self.state.claiming = true;
        self.wishes.sent(Instant::now());
        for claim_id in self.wishes.all() {
            socket
                .send(frame::claim(&self.entrance.campaign, &claim_id))
                .await;
        }
        self.wait_for(Due::Result, self.patience());
    }

    async fn say_again(&mut self, due: Due, socket: &mut Socket) {
        if self.state.place.is_none() {
            let Ok(place) = Arc::clone(&self.entrance.repeats).try_acquire_owned() else {
                let soon = Instant::now() + backoff::around(QUEUEING, fastrand::f64());
                self.state.due = Some((soon, due));
                return;
            };
            self.state.place = Some(place);
        }
        if !self.state.was_refused {
            self.state.unheard = self.state.unheard.saturating_add(1);
            self.tell(Event::AskedAgain);
        }
        self.say(due, socket).await;
    }

    async fn say(&mut self, due: Due, socket: &mut Socket) {
        let campaign = &self.entrance.campaign;
        let next = match due {
            Due::Subscribe => {
                socket.send(frame::subscribe(campaign)).await;
                Due::Subscribe
            }
            Due::Result => {
                socket.send(frame::result(campaign)).await;
                Due::Claim
            }
            Due::Claim => {
                for claim_id in self.wishes.pending() {
                    socket.send(frame::claim(campaign, &claim_id)).await;
                }
                Due::Result
            }
        };
        self.wait_for(next, self.patience());
    }

    /// Doubles with every question in vain: a crowd that insists would only keep a slow service slow.
    fn patience(&self) -> Duration {
        PATIENCE
            .saturating_mul(2_u32.saturating_pow(self.state.unheard))
            .min(LONGEST_PATIENCE)
    }

    fn hear(&mut self, frame: Frame) {
        if !matches!(frame, Frame::Broadcast { .. } | Frame::Other) {
            self.state.place = None;
        }
        match frame {
            Frame::Gateway(text) => self.refused(text),
            Frame::Error { code, message } => self.refused(format!("{code}: {message}")),
            Frame::Subscribed => self.subscribed(),
            Frame::Result(answered) => self.answered(answered),
            Frame::Accepted => {
                self.state.refusals = 0;
                // Of two claims the other may have been refused. It stays due soon: waiting for a result would forget it until
                // patience has run out twice.
                if !self.state.was_refused {
                    self.wait_for(Due::Result, self.patience());
                }
            }
            Frame::Broadcast { id, message } => {
                let first = self.state.heard.insert(id);
                self.tell(if first {
                    let at = Instant::now();
                    Event::Heard { message, at }
                } else {
                    Event::HeardAgain
                });
            }
            Frame::Undecided | Frame::Other => {}
        }
    }

    fn subscribed(&mut self) {
        if !self.state.subscribed {
            self.state.subscribed = true;
            self.tell(Event::Present);
        }
        self.state.refusals = 0;
        self.state.unheard = 0;
        // On a new socket the answer may have gone to the old one: ask for it first.
        self.state.due = None;
        if self.state.claiming && self.wishes.are_pending() {
            self.wait_for(Due::Result, Duration::ZERO);
        }
    }

    fn answered(&mut self, answered: frame::Answered) {
        let now = Instant::now();
        match self.wishes.hear(answered, now) {
            Heard::First(claims, answer) => {
                for (claim_id, sent) in claims {
                    self.tell(Event::Answered {
                        claim_id,
                        answer: answer.clone(),
                        sent,
                        took: now - sent,
                    });
                }
            }
            Heard::Again => self.tell(Event::HeardAgain),
            Heard::NotYet => self.refused("not_open".to_owned()),
            Heard::Contradiction(what) => {
                self.tell(Event::Contradicted(format!("{}: {what}", self.user)))
            }
        }
        if !self.wishes.are_pending() && self.state.subscribed {
            self.state.due = None;
        }
    }

    /// Says the same again soon: a frame without `type` does not tell which frame it refuses.
    fn refused(&mut self, text: String) {
        self.tell(Event::Refused(text));
        let wait = backoff::wait(self.state.refusals, fastrand::f64());
        self.state.refusals = self.state.refusals.saturating_add(1);
        let what = match self.state.subscribed {
            false => Due::Subscribe,
            true if self.state.claiming && self.wishes.are_pending() => Due::Claim,
            true => return,
        };
        self.state.due = Some((Instant::now() + wait, what));
        self.state.was_refused = true;
    }

    fn wait_for(&mut self, due: Due, patience: Duration) {
        let idle = due != Due::Subscribe && !self.wishes.are_pending();
        let when = Instant::now() + backoff::around(patience, fastrand::f64());
        self.state.due = (!idle).then_some((when, due));
        self.state.was_refused = false;
    }

    fn tell(&self, event: Event) {
        // A director who has left needs no news; the command channel then ends this task.
        drop(self.events.send((self.number, event)));
    }
}

/// Waits for the due time; for ever if nothing is due.
async fn until(due: Option<(Instant, Due)>) {
    match due {
        Some((when, _)) => sleep_until(when).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::super::wishes::Wish;
    use super::*;

    /// A customer who has claimed under these ids, on an open socket.
    fn claiming(claim_ids: &[&str]) -> Customer {
        let api = PartnerApi::new("http://127.0.0.1:1", "key").unwrap();
        let wishes = claim_ids.iter().map(|id| Wish::new((*id).to_owned(), 1));
        let state = State {
            subscribed: true,
            claiming: true,
            ..State::default()
        };
        Customer {
            number: 0,
            user: "user".to_owned(),
            wishes: Wishes::new(wishes.collect()),
            entrance: Arc::new(Entrance::new(api, "campaign".to_owned(), 1, 1)),
            commands: mpsc::unbounded_channel().1,
            events: mpsc::unbounded_channel().0,
            state,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_claim_is_sent_again_soon_although_another_was_accepted() {
        let mut customer = claiming(&["refused", "accepted"]);
        customer.wait_for(Due::Result, PATIENCE);
        customer.hear(Frame::Gateway("TooManyRequestsException".to_owned()));
        customer.hear(Frame::Accepted);
        let (when, due) = customer.state.due.unwrap();
        assert_eq!(due, Due::Claim);
        assert!(when - Instant::now() < PATIENCE / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_accepted_claim_waits_for_its_result() {
        let mut customer = claiming(&["accepted"]);
        customer.hear(Frame::Accepted);
        let (when, due) = customer.state.due.unwrap();
        assert_eq!(due, Due::Result);
        assert!(when - Instant::now() >= PATIENCE / 2);
    }
}
