//! `firstcome partner`: create partners, rotate and revoke their keys. A key is printed once and never logged.

use firstcome_core::aws::operator::{NewPartner, Operator, OperatorError, StoredKey};
use firstcome_core::{PartnerId, Scope};
use serde_json::json;

use crate::CommandError;
use crate::arguments::PartnerCommand;
use crate::terminal::Terminal;

pub(crate) async fn run(
    command: &PartnerCommand,
    stack: &str,
    terminal: &Terminal,
) -> Result<(), CommandError> {
    let operator = Operator::find(stack).await?;
    match command {
        PartnerCommand::Create { name, scopes } => create(&operator, name, scopes, terminal).await,
        PartnerCommand::Rotate { partner, scopes } => {
            rotate(&operator, partner, scopes, terminal).await
        }
        PartnerCommand::Revoke { key } => revoke(&operator, key, terminal).await,
    }
}

async fn create(
    operator: &Operator,
    name: &str,
    scopes: &[Scope],
    terminal: &Terminal,
) -> Result<(), CommandError> {
    let scopes = if scopes.is_empty() {
        &Scope::ALL
    } else {
        scopes
    };
    let partner = operator.create_partner(name, scopes, None).await?;
    show(&partner, terminal);
    Ok(())
}

async fn rotate(
    operator: &Operator,
    partner: &str,
    scopes: &[Scope],
    terminal: &Terminal,
) -> Result<(), CommandError> {
    let partner = PartnerId::new(partner).map_err(OperatorError::from)?;
    let active: Vec<_> = operator
        .keys(&partner)
        .await?
        .into_iter()
        .filter(|key| key.active)
        .collect();
    let wanted = if scopes.is_empty() {
        scopes_of(&active)
    } else {
        scopes.to_vec()
    };
    if wanted.is_empty() {
        let message = format!(
            "partner {partner} has no active key to take the scopes from: name them with --scopes"
        );
        return Err(CommandError::Usage(message));
    }
    let fresh = operator.add_key(&partner, &wanted).await?;
    let old: Vec<&str> = active.iter().map(|key| key.key_id.as_str()).collect();
    if terminal.speaks_json() {
        let answer = json!({"partnerId": fresh.partner_id.as_str(), "apiKey": fresh.api_key, "olderKeys": old});
        terminal.print_json(&answer);
    } else {
        show(&fresh, terminal);
        for key in old {
            terminal.say(&format!(
                "still good:  {key}  (firstcome partner revoke --key {key})"
            ));
        }
    }
    Ok(())
}

fn scopes_of(keys: &[StoredKey]) -> Vec<Scope> {
    Scope::ALL
        .into_iter()
        .filter(|scope| keys.iter().any(|key| key.scopes.contains(scope)))
        .collect()
}

async fn revoke(operator: &Operator, key: &str, terminal: &Terminal) -> Result<(), CommandError> {
    operator.revoke_key(key).await?;
    if terminal.speaks_json() {
        terminal.print_json(&json!({"keyId": key, "status": "revoked"}));
    } else {
        terminal.say(&format!("revoked:     {key}"));
    }
    Ok(())
}

fn show(partner: &NewPartner, terminal: &Terminal) {
    if terminal.speaks_json() {
        terminal.print_json(
            &json!({"partnerId": partner.partner_id.as_str(), "apiKey": partner.api_key}),
        );
    } else {
        terminal.say(&format!("partner:     {}", partner.partner_id));
        terminal.say(&format!("API key:     {}  (shown once)", partner.api_key));
    }
}
