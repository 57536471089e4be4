//! Partners and their API keys, of which only hashes are kept.

use aws_sdk_dynamodb::{
    error::ProvideErrorMetadata,
    types::{AttributeValue, Put, TransactWriteItem},
};
use ulid::Ulid;

use super::{Item, Operator, OperatorError, now, text};
use crate::{ApiKey, InvalidValue, PartnerId, Scope, Timestamp, is_obeyed, leaves_no_ink};

/// A new partner and the one time its key is seen. No `Debug`: it holds the key.
pub struct NewPartner {
    /// The partner.
    pub partner_id: PartnerId,
    /// The part of the key that may be logged; `revoke_key` takes it.
    pub key_id: String,
    /// The key.
    pub api_key: String,
}

/// What is kept of a partner's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredKey {
    /// The key's public part.
    pub key_id: String,
    /// What it may be used for.
    pub scopes: Vec<Scope>,
    /// Whether it still opens the door, its expiry aside.
    pub active: bool,
    /// The first instant at which it no longer works.
    pub expires_at: Option<Timestamp>,
}

/// A partner as it was created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredPartner {
    /// The partner's id.
    pub partner_id: PartnerId,
    /// What people call it.
    pub name: String,
    /// When it was created.
    pub created_at: Timestamp,
}

/// The most characters of a partner's name.
const MAX_NAME: usize = 200;

/// What people may call a partner: the text without the spaces around it.
///
/// # Errors
/// [`InvalidValue`] if nobody would see it, it is too long, or it holds what a terminal would not show.
pub fn partner_name(text: &str) -> Result<&str, InvalidValue> {
    let name = text.trim();
    let is_seen = !name.chars().all(leaves_no_ink) && !name.chars().any(is_obeyed);
    let fits = is_seen && name.chars().count() <= MAX_NAME;
    fits.then_some(name).ok_or(InvalidValue {
        field: "name",
        expected: "1 to 200 characters, at least one of them visible, none of them a control character",
    })
}

/// When a key may end: not before it begins.
///
/// # Errors
/// [`InvalidValue`] if that is past.
pub fn key_end(end: Option<Timestamp>, now: Timestamp) -> Result<Option<Timestamp>, InvalidValue> {
    let past = end.is_some_and(|end| end <= now);
    (!past).then_some(end).ok_or(InvalidValue {
        field: "expiresAt",
        expected: "in the future",
    })
}

impl Operator {
    /// Creates a partner with one key.
    ///
    /// # Errors
    /// [`OperatorError`] if the name or the key's end is none, or randomness or the call fails.
    pub async fn create_partner(
        &self,
        name: &str,
        scopes: &[Scope],
        expires_at: Option<Timestamp>,
    ) -> Result<NewPartner, OperatorError> {
        let now = now();
        let (name, expires_at) = (partner_name(name)?, key_end(expires_at, now)?);
        let id = Ulid::from_parts(now.millis().unsigned_abs(), random_u128()?);
        let partner_id = PartnerId::new(id.to_string())?;
        let (key, key_item) = new_key(&partner_id, scopes, expires_at)?;
        let partner_item = Item::from([
            ("pk".to_owned(), AttributeValue::S("PARTNER".to_owned())),
            ("sk".to_owned(), AttributeValue::S(partner_id.to_string())),
            ("name".to_owned(), AttributeValue::S(name.to_owned())),
            ("createdAt".to_owned(), AttributeValue::S(now.to_string())),
        ]);
        self.put_new_partner_items([partner_item, key_item]).await?;
        Ok(NewPartner {
            partner_id,
            key_id: key.key_id().to_owned(),
            api_key: key.reveal(),
        })
    }

    /// Every partner, by id and therefore by age.
    ///
    /// # Errors
    /// [`OperatorError`] if a call fails or an item is malformed.
    pub async fn partners(&self) -> Result<Vec<StoredPartner>, OperatorError> {
        let mut pages = self
            .dynamo
            .query()
            .table_name(&self.stack.partners_table)
            .consistent_read(true)
            .key_condition_expression("pk = :partners")
            .expression_attribute_values(":partners", AttributeValue::S("PARTNER".to_owned()))
            .into_paginator()
            .items()
            .send();
        let mut partners = Vec::new();
        while let Some(item) = pages.next().await {
            let item = item.map_err(|error| self.failed("list the partners", error))?;
            partners.push(stored_partner(&item)?);
        }
        Ok(partners)
    }

    /// Gives a partner one more key; those it has stay good until they are revoked or expire.
    ///
    /// # Errors
    /// [`OperatorError`] if there is no such partner, the key's end is past, or randomness or a call fails.
    pub async fn add_key(
        &self,
        partner: &PartnerId,
        scopes: &[Scope],
        expires_at: Option<Timestamp>,
    ) -> Result<NewPartner, OperatorError> {
        let expires_at = key_end(expires_at, now())?;
        let found = self
            .find_item(&self.stack.partners_table, "PARTNER", partner.as_str())
            .await?;
        found.ok_or_else(|| OperatorError::MissingItem(format!("partner {partner}")))?;
        let (key, item) = new_key(partner, scopes, expires_at)?;
        self.put_new_partner_items([item]).await?;
        Ok(NewPartner {
            partner_id: partner.clone(),
            key_id: key.key_id().to_owned(),
            api_key: key.reveal(),
        })
    }

