//! What happens in a run, drawn from its seed: the campaigns, who claims when through which door, and how bad it gets.
//! Small on purpose: what goes wrong goes wrong among few.

use fastrand::Rng;
use firstcome_core::{
    Caller, Campaign, CampaignId, Claim, ClaimId, ConnectionId, InvalidValue, PartnerId, Timestamp,
    UserId,
};

use crate::actors::{Ask, Question};
use crate::fault::Rates;
use crate::world::BASE;

/// One thing that happens.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A client sends a frame through a door.
    Ask(usize, Question),
    /// A producer sends a claim to the queue; with or without its own time.
    Produce(Claim, bool),
    /// A producer sends what is no claim.
    Poison(String),
    /// A socket closes.
    HangUp(ConnectionId),
    /// The partner closes the campaign early, and again, up to so many times, while no answer comes.
    Close(CampaignId, u32),
}

/// A run's script.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) rates: Rates,
    /// How long the faults last, in virtual milliseconds.
    pub(crate) storm_millis: u64,
    pub(crate) campaigns: Vec<Campaign>,
    /// Every socket with its owner.
    pub(crate) sockets: Vec<(ConnectionId, PartnerId, UserId)>,
    pub(crate) unstorable: Vec<UserId>,
    pub(crate) workers: usize,
    pub(crate) batch: usize,
    /// How long messages are gathered, at most.
    pub(crate) window_millis: u64,
    pub(crate) doors: usize,
    /// Within how many milliseconds a closing has to be answered at the first try, if that is looked at.
    pub(crate) closes_within: Option<u64>,
    /// By time, in virtual milliseconds.
    pub(crate) events: Vec<(u64, Event)>,
}

/// A user of a partner with sockets.
struct User {
    partner: PartnerId,
    id: UserId,
    sockets: Vec<ConnectionId>,
}

impl Scenario {
    /// The script of this seed.
    ///
    /// # Errors
    /// None: the ids it makes are within their bounds.
    pub(crate) fn draw(rng: &mut Rng) -> Result<Self, InvalidValue> {
        let (acme, rival) = (PartnerId::new("acme")?, PartnerId::new("rival")?);
        let mut campaigns = vec![campaign(rng, &acme)];
        if rng.u8(0..3) == 0 {
            let partner = if rng.bool() { &acme } else { &rival };
            campaigns.push(campaign(rng, partner));
        }
        let mut users = Vec::new();
        let most = [4, 8, 16, 28][rng.usize(0..4)];
        for index in 0..rng.u32(2..=most) {
            users.push(user(rng, &acme, index)?);
        }
        for index in 0..rng.u32(0..=2) {
            users.push(user(rng, &rival, index)?);
        }
        let mut scenario = Self {
            rates: Rates::draw(rng),
            storm_millis: rng.u64(2000..=40_000),
            unstorable: if rng.u8(0..16) == 0 {
                vec![users[0].id.clone()]
            } else {
                Vec::new()
            },
            sockets: Vec::new(),
            workers: rng.usize(1..=4),
            batch: rng.usize(1..=12),
            window_millis: [0, 50, 300, 1000][rng.usize(0..4)],
            doors: rng.usize(1..=3),
            closes_within: None,
            events: Vec::new(),
            campaigns,
        };
        for user in &users {
            scenario.let_act(rng, user)?;
        }
        scenario.disturb(rng)?;
        scenario.events.sort_by_key(|(at, _)| *at);
        Ok(scenario)
    }

    /// A rush at one campaign in small batches, closed in the middle of it, while every second write of a shard is in conflict.
    ///
    /// # Errors
    /// None, as [`Self::draw`].
    pub(crate) fn rush(rng: &mut Rng) -> Result<Self, InvalidValue> {
        let acme = PartnerId::new("acme")?;
        let mut campaign = campaign(rng, &acme);
        campaign.total = 300;
        campaign.shards = [1, 3, 6][rng.usize(0..3)];
        (campaign.opens_at, campaign.closes_at) = (campaign.created_at, BASE.plus_seconds(86_400));
        let id = campaign.campaign_id.clone();
        let mut scenario = Self {
            rates: Rates::of_a_rush(),
            storm_millis: 20_000,
            unstorable: Vec::new(),
            sockets: Vec::new(),
            workers: 8,
            batch: 10,
            window_millis: 0,
            doors: 3,
            closes_within: Some(5000),
            events: vec![(rng.u64(300..=900), Event::Close(id.clone(), 1))],
            campaigns: vec![campaign],
        };
        for index in 0..400 {
            let user = user(rng, &acme, index)?;
            for socket in &user.sockets {
                let socket = (socket.clone(), user.partner.clone(), user.id.clone());
                scenario.sockets.push(socket);
            }
            let claim = ClaimId::new(format!("{}.a", user.id))?;
            let ask = Ask::Claim(id.clone(), Some(claim));
            let at = rng.u64(0..1500);
            scenario.ask(rng, &user, at, ask);
        }
        scenario.events.sort_by_key(|(at, _)| *at);
        Ok(scenario)
    }

