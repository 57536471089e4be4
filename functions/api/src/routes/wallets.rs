//! Points: what a wallet holds, its ledger, and what moves them. Each movement is carried out once per
//! `Idempotency-Key`; what must be atomic is the domain's ([`Teller`]).

use std::sync::Arc;

use axum::{Extension, Json, extract::State, http::HeaderMap, response::IntoResponse};
use firstcome_core::{
    Amount, Carried, Entry, EntryReason, Holder, InvalidValue, Operation, Order, PartnerId,
    Refusal, Teller, Timestamp, UserId, WalletBook, sha256_hex,
};
use serde::{Deserialize, Serialize};

use super::Answer;
use crate::{
    handler::{Api, Ports},
    problem::Problem,
    request::{Body, Cursor, PathIds, required_key},
};

/// How many entries make a page.
const PAGE: u16 = 50;

/// Points for a user.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewEarning {
    amount: Amount,
    /// The first instant at which they are gone; later than now. Default: never.
    expires_at: Option<Timestamp>,
    reason: EntryReason,
}

/// Points that a user spends.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct NewSpending {
    amount: Amount,
    reason: EntryReason,
}

/// Points from one user to another.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewTransfer {
    from_user_id: UserId,
    /// Another user than `fromUserId`.
    to_user_id: UserId,
    amount: Amount,
}

/// What a user has.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "Wallet"))]
#[serde(rename_all = "camelCase")]
pub(crate) struct WalletView {
    #[cfg_attr(test, schemars(range(max = firstcome_core::MAX_BALANCE)))]
    balance: u64,
    /// How many points expire next, and when; `null` if none do.
    expiring_next: Option<Expiring>,
}

#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
struct Expiring {
    amount: u64,
    expires_at: Timestamp,
}

/// A page of a wallet's ledger, newest entry first.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "EntryPage"))]
pub(crate) struct EntriesView {
    entries: Vec<Entry>,
    /// The cursor of the following page; left out on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

pub(crate) async fn show<P: Ports>(
    State(api): State<Arc<Api<P>>>,
    Extension(partner): Extension<PartnerId>,
    ids: PathIds,
) -> Answer {
    let wallet = teller(&api).settled(&holder(partner, ids.user()?)).await?;
    let expiring_next = wallet
        .expiring_next()
        .map(|(expires_at, amount)| Expiring { amount, expires_at });
    Ok(Json(WalletView {
        balance: wallet.balance,
        expiring_next,
    })
    .into_response())
}

pub(crate) async fn entries<P: Ports>(
    State(api): State<Arc<Api<P>>>,
    Extension(partner): Extension<PartnerId>,
    ids: PathIds,
    cursor: Cursor,
) -> Answer {
    let holder = holder(partner, ids.user()?);
    let of = [
        "entries",
        holder.partner_id.as_str(),
        holder.user_id.as_str(),
    ];
    let before = api.cursors.open(&of, cursor)?;
    if before.is_none() {
        // What has expired is entered first, so that the ledger adds up to what the wallet shows.
        teller(&api).settled(&holder).await?;
    }
    let page = api.wallets.entries(&holder, before.as_ref(), PAGE).await?;
    let entries = page.entries;
    let next = page.next.map(|next| api.cursors.close(&of, next.as_str()));
    Ok(Json(EntriesView { entries, next }).into_response())
}

pub(crate) async fn earn<P: Ports>(
    State(api): State<Arc<Api<P>>>,
    Extension(partner): Extension<PartnerId>,
    ids: PathIds,
    headers: HeaderMap,
    Body {
        value,
        sha256: body,
    }: Body<NewEarning>,
) -> Answer {
    let NewEarning {
        amount,
        expires_at,
        reason,
    } = value;
    let holder = holder(partner, ids.user()?);
    let request = Request {
        partner: holder.partner_id.clone(),
        route: ["earn", holder.user_id.as_str()].join("\n"),
        body,
    };
    let order = Order::Earn {
        holder,
        amount,
        expires_at,
        reason,
    };
    carry_out(&api, &headers, request, &order).await
}

pub(crate) async fn spend<P: Ports>(
    State(api): State<Arc<Api<P>>>,
    Extension(partner): Extension<PartnerId>,
    ids: PathIds,
    headers: HeaderMap,
    Body {
        value: NewSpending { amount, reason },
        sha256: body,
    }: Body<NewSpending>,
) -> Answer {
    let holder = holder(partner, ids.user()?);
    let request = Request {
        partner: holder.partner_id.clone(),
        route: ["use", holder.user_id.as_str()].join("\n"),
        body,
    };
    let order = Order::Use {
        holder,
        amount,
        reason,
    };
    carry_out(&api, &headers, request, &order).await
}

pub(crate) async fn transfer<P: Ports>(
    State(api): State<Arc<Api<P>>>,
    Extension(partner): Extension<PartnerId>,
    headers: HeaderMap,
    Body {
        value,
        sha256: body,
    }: Body<NewTransfer>,
) -> Answer {
    let NewTransfer {
        from_user_id: from,
        to_user_id: to,
        amount,
    } = value;
    if from == to {
        return Err(InvalidValue {
            field: "toUserId",
            expected: "another user than fromUserId",
        }
        .into());
    }
    let request = Request {
        partner: partner.clone(),
        route: "transfer".to_owned(),
        body,
    };
    let order = Order::Transfer {
        partner_id: partner,
        from,
        to,
        amount,
    };
    carry_out(&api, &headers, request, &order).await
}

/// By what a repeat is recognized.
struct Request {
    partner: PartnerId,
    /// The route's name and the ids in its path.
    route: String,
    /// SHA-256 of the body, in hex.
    body: String,
}

async fn carry_out<P: Ports>(
    api: &Api<P>,
    headers: &HeaderMap,
    request: Request,
    order: &Order,
) -> Answer {
    let key = required_key(headers)?;
    let operation = Operation {
        partner_id: request.partner,
        key_sha256: sha256_hex(key.as_str().as_bytes()),
        request_sha256: sha256_hex(format!("{}\n{}", request.route, request.body).as_bytes()),
        attempt: api.entropy.bits(),
    };
    match teller(api).carry_out(order, &operation).await? {
        Carried::Entered(entry) => Ok(Json(entry).into_response()),
        Carried::Refused(refusal) => Err(refused(refusal)),
        Carried::InProgress => Err(Problem::in_progress()),
        Carried::Mismatch => Err(Problem::idempotency_mismatch()),
        Carried::PastExpiry => Err(InvalidValue {
            field: "expiresAt",
            expected: "later than now",
        }
        .into()),
    }
}

fn teller<P: Ports>(api: &Api<P>) -> Teller<'_, P::Wallets> {
    Teller {
        book: &api.wallets,
        entropy: &*api.entropy,
        now: api.clock.now(),
    }
}

fn holder(partner_id: PartnerId, user_id: UserId) -> Holder {
    Holder {
        partner_id,
        user_id,
    }
}

/// 409: the wallet cannot give or take what was asked for.
pub(super) fn refused(refusal: Refusal) -> Problem {
    let detail = match refusal {
        Refusal::InsufficientPoints => "the wallet holds too few points",
        Refusal::BalanceLimit => "the wallet would hold more than 9007199254740991 points",
        Refusal::TooManyLots => "the wallet holds too many single lots for this at once",
    };
    Problem::conflict(refusal.as_str(), detail)
}
