//! Signature Version 4 for posts, as the SDK's own signer makes it, for less: the key of the day is derived once and not
//! for each post, and only what has to be signed is. Takes the place of the SDK's auth scheme `sigv4`.

use std::{
    fmt::{self, Write as _},
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use aws_sdk_apigatewaymanagement::{
    config::{ConfigBag, Credentials, RuntimeComponents},
    error::BoxError,
};
use aws_sigv4::sign::v4::{calculate_signature, generate_signing_key};
use aws_smithy_runtime_api::client::{
    auth::{AuthScheme, AuthSchemeEndpointConfig, AuthSchemeId, Sign},
    identity::{Identity, SharedIdentityResolver},
    orchestrator::HttpRequest,
    runtime_components::GetIdentityResolver,
};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

/// The service in a signature's scope: that of all APIs behind API Gateway.
const SERVICE: &str = "execute-api";

/// Signs posts in one Region.
pub(super) struct PostSigning {
    region: String,
    key: Mutex<Option<DayKey>>,
}

/// What a secret becomes for one day, Region and service.
struct DayKey {
    date: String,
    access_key_id: String,
    bytes: Vec<u8>,
}

/// Without the key.
impl fmt::Debug for PostSigning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostSigning")
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}

impl PostSigning {
    pub(super) fn new(region: String) -> Self {
        Self {
            region,
            key: Mutex::default(),
        }
    }

    fn sign(
        &self,
        request: &mut HttpRequest,
        credentials: &Credentials,
        now: SystemTime,
    ) -> Result<(), BoxError> {
        let body = request.body().bytes().ok_or("a body that is a stream")?;
        let (date, stamp) = stamp(now)?;
        let token = credentials.session_token();
        let canonical = canonical(request.method(), request.uri(), &stamp, token, body)?;
        let scope = format!("{date}/{}/{SERVICE}/aws4_request", self.region);
        let mut text = format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n");
        push_digest(&mut text, canonical.as_bytes());
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={}, Signature={}",
            credentials.access_key_id(),
            signed_headers(token),
            self.signature(credentials, now, &date, &text),
        );
        let headers = request.headers_mut();
        headers.insert("x-amz-date", stamp);
        headers.insert("authorization", authorization);
        if let Some(token) = token {
            headers.insert("x-amz-security-token", token.to_owned());
        }
        Ok(())
    }

    /// The signature of `text`, by the key of `now`'s day.
    fn signature(
        &self,
        credentials: &Credentials,
        now: SystemTime,
        date: &str,
        text: &str,
    ) -> String {
        let access_key_id = credentials.access_key_id();
        let mut key = self.key.lock().unwrap_or_else(PoisonError::into_inner);
        let is_current = |key: &&DayKey| key.date == date && key.access_key_id == access_key_id;
        if let Some(key) = key.as_ref().filter(is_current) {
            return calculate_signature(&key.bytes, text.as_bytes());
        }
        let secret = credentials.secret_access_key();
        let bytes = generate_signing_key(secret, now, &self.region, SERVICE);
        let fresh = key.insert(DayKey {
            date: date.into(),
            access_key_id: access_key_id.into(),
            bytes: bytes.as_ref().to_vec(),
        });
        calculate_signature(&fresh.bytes, text.as_bytes())
    }
}

impl AuthScheme for PostSigning {
    fn scheme_id(&self) -> AuthSchemeId {
        AuthSchemeId::new("sigv4")
    }

    fn identity_resolver(
        &self,
        resolvers: &dyn GetIdentityResolver,
    ) -> Option<SharedIdentityResolver> {
        resolvers.identity_resolver(self.scheme_id())
    }

    fn signer(&self) -> &dyn Sign {
        self
    }
}

impl Sign for PostSigning {
    fn sign_http_request(
        &self,
        request: &mut HttpRequest,
        identity: &Identity,
        _: AuthSchemeEndpointConfig<'_>,
        components: &RuntimeComponents,
        _: &ConfigBag,
    ) -> Result<(), BoxError> {
        let credentials = identity.data::<Credentials>().ok_or("no credentials")?;
        let now = components.time_source().unwrap_or_default().now();
        self.sign(request, credentials, now)
    }
}

/// `20261121` and `20261121T074732Z`.
fn stamp(now: SystemTime) -> Result<(String, String), fmt::Error> {
    let now = OffsetDateTime::from(now);
    let (year, month, day) = now.to_calendar_date();
    let (hour, minute, second) = now.to_hms();
    let mut stamp = String::with_capacity(16);
    write!(stamp, "{year:04}{:02}{day:02}", u8::from(month))?;
    let date = stamp.clone();
    write!(stamp, "T{hour:02}{minute:02}{second:02}Z")?;
    Ok((date, stamp))
}