    /// What one user does: claims, the same again, others, and questions.
    fn let_act(&mut self, rng: &mut Rng, user: &User) -> Result<(), InvalidValue> {
        for socket in &user.sockets {
            self.sockets
                .push((socket.clone(), user.partner.clone(), user.id.clone()));
        }
        let first_at = if rng.u8(0..3) > 0 {
            rng.u64(0..1500)
        } else {
            rng.u64(0..20_000)
        };
        let campaign = rng.usize(0..self.campaigns.len());
        let campaign = self.campaigns[campaign].clone();
        let names = ["a", "b"].map(|name| ClaimId::new(format!("{}.{name}", user.id)));
        let [a, b] = names;
        let names = [a?, b?];
        for wish in 0..rng.u64(1..=3) {
            let at = first_at + if wish == 0 { 0 } else { moment(rng, &campaign) };
            if rng.u8(0..4) == 0 {
                self.produce(rng, user, &campaign, at, wish)?;
                continue;
            }
            let named = rng.u8(0..16) > 0;
            let claim = names[usize::from(rng.u8(0..3) == 0)].clone();
            let ask = Ask::Claim(campaign.campaign_id.clone(), named.then_some(claim));
            self.ask(rng, user, at, ask);
        }
        for _ in 0..rng.u64(0..=2) {
            let at = first_at + moment(rng, &campaign);
            let claim = names[usize::from(rng.u8(0..3) == 0)].clone();
            self.ask(
                rng,
                user,
                at,
                Ask::Result(campaign.campaign_id.clone(), claim),
            );
        }
        if rng.u8(0..4) == 0 {
            let ask = Ask::Subscribe(campaign.campaign_id.clone());
            self.ask(rng, user, first_at / 2, ask);
        }
        if rng.u8(0..8) == 0 {
            let at = first_at + rng.u64(0..10_000);
            let socket = user.sockets[0].clone();
            self.events.push((at, Event::HangUp(socket)));
        }
        Ok(())
    }

    fn ask(&mut self, rng: &mut Rng, user: &User, at: u64, ask: Ask) {
        let question = Question {
            caller: Caller {
                partner_id: user.partner.clone(),
                user_id: user.id.clone(),
                connection_id: user.sockets[rng.usize(0..user.sockets.len())].clone(),
                trace: None,
            },
            ask,
        };
        let door = rng.usize(0..self.doors);
        self.events.push((at, Event::Ask(door, question)));
    }

    /// A trusted producer's claim, which states the time, none, one before the opening or after the end, or one that is ahead of the
    /// queue's: by up to a minute, across either edge of the window, or too far. It repeats itself word for word; a claim whose
    /// own time is that of its sending is sent once.
    fn produce(
        &mut self,
        rng: &mut Rng,
        user: &User,
        campaign: &Campaign,
        at: u64,
        wish: u64,
    ) -> Result<(), InvalidValue> {
        let now = BASE.millis() + i64::try_from(at).unwrap_or(0);
        let (opens, closes) = (campaign.opens_at.millis(), campaign.closes_at.millis());
        let stated = match rng.u8(0..11) {
            0..3 => None,
            3..5 => Some(now),
            5 => Some(opens - rng.i64(1..1000)),
            6 => Some(closes.min(now + 50_000) + rng.i64(0..1000)),
            7 => Some(now + rng.i64(-60_000..=60_000)),
            8 => Some(opens.clamp(now - 60_000, now + 59_000) + rng.i64(0..1000)),
            9 => Some(closes.clamp(now - 60_000, now + 59_000) + rng.i64(-500..1000)),
            // Far enough for its repeat to be from the future as well: what is, depends on when it is sent.
            _ => Some(now + 70_000 + rng.i64(0..60_000)),
        };
        let is_ahead = stated.is_none_or(|stated| (now..=now + 60_000).contains(&stated));
        let connection_id = rng.bool().then(|| user.sockets[0].clone());
        let claim = Claim {
            claim_id: ClaimId::new(format!("{}.p{wish}", user.id))?,
            partner_id: user.partner.clone(),
            campaign_id: campaign.campaign_id.clone(),
            user_id: user.id.clone(),
            requested_at: Timestamp::from_millis(stated.unwrap_or(now)),
            sent_at: Timestamp::from_millis(now),
            connection_id,
            trace: None,
        };
        if !is_ahead && rng.u8(0..3) == 0 {
            let again = at + rng.u64(0..5000);
            self.events
                .push((again, Event::Produce(claim.clone(), true)));
        }
        self.events
            .push((at, Event::Produce(claim, stated.is_some())));
        Ok(())
    }

