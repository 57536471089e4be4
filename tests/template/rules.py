"""What must hold of the expanded template. A rule takes the resources and returns its complaints: none means that it holds.

limits.py holds what AWS refuses; tests/tests/tidy.rs holds the unexpanded template to functions/, events/ and README.md.
"""

import hashlib
import json
import re

# What each function may do, from ARCHITECTURE.md: function → what → actions. A transaction is authorized as the actions of its items.
MAY = {
    "AuthorizeFunction": {"TicketSecret": "secretsmanager:GetSecretValue"},
    "ConnectFunction": {"ConnectionsTable": "dynamodb:GetItem dynamodb:PutItem", "CampaignsTable": "dynamodb:GetItem"},
    "DisconnectFunction": {"ConnectionsTable": "dynamodb:GetItem dynamodb:BatchWriteItem dynamodb:DeleteItem"},
    "ClaimFunction": {
        "CampaignsTable": "dynamodb:GetItem dynamodb:Query",
        "CouponsTable": "dynamodb:GetItem",
        "ConnectionsTable": "dynamodb:GetItem dynamodb:PutItem dynamodb:UpdateItem dynamodb:DeleteItem",
        "ClaimsQueue": "sqs:SendMessage",
        "PriorityClaimsQueue": "sqs:SendMessage",
        "DeliveriesQueue": "sqs:SendMessage",
    },
    "IssueFunction": {
        "CampaignsTable": "dynamodb:GetItem dynamodb:BatchGetItem dynamodb:UpdateItem dynamodb:PutItem",
        "CouponsTable": "dynamodb:BatchGetItem dynamodb:GetItem dynamodb:PutItem",
        "ClaimsQueue": "sqs:ReceiveMessage sqs:DeleteMessage sqs:GetQueueAttributes sqs:ChangeMessageVisibility",
        "PriorityClaimsQueue": "sqs:ReceiveMessage sqs:DeleteMessage sqs:GetQueueAttributes sqs:ChangeMessageVisibility",
        "DeliveriesQueue": "sqs:SendMessage",
        "BroadcastQueue": "sqs:SendMessage",
    },
    "BroadcastFunction": {
        "ConnectionsTable": "dynamodb:Query dynamodb:GetItem dynamodb:BatchWriteItem dynamodb:DeleteItem",
        "CampaignsTable": "dynamodb:GetItem dynamodb:BatchGetItem dynamodb:PutItem dynamodb:UpdateItem dynamodb:DeleteItem",
        "DeliveriesQueue": "sqs:SendMessage sqs:ReceiveMessage sqs:DeleteMessage sqs:GetQueueAttributes",
        "BroadcastQueue": "sqs:SendMessage sqs:ReceiveMessage sqs:DeleteMessage sqs:GetQueueAttributes",
        "WebSocketApi": "execute-api:ManageConnections",
    },
    "RefreshFunction": {
        "CampaignsTable": "dynamodb:Query dynamodb:GetItem dynamodb:BatchGetItem dynamodb:PutItem dynamodb:UpdateItem dynamodb:DeleteItem",
        "WalletsTable": "dynamodb:Query dynamodb:PutItem dynamodb:UpdateItem dynamodb:DeleteItem",
        "BroadcastQueue": "sqs:SendMessage",
    },
    "ApiFunction": {
        "CampaignsTable": "dynamodb:GetItem dynamodb:BatchGetItem dynamodb:Query dynamodb:PutItem dynamodb:UpdateItem",
        "CouponsTable": "dynamodb:GetItem dynamodb:Query dynamodb:UpdateItem",
        "PartnersTable": "dynamodb:GetItem",
        "WalletsTable": "dynamodb:GetItem dynamodb:Query dynamodb:PutItem dynamodb:UpdateItem dynamodb:DeleteItem",
        "ClaimsQueue": "sqs:SendMessage",
        "PriorityClaimsQueue": "sqs:SendMessage",
        "BroadcastQueue": "sqs:SendMessage",
        "TicketSecret": "secretsmanager:GetSecretValue",
    },
    "AlertFunction": {"AlertWebhookSecret": "secretsmanager:GetSecretValue", "AlertDeadLetterQueue": "sqs:SendMessage"},
}
# A path below a resource whose end nobody knows beforehand.
OPEN_ENDS = ("/live/POST/@connections/*",)
MANAGED = {"FunctionRole": "service-role/AWSLambdaBasicExecutionRole", "CodeDeployServiceRole": "service-role/AWSCodeDeployRoleForLambda"}


