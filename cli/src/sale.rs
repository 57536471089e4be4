//! `firstcome sale`: one flash sale from the first ticket to the last check. The order of events is here; each part's
//! logic is in its own file.

mod api;
mod backoff;
mod client;
mod cpu;
mod crowd;
mod customer;
mod frame;
mod latency;
mod report;
mod verify;
mod wishes;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use firstcome_core::aws::operator::{Operator, OperatorError, Queue};
use firstcome_core::{CampaignId, PartnerId, Scope, Timestamp, Topic};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::time::{Instant, sleep};

pub(crate) use self::api::ApiError;
use self::api::{BroadcastReport, ClaimState, PartnerApi};
use self::cpu::Cpu;
use self::crowd::{Crowd, Tally};
use self::customer::{Command, Entrance};
use self::latency::Latencies;
use self::report::{Report, Spent};
use self::verify::{Broadcast, Evidence, judge};
use self::wishes::wishes_of;
use crate::arguments::SalePlan;
use crate::open_files;
use crate::plan::expected_waits;
use crate::terminal::{Terminal, grouped};
use crate::undo::Undo;
use crate::{CommandError, Verdict};

/// Customers in a handshake at the same time: each costs three function runs (API, authorizer, `$connect`).
const HANDSHAKES_AT_ONCE: usize = 24;
/// How long the crowd may take to come in, beyond its pace.
const GATHERING: Duration = Duration::from_secs(120);
/// How long after the first claim the last answer may come.
const SELLING: Duration = Duration::from_secs(300);
/// How long a broadcast may take to be heard by all, and then to be reported as finished: a page that failed comes back
/// after the queue's visibility timeout of 180 s (template.yaml).
const BROADCASTING: Duration = Duration::from_secs(240);
/// How long a socket that died may stay in the table: it is removed by `$disconnect`, or by the first broadcast that
/// meets it when it is 30 s old.
const FORGETTING: Duration = Duration::from_secs(120);
/// While it stays, how often a broadcast is sent that can meet it: `$disconnect` never comes for a handshake that failed
/// after its function had registered the connection.
const ROLL_CALLS: Duration = Duration::from_secs(35);
/// One socket in this many is cut.
const CUT_ONE_IN: usize = 10;
/// How many users' claims the API is asked about in the end; the tables are read whole.
const USERS_ASKED: usize = 200;
/// Calls at the API at the same time.
const CALLS_AT_ONCE: usize = 16;

pub(crate) async fn run(
    plan: &SalePlan,
    stack: &str,
    terminal: &Terminal,
    undo: &Undo,
) -> Result<Verdict, CommandError> {
    open_files::ensure(plan.users)?;
    let title = format!(
        "Flash sale: {} users, {} coupons",
        grouped(plan.users.into()),
        grouped(plan.stock.into())
    );
    terminal.say_lines(&format!("\n{title}\n"));
    let mut sale = Sale::prepare(plan, stack, &title, terminal, undo).await?;
    sale.gather().await;
    sale.wait_for_opening().await;
    sale.broadcast("doors open", Audience::Campaign).await?;
    sale.sell().await;
    sale.broadcast("thank you", Audience::Partner).await?;
    sale.cut_some().await;
    sale.broadcast("after the cut", Audience::Partner).await?;
    let report = sale.verify().await?;
    sale.send_home().await;
    undo.forget();
    if terminal.speaks_json() {
        terminal.print_json(&report.json());
    }
    terminal.say_lines(&report.text());
    let verdict = if report.held() {
        Verdict::Held
    } else {
        Verdict::Broken
    };
    terminal.say(match verdict {
        Verdict::Held => "  Every promise was kept.",
        Verdict::Broken => "  A PROMISE WAS BROKEN: see FAILED above.",
    });
    Ok(verdict)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Audience {
    Campaign,
    Partner,
}

struct Sale<'run> {
    plan: &'run SalePlan,
    terminal: &'run Terminal,
    operator: Operator,
    api: PartnerApi,
    partner: PartnerId,
    campaign: CampaignId,
    opens_at: Instant,
    dead_letters_before: Vec<u64>,
    crowd: Crowd,
    claims: usize,
    claimants: usize,
    sold_from: Instant,
    broadcasts: Vec<Broadcast>,
    /// CPU time while claims were answered; `None` on AWS.
    cpu: Option<Cpu>,
}