    /// Every key of a partner. Scans the table: there is no index from a partner to its keys.
    ///
    /// # Errors
    /// [`OperatorError`] if a call fails or an item is malformed.
    pub async fn keys(&self, partner: &PartnerId) -> Result<Vec<StoredKey>, OperatorError> {
        let mut pages = self
            .dynamo
            .scan()
            .table_name(&self.stack.partners_table)
            .consistent_read(true)
            .filter_expression("sk = :key AND partnerId = :partner")
            .expression_attribute_values(":key", AttributeValue::S("KEY".to_owned()))
            .expression_attribute_values(":partner", AttributeValue::S(partner.to_string()))
            .into_paginator()
            .items()
            .send();
        let mut keys = Vec::new();
        while let Some(item) = pages.next().await {
            keys.push(stored_key(
                &item.map_err(|error| self.failed("scan the keys", error))?,
            )?);
        }
        Ok(keys)
    }

    /// Revokes a key; again is harmless. Functions that hold it in their caches honour it for up to a minute more.
    ///
    /// # Errors
    /// [`OperatorError`] if there is no such key or the call fails.
    pub async fn revoke_key(&self, key_id: &str) -> Result<(), OperatorError> {
        self.set_on_key(key_id, "status", "revoked").await
    }

    /// Sets the first instant at which a key no longer works, in place of any it had.
    ///
    /// # Errors
    /// As for [`Self::revoke_key`].
    pub async fn expire_key(&self, key_id: &str, at: Timestamp) -> Result<(), OperatorError> {
        self.set_on_key(key_id, "expiresAt", &at.to_string()).await
    }

    async fn set_on_key(
        &self,
        key_id: &str,
        attribute: &str,
        value: &str,
    ) -> Result<(), OperatorError> {
        let update = self
            .dynamo
            .update_item()
            .table_name(&self.stack.partners_table)
            .key("pk", AttributeValue::S(format!("KEY#{key_id}")))
            .key("sk", AttributeValue::S("KEY".to_owned()))
            .update_expression("SET #attribute = :value")
            .condition_expression("attribute_exists(pk)")
            .expression_attribute_names("#attribute", attribute)
            .expression_attribute_values(":value", AttributeValue::S(value.to_owned()));
        match update.send().await {
            Ok(_) => Ok(()),
            Err(error) if error.code() == Some("ConditionalCheckFailedException") => {
                Err(OperatorError::MissingItem(format!("key {key_id}")))
            }
            Err(error) => Err(self.failed("change the key", error)),
        }
    }

    async fn put_new_partner_items<const N: usize>(
        &self,
        items: [Item; N],
    ) -> Result<(), OperatorError> {
        const OPERATION: &str = "store the partner's key";
        let mut transaction = self.dynamo.transact_write_items();
        for item in items {
            let put = Put::builder()
                .table_name(&self.stack.partners_table)
                .set_item(Some(item))
                .condition_expression("attribute_not_exists(pk)")
                .build()
                .map_err(|error| OperatorError::Call {
                    operation: OPERATION,
                    message: error.to_string(),
                })?;
            transaction = transaction.transact_items(TransactWriteItem::builder().put(put).build());
        }
        transaction
            .send()
            .await
            .map(|_| ())
            .map_err(|error| self.failed(OPERATION, error))
    }
}

/// A new key and the item that is kept of it (only a hash of the secret).
fn new_key(
    partner: &PartnerId,
    scopes: &[Scope],
    expires_at: Option<Timestamp>,
) -> Result<(ApiKey, Item), OperatorError> {
    let id = getrandom::u64().map_err(OperatorError::Randomness)?;
    let key = ApiKey::from_random(id, [random_u128()?, random_u128()?]);
    let scopes = scopes
        .iter()
        .map(|scope| AttributeValue::S(scope.as_str().to_owned()))
        .collect();
    let mut item = Item::from([
        (
            "pk".to_owned(),
            AttributeValue::S(format!("KEY#{}", key.key_id())),
        ),
        ("sk".to_owned(), AttributeValue::S("KEY".to_owned())),
        (
            "partnerId".to_owned(),
            AttributeValue::S(partner.to_string()),
        ),
        ("sha256".to_owned(), AttributeValue::S(key.secret_sha256())),
        ("scopes".to_owned(), AttributeValue::L(scopes)),
        ("status".to_owned(), AttributeValue::S("active".to_owned())),
    ]);
    if let Some(end) = expires_at {
        item.insert("expiresAt".to_owned(), AttributeValue::S(end.to_string()));
    }
    Ok((key, item))
}