def of_type(resources: dict, kind: str) -> dict:
    return {name: found["Properties"] for name, found in resources.items() if found["Type"] == kind}


def as_list(value) -> list:
    return value if isinstance(value, list) else [value]


def target(value) -> str:
    """The logical id that a reference leads to, or the text itself."""
    if isinstance(value, dict):
        ((function, argument),) = value.items()
        match function:
            case "Ref":
                return argument
            case "Fn::GetAtt":
                return argument[0] if isinstance(argument, list) else argument.split(".")[0]
            case "Fn::Sub":
                text, given = (argument, {}) if isinstance(argument, str) else argument
                names = [name.split(".")[0] for name in re.findall(r"\$\{([^}]*)\}", text) if not name.startswith("AWS::")]
                return target(given[names[0]]) if names and names[0] in given else (names[0] if names else text)
            case "Fn::Join":
                return next((target(part) for part in argument[1] if isinstance(part, dict)), "")
    return str(value)


def text(value) -> str:
    """The literal text of a value, references left out."""
    match value:
        case dict():
            return " ".join(text(item) for key, item in value.items() if key not in ("Ref", "Fn::GetAtt"))
        case list():
            return " ".join(map(text, value))
    return str(value)


def function_of(resources: dict, value) -> str | None:
    """The function behind an alias; None for anything that is not an alias."""
    alias = resources.get(target(value), {})
    return target(alias["Properties"]["FunctionName"]) if alias.get("Type") == "AWS::Lambda::Alias" else None


def statements(resources: dict):
    """(role, its policy's statement) of every policy there is."""
    for name, role in of_type(resources, "AWS::IAM::Role").items():
        for policy in role.get("Policies", []):
            yield from ((name, found) for found in as_list(policy["PolicyDocument"]["Statement"]))
    for kind in ("AWS::IAM::Policy", "AWS::IAM::ManagedPolicy"):
        for name, policy in of_type(resources, kind).items():
            for role in policy.get("Roles", [name]):
                yield from ((target(role), found) for found in as_list(policy["PolicyDocument"]["Statement"]))


def least_privilege(resources: dict) -> list[str]:
    """Every right is in the table above; a wildcard is only an open end of a path."""
    complaints = []
    for role, statement in statements(resources):
        if statement["Effect"] != "Allow":
            continue
        if "NotAction" in statement or "NotResource" in statement:
            complaints.append(f"{role}: allows all but something")
            continue
        for resource in as_list(statement["Resource"]):
            where = target(resource)
            if "*" in text(resource) and not text(resource).endswith(OPEN_ENDS):
                complaints.append(f"{role}: wildcard resource {text(resource)}")
            for action in as_list(statement["Action"]):
                if "*" in action:
                    complaints.append(f"{role}: wildcard action {action}")
                elif not _may(resources, role, action, where):
                    complaints.append(f"{role}: {action} on {where}")
    for name, role in of_type(resources, "AWS::IAM::Role").items():
        kind = next((kind for kind in MANAGED if name.endswith(kind)), None)
        for policy in role.get("ManagedPolicyArns", []):
            if kind is None or not text(policy).endswith(MANAGED[kind]):
                complaints.append(f"{name}: managed policy {text(policy)}")
    functions = of_type(resources, "AWS::Lambda::Function")
    complaints += [f"{name}: may what is not in the table" for name in functions if name not in MAY]
    return complaints


def _may(resources: dict, role: str, action: str, where: str) -> bool:
    function = role.removesuffix("Role")
    if function in MAY:
        return action in MAY[function].get(where, "").split()
    # What starts functions on a schedule may start them, and nothing else.
    return action == "lambda:InvokeFunction" and resources.get(where, {}).get("Type") == "AWS::Lambda::Alias"


