//! Points: what a wallet holds, its ledger, and what moves them. Each movement is carried out once per
//! `Idempotency-Key`; what must be atomic is the domain's ([`Teller`]).

use std::sync::Arc;

use axum::{Extension, Json, extract::State, http::HeaderMap, response::IntoResponse};
use firstcome_core::{
    Amount, Carried, EntryReason, Holder, InvalidValue, Operation, Order, PartnerId, Refusal,
    Teller, Timestamp, UserId, WalletBook, sha256_hex,
};
use serde::Deserialize;
use serde_json::json;

use super::Answer;
use crate::{
    handler::{Api, Ports},
    problem::Problem,
    request::{Body, Cursor, PathIds, required_key},
};

/// How many entries make a page.
const PAGE: u16 = 50;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewEarning {
    amount: Amount,
    expires_at: Option<Timestamp>,
    reason: EntryReason,
}

#[derive(Deserialize)]
pub(crate) struct NewSpending {
    amount: Amount,
    reason: EntryReason,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewTransfer {
    from_user_id: UserId,
    to_user_id: UserId,
    amount: Amount,
}

pub(crate) async fn show<P: Ports>(
    State(api): State<Arc<Api<P>>>,
    Extension(partner): Extension<PartnerId>,
    ids: PathIds,
) -> Answer {
    let wallet = teller(&api).settled(&holder(partner, ids.user()?)).await?;
    let next = wallet
        .expiring_next()
        .map(|(at, amount)| json!({"amount": amount, "expiresAt": at}));
    let body = json!({"balance": wallet.balance, "expiringNext": next});
    Ok(Json(body).into_response())
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
    let mut body = json!({"entries": page.entries});
    if let Some(next) = &page.next {
        body["next"] = api.cursors.close(&of, next.as_str()).into();
    }
    Ok(Json(body).into_response())
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
