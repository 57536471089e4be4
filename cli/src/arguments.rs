//! The command line, as clap reads it. Names are public (README.md, Makefile).

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use firstcome_core::{CampaignId, ClaimId, Queue, Reason, Scope, Timestamp};

use crate::terminal::{visible, without_secrets};

/// First-come-first-served coupons on AWS: partners' keys, dead letters, audits, and a whole flash sale as a load test.
///
/// Reads the AWS environment (AWS_ENDPOINT_URL, AWS_REGION, credentials); for the local stack: eval "$(make -s env)".
#[derive(Debug, Parser)]
#[command(name = "firstcome", version, max_term_width = 100)]
pub(crate) struct Arguments {
    /// The CloudFormation stack to work on
    #[arg(long, global = true, default_value = "firstcome", value_name = "NAME")]
    pub(crate) stack: String,
    /// Print one JSON object on stdout; everything else goes to stderr
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create partners and their API keys
    #[command(subcommand)]
    Partner(PartnerCommand),
    /// Run a flash sale with real WebSocket clients and check its result in the tables
    Sale(SalePlan),
    /// Look at dead letters, send them again, drop them
    #[command(subcommand)]
    Dlq(DlqCommand),
    /// What a sale needs, takes and costs on AWS, and where it breaks first; asks no stack and no account
    Plan(CapacityPlan),
    /// Count a campaign's coupons against its stock counters, after the sale
    Audit(AuditPlan),
    /// Add up the metrics that the functions have written to their logs, and hold them to the tables
    Metrics(MetricsPlan),
    /// Follow one claim through the logs, from its frame to its answer
    Follow(FollowPlan),
    /// See the alarms, try them, and say where they are told
    #[command(subcommand)]
    Alarms(AlarmsCommand),
    /// Ask a deployed stack whether it is as its template, and a planned sale, want it; a line for each check
    Doctor(DoctorPlan),
    /// Raise what a table takes at once, before a sale. Charged once; never lowered
    Warm(WarmPlan),
    /// Provisioned pollers of the claims' queue: on before a large sale, off after it
    #[command(subcommand)]
    Pollers(PollersCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum PartnerCommand {
    /// Create a partner with one API key; the key is shown once
    Create {
        /// What people call the partner
        #[arg(long)]
        name: String,
        /// What the key may be used for [default: everything]
        #[arg(long, value_delimiter = ',', value_parser = scope, value_name = "SCOPE,…")]
        scopes: Vec<Scope>,
        /// When the key stops working, such as 2027-01-31T09:00:00Z [default: never]
        #[arg(long, value_name = "TIME", value_parser = time)]
        expires_at: Option<Timestamp>,
    },
    /// List the partners, or one partner's keys; never a secret
    List {
        /// The partner whose keys to list
        #[arg(long, value_name = "ID")]
        partner: Option<String>,
    },
    /// Give a partner a new key; the old ones work until they are revoked, or for --overlap
    Rotate {
        /// The partner's id
        #[arg(long, value_name = "ID")]
        partner: String,
        /// What the new key may be used for [default: what the active ones may]
        #[arg(long, value_delimiter = ',', value_parser = scope, value_name = "SCOPE,…")]
        scopes: Vec<Scope>,
        /// When the new key stops working [default: never]
        #[arg(long, value_name = "TIME", value_parser = time)]
        expires_at: Option<Timestamp>,
        /// How long the old keys go on working, in seconds [default: until they are revoked]
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(0..=31_536_000))]
        overlap: Option<u32>,
    },
    /// Revoke a key; functions that hold it in their caches honour it for up to a minute more
    Revoke {
        /// The key's id: the part between the underscores of `fck_<id>_<secret>`. Of a whole key only that is used
        #[arg(long, value_name = "ID")]
        key: String,
    },
}