def aliases_only(resources: dict) -> list[str]:
    """Whatever starts a function starts its alias: a deploy moves all traffic, a roll-back brings all of it back."""
    starters = [
        ("AWS::Lambda::EventSourceMapping", lambda p: p["FunctionName"]),
        ("AWS::Lambda::Permission", lambda p: p["FunctionName"]),
        ("AWS::ApiGatewayV2::Integration", lambda p: p["IntegrationUri"]),
        ("AWS::ApiGatewayV2::Authorizer", lambda p: p["AuthorizerUri"]),
        ("AWS::Scheduler::Schedule", lambda p: p["Target"]["Arn"]),
        ("AWS::SNS::Subscription", lambda p: p["Endpoint"] if p["Protocol"] == "lambda" else None),
    ]
    complaints, started = [], set()
    for kind, starts in starters:
        for name, properties in of_type(resources, kind).items():
            if (given := starts(properties)) is None:
                continue
            function = function_of(resources, given)
            started.add(function)
            if function is None:
                complaints.append(f"{name} bypasses the alias: {target(given)}")
    integrations = of_type(resources, "AWS::ApiGatewayV2::Integration")
    for name, route in of_type(resources, "AWS::ApiGatewayV2::Route").items():
        if target(route["Target"]) not in integrations:
            complaints.append(f"{name} leads to {target(route['Target'])}")
        if route["RouteKey"] == "$connect" and route.get("AuthorizationType") != "CUSTOM":
            complaints.append(f"{name} admits anybody")
    complaints += [f"nothing starts {name}" for name in of_type(resources, "AWS::Lambda::Function") if name not in started]
    return complaints


def visibility(resources: dict) -> list[str]:
    """A message stays hidden for six times the timeout of its function plus the batching window, as AWS advises
    (https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html); batches are answered in part."""
    complaints = []
    for name, source in of_type(resources, "AWS::Lambda::EventSourceMapping").items():
        queue, function = target(source["EventSourceArn"]), function_of(resources, source["FunctionName"])
        if function is None:
            continue  # the alias rule complains
        timeout = resources[function]["Properties"]["Timeout"]
        window = source.get("MaximumBatchingWindowInSeconds", 0)
        hidden = resources[queue]["Properties"].get("VisibilityTimeout", 30)
        if hidden < 6 * timeout + window:
            complaints.append(f"{queue}: hidden for {hidden} s; the timeout is {timeout} s, the window {window} s")
        if source.get("FunctionResponseTypes") != ["ReportBatchItemFailures"]:
            complaints.append(f"{name}: one bad message fails its batch")
        if source["BatchSize"] > 10 and window < 1:
            complaints.append(f"{name}: AWS asks for a window above a batch of 10")
        if "ScalingConfig" in source and "ProvisionedPollerConfig" in source:
            complaints.append(f"{name}: pollers and a bound on the concurrency exclude each other")
    return complaints


def dead_letters(resources: dict) -> list[str]:
    """Every queue has a dead-letter queue, which keeps a message longer than the queue itself."""
    queues = of_type(resources, "AWS::SQS::Queue")
    dead = {target(queue["RedrivePolicy"]["deadLetterTargetArn"]) for queue in queues.values() if "RedrivePolicy" in queue}
    for invoked in of_type(resources, "AWS::Lambda::EventInvokeConfig").values():
        dead.add(target(invoked.get("DestinationConfig", {}).get("OnFailure", {}).get("Destination", "")))
    complaints = [f"{name} has no dead-letter queue" for name in queues if name not in dead and "RedrivePolicy" not in queues[name]]
    for name, queue in queues.items():
        end = queues.get(target(queue.get("RedrivePolicy", {}).get("deadLetterTargetArn", "")))
        if end and end["MessageRetentionPeriod"] <= queue["MessageRetentionPeriod"]:
            complaints.append(f"{name}: its dead letters expire with it")
    return complaints


def logs_end(resources: dict) -> list[str]:
    """Every log group has a retention; every function and every stage with an access log writes to one of them."""
    groups = of_type(resources, "AWS::Logs::LogGroup")
    complaints = [f"{name} keeps its logs for ever" for name, group in groups.items() if "RetentionInDays" not in group]
    for name, function in of_type(resources, "AWS::Lambda::Function").items():
        config = function.get("LoggingConfig", {})
        if target(config.get("LogGroup", "")) not in groups:
            complaints.append(f"{name} has no log group")
        if config.get("LogFormat") != "JSON":
            complaints.append(f"{name}: its logs are not JSON")
        if config.get("ApplicationLogLevel") not in ("INFO", "DEBUG", "TRACE"):
            complaints.append(f"{name}: nothing says that its metrics are kept, whose lines count as INFO")
    for name, stage in of_type(resources, "AWS::ApiGatewayV2::Stage").items():
        settings = stage.get("AccessLogSettings")
        if settings and target(settings["DestinationArn"]) not in groups:
            complaints.append(f"{name} has no log group")
        if settings and re.search(r"\$context\.(path|routeKey|identity|authorizer)|query|header|body", settings["Format"]):
            complaints.append(f"{name}: its access log may hold keys, tickets or user ids")
    return complaints