impl<'run> Sale<'run> {
    /// A partner, its key, its campaign; and the crowd sets out.
    async fn prepare(
        plan: &'run SalePlan,
        stack: &str,
        title: &str,
        terminal: &'run Terminal,
        undo: &Undo,
    ) -> Result<Self, CommandError> {
        let started = Instant::now();
        let operator = Operator::find(stack).await?;
        let dead_letters_before = dead_letters(&operator).await?;
        let partner = operator.create_partner(title, &Scope::ALL, None).await?;
        let (holder, key) = (operator.clone(), partner.key_id.clone());
        undo.push("the sale's key was revoked", async move {
            Ok(holder.revoke_key(&key).await?)
        });
        let api = PartnerApi::new(&operator.stack().http_api_url, &partner.api_key)?;
        terminal.step("partner", partner.partner_id.as_str(), started.elapsed());

        let started = Instant::now();
        let lead = opening_lead(plan);
        let opens_at = Instant::now() + lead;
        let campaign = api
            .create_campaign(title, plan.stock, from_now(lead))
            .await?;
        let (closer, id) = (api.clone(), campaign.campaign_id.clone());
        undo.push("its campaign was closed", async move {
            closer
                .close(&id)
                .await
                .map(drop)
                .map_err(CommandError::from)
        });
        let words = format!("{}, opens in {} s", campaign.campaign_id, lead.as_secs());
        terminal.step("campaign", &words, started.elapsed());

        let wishes = wishes_of(plan.users, plan.duplicates);
        let claims = wishes.iter().map(|wishes| wishes.pending().len()).sum();
        let campaign = CampaignId::new(campaign.campaign_id).map_err(OperatorError::from)?;
        let entrance = Entrance::new(
            api.clone(),
            campaign.to_string(),
            plan.rate,
            HANDSHAKES_AT_ONCE,
        );
        Ok(Self {
            plan,
            terminal,
            operator,
            api,
            partner: partner.partner_id,
            campaign,
            opens_at,
            dead_letters_before,
            crowd: Crowd::gather(&Arc::new(entrance), wishes),
            claims,
            claimants: 0,
            sold_from: opens_at,
            broadcasts: Vec::new(),
            cpu: None,
        })
    }

    /// Until everybody has a socket that hears the campaign.
    async fn gather(&mut self) {
        let users = self.crowd.everybody().len();
        let meter = self
            .terminal
            .meter("sockets", "open and subscribed", users as u64);
        let started = Instant::now();
        let deadline =
            started + GATHERING + Duration::from_secs(u64::from(self.plan.users / self.plan.rate));
        let done = |tally: &Tally| {
            meter.set(tally.present.len() as u64);
            tally.present.len() + tally.gone.len() == users
        };
        self.crowd.watch(deadline, done).await;
        self.claimants = self.crowd.tally.present.len();
        let took = started.elapsed().as_secs_f64().max(0.001);
        let came = grouped(self.claimants as u64);
        let rate = self.claimants as f64 / took;
        meter.finish(&format!(
            "{came} of {} open and subscribed ({rate:.0}/s)",
            grouped(users as u64)
        ));
        if let Some(reason) = self.crowd.tally.stayed_away.first() {
            self.terminal
                .say(&format!("  {:<11} {reason}", "stayed away"));
        }
    }

    async fn wait_for_opening(&mut self) {
        // A little more than the opening itself: the doors' clocks need not be ours.
        let opening = self.opens_at + Duration::from_secs(1);
        let started = Instant::now();
        if opening > started {
            self.crowd.watch(opening, |_| false).await;
            self.terminal
                .step("opening", "waited for opensAt", started.elapsed());
        }
    }