#[derive(Clone, Debug, Args)]
pub(crate) struct SalePlan {
    /// How many users come, each with a socket of its own
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    pub(crate) users: u32,
    /// How many coupons there are
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) stock: u32,
    /// Per cent of the users who claim twice: half of them with the same claimId, half with another
    #[arg(long, default_value_t = 20, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(0..=100))]
    pub(crate) duplicates: u32,
    /// New sockets per second (AWS lets 500 in)
    #[arg(long, default_value_t = 200, value_name = "PER SECOND", value_parser = clap::value_parser!(u32).range(1..=500))]
    pub(crate) rate: u32,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct CapacityPlan {
    /// How many users come, each with a socket
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=5_000_000))]
    pub(crate) users: u32,
    /// How many coupons there are
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) stock: u32,
    /// Within how many seconds of the opening they all claim; half of them in the first eighth
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(crate) window_seconds: u32,
    /// What the account may do: requests=10000,burst=5000,connections=500,concurrency=1000,table-writes=40000 are AWS's defaults
    #[arg(long, value_delimiter = ',', value_name = "NAME=NUMBER,…", value_parser = figure)]
    pub(crate) region_quota: Vec<(String, f64)>,
    /// Rates that were measured, in place of computed ones: door=…, coupons=… and posts=… a second, workers=…, batch=…, batch-seconds=…
    #[arg(long, value_delimiter = ',', value_name = "NAME=NUMBER,…", value_parser = figure)]
    pub(crate) measured: Vec<(String, f64)>,
    /// Another seed is another crowd
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DlqCommand {
    /// List dead letters with the reason of each; never their bodies
    List(LetterFilter),
    /// Show one letter whole. Its body may hold personal data
    Show {
        /// Whose dead letters
        #[arg(long, default_value = "claims", value_parser = queue)]
        queue: Queue,
        /// The letter's message id
        #[arg(long, value_name = "MESSAGE_ID")]
        id: String,
    },
    /// Send letters to their queue again; safe to repeat. Unlike SQS's own redrive, it keeps each claim's own time
    Replay(LetterChoice),
    /// Delete letters for good. With --all, those that could be replayed are kept unless --reason names theirs
    Drop {
        #[command(flatten)]
        choice: LetterChoice,
        /// Really
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Clone, Debug, Args)]
pub(crate) struct LetterFilter {
    /// Whose dead letters: claims, deliveries or broadcast
    #[arg(long, default_value = "claims", value_parser = queue)]
    pub(crate) queue: Queue,
    /// Only those about this campaign
    #[arg(long, value_name = "ID", value_parser = campaign)]
    pub(crate) campaign: Option<CampaignId>,
    /// Only those that died of this: unparseable, unknown_campaign or exhausted_retries
    #[arg(long, value_parser = reason)]
    pub(crate) reason: Option<Reason>,
    /// How many letters to look at; the others are told as not seen
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) limit: u32,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct LetterChoice {
    #[command(flatten)]
    pub(crate) filter: LetterFilter,
    /// This letter; may be given several times
    #[arg(
        long,
        value_name = "MESSAGE_ID",
        required_unless_present = "all",
        conflicts_with = "all"
    )]
    pub(crate) id: Vec<String>,
    /// Every letter that the filters let through
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct AuditPlan {
    /// The campaign's id
    #[arg(long, value_name = "ID", value_parser = campaign)]
    pub(crate) campaign: CampaignId,
    /// Read units per second for the scan of the Coupons table; one reads 4 KB, about 8 coupons. One partition gives 3,000,
    /// a table 40,000 by default
    #[arg(long, default_value_t = 1000, value_name = "UNITS", value_parser = clap::value_parser!(u32).range(1..=40_000))]
    pub(crate) rate: u32,
    /// Set a sold mark that is missing: the one repair that is safe, because stock never rises
    #[arg(long)]
    pub(crate) repair: bool,
}

fn figure(text: &str) -> Result<(String, f64), String> {
    let parsed = text.split_once('=').and_then(|(name, number)| {
        let number: f64 = number.parse().ok()?;
        (number.is_finite() && number > 0.0).then(|| (name.to_owned(), number))
    });
    parsed.ok_or_else(|| "expected NAME=NUMBER, the number above 0".to_owned())
}