def encryption(resources: dict) -> list[str]:
    """Tables, queues and topics are encrypted at rest."""
    complaints = []
    for name, table in of_type(resources, "AWS::DynamoDB::Table").items():
        if table.get("SSESpecification", {}).get("SSEEnabled") is not True:
            complaints.append(f"{name} is not encrypted")
    for name, queue in of_type(resources, "AWS::SQS::Queue").items():
        if queue.get("SqsManagedSseEnabled") is not True and "KmsMasterKeyId" not in queue:
            complaints.append(f"{name} is not encrypted")
    for name, topic in of_type(resources, "AWS::SNS::Topic").items():
        if "KmsMasterKeyId" not in topic:
            complaints.append(f"{name} is not encrypted")
    return complaints


def stored_by_hand(resources: dict) -> list[str]:
    """What an operator stores, no deployment overwrites: whether CloudFormation writes a value again when only a description or a tag
    changes is said nowhere, so there is none to write."""
    secret = resources["AlertWebhookSecret"]["Properties"]
    return [f"AlertWebhookSecret has a value of the template: {key}" for key in ("SecretString", "GenerateSecretString") if key in secret]


def tables_last(resources: dict) -> list[str]:
    """A table outlives its stack, and can be put back to any second of the last weeks. A creation that fails leaves none behind: the
    next one would begin beside forgotten tables."""
    complaints = []
    for name, resource in resources.items():
        if resource["Type"] == "AWS::DynamoDB::Table":
            table = resource["Properties"]
            if resource.get("DeletionPolicy") not in ("Retain", "RetainExceptOnCreate") or resource.get("UpdateReplacePolicy") != "Retain":
                complaints.append(f"{name} goes with its stack")
            if resource.get("DeletionPolicy") == "Retain":
                complaints.append(f"{name} is left behind by a creation that fails")
            if not table.get("PointInTimeRecoverySpecification", {}).get("PointInTimeRecoveryEnabled"):
                complaints.append(f"{name} has no point-in-time recovery")
    return complaints


def warm_by_hand(resources: dict) -> list[str]:
    """No table says how warm it is: DynamoDB grows it by itself and refuses every lower number, so an update that names one fails after
    the first sale (https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/warm-throughput.html). `firstcome warm` reads and raises."""
    return [f"{name} has a WarmThroughput" for name, table in of_type(resources, "AWS::DynamoDB::Table").items() if "WarmThroughput" in table]


def pollers_by_hand(resources: dict) -> list[str]:
    """No event source asks for pollers: CloudFormation does not end what a template no longer names. `firstcome pollers` does."""
    return [f"{name} has a ProvisionedPollerConfig" for name, source in of_type(resources, "AWS::Lambda::EventSourceMapping").items() if "ProvisionedPollerConfig" in source]


# Logical id → the parameter that reserves its executions. The door cannot take those that decide and answer.
RESERVED = {
    "ClaimFunction": "DoorReservedConcurrency",
    "ApiFunction": "ApiReservedConcurrency",
    "IssueFunction": "IssueReservedConcurrency",
    "BroadcastFunction": "BroadcastReservedConcurrency",
}


def reservations(resources: dict) -> list[str]:
    """Asked of a stack with reservations; each has another number."""
    functions = of_type(resources, "AWS::Lambda::Function")
    given = {name: functions[name].get("ReservedConcurrentExecutions") for name in RESERVED}
    complaints = [f"{name} has no reservation" for name, number in given.items() if not number]
    return complaints + (["two functions have the same reservation"] if len(set(given.values())) < len(given) else [])


def depends_on(resources: dict, name: str) -> set[str]:
    """All resources that must be there before this one, directly or by others."""
    found, next_ones = set(), {name}
    while next_ones:
        resource = resources[next_ones.pop()]
        near = set(re.findall(r'"(?:Ref|Fn::GetAtt)": \[?"(\w+)"|\$\{(\w+)[.}]', json.dumps(resource.get("Properties", {}))))
        near = {one or other for one, other in near} | set(as_list(resource.get("DependsOn", [])))
        next_ones |= (near & set(resources)) - found
        found |= near & set(resources)
    return found


