//! What the operator's CLI and the end-to-end tests need of AWS: the stack's outputs, table reads, queue depths,
//! partners' keys. For people at a terminal: no function uses this, and every error is one line that says what to do.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_config::{BehaviorVersion, SdkConfig, retry::RetryConfig, timeout::TimeoutConfig};
use aws_sdk_cloudformation::config::ProvideCredentials;
use aws_sdk_dynamodb::{
    error::{DisplayErrorContext, ProvideErrorMetadata, SdkError},
    types::{AttributeValue, Put, TransactWriteItem},
};
use aws_sdk_sqs::types::{QueueAttributeName, SendMessageBatchRequestEntry};
use thiserror::Error;
use ulid::Ulid;

use crate::{
    ApiKey, CampaignId, ConnectionId, InvalidValue, MEMBERSHIP_SHARDS, PartnerId, Scope, Timestamp,
    Topic,
};

/// How long a connection may take to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long one attempt of a call may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a call may take with all its attempts.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(20);
/// How often a call is tried.
const MAX_ATTEMPTS: u32 = 3;
/// The most entries of one SendMessageBatch or ReceiveMessage (SQS quota).
const QUEUE_BATCH: usize = 10;
/// How long a dead letter that somebody else waits for stays hidden after we have looked at it, in seconds.
const PEEK_SECONDS: i32 = 2;

type Item = HashMap<String, AttributeValue>;

/// Why an operator's call failed, as one line that says what to do.
#[derive(Debug, Error)]
pub enum OperatorError {
    /// The environment names no Region.
    #[error(
        "no AWS Region is set: run eval \"$(make -s env)\" for the local stack, or export AWS_REGION"
    )]
    MissingRegion,
    /// The environment holds no credentials.
    #[error(
        "no AWS credentials were found: run eval \"$(make -s env)\" for the local stack, or log in to AWS"
    )]
    MissingCredentials,
    /// Nothing listens where AWS should.
    #[error("no AWS endpoint answers at {0}: run `make up`")]
    EndpointDown(String),
    /// CloudFormation knows no such stack.
    #[error("stack {0} is not deployed: run `make up`")]
    MissingStack(String),
    /// The stack is older than this program, or its deployment was cut short.
    #[error("stack {stack} has no output {output}: run `make up` to deploy it again")]
    MissingOutput {
        /// The stack.
        stack: String,
        /// The output's name.
        output: &'static str,
    },
    /// A queue without a dead-letter queue.
    #[error("queue {0} has no dead-letter queue: run `make up` to deploy the stack again")]
    MissingDeadLetterQueue(String),
    /// An item that should stand, and does not.
    #[error("there is no {0}")]
    MissingItem(String),
    /// An item that is not of the shape the stack's functions write.
    #[error(
        "{item} has no readable attribute {attribute}: the tables and this program are of different versions"
    )]
    MalformedItem {
        /// The item.
        item: String,
        /// The attribute.
        attribute: &'static str,
    },
    /// The caller's own value is out of bounds.
    #[error(transparent)]
    InvalidValue(#[from] InvalidValue),
    /// The operating system gave no randomness for a key.
    #[error("failed to read random bytes")]
    Randomness(#[source] getrandom::Error),
    /// Anything else a service answered.
    #[error("failed to {operation}: {message}")]
    Call {
        /// What was tried.
        operation: &'static str,
        /// The service's own words.
        message: String,
    },
}

/// Where a deployed stack is: its CloudFormation outputs (template.yaml, `Outputs`).
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is the output of that name")]
pub struct Stack {
    pub web_socket_url: String,
    pub http_api_url: String,
    pub claims_queue_url: String,
    pub claims_dead_letter_queue_url: String,
    pub deliveries_queue_url: String,
    pub broadcast_queue_url: String,
    pub campaigns_table: String,
    pub coupons_table: String,
    pub connections_table: String,
    pub wallets_table: String,
    pub partners_table: String,
}

impl Stack {
    /// From the outputs of stack `name`.
    fn from_outputs(name: &str, outputs: &HashMap<String, String>) -> Result<Self, OperatorError> {
        let output = |output: &'static str| {
            let missing = || OperatorError::MissingOutput {
                stack: name.to_owned(),
                output,
            };
            outputs.get(output).cloned().ok_or_else(missing)
        };
        Ok(Self {
            web_socket_url: output("WebSocketUrl")?,
            http_api_url: output("HttpApiUrl")?.trim_end_matches('/').to_owned(),
            claims_queue_url: output("ClaimsQueueUrl")?,
            claims_dead_letter_queue_url: output("ClaimsDeadLetterQueueUrl")?,
            deliveries_queue_url: output("DeliveriesQueueUrl")?,
            broadcast_queue_url: output("BroadcastQueueUrl")?,
            campaigns_table: output("CampaignsTable")?,
            coupons_table: output("CouponsTable")?,
            connections_table: output("ConnectionsTable")?,
            wallets_table: output("WalletsTable")?,
            partners_table: output("PartnersTable")?,
        })
    }
}

