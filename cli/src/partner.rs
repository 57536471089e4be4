//! `firstcome partner`: create and list partners, rotate and revoke their keys. A key is printed once and never logged.

use std::sync::{Arc, Mutex, PoisonError};

use firstcome_core::aws::operator::{
    NewPartner, Operator, OperatorError, StoredKey, key_end, partner_name,
};
use firstcome_core::{ApiKey, Clock, PartnerId, Scope, SystemClock, Timestamp};
use serde_json::json;

use crate::CommandError;
use crate::arguments::PartnerCommand;
use crate::terminal::Terminal;
use crate::undo::Undo;

pub(crate) async fn run(
    command: &PartnerCommand,
    stack: &str,
    terminal: &Terminal,
    undo: &Undo,
) -> Result<(), CommandError> {
    judge(command)?;
    let operator = Operator::find(stack).await?;
    match command {
        PartnerCommand::Create {
            name,
            scopes,
            expires_at,
        } => create(&operator, name, scopes, *expires_at, terminal).await,
        PartnerCommand::List { partner: None } => list(&operator, terminal).await,
        PartnerCommand::List {
            partner: Some(partner),
        } => list_keys(&operator, partner, terminal).await,
        PartnerCommand::Rotate {
            partner,
            scopes,
            expires_at,
            overlap,
        } => {
            let partner = PartnerId::new(partner).map_err(OperatorError::from)?;
            let rotation = Rotation {
                partner,
                scopes,
                expires_at: *expires_at,
                overlap: *overlap,
            };
            rotate(&operator, &rotation, terminal, undo).await
        }
        PartnerCommand::Revoke { key } => revoke(&operator, &key_id(key)?, terminal).await,
    }
}

/// Refuses what no stack has to be asked about.
fn judge(command: &PartnerCommand) -> Result<(), CommandError> {
    let now = SystemClock.now();
    match command {
        PartnerCommand::Create {
            name, expires_at, ..
        } => {
            partner_name(name).map_err(OperatorError::from)?;
            refuse_past(*expires_at, now)
        }
        PartnerCommand::Rotate { expires_at, .. } => refuse_past(*expires_at, now),
        PartnerCommand::Revoke { key } => key_id(key).map(drop),
        PartnerCommand::List { .. } => Ok(()),
    }
}

fn refuse_past(end: Option<Timestamp>, now: Timestamp) -> Result<(), CommandError> {
    let refused =
        |_| CommandError::Usage("--expires-at is past: the key would never work".to_owned());
    key_end(end, now).map(drop).map_err(refused)
}

/// The id of a key that was given as its id or whole. What is neither may hold a secret all the same, and is not repeated.
fn key_id(text: &str) -> Result<String, CommandError> {
    let text = text.trim();
    if let Some(key) = ApiKey::parse(text) {
        return Ok(key.key_id().to_owned());
    }
    let is_id = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let message =
        "--key is no key's id: that is the 16 digits between the underscores of fck_<id>_<secret>";
    is_id
        .then(|| text.to_owned())
        .ok_or_else(|| CommandError::Usage(message.to_owned()))
}

async fn create(
    operator: &Operator,
    name: &str,
    scopes: &[Scope],
    expires_at: Option<Timestamp>,
    terminal: &Terminal,
) -> Result<(), CommandError> {
    let scopes = if scopes.is_empty() {
        &Scope::ALL
    } else {
        scopes
    };
    let partner = operator.create_partner(name, scopes, expires_at).await?;
    show(&partner, terminal);
    Ok(())
}

async fn list(operator: &Operator, terminal: &Terminal) -> Result<(), CommandError> {
    let partners = operator.partners().await?;
    if terminal.speaks_json() {
        let partners: Vec<_> = partners
            .iter()
            .map(|partner| {
                json!({"partnerId": partner.partner_id, "name": partner.name, "createdAt": partner.created_at})
            })
            .collect();
        terminal.print_json(&json!({"partners": partners}));
    } else {
        for partner in partners {
            let (id, since) = (&partner.partner_id, partner.created_at);
            terminal.say(&format!("{id}  since {since}  {}", partner.name));
        }
    }
    Ok(())
}

async fn list_keys(
    operator: &Operator,
    partner: &str,
    terminal: &Terminal,
) -> Result<(), CommandError> {
    let partner = PartnerId::new(partner).map_err(OperatorError::from)?;
    let keys = operator.keys(&partner).await?;
    let now = SystemClock.now();
    if terminal.speaks_json() {
        let keys: Vec<_> = keys
            .iter()
            .map(|key| {
                json!({
                    "keyId": key.key_id, "status": status(key, now), "scopes": names(&key.scopes),
                    "expiresAt": key.expires_at,
                })
            })
            .collect();
        terminal.print_json(&json!({"partnerId": partner, "keys": keys}));
    } else {
        for key in keys {
            let end = key.expires_at.map(|end| format!("  until {end}"));
            terminal.say(&format!(
                "{}  {:<7}  {}{}",
                key.key_id,
                status(&key, now),
                names(&key.scopes).join(","),
                end.unwrap_or_default()
            ));
        }
    }
    Ok(())
}

fn status(key: &StoredKey, now: Timestamp) -> &'static str {
    if !key.active {
        "revoked"
    } else if key.expires_at.is_some_and(|end| end <= now) {
        "expired"
    } else {
        "active"
    }
}

fn names(scopes: &[Scope]) -> Vec<&'static str> {
    scopes.iter().map(|scope| scope.as_str()).collect()
}