    /// Tells everybody something and counts who heard it.
    async fn broadcast(
        &mut self,
        name: &'static str,
        audience: Audience,
    ) -> Result<(), CommandError> {
        let message = format!("{name}: {}", self.campaign);
        let expected: Vec<usize> = self.crowd.tally.present.iter().copied().collect();
        let meter = self
            .terminal
            .meter("broadcast", "heard it", expected.len() as u64);
        let started = Instant::now();
        let campaign = (audience == Audience::Campaign).then_some(self.campaign.as_str());
        let broadcast = self.api.broadcast(campaign, &message).await?;
        let done = |tally: &Tally| {
            meter.set(tally.hearers(&message) as u64);
            tally.hearers(&message) >= expected.len()
        };
        self.crowd.watch(started + BROADCASTING, done).await;
        let report = self.finished_report(&broadcast).await?;
        let heard = self.crowd.tally.hearers(&message);
        let words = format!(
            "“{name}”: heard by {} of {}, {} gone",
            grouped(heard as u64),
            grouped(expected.len() as u64),
            grouped(report.gone)
        );
        meter.finish(&words);
        self.broadcasts.push(Broadcast {
            name,
            audience: expected.len(),
            heard,
            delivery: Latencies::new(self.crowd.tally.delays(&message, started)),
            report,
        });
        Ok(())
    }

    /// The broadcast's report once it is finished, or as it is when the time is over.
    async fn finished_report(&mut self, broadcast: &str) -> Result<BroadcastReport, CommandError> {
        let deadline = Instant::now() + BROADCASTING;
        loop {
            let report = self.api.report(broadcast).await?;
            if report.finished_at.is_some() || Instant::now() >= deadline {
                return Ok(report);
            }
            self.crowd
                .watch(Instant::now() + Duration::from_millis(500), |_| false)
                .await;
        }
    }

    /// Everybody claims at once; until the last answer.
    async fn sell(&mut self) {
        let claims = self.claims;
        let meter = self.terminal.meter("claims", "answered", claims as u64);
        let before = Cpu::now();
        self.sold_from = Instant::now();
        self.crowd.tell(self.crowd.everybody(), Command::Claim);
        let done = |tally: &Tally| {
            meter.set(tally.answers.len() as u64);
            tally.answers.len() >= claims
        };
        self.crowd.watch(self.sold_from + SELLING, done).await;
        self.cpu = before.and_then(|before| Some(Cpu::now()?.since(before)));
        let answers = &self.crowd.tally.answers;
        let winners = answers
            .iter()
            .filter(|answered| answered.answer.outcome == "issued")
            .count();
        let [answered, all, winners] =
            [answers.len(), claims, winners].map(|count| grouped(count as u64));
        meter.finish(&format!(
            "{answered} of {all} answered, {winners} coupons won"
        ));
    }

    async fn cut_some(&mut self) {
        let started = Instant::now();
        let some = self.crowd.every(CUT_ONE_IN);
        let words = format!(
            "{} sockets cut without a close frame",
            grouped(some.len() as u64)
        );
        self.crowd.leave(some, Command::Cut).await;
        self.terminal.step("cut", &words, started.elapsed());
    }

    /// Reads the tables and asks the API, then judges.
    async fn verify(&mut self) -> Result<Report, CommandError> {
        let memberships = self.settled_memberships().await?;
        let started = Instant::now();
        let evidence = self.evidence(memberships).await?;
        let checks = judge(&evidence);
        let kept = checks.iter().filter(|check| check.kept).count();
        let words = format!("{kept} of {} promises kept", checks.len());
        self.terminal.step("checks", &words, started.elapsed());
        Ok(self.report(evidence, checks))
    }

    /// How many sockets the table holds once it has forgotten those that died, or when the time is over.
    async fn settled_memberships(&mut self) -> Result<usize, CommandError> {
        let started = Instant::now();
        let topic = Topic::Partner(self.partner.clone());
        let mut roll_call = started + ROLL_CALLS;
        loop {
            let memberships = self.operator.members(&topic).await?.len();
            let open = self.crowd.tally.present.len();
            if memberships == open || started.elapsed() > FORGETTING {
                let words = format!(
                    "{} sockets in the table, {} open",
                    grouped(memberships as u64),
                    grouped(open as u64)
                );
                self.terminal.step("clean-up", &words, started.elapsed());
                return Ok(memberships);
            }
            if Instant::now() >= roll_call {
                self.api.broadcast(None, "roll call").await?;
                roll_call += ROLL_CALLS;
            }
            self.crowd
                .watch(Instant::now() + Duration::from_secs(1), |_| false)
                .await;
        }
    }