/// One of the stack's queues with a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// Claims on their way to `issue`.
    Claims,
    /// Answers on their way to `broadcast`.
    Deliveries,
    /// Announcements on their way to `broadcast`.
    Broadcast,
}

impl Queue {
    /// Every queue.
    pub const ALL: [Self; 3] = [Self::Claims, Self::Deliveries, Self::Broadcast];
}

/// How many messages a queue holds, as SQS counts them (approximately).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueDepth {
    /// Waiting to be received.
    pub visible: u64,
    /// Received, not yet deleted.
    pub in_flight: u64,
    /// Not yet due.
    pub delayed: u64,
}

impl QueueDepth {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.visible + self.in_flight + self.delayed
    }
}

/// A message to be put on a queue as it is, well-formed or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawMessage {
    /// `MessageGroupId`: the campaign, for fairness between campaigns.
    pub group: String,
    /// The body.
    pub body: String,
}

/// A coupon as it stands in the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredCoupon {
    /// Whose campaign it is of.
    pub partner_id: String,
    /// Who holds it.
    pub user_id: String,
    /// The claim that won it.
    pub claim_id: String,
    /// What the user shows.
    pub code: String,
    /// The stock shard that paid for it.
    pub shard: u64,
}

/// A stock shard as it stands in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredStock {
    /// Which one.
    pub shard: u64,
    /// Coupons it can still issue.
    pub remaining: u64,
    /// Coupons it has issued.
    pub issued: u64,
    /// What it started with.
    pub quota: u64,
}

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
}

/// Everything the Connections table holds of one socket, as it is. For putting it back: the table of a gateway whose
/// `$disconnect` was lost looks exactly like that.
pub struct ConnectionItems(Vec<Item>);

impl ConnectionItems {
    /// How many items there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the table has forgotten the socket.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A deployed stack, and the right to look into it.
#[derive(Clone)]
pub struct Operator {
    stack: Stack,
    endpoint: String,
    dynamo: aws_sdk_dynamodb::Client,
    sqs: aws_sdk_sqs::Client,
}

impl fmt::Debug for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operator")
            .field("stack", &self.stack)
            .finish_non_exhaustive()
    }
}

impl Operator {
    /// Finds stack `name` with the AWS environment (`AWS_ENDPOINT_URL` included).
    ///
    /// # Errors
    /// [`OperatorError`] if the environment is incomplete, AWS does not answer or the stack is not there.
    pub async fn find(name: &str) -> Result<Self, OperatorError> {
        let config = load_config().await?;
        let endpoint = config
            .endpoint_url()
            .unwrap_or("AWS (AWS_ENDPOINT_URL is not set)")
            .to_owned();
        let outputs = stack_outputs(&config, &endpoint, name).await?;
        Ok(Self {
            stack: Stack::from_outputs(name, &outputs)?,
            endpoint,
            dynamo: aws_sdk_dynamodb::Client::new(&config),
            sqs: aws_sdk_sqs::Client::new(&config),
        })
    }