    /// What nobody wants: an early close, messages that are no claims, claims of no campaign.
    fn disturb(&mut self, rng: &mut Rng) -> Result<(), InvalidValue> {
        if rng.u8(0..3) == 0 {
            // Early enough for the rush, or whenever; by one or by two, who may or may not see it through.
            let latest = [1500, 5000, 20_000][rng.usize(0..3)];
            for _ in 0..rng.u8(1..=2) {
                let tries = [1, 1, 2, 5][rng.usize(0..4)];
                let id = self.campaigns[0].campaign_id.clone();
                let close = Event::Close(id, tries);
                self.events.push((rng.u64(0..=latest), close));
            }
        }
        if rng.u8(0..4) == 0 {
            let bad = ["", "{}", "null", r#"{"version":2}"#][rng.usize(0..4)];
            self.events
                .push((rng.u64(0..5000), Event::Poison(bad.into())));
        }
        Ok(())
    }
}

/// Some time after a user's first claim: soon, or about when the campaign opens or ends.
fn moment(rng: &mut Rng, campaign: &Campaign) -> u64 {
    let edge = if rng.bool() {
        campaign.opens_at
    } else {
        campaign.closes_at
    };
    let edge = u64::try_from(edge.millis_since(BASE)).unwrap_or(0);
    match rng.u8(0..4) {
        0 if edge < 60_000 => edge.saturating_sub(1000) + rng.u64(0..2000),
        1 => rng.u64(0..30_000),
        2 => rng.u64(0..100),
        _ => rng.u64(0..4000),
    }
}

fn campaign(rng: &mut Rng, partner: &PartnerId) -> Campaign {
    let born = BASE.plus_seconds(-rng.i64(1..=120));
    let total = [1, 1, 2, 3, 5, 7, 10, 23][rng.usize(0..8)];
    // Also more shards than stock, and totals that do not divide.
    let shards = [1, 2, 3, 4, 6][rng.usize(0..5)];
    let after_base = |millis| Timestamp::from_millis(BASE.millis() + millis);
    let opens_at = match rng.u8(0..8) {
        0 | 1 => after_base(rng.i64(0..3000)),
        2 => after_base(rng.i64(3000..12_000)),
        _ => born,
    };
    let closes_at = if rng.u8(0..3) == 0 {
        opens_at.max(BASE).plus_seconds(3 + rng.i64(0..17))
    } else {
        BASE.plus_seconds(86_400)
    };
    Campaign {
        campaign_id: CampaignId::mint(born, rng.u128(..)),
        partner_id: partner.clone(),
        title: "Coffee".into(),
        total,
        opens_at,
        closes_at,
        coupon_ttl_seconds: 3600,
        benefit: None,
        shards,
        priority: false,
        created_at: born,
        closing_at: None,
        closed_at: None,
    }
}

fn user(rng: &mut Rng, partner: &PartnerId, index: u32) -> Result<User, InvalidValue> {
    let id = UserId::new(format!("u{index}"))?;
    let sockets = (0..rng.u32(1..=2))
        .map(|socket| ConnectionId::new(format!("{partner}-{id}-{socket}")))
        .collect::<Result<_, _>>()?;
    Ok(User {
        partner: partner.clone(),
        id,
        sockets,
    })
}
