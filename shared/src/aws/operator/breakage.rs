//! For end-to-end tests: changes or breaks one thing of a stack at a time, and puts it back. No command uses it.

use aws_sdk_dynamodb::types::TimeToLiveSpecification;
use aws_sdk_lambda::primitives::Blob;
use aws_sdk_lambda::types::{Environment, ScalingConfig};

use super::{Operator, OperatorError};

impl Operator {
    /// Enables or disables an event source, by its logical id.
    ///
    /// # Errors
    /// [`OperatorError`] if a call fails or the stack has no such resource.
    pub async fn enable_event_source(
        &self,
        logical_id: &str,
        enabled: bool,
    ) -> Result<(), OperatorError> {
        let uuid = self.physical_id(logical_id).await?;
        let call = self.lambda.update_event_source_mapping().uuid(uuid);
        let sent = call.enabled(enabled).send().await;
        sent.map(drop)
            .map_err(|error| self.failed("change the event source", error))
    }

    /// Calls a function, by its logical id, with an event that no gateway and no queue has written. What it answers, or how it
    /// fails, is the caller's to judge.
    ///
    /// # Errors
    /// As [`Self::enable_event_source`].
    pub async fn invoke(&self, logical_id: &str, event: &str) -> Result<String, OperatorError> {
        let name = self.physical_id(logical_id).await?;
        let call = self.lambda.invoke().function_name(name);
        let sent = call.payload(Blob::new(event)).send().await;
        let answer = sent.map_err(|error| self.failed("invoke the function", error))?;
        let payload = answer.payload.map(Blob::into_inner).unwrap_or_default();
        Ok(String::from_utf8_lossy(&payload).into_owned())
    }

    /// Bounds the batches that an event source starts at once.
    ///
    /// # Errors
    /// As [`Self::enable_event_source`].
    pub async fn bound_event_source(
        &self,
        logical_id: &str,
        most: i32,
    ) -> Result<(), OperatorError> {
        let uuid = self.physical_id(logical_id).await?;
        let scaling = ScalingConfig::builder().maximum_concurrency(most).build();
        let call = self.lambda.update_event_source_mapping().uuid(uuid);
        let sent = call.scaling_config(scaling).send().await;
        sent.map(drop)
            .map_err(|error| self.failed("change the event source", error))
    }

    /// Sets how many messages an event source gives a function at once, and how long it gathers them.
    ///
    /// # Errors
    /// As [`Self::enable_event_source`].
    pub async fn set_batch(
        &self,
        logical_id: &str,
        size: i32,
        window_seconds: i32,
    ) -> Result<(), OperatorError> {
        let uuid = self.physical_id(logical_id).await?;
        let call = self.lambda.update_event_source_mapping().uuid(uuid);
        let call = call
            .batch_size(size)
            .maximum_batching_window_in_seconds(window_seconds);
        let sent = call.send().await;
        sent.map(drop)
            .map_err(|error| self.failed("change the event source", error))
    }

    /// Sets a variable of a function's $LATEST, or removes it; its alias keeps what it has.
    ///
    /// # Errors
    /// As [`Self::enable_event_source`].
    pub async fn set_variable(
        &self,
        function: &str,
        name: &str,
        value: Option<&str>,
    ) -> Result<(), OperatorError> {
        let function = self.physical_id(function).await?;
        let call = self.lambda.get_function_configuration();
        let found = call.function_name(&function).send().await;
        let environment = found
            .map_err(|error| self.failed("read the configuration", error))?
            .environment;
        let mut variables = environment
            .and_then(|environment| environment.variables)
            .unwrap_or_default();
        match value {
            Some(value) => variables.insert(name.to_owned(), value.to_owned()),
            None => variables.remove(name),
        };
        let environment = Environment::builder().set_variables(Some(variables));
        let call = self.lambda.update_function_configuration();
        let call = call
            .function_name(function)
            .environment(environment.build());
        let sent = call.send().await;
        sent.map(drop)
            .map_err(|error| self.failed("change the configuration", error))
    }

    /// Reserves so many executions for a function, or none.
    ///
    /// # Errors
    /// As [`Self::enable_event_source`].
    pub async fn reserve(
        &self,
        function: &str,
        executions: Option<u16>,
    ) -> Result<(), OperatorError> {
        let name = self.physical_id(function).await?;
        match executions {
            Some(executions) => {
                let call = self.lambda.put_function_concurrency().function_name(name);
                let call = call.reserved_concurrent_executions(executions.into());
                let sent = call.send().await;
                sent.map(drop)
                    .map_err(|error| self.failed("reserve executions", error))
            }
            None => {
                let call = self.lambda.delete_function_concurrency();
                let sent = call.function_name(name).send().await;
                sent.map(drop)
                    .map_err(|error| self.failed("reserve no executions", error))
            }
        }
    }

    /// How many executions the stack's template reserves for a function.
    ///
    /// # Errors
    /// [`OperatorError`] if a call fails.
    pub async fn reservation(&self, function: &str) -> Result<Option<u16>, OperatorError> {
        let deployment = self.deployment().await?;
        let reserved = deployment
            .named(function)
            .and_then(|resource| resource.number(&["ReservedConcurrentExecutions"]));
        Ok(reserved.and_then(|reserved| u16::try_from(reserved).ok()))
    }

    /// Has a table's items expire, or not.
    ///
    /// # Errors
    /// As [`Self::enable_event_source`].
    pub async fn expire(&self, table: &str, expires: bool) -> Result<(), OperatorError> {
        const OPERATION: &str = "change the time to live";
        let name = self.table_name(table).await?;
        let specification = TimeToLiveSpecification::builder()
            .attribute_name("ttl")
            .enabled(expires)
            .build()
            .map_err(|error| OperatorError::Call {
                operation: OPERATION,
                message: error.to_string(),
            })?;
        let call = self.dynamo.update_time_to_live().table_name(name);
        let sent = call.time_to_live_specification(specification).send().await;
        sent.map(drop)
            .map_err(|error| self.failed(OPERATION, error))
    }

    async fn physical_id(&self, logical_id: &str) -> Result<String, OperatorError> {
        let deployment = self.deployment().await?;
        let found = deployment
            .named(logical_id)
            .map(|resource| resource.physical_id.clone());
        found.ok_or_else(|| OperatorError::MissingItem(format!("{logical_id} in the stack")))
    }
}