    /// Where everything is.
    pub fn stack(&self) -> &Stack {
        &self.stack
    }

    /// Every coupon of a campaign, whatever partner it is stored under. Scans the table: for looking, not for serving.
    ///
    /// # Errors
    /// [`OperatorError`] if a call fails or an item is malformed.
    pub async fn coupons(&self, campaign: &CampaignId) -> Result<Vec<StoredCoupon>, OperatorError> {
        let mut pages = self
            .dynamo
            .scan()
            .table_name(&self.stack.coupons_table)
            .consistent_read(true)
            .filter_expression("sk = :campaign")
            .expression_attribute_values(":campaign", AttributeValue::S(campaign.to_string()))
            .into_paginator()
            .items()
            .send();
        let mut coupons = Vec::new();
        while let Some(item) = pages.next().await {
            coupons.push(stored_coupon(
                &item.map_err(|error| self.failed("scan the coupons", error))?,
            )?);
        }
        Ok(coupons)
    }

    /// A campaign's stock shards, all of them.
    ///
    /// # Errors
    /// [`OperatorError`] if a call fails, or the campaign or one of its shards is missing or malformed.
    pub async fn stock(&self, campaign: &CampaignId) -> Result<Vec<StoredStock>, OperatorError> {
        let record = format!("CAMPAIGN#{campaign}");
        let item = self
            .item(&self.stack.campaigns_table, &record, "CAMPAIGN")
            .await?;
        let shards = number(&item, &record, "shards")?;
        let mut stock = Vec::new();
        for shard in 0..shards {
            let key = format!("STOCK#{campaign}#{shard}");
            let item = self
                .item(&self.stack.campaigns_table, &key, "STOCK")
                .await?;
            stock.push(StoredStock {
                shard,
                remaining: number(&item, &key, "remaining")?,
                issued: number(&item, &key, "issued")?,
                quota: number(&item, &key, "quota")?,
            });
        }
        Ok(stock)
    }

    /// The sockets that hear a topic, as the table has them.
    ///
    /// # Errors
    /// [`OperatorError`] if a call fails or an item is malformed.
    pub async fn members(&self, topic: &Topic) -> Result<Vec<ConnectionId>, OperatorError> {
        let mut members = Vec::new();
        for shard in 0..MEMBERSHIP_SHARDS {
            let mut pages = self
                .dynamo
                .query()
                .table_name(&self.stack.connections_table)
                .consistent_read(true)
                .key_condition_expression("pk = :pk")
                .expression_attribute_values(":pk", AttributeValue::S(format!("{topic}#{shard}")))
                .into_paginator()
                .items()
                .send();
            while let Some(item) = pages.next().await {
                let item = item.map_err(|error| self.failed("query the connections", error))?;
                members.push(ConnectionId::new(text(&item, "membership", "sk")?)?);
            }
        }
        Ok(members)
    }

    /// Everything stored of a socket: its record and its memberships of `topics`.
    ///
    /// # Errors
    /// [`OperatorError`] if a call fails.
    pub async fn connection_items(
        &self,
        connection: &ConnectionId,
        topics: &[Topic],
    ) -> Result<ConnectionItems, OperatorError> {
        let memberships = topics.iter().flat_map(|topic| {
            (0..MEMBERSHIP_SHARDS)
                .map(move |shard| (format!("{topic}#{shard}"), connection.to_string()))
        });
        let keys =
            std::iter::once((format!("CONN#{connection}"), "META".to_owned())).chain(memberships);
        let mut items = Vec::new();
        for (pk, sk) in keys {
            items.extend(
                self.find_item(&self.stack.connections_table, &pk, &sk)
                    .await?,
            );
        }
        Ok(ConnectionItems(items))
    }

