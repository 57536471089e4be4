//! The crowd: all customers, what the director tells them, and a tally of what they report.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

use super::customer::{Command, Customer, Entrance, Event, State};
use super::wishes::{Answer, Wishes};

/// Sockets close at no more than this many a second: each close starts a function.
const CLOSES_PER_SECOND: u32 = 200;
/// How often a waiting director looks up, news or not.
const LOOK_UP: Duration = Duration::from_millis(250);

/// An answered claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AnsweredClaim {
    pub(crate) user: String,
    pub(crate) claim_id: String,
    pub(crate) answer: Answer,
    pub(crate) took: Duration,
}

/// What the customers have reported so far.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Customers with an open, subscribed socket.
    pub(crate) present: HashSet<usize>,
    /// Customers who are done: cut, closed, or never let in.
    pub(crate) gone: HashSet<usize>,
    pub(crate) stayed_away: Vec<String>,
    pub(crate) handshakes_repeated: BTreeMap<String, u64>,
    pub(crate) lost: u64,
    /// By a broadcast's message: who heard it, and when.
    pub(crate) heard: BTreeMap<String, HashMap<usize, Instant>>,
    pub(crate) heard_again: u64,
    pub(crate) answers: Vec<AnsweredClaim>,
    pub(crate) last_answer: Option<Instant>,
    /// When the first and the last of the answered claims were sent for the first time.
    pub(crate) claimed: Option<(Instant, Instant)>,
    pub(crate) contradictions: Vec<String>,
    pub(crate) refused: BTreeMap<String, u64>,
    pub(crate) asked_again: u64,
}

impl Tally {
    pub(crate) fn hearers(&self, message: &str) -> usize {
        self.heard.get(message).map_or(0, HashMap::len)
    }

    /// How long after `start` the message came to each who heard it.
    pub(crate) fn delays(&self, message: &str, start: Instant) -> Vec<Duration> {
        let hearers = self.heard.get(message).into_iter().flatten();
        hearers.map(|(_, at)| at.duration_since(start)).collect()
    }

    fn take(&mut self, number: usize, user: &str, event: Event) {
        match event {
            Event::Present => drop(self.present.insert(number)),
            Event::HandshakeRepeated(reason) => {
                *self.handshakes_repeated.entry(reason).or_default() += 1
            }
            Event::StayedAway(reason) => {
                self.stayed_away.push(reason);
                self.gone.insert(number);
            }
            Event::Lost => {
                self.present.remove(&number);
                self.lost += 1;
            }
            Event::Heard { message, at } => {
                let hearers = self.heard.entry(message).or_default();
                hearers.entry(number).or_insert(at);
            }
            Event::HeardAgain => self.heard_again += 1,
            Event::Answered {
                claim_id,
                answer,
                sent,
                took,
            } => {
                self.last_answer = Some(Instant::now());
                let (first, last) = self.claimed.unwrap_or((sent, sent));
                self.claimed = Some((first.min(sent), last.max(sent)));
                self.answers.push(AnsweredClaim {
                    user: user.to_owned(),
                    claim_id,
                    answer,
                    took,
                });
            }
            Event::Contradicted(what) => self.contradictions.push(what),
            Event::Refused(text) => *self.refused.entry(text).or_default() += 1,
            Event::AskedAgain => self.asked_again += 1,
            Event::Gone => {
                self.present.remove(&number);
                self.gone.insert(number);
            }
        }
    }
}

/// Every customer, by number.
pub(crate) struct Crowd {
    customers: Vec<(String, mpsc::UnboundedSender<Command>)>,
    events: mpsc::UnboundedReceiver<(usize, Event)>,
    pub(crate) tally: Tally,
}

impl Crowd {
    /// Sends one customer per entry on its way in.
    pub(crate) fn gather(entrance: &Arc<Entrance>, wishes: Vec<Wishes>) -> Self {
        let (report, events) = mpsc::unbounded_channel();
        let customers = wishes.into_iter().enumerate().map(|(number, wishes)| {
            let (director, commands) = mpsc::unbounded_channel();
            let user = format!("user-{number:05}");
            let customer = Customer {
                number,
                user: user.clone(),
                wishes,
                entrance: Arc::clone(entrance),
                commands,
                events: report.clone(),
                state: State::default(),
            };
            tokio::spawn(customer.live());
            (user, director)
        });
        Self {
            customers: customers.collect(),
            events,
            tally: Tally::default(),
        }
    }

    pub(crate) fn users(&self) -> impl Iterator<Item = &str> {
        self.customers.iter().map(|(user, _)| user.as_str())
    }

    /// Tells these customers something; those who have gone do not hear it.
    pub(crate) fn tell(&self, numbers: impl IntoIterator<Item = usize>, command: Command) {
        for (_, director) in numbers
            .into_iter()
            .filter_map(|number| self.customers.get(number))
        {
            // A customer who never got in has no ear; the tally knows.
            let _ = director.send(command);
        }
    }

    pub(crate) fn everybody(&self) -> std::ops::Range<usize> {
        0..self.customers.len()
    }

    /// Every `share`-th of those present.
    pub(crate) fn every(&self, share: usize) -> Vec<usize> {
        let mut present: Vec<usize> = self.tally.present.iter().copied().collect();
        present.sort_unstable();
        present.into_iter().step_by(share).collect()
    }

    /// Takes news in until `done` says so or the time is over; tells which.
    pub(crate) async fn watch(
        &mut self,
        deadline: Instant,
        mut done: impl FnMut(&Tally) -> bool,
    ) -> bool {
        loop {
            while let Ok((number, event)) = self.events.try_recv() {
                self.take(number, event);
            }
            if done(&self.tally) {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            // Whatever comes, and be it nothing for a while, `done` looks again: it also draws the progress bar.
            if let Ok(Some((number, event))) =
                timeout_at(deadline.min(Instant::now() + LOOK_UP), self.events.recv()).await
            {
                self.take(number, event);
            }
        }
    }

    /// Closes these customers' sockets at a pace that the functions behind `$disconnect` can keep.
    pub(crate) async fn leave(&mut self, numbers: Vec<usize>, command: Command) {
        let batch = CLOSES_PER_SECOND as usize / 10;
        for some in numbers.chunks(batch) {
            self.tell(some.iter().copied(), command);
            sleep(Duration::from_millis(100)).await;
        }
        let deadline = Instant::now() + Duration::from_secs(15);
        self.watch(deadline, |tally| {
            numbers.iter().all(|number| tally.gone.contains(number))
        })
        .await;
    }

    fn take(&mut self, number: usize, event: Event) {
        if let Some((user, _)) = self.customers.get(number) {
            self.tally.take(number, user, event);
        }
    }
}
