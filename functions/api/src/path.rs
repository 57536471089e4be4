//! Judges a request's path before it is routed: it holds only what routes and ids may hold. Nothing in it is decoded.
//!
//! API Gateway hands an HTTP API's path over decoded, some of it twice: `%20` arrives as a space, `%2F` and `%252F` as `/`,
//! `%23` as `#`, and what follows `%3F` does not arrive at all (observed on AWS in 2026: github.com/hotsock/voker,
//! `vokerhttp/testdata/ingress-paths.json`; the local AWS does not cut at `%3F`). A parser of URLs would drop tabs and line
//! breaks from such a path and read `..`, `\`, `?` and `#` as structure, so that one route becomes another. Whoever
//! percent-encodes an id that may not be in a path gets 400 here, except where the gateway has made another sound path of it
//! before: of `/v1/users/bob%2Fwallet%2Fuse%3F/wallet/earn` only `/v1/users/bob/wallet/use` arrives. Nothing in the event
//! tells: `requestContext.http.path` is decoded alike, and `routeKey` is `$default`. So a caller must refuse an id that is none
//! before it becomes a part of a URL; the OpenAPI document says so, and how AWS answers is tried after the first deployment
//! (docs/first-deploy.md › Before the first sale).

use crate::problem::Problem;

/// What routes and ids are made of.
const EXPECTED: &str = "of characters of A-Z a-z 0-9 . _ : @ ~ -, and neither . nor ..";

/// Refuses a path that no route can have, whatever the ids in it. `routes` are the paths of all routes.
pub(crate) fn judge(
    path: &str,
    mut routes: impl Iterator<Item = &'static str>,
) -> Result<(), Problem> {
    let mut segments = path.split('/');
    // Before the first slash there is nothing.
    if segments.next() == Some("") && path.len() > 1 && segments.all(is_sound) {
        return Ok(());
    }
    let field = routes
        .find_map(|route| unsound_parameter(path, route))
        .unwrap_or("path");
    Err(Problem::malformed(
        field,
        format!("{field} must be {EXPECTED}"),
    ))
}

fn is_sound(segment: &str) -> bool {
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"._:@~-".contains(&byte);
    segment != "." && segment != ".." && segment.bytes().all(is_known)
}

/// The parameter whose value makes the path of this route unsound, if it is a path of this route.
fn unsound_parameter(path: &str, route: &'static str) -> Option<&'static str> {
    let mut unsound = None;
    let (mut asked, mut known) = (path.split('/'), route.split('/'));
    loop {
        let (segment, name) = match (asked.next(), known.next()) {
            (None, None) => return unsound,
            (Some(segment), Some(name)) => (segment, name),
            _ => return None,
        };
        match name
            .strip_prefix('{')
            .and_then(|name| name.strip_suffix('}'))
        {
            Some(parameter) if !is_sound(segment) => unsound = unsound.or(Some(parameter)),
            Some(_) => {}
            None if segment == name => {}
            None => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;

    use super::*;

    const ROUTES: [&str; 3] = [
        "/v1/users",
        "/v1/users/{userId}",
        "/v1/users/{userId}/x/{id}",
    ];

    /// What the path is refused for.
    fn refused(path: &str) -> Option<String> {
        let problem = judge(path, ROUTES.into_iter()).err()?;
        let field = problem.field().map(str::to_owned);
        assert_eq!(problem.into_response().status(), 400);
        field
    }

    #[test]
    fn what_routes_and_ids_hold_is_left_to_the_router() {
        for path in [
            "/v1/users",
            "/v1/users/",
            "/v1/users/a@b:c_d.e~f-9",
            "/v1//users",
            "/openapi.json",
            "/v1/users/.../x/..a",
        ] {
            assert_eq!(refused(path), None, "{path}");
        }
    }

    #[test]
    fn what_no_route_and_no_id_holds_is_refused_by_name() {
        for bad in [
            "a\tb", "a\nb", "a\rb", "a\0b", "a b", "a#b", "a%41b", "a%", "..", ".", "a?b", "a\\b",
            "a\u{7f}b", "a\u{a0}b", "é", "%2e%2e", "a;b", "a+b", "a,b", "\u{feff}",
        ] {
            let field = |path: String| refused(&path).unwrap_or_default();
            assert_eq!(field(format!("/v1/users/{bad}")), "userId", "{bad:?}");
            assert_eq!(field(format!("/v1/users/a/x/{bad}")), "id", "{bad:?}");
            assert_eq!(field(format!("/v1/{bad}/a")), "path", "{bad:?}");
            assert_eq!(field(format!("/v1/users/a/x/b/{bad}")), "path", "{bad:?}");
        }
        for none in ["", "/", "v1/users", "*", "http://localhost/v1/users"] {
            assert_eq!(refused(none).as_deref(), Some("path"), "{none}");
        }
    }
}
