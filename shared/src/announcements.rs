//! The announcements a campaign makes by itself. Ids are made of the campaign and the kind, so that whoever sends one
//! again sends the same.

use crate::{
    Announcement, AnnouncementKind, BroadcastId, Campaign, FrameBody, MAX_DELAY_SECONDS,
    ServerFrame, Timestamp, Topic,
};

/// Announcements due within this many seconds are sent now, as delayed messages: the refresher runs every minute, and
/// one of its runs may be late or fail.
pub const ANNOUNCE_AHEAD_SECONDS: i64 = 180;

/// Claims count from now on.
pub fn opened(campaign: &Campaign) -> Announcement {
    let body = FrameBody::CampaignOpened {
        campaign_id: campaign.campaign_id.clone(),
    };
    let (due, void) = (Some(campaign.opens_at), Some(campaign.ends_at()));
    announcement(
        campaign,
        AnnouncementKind::Opened,
        "campaign.opened",
        body,
        due,
        void,
    )
}

/// Every coupon has gone.
pub fn sold_out(campaign: &Campaign) -> Announcement {
    let body = FrameBody::CampaignSoldOut {
        campaign_id: campaign.campaign_id.clone(),
    };
    announcement(
        campaign,
        AnnouncementKind::SoldOut,
        "campaign.sold_out",
        body,
        None,
        None,
    )
}

/// Claims no longer count.
pub fn closed(campaign: &Campaign) -> Announcement {
    let body = FrameBody::CampaignClosed {
        campaign_id: campaign.campaign_id.clone(),
    };
    announcement(
        campaign,
        AnnouncementKind::Closed,
        "campaign.closed",
        body,
        Some(campaign.ends_at()),
        None,
    )
}

fn announcement(
    campaign: &Campaign,
    kind: AnnouncementKind,
    name: &str,
    body: FrameBody,
    due_at: Option<Timestamp>,
    void_at: Option<Timestamp>,
) -> Announcement {
    let broadcast_id = BroadcastId::derived(&["announcement", campaign.campaign_id.as_str(), name]);
    Announcement {
        frame: ServerFrame {
            id: broadcast_id.to_string(),
            body,
        },
        broadcast_id,
        partner_id: campaign.partner_id.clone(),
        topic: Topic::Campaign(campaign.campaign_id.clone()),
        kind,
        due_at,
        void_at,
    }
}

/// How long a message due at `due` is delayed if sent at `now`: rounded up to whole seconds, never early, at most
/// [`MAX_DELAY_SECONDS`].
pub fn delay_seconds(due: Timestamp, now: Timestamp) -> u16 {
    let millis = due.millis_since(now).max(0);
    u16::try_from((millis + 999) / 1000)
        .unwrap_or(MAX_DELAY_SECONDS)
        .min(MAX_DELAY_SECONDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_is_never_early() {
        let now = Timestamp::from_millis(10_000);
        assert_eq!(delay_seconds(Timestamp::from_millis(10_001), now), 1);
        assert_eq!(delay_seconds(now, now), 0);
        assert_eq!(delay_seconds(Timestamp::EPOCH, now), 0);
        assert_eq!(delay_seconds(now.plus_seconds(1_000_000), now), 900);
    }
}