fn random_u128() -> Result<u128, OperatorError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(OperatorError::Randomness)?;
    Ok(u128::from_be_bytes(bytes))
}

fn stored_partner(item: &Item) -> Result<StoredPartner, OperatorError> {
    let id = text(item, "a partner", "sk")?;
    Ok(StoredPartner {
        partner_id: PartnerId::new(id)?,
        name: text(item, id, "name")?.to_owned(),
        created_at: Timestamp::parse(text(item, id, "createdAt")?)?,
    })
}

fn stored_key(item: &Item) -> Result<StoredKey, OperatorError> {
    let key = text(item, "a key", "pk")?;
    let malformed = |attribute| OperatorError::MalformedItem {
        item: key.to_owned(),
        attribute,
    };
    let names = item
        .get("scopes")
        .and_then(|value| value.as_l().ok())
        .ok_or_else(|| malformed("scopes"))?;
    let scope = |name: &AttributeValue| {
        Scope::ALL
            .into_iter()
            .find(|scope| name.as_s().is_ok_and(|text| text == scope.as_str()))
    };
    Ok(StoredKey {
        key_id: key
            .strip_prefix("KEY#")
            .ok_or_else(|| malformed("pk"))?
            .to_owned(),
        scopes: names.iter().filter_map(scope).collect(),
        active: text(item, key, "status")? == "active",
        expires_at: match item.get("expiresAt") {
            Some(_) => Some(Timestamp::parse(text(item, key, "expiresAt")?)?),
            None => None,
        },
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::operator;
    use super::*;
    use crate::aws::replay::requests;

    #[test]
    fn a_name_can_be_read_aloud() {
        assert_eq!(partner_name("  Acme & Söhne "), Ok("Acme & Söhne"));
        assert_eq!(partner_name("家族 👨‍👩‍👧"), Ok("家族 👨‍👩‍👧"));
        let long = "n".repeat(201);
        for bad in [
            "",
            "  ",
            "a\nb",
            "a\u{1b}[2Jb",
            "a\u{9b}b",
            "a\u{202e}b",
            "a\u{200e}b",
            "a\u{200f}b",
            "a\u{61c}b",
            "\u{200b}",
            "\u{feff}",
            "\u{200d}\u{fe0f} \u{ad}",
            "\u{3164}",
            &long,
        ] {
            assert!(partner_name(bad).is_err(), "{bad:?}");
        }
        assert!(partner_name(&long[1..]).is_ok());
    }

    #[test]
    fn a_key_ends_later_than_now() {
        let now = now();
        let at = |millis: i64| Some(Timestamp::from_millis(now.millis() + millis));
        assert!(key_end(at(-1), now).is_err());
        assert!(key_end(at(0), now).is_err(), "it would never open a door");
        assert_eq!(key_end(at(1), now), Ok(at(1)));
        assert_eq!(key_end(None, now), Ok(None));
    }

    #[tokio::test]
    async fn nothing_is_stored_of_a_partner_without_a_name_or_of_a_key_that_has_ended() {
        let (operator, http) = operator(&[]);
        let ended = Some(now().plus_seconds(-1));
        let acme = PartnerId::new("acme").unwrap();
        let unnamed = operator.create_partner(" ", &Scope::ALL, None).await;
        let past = operator.create_partner("Acme", &Scope::ALL, ended).await;
        let rotated = operator.add_key(&acme, &Scope::ALL, ended).await;
        for refused in [unnamed, past, rotated] {
            assert!(matches!(
                refused.err(),
                Some(OperatorError::InvalidValue(_))
            ));
        }
        assert!(requests(&http).is_empty());
    }

    #[tokio::test]
    async fn a_key_that_ends_later_is_stored() {
        let (operator, http) = operator(&[(200, json!({}))]);
        let later = Some(now().plus_seconds(60));
        let made = operator.create_partner("Acme", &Scope::ALL, later).await;
        assert!(made.is_ok());
        assert_eq!(requests(&http)[0].0, "TransactWriteItems");
    }

    #[test]
    fn a_stored_key_holds_a_hash_and_not_the_secret() {
        let partner = PartnerId::new("acme").unwrap();
        let end = Some(Timestamp::from_millis(1_790_000_000_000));
        let (key, item) = new_key(&partner, &[Scope::Tickets], end).unwrap();
        assert_eq!(text(&item, "key", "sha256").unwrap(), key.secret_sha256());
        let revealed = key.reveal();
        let secret = revealed.rsplit('_').next().unwrap();
        assert!(!format!("{item:?}").contains(secret));
        assert_eq!(
            stored_key(&item).unwrap(),
            StoredKey {
                key_id: key.key_id().to_owned(),
                scopes: vec![Scope::Tickets],
                active: true,
                expires_at: end,
            }
        );
    }
}
