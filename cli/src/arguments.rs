//! The command line, as clap reads it. Names are public (README.md, Makefile).

use clap::{Args, Parser, Subcommand};
use firstcome_core::Scope;

/// First-come-first-served coupons on AWS: partners' keys, and a whole flash sale as a load test.
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
    },
    /// Give a partner a new key; the old ones work until they are revoked
    Rotate {
        /// The partner's id
        #[arg(long, value_name = "ID")]
        partner: String,
        /// What the new key may be used for [default: what the active ones may]
        #[arg(long, value_delimiter = ',', value_parser = scope, value_name = "SCOPE,…")]
        scopes: Vec<Scope>,
    },
    /// Revoke a key
    Revoke {
        /// The key's id: the part between the underscores of fck_<id>_<secret>
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

fn scope(text: &str) -> Result<Scope, String> {
    let known = || Scope::ALL.map(Scope::as_str).join(", ");
    let found = Scope::ALL.into_iter().find(|scope| scope.as_str() == text);
    found.ok_or_else(|| format!("a scope is one of {}", known()))
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
    fn an_unknown_scope_is_answered_with_the_known_ones() {
        assert_eq!(scope("tickets"), Ok(Scope::Tickets));
        assert!(
            scope("ticket")
                .unwrap_err()
                .contains("campaigns, tickets, claims")
        );
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
}