    /// Puts a socket's items back, as if `$disconnect` had never come.
    ///
    /// # Errors
    /// [`OperatorError`] if a call fails.
    pub async fn restore(&self, connection: &ConnectionItems) -> Result<(), OperatorError> {
        for item in &connection.0 {
            let put = self
                .dynamo
                .put_item()
                .table_name(&self.stack.connections_table)
                .set_item(Some(item.clone()));
            put.send()
                .await
                .map_err(|error| self.failed("restore a connection", error))?;
        }
        Ok(())
    }

    /// Creates a partner with one key.
    ///
    /// # Errors
    /// [`OperatorError`] if randomness or the call fails.
    pub async fn create_partner(
        &self,
        name: &str,
        scopes: &[Scope],
        expires_at: Option<Timestamp>,
    ) -> Result<NewPartner, OperatorError> {
        let now = now();
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

    /// Gives a partner one more key; those it has stay good until they are revoked.
    ///
    /// # Errors
    /// [`OperatorError`] if there is no such partner, or randomness or a call fails.
    pub async fn add_key(
        &self,
        partner: &PartnerId,
        scopes: &[Scope],
    ) -> Result<NewPartner, OperatorError> {
        let found = self
            .find_item(&self.stack.partners_table, "PARTNER", partner.as_str())
            .await?;
        found.ok_or_else(|| OperatorError::MissingItem(format!("partner {partner}")))?;
        let (key, item) = new_key(partner, scopes, None)?;
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

    /// Revokes a key; again is harmless. Functions that hold it in their caches may honour it a little longer.
    ///
    /// # Errors
    /// [`OperatorError`] if there is no such key or the call fails.
    pub async fn revoke_key(&self, key_id: &str) -> Result<(), OperatorError> {
        let update = self
            .dynamo
            .update_item()
            .table_name(&self.stack.partners_table)
            .key("pk", AttributeValue::S(format!("KEY#{key_id}")))
            .key("sk", AttributeValue::S("KEY".to_owned()))
            .update_expression("SET #status = :revoked")
            .condition_expression("attribute_exists(pk)")
            .expression_attribute_names("#status", "status")
            .expression_attribute_values(":revoked", AttributeValue::S("revoked".to_owned()));
        match update.send().await {
            Ok(_) => Ok(()),
            Err(error) if error.code() == Some("ConditionalCheckFailedException") => {
                Err(OperatorError::MissingItem(format!("key {key_id}")))
            }
            Err(error) => Err(self.failed("revoke the key", error)),
        }
    }

    /// How much a queue holds.
    ///
    /// # Errors
    /// [`OperatorError`] if the call fails.
    pub async fn depth(&self, queue: Queue) -> Result<QueueDepth, OperatorError> {
        self.depth_at(self.url(queue)).await
    }

    /// How much a queue's dead-letter queue holds.
    ///
    /// # Errors
    /// [`OperatorError`] if a call fails or the queue has no dead-letter queue.
    pub async fn dead_letters(&self, queue: Queue) -> Result<QueueDepth, OperatorError> {
        let url = match queue {
            Queue::Claims => self.stack.claims_dead_letter_queue_url.clone(),
            Queue::Deliveries | Queue::Broadcast => self.redrive_target(self.url(queue)).await?,
        };
        self.depth_at(&url).await
    }

    /// Takes those messages out of the claims' dead-letter queue whose bodies hold `marker`; the others reappear after
    /// 2 s. Returns the bodies; looks once through what is there now.
    ///
    /// # Errors
    /// [`OperatorError`] if a call fails.
    pub async fn take_dead_claims(&self, marker: &str) -> Result<Vec<String>, OperatorError> {
        let url = &self.stack.claims_dead_letter_queue_url;
        let mut taken = Vec::new();
        loop {
            let receive = self
                .sqs
                .receive_message()
                .queue_url(url)
                .max_number_of_messages(QUEUE_BATCH as i32);
            let received = receive.visibility_timeout(PEEK_SECONDS).send().await;
            let messages = received
                .map_err(|error| self.failed("receive dead letters", error))?
                .messages
                .unwrap_or_default();
            if messages.is_empty() {
                return Ok(taken);
            }
            for message in messages {
                if let Some(body) = message.body.filter(|body| body.contains(marker)) {
                    let delete = self
                        .sqs
                        .delete_message()
                        .queue_url(url)
                        .set_receipt_handle(message.receipt_handle);
                    delete
                        .send()
                        .await
                        .map_err(|error| self.failed("delete a dead letter", error))?;
                    taken.push(body);
                }
            }
        }
    }

    /// Puts messages on a queue as a producer would, ten at a time.
    ///
    /// # Errors
    /// [`OperatorError`] if a call fails or the queue refuses a message; those before it are on the queue.
    pub async fn send(&self, queue: Queue, messages: &[RawMessage]) -> Result<(), OperatorError> {
        const OPERATION: &str = "send messages";
        for batch in messages.chunks(QUEUE_BATCH) {
            let mut call = self.sqs.send_message_batch().queue_url(self.url(queue));
            for (position, message) in batch.iter().enumerate() {
                let entry = SendMessageBatchRequestEntry::builder()
                    .id(position.to_string())
                    .message_body(&message.body)
                    .message_group_id(&message.group)
                    .build();
                let unbuilt = |error| OperatorError::Call {
                    operation: OPERATION,
                    message: format!("{error}"),
                };
                call = call.entries(entry.map_err(unbuilt)?);
            }
            let sent = call
                .send()
                .await
                .map_err(|error| self.failed(OPERATION, error))?;
            if let Some(refused) = sent.failed.first() {
                let message = format!(
                    "{} {}",
                    refused.code,
                    refused.message.as_deref().unwrap_or_default()
                );
                return Err(OperatorError::Call {
                    operation: OPERATION,
                    message,
                });
            }
        }
        Ok(())
    }

    fn url(&self, queue: Queue) -> &str {
        match queue {
            Queue::Claims => &self.stack.claims_queue_url,
            Queue::Deliveries => &self.stack.deliveries_queue_url,
            Queue::Broadcast => &self.stack.broadcast_queue_url,
        }
    }

    async fn depth_at(&self, url: &str) -> Result<QueueDepth, OperatorError> {
        use QueueAttributeName::{
            ApproximateNumberOfMessages as Visible, ApproximateNumberOfMessagesDelayed as Delayed,
            ApproximateNumberOfMessagesNotVisible as InFlight,
        };
        let names = [Visible, InFlight, Delayed];
        let attributes = self.queue_attributes(url, &names).await?;
        let [visible, in_flight, delayed] = names.map(|name| {
            attributes
                .get(&name)
                .and_then(|text| text.parse().ok())
                .unwrap_or_default()
        });
        Ok(QueueDepth {
            visible,
            in_flight,
            delayed,
        })
    }

    /// The URL of the queue that a queue's redrive policy names.
    async fn redrive_target(&self, url: &str) -> Result<String, OperatorError> {
        let missing = || OperatorError::MissingDeadLetterQueue(url.to_owned());
        let attributes = self
            .queue_attributes(url, &[QueueAttributeName::RedrivePolicy])
            .await?;
        let policy = attributes
            .get(&QueueAttributeName::RedrivePolicy)
            .ok_or_else(missing)?;
        let name = dead_letter_queue_name(policy).ok_or_else(missing)?;
        let found = self.sqs.get_queue_url().queue_name(name).send().await;
        found
            .map_err(|error| self.failed("find a dead-letter queue", error))?
            .queue_url
            .ok_or_else(missing)
    }

    async fn queue_attributes(
        &self,
        url: &str,
        names: &[QueueAttributeName],
    ) -> Result<HashMap<QueueAttributeName, String>, OperatorError> {
        let call = self
            .sqs
            .get_queue_attributes()
            .queue_url(url)
            .set_attribute_names(Some(names.to_vec()));
        let answer = call
            .send()
            .await
            .map_err(|error| self.failed("read a queue's attributes", error))?;
        Ok(answer.attributes.unwrap_or_default())
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

    async fn item(&self, table: &str, pk: &str, sk: &str) -> Result<Item, OperatorError> {
        self.find_item(table, pk, sk)
            .await?
            .ok_or_else(|| OperatorError::MissingItem(format!("item {pk} in {table}")))
    }

    async fn find_item(
        &self,
        table: &str,
        pk: &str,
        sk: &str,
    ) -> Result<Option<Item>, OperatorError> {
        let call = self
            .dynamo
            .get_item()
            .table_name(table)
            .key("pk", AttributeValue::S(pk.to_owned()))
            .key("sk", AttributeValue::S(sk.to_owned()))
            .consistent_read(true);
        call.send()
            .await
            .map(|answer| answer.item)
            .map_err(|error| self.failed("read an item", error))
    }

    fn failed<E, R>(&self, operation: &'static str, error: SdkError<E, R>) -> OperatorError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
        R: fmt::Debug + 'static,
    {
        failed(&self.endpoint, operation, error)
    }
}

/// The AWS environment with pinned time-outs and retries.
async fn load_config() -> Result<SdkConfig, OperatorError> {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_attempt_timeout(ATTEMPT_TIMEOUT)
        .operation_timeout(OPERATION_TIMEOUT)
        .build();
    let config = aws_config::defaults(BehaviorVersion::latest())
        .timeout_config(timeouts)
        .retry_config(RetryConfig::standard().with_max_attempts(MAX_ATTEMPTS))
        .load()
        .await;
    if config.region().is_none() {
        return Err(OperatorError::MissingRegion);
    }
    let provider = config
        .credentials_provider()
        .ok_or(OperatorError::MissingCredentials)?;
    provider
        .provide_credentials()
        .await
        .map_err(|_| OperatorError::MissingCredentials)?;
    Ok(config)
}

async fn stack_outputs(
    config: &SdkConfig,
    endpoint: &str,
    name: &str,
) -> Result<HashMap<String, String>, OperatorError> {
    let cloudformation = aws_sdk_cloudformation::Client::new(config);
    let answer = match cloudformation
        .describe_stacks()
        .stack_name(name)
        .send()
        .await
    {
        Ok(answer) => answer,
        Err(error)
            if error
                .message()
                .is_some_and(|message| message.contains("does not exist")) =>
        {
            return Err(OperatorError::MissingStack(name.to_owned()));
        }
        Err(error) => return Err(failed(endpoint, "describe the stack", error)),
    };
    let stack = answer.stacks.unwrap_or_default().into_iter().next();
    let stack = stack.ok_or_else(|| OperatorError::MissingStack(name.to_owned()))?;
    let outputs = stack.outputs.unwrap_or_default().into_iter();
    Ok(outputs
        .filter_map(|output| Some((output.output_key?, output.output_value?)))
        .collect())
}

/// One line for a failed call: where nothing answered, which endpoint; else the service's own words.
fn failed<E, R>(endpoint: &str, operation: &'static str, error: SdkError<E, R>) -> OperatorError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
    R: fmt::Debug + 'static,
{
    match &error {
        SdkError::DispatchFailure(failure) if failure.is_io() || failure.is_timeout() => {
            OperatorError::EndpointDown(endpoint.to_owned())
        }
        SdkError::ServiceError(service) => {
            let metadata = service.err();
            let words = [metadata.code(), metadata.message()]
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
                .join(": ");
            OperatorError::Call {
                operation,
                message: words,
            }
        }
        _ => OperatorError::Call {
            operation,
            message: DisplayErrorContext(&error).to_string(),
        },
    }
}

/// The name of the queue that a redrive policy names by ARN.
fn dead_letter_queue_name(redrive_policy: &str) -> Option<String> {
    let policy: serde_json::Value = serde_json::from_str(redrive_policy).ok()?;
    policy
        .get("deadLetterTargetArn")?
        .as_str()?
        .rsplit(':')
        .next()
        .map(str::to_owned)
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

fn now() -> Timestamp {
    // A clock before 1970 gives the epoch: nothing here depends on it but a name and a date to read.
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

fn stored_coupon(item: &Item) -> Result<StoredCoupon, OperatorError> {
    let key = text(item, "a coupon", "pk")?;
    let (partner, user) = key.split_once('#').ok_or(OperatorError::MalformedItem {
        item: key.to_owned(),
        attribute: "pk",
    })?;
    Ok(StoredCoupon {
        partner_id: partner.to_owned(),
        user_id: user.to_owned(),
        claim_id: text(item, key, "claimId")?.to_owned(),
        code: text(item, key, "code")?.to_owned(),
        shard: number(item, key, "shard")?,
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
    })
}

fn text<'item>(
    item: &'item Item,
    name: &str,
    attribute: &'static str,
) -> Result<&'item str, OperatorError> {
    let value = item.get(attribute).and_then(|value| value.as_s().ok());
    value
        .map(String::as_str)
        .ok_or_else(|| OperatorError::MalformedItem {
            item: name.to_owned(),
            attribute,
        })
}

fn number(item: &Item, name: &str, attribute: &'static str) -> Result<u64, OperatorError> {
    let value = item
        .get(attribute)
        .and_then(|value| value.as_n().ok())
        .and_then(|digits| digits.parse().ok());
    value.ok_or_else(|| OperatorError::MalformedItem {
        item: name.to_owned(),
        attribute,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_output_is_named() {
        let error = Stack::from_outputs("firstcome", &HashMap::new())
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "stack firstcome has no output WebSocketUrl: run `make up` to deploy it again"
        );
    }

    #[test]
    fn the_dead_letter_queue_is_the_one_of_the_redrive_policy() {
        let policy = r#"{"deadLetterTargetArn":"arn:aws:sqs:us-east-1:000000000000:dead","maxReceiveCount":"10"}"#;
        assert_eq!(dead_letter_queue_name(policy).as_deref(), Some("dead"));
        assert_eq!(dead_letter_queue_name("{}"), None);
    }

    #[test]
    fn a_stored_key_holds_a_hash_and_not_the_secret() {
        let partner = PartnerId::new("acme").unwrap();
        let (key, item) = new_key(&partner, &[Scope::Tickets], None).unwrap();
        assert_eq!(text(&item, "key", "sha256").unwrap(), key.secret_sha256());
        let revealed = key.reveal();
        let secret = revealed.rsplit('_').next().unwrap();
        assert!(!format!("{item:?}").contains(secret));
        assert_eq!(
            stored_key(&item).unwrap(),
            StoredKey {
                key_id: key.key_id().to_owned(),
                scopes: vec![Scope::Tickets],
                active: true
            }
        );
    }

    #[test]
    fn a_coupon_is_read_by_its_key() {
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let item = Item::from([
            ("pk".to_owned(), text("acme#user-1")),
            ("sk".to_owned(), text("c")),
            ("claimId".to_owned(), text("claim-1")),
            ("code".to_owned(), text("CODE")),
            ("shard".to_owned(), AttributeValue::N("3".to_owned())),
        ]);
        let coupon = stored_coupon(&item).unwrap();
        assert_eq!(
            (
                coupon.partner_id.as_str(),
                coupon.user_id.as_str(),
                coupon.shard
            ),
            ("acme", "user-1", 3)
        );
    }
}