    async fn evidence(&self, memberships: usize) -> Result<Evidence, CommandError> {
        let after = dead_letters(&self.operator).await?;
        let new = self
            .dead_letters_before
            .iter()
            .zip(after)
            .map(|(before, after)| after.saturating_sub(*before));
        let tally = &self.crowd.tally;
        Ok(Evidence {
            partner: self.partner.to_string(),
            users: self.crowd.users().map(str::to_owned).collect(),
            stock: self.plan.stock.into(),
            claimants: self.claimants,
            claims: self.claims,
            answers: tally.answers.clone(),
            contradictions: tally.contradictions.clone(),
            coupons: self.operator.coupons(&self.campaign).await?,
            shards: self.operator.stock(&self.campaign).await?,
            campaign: Some(self.api.campaign(self.campaign.as_str()).await?),
            claim_states: self.claim_states().await?,
            broadcasts: self.broadcasts.clone(),
            dead_letters: Queue::ALL
                .map(|queue| format!("{queue:?}"))
                .into_iter()
                .zip(new)
                .collect(),
            open_sockets: tally.present.len(),
            memberships,
        })
    }

    /// What the API says of some users, evenly spread.
    async fn claim_states(&self) -> Result<Vec<(String, ClaimState)>, ApiError> {
        let share = self.crowd.everybody().len().div_ceil(USERS_ASKED);
        let users: Vec<String> = self
            .crowd
            .users()
            .step_by(share)
            .map(str::to_owned)
            .collect();
        let ask = |user: String| async move {
            let state = self.api.claim_state(self.campaign.as_str(), &user).await?;
            Ok::<_, ApiError>((user, state))
        };
        stream::iter(users)
            .map(ask)
            .buffer_unordered(CALLS_AT_ONCE)
            .try_collect()
            .await
    }

    /// Where the time went, and what it would be on AWS.
    fn spent(&self) -> Option<Spent> {
        let cpu = self.cpu?;
        let (first, last) = self.crowd.tally.claimed?;
        let window = last - first;
        let users = u32::try_from(self.claimants).ok()?;
        Some(Spent {
            cpu,
            window,
            expected: expected_waits(users, self.plan.stock, window)?,
        })
    }

    fn report(&self, evidence: Evidence, checks: Vec<verify::Check>) -> Report {
        let tally = &self.crowd.tally;
        let mut outcomes: BTreeMap<String, u64> = BTreeMap::new();
        for answered in &evidence.answers {
            *outcomes.entry(answered.answer.outcome.clone()).or_default() += 1;
        }
        Report {
            campaign: self.campaign.to_string(),
            partner: self.partner.to_string(),
            users: self.plan.users,
            stock: self.plan.stock,
            claims: self.claims,
            outcomes,
            latencies: Latencies::new(
                evidence
                    .answers
                    .iter()
                    .map(|answered| answered.took)
                    .collect(),
            ),
            selling: tally
                .last_answer
                .map_or(Duration::ZERO, |last| last - self.sold_from),
            refused: tally.refused.clone(),
            handshakes_repeated: tally.handshakes_repeated.clone(),
            asked_again: tally.asked_again,
            heard_again: tally.heard_again,
            lost: tally.lost,
            spent: self.spent(),
            broadcasts: evidence.broadcasts,
            checks,
        }
    }

    async fn send_home(&mut self) {
        let started = Instant::now();
        let present: Vec<usize> = self.crowd.tally.present.iter().copied().collect();
        self.crowd.leave(present, Command::Leave).await;
        self.terminal
            .step("home", "sockets closed, 200 a second", started.elapsed());
        // The functions behind the last `$disconnect` finish before the stack may be taken down.
        sleep(Duration::from_millis(500)).await;
    }
}

/// How long the crowd has to come in before the campaign opens: its pace, and a little.
fn opening_lead(plan: &SalePlan) -> Duration {
    Duration::from_secs(u64::from(plan.users.div_ceil(plan.rate)) * 5 / 4 + 5)
}

fn from_now(lead: Duration) -> Timestamp {
    // A clock before 1970 would open the campaign in 1970: open, which is what a sale needs.
    let when = (SystemTime::now() + lead)
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp::from_millis(i64::try_from(when.as_millis()).unwrap_or(i64::MAX))
}

async fn dead_letters(operator: &Operator) -> Result<Vec<u64>, OperatorError> {
    let mut depths = Vec::new();
    for queue in Queue::ALL {
        depths.push(operator.dead_letters(queue).await?.total());
    }
    Ok(depths)
}
