//! Secrets Manager: the stack's ticket secret, read once per cold start.

use crate::{
    PortError,
    aws::{Aws, error::port_error},
};

/// The secret's text. `id` is its name or ARN (template.yaml, `TICKET_SECRET`).
///
/// # Errors
/// [`PortError`] if it cannot be read or is binary.
pub async fn secret_text(aws: &Aws, id: &str) -> Result<String, PortError> {
    const OPERATION: &str = "read the secret";
    let output = aws
        .secrets()
        .get_secret_value()
        .secret_id(id)
        .send()
        .await
        .map_err(|error| port_error(OPERATION, error))?;
    output
        .secret_string
        .ok_or_else(|| PortError::reject(OPERATION, "the secret is not a text"))
}