/// The canonical request: what the service makes of the request to compare the signature.
fn canonical(
    method: &str,
    uri: &str,
    stamp: &str,
    token: Option<&str>,
    body: &[u8],
) -> Result<String, BoxError> {
    let (_, rest) = uri.split_once("://").ok_or("a URI without a scheme")?;
    let (host, path) = rest.split_at(rest.find('/').ok_or("a URI without a path")?);
    if path.contains('?') {
        return Err("a URI with a query".into());
    }
    let mut text = String::with_capacity(256 + token.unwrap_or_default().len());
    text.extend([method, "\n"]);
    push_encoded(&mut text, path);
    text.extend(["\n\nhost:", host, "\nx-amz-date:", stamp, "\n"]);
    if let Some(token) = token {
        text.extend(["x-amz-security-token:", token, "\n"]);
    }
    text.extend(["\n", signed_headers(token), "\n"]);
    push_digest(&mut text, body);
    Ok(text)
}

fn signed_headers(token: Option<&str>) -> &'static str {
    match token {
        Some(_) => "host;x-amz-date;x-amz-security-token",
        None => "host;x-amz-date",
    }
}

/// Encodes a path that is encoded already: every service but S3 wants it twice.
fn push_encoded(text: &mut String, path: &str) {
    for byte in path.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                text.push(char::from(byte));
            }
            _ => {
                text.push('%');
                text.push(hex_digit(byte >> 4).to_ascii_uppercase());
                text.push(hex_digit(byte & 15).to_ascii_uppercase());
            }
        }
    }
}

/// The SHA-256 of `bytes`, in hexadecimal.
fn push_digest(text: &mut String, bytes: &[u8]) {
    for byte in Sha256::digest(bytes) {
        text.push(hex_digit(byte >> 4));
        text.push(hex_digit(byte & 15));
    }
}

fn hex_digit(nibble: u8) -> char {
    char::from(b"0123456789abcdef"[usize::from(nibble & 15)])
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use aws_sigv4::{
        http_request::{PercentEncodingMode, SignableBody, SignableRequest, SigningSettings, sign},
        sign::v4::SigningParams,
    };

    use super::*;

    const BODY: &[u8] = b"{\"type\":\"pong\"}";

    /// The official signature of the same headers at the same time.
    fn official(uri: &str, credentials: &Credentials, at: SystemTime) -> String {
        let identity = Identity::new(credentials.clone(), None);
        let mut settings = SigningSettings::default();
        settings.percent_encoding_mode = PercentEncodingMode::Double;
        let parameters = SigningParams::builder()
            .identity(&identity)
            .region("eu-central-1")
            .name("execute-api")
            .time(at)
            .settings(settings)
            .build()
            .unwrap();
        let body = SignableBody::Bytes(BODY);
        let request = SignableRequest::new("POST", uri, std::iter::empty(), body).unwrap();
        let (instructions, _) = sign(request, &parameters.into()).unwrap().into_parts();
        let (headers, _) = instructions.into_parts();
        let header = headers
            .iter()
            .find(|header| header.name() == "authorization");
        header.unwrap().value().to_owned()
    }

    fn post(uri: &str) -> HttpRequest {
        let mut request = HttpRequest::new(BODY.to_vec().into());
        request.set_method("POST").unwrap();
        request.set_uri(uri).unwrap();
        request
    }

    #[test]
    fn the_signature_is_the_official_one() {
        let signing = PostSigning::new("eu-central-1".into());
        let plain = Credentials::new("AKID", "secret", None, None, "test");
        let session = Credentials::new("ASIA", "other", Some("t/o+k=e~n".into()), None, "test");
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_000_000);
        for uri in [
            "https://abc.execute-api.eu-central-1.amazonaws.com/v1/@connections/L0SM9cOFvHcCIhw%3D",
            "http://127.0.0.1:4566/_aws/execute-api/abc/v1/@connections/a%2Fb%2Bc-d_e.f%3A",
            "http://localhost/a+b:c~/@connections/x=",
        ] {
            // Days and credentials back and forth: the key in hand must not be yesterday's, nor another's.
            for (days, credentials) in [
                (0, &plain),
                (1, &plain),
                (1, &session),
                (0, &session),
                (0, &plain),
            ] {
                let at = start + Duration::from_secs(days * 86_400);
                let mut request = post(uri);
                signing.sign(&mut request, credentials, at).unwrap();
                let headers = request.headers();
                let expected = official(uri, credentials, at);
                assert_eq!(headers.get("authorization"), Some(expected.as_str()));
                let token = credentials.session_token();
                assert_eq!(headers.get("x-amz-security-token"), token);
            }
        }
    }

    #[test]
    fn the_key_is_not_printed() {
        let signing = PostSigning::new("eu-central-1".into());
        let credentials = Credentials::new("AKID", "secret", None, None, "test");
        let mut request = post("http://h/p");
        signing
            .sign(&mut request, &credentials, SystemTime::UNIX_EPOCH)
            .unwrap();
        let printed = format!("{signing:?}");
        assert_eq!(printed, "PostSigning { region: \"eu-central-1\", .. }");
    }
}