/// Whose keys to rotate, and how.
struct Rotation<'a> {
    partner: PartnerId,
    scopes: &'a [Scope],
    expires_at: Option<Timestamp>,
    overlap: Option<u32>,
}

async fn rotate(
    operator: &Operator,
    rotation: &Rotation<'_>,
    terminal: &Terminal,
    undo: &Undo,
) -> Result<(), CommandError> {
    let partner = &rotation.partner;
    let now = SystemClock.now();
    let active: Vec<_> = operator
        .keys(partner)
        .await?
        .into_iter()
        .filter(|key| status(key, now) == "active")
        .collect();
    let wanted = if rotation.scopes.is_empty() {
        scopes_of(&active)
    } else {
        rotation.scopes.to_vec()
    };
    if wanted.is_empty() {
        let message = format!(
            "partner {partner} has no active key to take the scopes from: name them with --scopes"
        );
        return Err(CommandError::Usage(message));
    }
    let fresh = operator
        .add_key(partner, &wanted, rotation.expires_at)
        .await?;
    let end = rotation
        .overlap
        .map(|seconds| now.plus_seconds(i64::from(seconds)));
    // Shown before the older keys are touched: whatever happens to them, nobody could ask for the new key again.
    if terminal.speaks_json() {
        let old: Vec<&str> = active.iter().map(|key| key.key_id.as_str()).collect();
        let answer = json!({
            "partnerId": fresh.partner_id.as_str(), "apiKey": fresh.api_key, "olderKeys": old,
            "olderKeysExpireAt": end,
        });
        terminal.print_json(&answer);
    } else {
        show(&fresh, terminal);
    }
    match end {
        Some(end) => shorten(operator, &active, end, terminal, undo).await,
        None => {
            for key in &active {
                let revoke = format!("(firstcome partner revoke --key {})", key.key_id);
                still_good(key, &revoke, terminal);
            }
            Ok(())
        }
    }
}

/// Ends older keys, and says so of each once it is done. One that fails keeps none of the others alive; if this fails or is cut
/// short, those are named that may live on.
async fn shorten(
    operator: &Operator,
    keys: &[StoredKey],
    end: Timestamp,
    terminal: &Terminal,
    undo: &Undo,
) -> Result<(), CommandError> {
    let long = keys.iter().filter(|key| ends_later(key, end));
    let left = Arc::new(Mutex::new(
        long.map(|key| key.key_id.clone()).collect::<Vec<_>>(),
    ));
    let unended = Arc::clone(&left);
    undo.note(move || {
        let unended = unended.lock().unwrap_or_else(PoisonError::into_inner);
        let named = unended.join(", ");
        (!unended.is_empty()).then(|| {
            format!("older keys that may live on: {named} (firstcome partner revoke --key …)")
        })
    });
    let mut failure = None;
    for key in keys {
        if ends_later(key, end) {
            if let Err(error) = operator.expire_key(&key.key_id, end).await {
                failure = failure.or(Some(error));
                continue;
            }
            let mut left = left.lock().unwrap_or_else(PoisonError::into_inner);
            left.retain(|id| *id != key.key_id);
        }
        still_good(key, &format!("until {end} at the latest"), terminal);
    }
    failure.map_or(Ok(()), |error| Err(error.into()))
}

/// The JSON object has all keys already.
fn still_good(key: &StoredKey, until: &str, terminal: &Terminal) {
    if !terminal.speaks_json() {
        terminal.say(&format!("still good:  {}  {until}", key.key_id));
    }
}

/// A rotation never lengthens a key's life.
fn ends_later(key: &StoredKey, end: Timestamp) -> bool {
    key.expires_at.is_none_or(|stands| end < stands)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn key(active: bool, expires_at: Option<i64>) -> StoredKey {
        StoredKey {
            key_id: "k".into(),
            scopes: vec![Scope::Points, Scope::Tickets],
            active,
            expires_at: expires_at.map(Timestamp::from_millis),
        }
    }

    #[test]
    fn a_whole_key_is_taken_by_its_id_and_nothing_else_is_repeated() {
        let whole = ApiKey::from_random(1, [2, 3]);
        for text in [whole.reveal(), format!(" {}\n", whole.key_id())] {
            assert_eq!(key_id(&text).unwrap(), whole.key_id());
        }
        let secret = whole.reveal().split_off(21);
        let short = whole.reveal()[..80].to_owned();
        for text in [
            secret.as_str(),
            &short,
            &short.to_uppercase(),
            "",
            "0123456789ABCDEF",
        ] {
            let error = key_id(text).unwrap_err().to_string();
            assert!(text.is_empty() || !error.contains(text), "{error}");
        }
    }

    #[test]
    fn a_key_is_revoked_expired_or_active() {
        let now = Timestamp::from_millis(1000);
        for (of, expected) in [
            (key(true, None), "active"),
            (key(true, Some(1001)), "active"),
            (key(true, Some(1000)), "expired"),
            (key(false, None), "revoked"),
        ] {
            assert_eq!(status(&of, now), expected);
        }
        assert_eq!(
            scopes_of(&[key(true, None)]),
            [Scope::Tickets, Scope::Points]
        );
    }

    #[test]
    fn a_rotation_never_lengthens_a_keys_life() {
        let end = Timestamp::from_millis(1000);
        assert!(ends_later(&key(true, None), end));
        assert!(ends_later(&key(true, Some(1001)), end));
        assert!(!ends_later(&key(true, Some(999)), end));
    }
}
