//! Lists, page by page: a page names a next one only if there is something on it.

use super::*;

impl Stage {
    /// How many there are on each page of the list.
    async fn pages(&self, list: &str, of: &str) -> Vec<usize> {
        let (mut pages, mut path) = (Vec::new(), list.to_owned());
        loop {
            let page = self.get(&path).await;
            assert_eq!(page.status, 200, "{}", page.body);
            pages.push(page.body[of].as_array().unwrap().len());
            match page.body.get("next") {
                Some(next) => path = format!("{list}?cursor={}", next.as_str().unwrap()),
                None => return pages,
            }
        }
    }
}

#[tokio::test]
async fn a_full_last_page_names_no_next_one() {
    for (many, pages) in [
        (0, vec![0]),
        (19, vec![19]),
        (20, vec![20]),
        (21, vec![20, 1]),
        (40, vec![20, 20]),
    ] {
        let stage = stage();
        for n in 0..many {
            let id = CampaignId::mint(now().plus_seconds(n), 1);
            stage.catalog.add(&campaign_of("acme", id.as_str(), 1));
        }
        assert_eq!(stage.pages("/v1/campaigns", "campaigns").await, pages);
    }
    for (many, pages) in [
        (0, vec![0]),
        (49, vec![49]),
        (50, vec![50]),
        (51, vec![50, 1]),
        (100, vec![50, 50]),
    ] {
        let stage = stage();
        for n in 0..many {
            let id = CampaignId::mint(now().plus_seconds(n), 1);
            let campaign = campaign_of("acme", id.as_str(), 1);
            stage.catalog.add(&campaign);
            stage.win(&campaign, "user-1", "c").await;
            let body = r#"{"amount":1,"reason":"r"}"#;
            let path = "/v1/users/user-1/wallet/earn";
            stage.move_points(path, &format!("k{n}"), body).await;
        }
        let coupons = stage.pages("/v1/users/user-1/coupons", "coupons").await;
        assert_eq!(coupons, pages);
        let entries = stage
            .pages("/v1/users/user-1/wallet/entries", "entries")
            .await;
        assert_eq!(entries, pages);
    }
}

#[tokio::test]
async fn every_list_of_the_document_is_among_these() {
    let lists = openapi::served()["paths"].as_object().unwrap().iter();
    let cursor = json!({"$ref": "#/components/parameters/cursor"});
    let is_list = |(_, operations): &(&String, &Value)| {
        let parameters = operations["get"]["parameters"].as_array();
        parameters.is_some_and(|parameters| parameters.contains(&cursor))
    };
    let lists: Vec<&str> = lists
        .filter(is_list)
        .map(|(path, _)| path.as_str())
        .collect();
    assert_eq!(
        lists,
        [
            "/v1/campaigns",
            "/v1/users/{userId}/coupons",
            "/v1/users/{userId}/wallet/entries"
        ]
    );
}
