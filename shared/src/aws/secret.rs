//! Secrets Manager: what signs tickets, read once per cold start, and what an operator stores.

use aws_sdk_secretsmanager::operation::get_secret_value::GetSecretValueError;

use crate::{
    PortError,
    aws::{Aws, error::port_error},
};

const OPERATION: &str = "read the secret";

/// The secret's text. `id` is its name or ARN (template.yaml, `TICKET_SECRET`).
///
/// # Errors
/// [`PortError`] if it cannot be read, holds no value or is binary.
pub async fn secret_text(aws: &Aws, id: &str) -> Result<String, PortError> {
    let sent = aws.secrets().get_secret_value().secret_id(id).send().await;
    sent.map_err(|error| port_error(OPERATION, error))?
        .secret_string
        .ok_or_else(|| PortError::reject(OPERATION, "the secret is not a text"))
}

/// The text of a secret that the stack creates without a value, for an operator to store; `None` until then. Secrets Manager
/// answers alike for a secret that does not exist, so that reads `None` as well
/// (<https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_GetSecretValue.html>, `ResourceNotFoundException`).
///
/// # Errors
/// [`PortError`] if it cannot be read.
pub async fn stored_text(aws: &Aws, id: &str) -> Result<Option<String>, PortError> {
    match aws.secrets().get_secret_value().secret_id(id).send().await {
        Ok(output) => Ok(output.secret_string),
        Err(error)
            if error
                .as_service_error()
                .is_some_and(GetSecretValueError::is_resource_not_found_exception) =>
        {
            Ok(None)
        }
        Err(error) => Err(port_error(OPERATION, error)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::aws::replay::replay;

    fn missing() -> (u16, Value) {
        let message =
            "Secrets Manager can't find the specified secret value for staging label: AWSCURRENT";
        let body = json!({"__type": "ResourceNotFoundException", "Message": message});
        (400, body)
    }

    #[tokio::test]
    async fn a_value_that_nobody_has_stored_is_none() {
        let (aws, _) = replay(&[missing()]);
        assert_eq!(stored_text(&aws, "webhook").await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_stored_value_is_read() {
        let (aws, _) = replay(&[(200, json!({"SecretString": "https://example.com"}))]);
        assert_eq!(
            stored_text(&aws, "webhook").await.unwrap().as_deref(),
            Some("https://example.com")
        );
    }

    #[tokio::test]
    async fn a_secret_that_may_not_be_read_is_an_error() {
        let (aws, _) = replay(&[(400, json!({"__type": "AccessDeniedException"}))]);
        stored_text(&aws, "webhook").await.unwrap_err();
    }

    #[tokio::test]
    async fn what_signs_tickets_must_be_there() {
        let (aws, _) = replay(&[missing()]);
        secret_text(&aws, "tickets").await.unwrap_err();
    }
}