def one_change_at_a_time(resources: dict) -> list[str]:
    """API Gateway refuses a change of an API beside another ("Unable to complete operation due to concurrent modification"), so of two
    resources of one API one always waits for the other; the stage waits for all, so that it serves them all."""
    parts = {name: found["Properties"] for name, found in resources.items() if found["Type"].startswith("AWS::ApiGatewayV2::")}
    before = {name: depends_on(resources, name) for name in parts}
    complaints = []
    for api in of_type(resources, "AWS::ApiGatewayV2::Api"):
        own = [name for name, properties in parts.items() if target(properties.get("ApiId", "")) == api]
        for position, name in enumerate(own):
            complaints += [f"{name} and {other} may change at once" for other in own[position + 1 :] if name not in before[other] and other not in before[name]]
        for stage in own:
            if resources[stage]["Type"] == "AWS::ApiGatewayV2::Stage":
                complaints += [f"{stage} does not wait for {name}" for name in own if name != stage and name not in before[stage]]
    for name, properties in of_type(resources, "AWS::ApiGatewayV2::Route").items():
        answers = [found for found in of_type(resources, "AWS::ApiGatewayV2::RouteResponse").values() if target(found["RouteId"]) == name]
        if "RouteResponseSelectionExpression" in properties and len(answers) != 1:
            complaints.append(f"{name}: what its function returns reaches nobody")
    return complaints


def deployment_is_current(resources: dict) -> list[str]:
    """A deployment is what the API was when it was created, so it is created anew, by another name, whenever the API changes."""
    complaints = []
    for name, deployment in of_type(resources, "AWS::ApiGatewayV2::Deployment").items():
        api = target(deployment["ApiId"])
        kinds = ("Authorizer", "Integration", "Route", "RouteResponse")
        parts = {key: found["Properties"] for key, found in resources.items() if found["Type"] in [f"AWS::ApiGatewayV2::{kind}" for kind in kinds]}
        own = {key: properties for key, properties in parts.items() if target(properties["ApiId"]) == api} | {api: resources[api]["Properties"]}
        digest = hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:8]
        if not name.endswith(digest):
            complaints.append(f"{name}: the API has changed; call it {name[:-8]}{digest}")
    return complaints


# What a new version can have caused, and nothing older or slower than it.
GATES = {"FunctionErrorsAlarm", "ApiErrorsAlarm", "StockDriftAlarm"}


def deploys_gradually(resources: dict) -> list[str]:
    """Every alias moves by CodeDeploy, which alarms stop and roll back; asked of a stack on AWS only."""
    aliases = {name: found for name, found in resources.items() if found["Type"] == "AWS::Lambda::Alias"}
    complaints = [f"{name} moves at once" for name, alias in aliases.items() if "CodeDeployLambdaAliasUpdate" not in alias.get("UpdatePolicy", {})]
    known = of_type(resources, "AWS::CloudWatch::Alarm")
    for name, group in of_type(resources, "AWS::CodeDeploy::DeploymentGroup").items():
        alarms = {target(alarm["Name"]) for alarm in group.get("AlarmConfiguration", {}).get("Alarms", [])}
        if not alarms & set(known):
            complaints.append(f"{name}: no alarm stops it")
        if alarms != GATES:
            complaints.append(f"{name}: stopped by {', '.join(sorted(alarms - GATES)) or 'too few'}, and by rule by {', '.join(sorted(GATES))}")
    return complaints


def tables_protected(resources: dict) -> list[str]:
    """No table can be deleted by mistake; asked of a stack on AWS with protection, which it has from its second deployment on."""
    tables = of_type(resources, "AWS::DynamoDB::Table")
    return [f"{name} can be deleted" for name, table in tables.items() if table.get("DeletionProtectionEnabled") is not True]


EVERYWHERE = [least_privilege, aliases_only, visibility, dead_letters, logs_end, encryption, tables_last, warm_by_hand, pollers_by_hand, stored_by_hand, reservations]
ON_AWS = [deploys_gradually, tables_protected, one_change_at_a_time, deployment_is_current]