#[derive(Clone, Debug, Args)]
pub(crate) struct MetricsPlan {
    /// How far back to look
    #[arg(long, default_value_t = 60, value_name = "MINUTES", value_parser = clap::value_parser!(u32).range(1..=10_080))]
    pub(crate) since_minutes: u32,
    /// Hold this campaign to its coupons as well, by a scan of the Coupons table [default: every campaign that issued, to
    /// its stock counters only]
    #[arg(long, value_name = "ID", value_parser = campaign)]
    pub(crate) campaign: Option<CampaignId>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct FollowPlan {
    /// The claim's id
    #[arg(long, value_name = "ID", value_parser = claim)]
    pub(crate) claim: ClaimId,
    /// How far back to look
    #[arg(long, default_value_t = 60, value_name = "MINUTES", value_parser = clap::value_parser!(u32).range(1..=10_080))]
    pub(crate) since_minutes: u32,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AlarmsCommand {
    /// List the alarms with their state and meaning
    List,
    /// Set an alarm off by hand, so that those on call are woken as if it were real; then set it back
    Drill {
        /// The alarm's name
        #[arg(long, value_name = "NAME")]
        alarm: String,
    },
    /// Read the webhook's URL (Discord or Slack) from stdin and store it in the stack's secret
    Webhook,
}

/// Tells what is wrong with the command line, or the help that was asked for. clap quotes what it does not understand, which
/// may be a key or a webhook's URL in a wrong place.
pub(crate) fn refuse(error: &clap::Error) -> ExitCode {
    let text = error.render().to_string();
    let harmless = harmless(&text);
    if harmless == text {
        error.exit();
    }
    // With stderr closed there is nobody left to tell.
    drop(write!(io::stderr(), "{harmless}"));
    ExitCode::from(2)
}

fn harmless(text: &str) -> String {
    let word = |word: &str| {
        if word.contains("://") {
            "…".to_owned()
        } else {
            visible(&without_secrets(word))
        }
    };
    let line = |line: &str| line.split(' ').map(word).collect::<Vec<_>>().join(" ");
    text.split('\n').map(line).collect::<Vec<_>>().join("\n")
}

#[derive(Clone, Debug, Args)]
pub(crate) struct DoctorPlan {
    #[command(flatten)]
    pub(crate) sale: Option<PlannedSale>,
}

/// A sale that the stack is to be ready for, as `plan` takes it.
#[derive(Clone, Copy, Debug, Args)]
#[group(requires_all = ["users", "stock", "window_seconds"])]
pub(crate) struct PlannedSale {
    /// Hold the stack to a sale to so many users; needs --stock and --window-seconds
    #[arg(long, required = false, value_parser = clap::value_parser!(u32).range(1..=5_000_000))]
    pub(crate) users: u32,
    /// How many coupons the sale has
    #[arg(long, required = false, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) stock: u32,
    /// Within how many seconds of the opening they all claim
    #[arg(long, required = false, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(crate) window_seconds: u32,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct WarmPlan {
    /// The table: its output, such as CouponsTable, or its physical name
    #[arg(long, value_name = "TABLE")]
    pub(crate) table: String,
    /// Write units per second; a new table takes 4,000
    #[arg(long, value_name = "UNITS", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) writes: u32,
    /// Read units per second; a new table takes 12,000 [default: as many as it takes now]
    #[arg(
        long,
        default_value_t = 0,
        hide_default_value = true,
        value_name = "UNITS"
    )]
    pub(crate) reads: u32,
    /// Really; without it, only the cost is told
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum PollersCommand {
    /// How the queue is read now, and what that costs an hour
    Show,
    /// Switch pollers on, or change their number; they are paid for by the hour until they are switched off
    On {
        /// How many are kept
        #[arg(long, value_name = "POLLERS", value_parser = clap::value_parser!(u32).range(2..=200))]
        min: u32,
        /// How many there may be under load
        #[arg(long, value_name = "POLLERS", value_parser = clap::value_parser!(u32).range(2..=10_000))]
        max: u32,
    },
    /// Switch pollers off, and set the usual bound on batches at once again
    Off,
}

fn time(text: &str) -> Result<Timestamp, String> {
    Timestamp::parse(text).map_err(|error| error.to_string())
}

fn queue(text: &str) -> Result<Queue, String> {
    one_of(text, "queue", &Queue::ALL, Queue::as_str)
}

fn reason(text: &str) -> Result<Reason, String> {
    one_of(text, "reason", &Reason::ALL, Reason::as_str)
}

fn one_of<T: Copy>(
    text: &str,
    what: &str,
    all: &[T],
    name: fn(T) -> &'static str,
) -> Result<T, String> {
    let names: Vec<&str> = all.iter().copied().map(name).collect();
    let found = all.iter().copied().find(|one| name(*one) == text);
    found.ok_or_else(|| format!("a {what} is one of {}", names.join(", ")))
}

fn campaign(text: &str) -> Result<CampaignId, String> {
    CampaignId::new(text).map_err(|error| error.to_string())
}

fn claim(text: &str) -> Result<ClaimId, String> {
    ClaimId::new(text).map_err(|error| error.to_string())
}

fn scope(text: &str) -> Result<Scope, String> {
    one_of(text, "scope", &Scope::ALL, Scope::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_secret_in_a_wrong_place_is_not_quoted() {
        let key = firstcome_core::ApiKey::from_random(1, [u128::MAX / 3; 2]).reveal();
        let secret = key.rsplit('_').next().unwrap();
        for line in [
            format!("firstcome partner revoke {key}"),
            format!("firstcome partner revoke {secret}"),
            format!("firstcome partner list --partner={key} {key}"),
            format!("firstcome audit --campaign {key}!"),
            format!("firstcome alarms webhook https://hooks.example/{secret}"),
        ] {
            let error = Arguments::try_parse_from(line.split(' ')).unwrap_err();
            let text = harmless(&error.render().to_string());
            assert!(
                !text.contains(&secret[..8]) && text.contains("rror"),
                "{text}"
            );
        }
        let plain = Arguments::try_parse_from(["firstcome", "nonsense"]).unwrap_err();
        let plain = plain.render().to_string();
        assert_eq!(harmless(&plain), plain);
    }

    #[test]
    fn an_unknown_scope_is_answered_with_the_known_ones() {
        assert_eq!(scope("tickets"), Ok(Scope::Tickets));
        assert!(
            scope("ticket")
                .unwrap_err()
                .contains("campaigns, tickets, claims")
        );
    }

    #[test]
    fn letters_are_chosen_by_id_or_all_and_never_by_accident() {
        let parsed = |line: &str| Arguments::try_parse_from(line.split(' ')).is_ok();
        for good in [
            "firstcome dlq list",
            "firstcome dlq list --queue deliveries --reason exhausted_retries --campaign k --limit 5",
            "firstcome dlq show --id m",
            "firstcome dlq replay --all",
            "firstcome dlq replay --id m --id n",
            "firstcome dlq drop --all --reason unparseable --yes",
        ] {
            assert!(parsed(good), "{good}");
        }
        for bad in [
            "firstcome dlq replay",
            "firstcome dlq drop --yes",
            "firstcome dlq replay --all --id m",
            "firstcome dlq show",
            "firstcome dlq list --reason none",
            "firstcome dlq list --queue wallets",
            "firstcome audit",
        ] {
            assert!(!parsed(bad), "{bad}");
        }
    }

    #[test]
    fn json_may_stand_before_or_after_the_command() {
        for line in [
            ["firstcome", "--json", "sale", "--users=1", "--stock=1"],
            ["firstcome", "sale", "--users=1", "--stock=1", "--json"],
        ] {
            assert!(Arguments::try_parse_from(line).unwrap().json);
        }
    }

    #[test]
    fn a_planned_sale_is_given_whole_or_not_at_all() {
        let parse = |line: &str| Arguments::try_parse_from(line.split(' '));
        let sale = |line: &str| match parse(line).unwrap().command {
            Command::Doctor(plan) => plan
                .sale
                .map(|sale| [sale.users, sale.stock, sale.window_seconds]),
            other => panic!("{other:?}"),
        };
        assert_eq!(sale("firstcome doctor"), None);
        let whole = "firstcome doctor --users 3 --stock 2 --window-seconds 1";
        assert_eq!(sale(whole), Some([3, 2, 1]));
        assert!(parse("firstcome doctor --users 3").is_err());
        assert!(parse("firstcome doctor --stock 2 --window-seconds 1").is_err());
    }

    #[test]
    fn pollers_are_within_what_a_queue_may_have() {
        let good = |line: &str| Arguments::try_parse_from(line.split(' ')).is_ok();
        assert!(good("firstcome pollers on --min 2 --max 10000"));
        assert!(!good("firstcome pollers on --min 1 --max 2"));
        assert!(!good("firstcome pollers on --min 201 --max 300"));
        assert!(!good("firstcome pollers on --min 2"));
    }
}
