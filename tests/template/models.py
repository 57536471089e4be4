"""Every resource held to AWS's own description of the call that creates it: names, types, enumerations, patterns, bounds, what is required.

botocore brings the descriptions ("service models"). A resource of a type that is not in CALLS is a complaint, so that none goes by
unseen. What the descriptions do not say is in limits.py.
"""

import json
import re
from functools import cache

import botocore.session
from botocore.model import Shape

SESSION = botocore.session.get_session()


@cache
def service(name: str):
    return SESSION.get_service_model(name)


def lower(value):
    """Keys as services spell them whose members begin with a small letter."""
    if isinstance(value, list):
        return [lower(item) for item in value]
    return {key[0].lower() + key[1:]: lower(item) for key, item in value.items()} if isinstance(value, dict) else value


def tags(properties: dict) -> dict:
    """A list of tags as a map."""
    return properties | {"Tags": {tag["Key"]: tag["Value"] for tag in properties["Tags"]}} if isinstance(properties.get("Tags"), list) else properties


def without(properties: dict, *names: str) -> dict:
    return {key: value for key, value in properties.items() if key not in names}


def _function(p: dict):
    yield "lambda", "CreateFunction", {"FunctionName": "made"} | tags(without(p, "ReservedConcurrentExecutions"))
    if "ReservedConcurrentExecutions" in p:
        yield "lambda", "PutFunctionConcurrency", {"FunctionName": "made", "ReservedConcurrentExecutions": p["ReservedConcurrentExecutions"]}


def _table(p: dict):
    apart = ("TimeToLiveSpecification", "PointInTimeRecoverySpecification", "SSESpecification")
    encryption = {"Enabled" if key == "SSEEnabled" else key: value for key, value in p.get("SSESpecification", {}).items()}
    yield "dynamodb", "CreateTable", {"TableName": "made"} | without(p, *apart) | ({"SSESpecification": encryption} if encryption else {})
    if apart[0] in p:
        yield "dynamodb", "UpdateTimeToLive", {"TableName": "made", apart[0]: p[apart[0]]}
    if apart[1] in p:
        yield "dynamodb", "UpdateContinuousBackups", {"TableName": "made", apart[1]: p[apart[1]]}


def _queue(p: dict):
    attributes = {key: json.dumps(value) if isinstance(value, dict) else str(value) for key, value in p.items() if key not in ("QueueName", "Tags")}
    yield "sqs", "CreateQueue", {"QueueName": p.get("QueueName", "made"), "Attributes": attributes}


def _role(p: dict):
    apart = ("Policies", "ManagedPolicyArns", "AssumeRolePolicyDocument")
    yield "iam", "CreateRole", {"RoleName": "made", "AssumeRolePolicyDocument": json.dumps(p[apart[2]])} | without(p, *apart)
    for policy in p.get("Policies", []):
        yield "iam", "PutRolePolicy", {"RoleName": "made"} | policy | {"PolicyDocument": json.dumps(policy["PolicyDocument"])}
    for arn in p.get("ManagedPolicyArns", []):
        yield "iam", "AttachRolePolicy", {"RoleName": "made", "PolicyArn": arn}


def _key(p: dict):
    apart = ("EnableKeyRotation", "PendingWindowInDays", "KeyPolicy")
    yield "kms", "CreateKey", without(p, *apart) | ({"Policy": json.dumps(p["KeyPolicy"])} if "KeyPolicy" in p else {})
    if "PendingWindowInDays" in p:
        yield "kms", "ScheduleKeyDeletion", {"KeyId": "made", "PendingWindowInDays": p["PendingWindowInDays"]}


def _topic(p: dict):
    apart = ("TopicName", "Tags")
    yield "sns", "CreateTopic", {"Name": p.get("TopicName", "made"), "Attributes": without(p, *apart)}


def _log_group(p: dict):
    yield "logs", "CreateLogGroup", {"logGroupName": p.get("LogGroupName", "made")} | lower(without(p, "LogGroupName", "RetentionInDays"))
    if "RetentionInDays" in p:
        yield "logs", "PutRetentionPolicy", {"logGroupName": p.get("LogGroupName", "made"), "retentionInDays": p["RetentionInDays"]}


def _secret(p: dict):
    yield "secretsmanager", "CreateSecret", {"Name": "made"} | without(p, "GenerateSecretString")
    if "GenerateSecretString" in p:
        yield "secretsmanager", "GetRandomPassword", without(p["GenerateSecretString"], "SecretStringTemplate", "GenerateStringKey")


def one(service_name: str, operation: str, change=lambda properties: properties, **added):
    """A type that one call creates."""
    return lambda properties: [(service_name, operation, added | change(properties))]


# Type → its calls: (service, operation, parameters).
CALLS = {
    "AWS::ApiGatewayV2::Api": one("apigatewayv2", "CreateApi"),
    "AWS::ApiGatewayV2::Authorizer": one("apigatewayv2", "CreateAuthorizer"),
    "AWS::ApiGatewayV2::Deployment": one("apigatewayv2", "CreateDeployment"),
    "AWS::ApiGatewayV2::Integration": one("apigatewayv2", "CreateIntegration"),
    "AWS::ApiGatewayV2::Route": one("apigatewayv2", "CreateRoute"),
    "AWS::ApiGatewayV2::RouteResponse": one("apigatewayv2", "CreateRouteResponse"),
    "AWS::ApiGatewayV2::Stage": one("apigatewayv2", "CreateStage"),
    "AWS::CloudWatch::Alarm": one("cloudwatch", "PutMetricAlarm"),
    "AWS::CloudWatch::Dashboard": one("cloudwatch", "PutDashboard"),
    "AWS::CodeDeploy::Application": one("codedeploy", "CreateApplication", lower, applicationName="made"),
    "AWS::CodeDeploy::DeploymentGroup": one("codedeploy", "CreateDeploymentGroup", lower, deploymentGroupName="made"),
    "AWS::DynamoDB::Table": _table,
    "AWS::Events::EventBus": one("events", "CreateEventBus"),
    "AWS::Events::Rule": one("events", "PutRule", lambda p: without(p, "Targets"), Name="made"),
    "AWS::IAM::Role": _role,
    "AWS::KMS::Key": _key,
    "AWS::Lambda::Alias": one("lambda", "CreateAlias"),
    "AWS::Lambda::EventInvokeConfig": one("lambda", "PutFunctionEventInvokeConfig"),
    "AWS::Lambda::EventSourceMapping": one("lambda", "CreateEventSourceMapping"),
    "AWS::Lambda::Function": _function,
    "AWS::Lambda::Permission": one("lambda", "AddPermission", StatementId="made"),
    "AWS::Lambda::Version": one("lambda", "PublishVersion"),
    "AWS::Logs::LogGroup": _log_group,
    "AWS::SNS::Subscription": one("sns", "Subscribe"),
    "AWS::SNS::Topic": _topic,
    "AWS::SNS::TopicPolicy": one("sns", "SetTopicAttributes", lambda p: {"TopicArn": p["Topics"][0], "AttributeValue": json.dumps(p["PolicyDocument"])}, AttributeName="Policy"),
    "AWS::SQS::Queue": _queue,
    "AWS::Scheduler::Schedule": one("scheduler", "CreateSchedule", Name="made"),
    "AWS::SecretsManager::Secret": _secret,
}

def complaints(resources: dict) -> list[str]:
    """What the services would refuse of these resources (`expansion.concrete`)."""
    found = []
    for name, resource in resources.items():
        if resource["Type"] not in CALLS:
            found.append(f"{name}: no call is known that creates {resource['Type']}")
            continue
        for service_name, operation, parameters in CALLS[resource["Type"]](resource.get("Properties", {})):
            shape = service(service_name).operation_model(operation).input_shape
            found += [f"{name}: {operation}: {complaint}" for complaint in measure(shape, parameters, "")]
    return found


def measure(shape: Shape, value, path: str) -> list[str]:
    """How this value departs from its description."""
    where = path or "the whole"
    match shape.type_name:
        case "structure":
            if not isinstance(value, dict):
                return [f"{where} is not a structure"]
            found = [f"{where} lacks {member}" for member in shape.required_members if member not in value]
            for key, item in value.items():
                if key in shape.members:
                    found += measure(shape.members[key], item, f"{path}.{key}".lstrip("."))
                else:
                    found.append(f"{path}.{key} is unknown".lstrip("."))
            return found
        case "list":
            if not isinstance(value, list):
                return [f"{where} is not a list"]
            found = bounds(shape, len(value), where)
            return found + [complaint for position, item in enumerate(value) for complaint in measure(shape.member, item, f"{path}[{position}]")]
        case "map":
            if not isinstance(value, dict):
                return [f"{where} is not a map"]
            found = bounds(shape, len(value), where)
            for key, item in value.items():
                found += measure(shape.key, key, f"key {key} of {where}") + measure(shape.value, item, f"{path}.{key}")
            return found
        case "integer" | "long" | "double" | "float":
            # CloudFormation makes numbers of texts where it knows the type; limits.py sees to where it does not.
            whole = shape.type_name in ("integer", "long")
            if isinstance(value, bool) or not re.fullmatch(r"-?\d+" if whole else r"-?\d+(\.\d+)?", str(value)):
                return [f"{where} is not a number: {value}"]
            return bounds(shape, float(value), where)
        case "boolean":
            return [] if isinstance(value, bool) or value in ("true", "false") else [f"{where} is neither true nor false: {value}"]
        case "string":
            if isinstance(value, (dict, list)):
                return [f"{where} is not a text"]
            return text(shape, str(value), where)
    return []


def bounds(shape: Shape, value: float, where: str) -> list[str]:
    found = []
    if value < shape.metadata.get("min", value):
        found.append(f"{where} is {value:g}, below {shape.metadata['min']}")
    if value > shape.metadata.get("max", value):
        found.append(f"{where} is {value:g}, above {shape.metadata['max']}")
    return found


def text(shape: Shape, value: str, where: str) -> list[str]:
    found = bounds(shape, len(value), where + " (length)")
    allowed = shape.metadata.get("enum")
    if allowed and value not in allowed:
        found.append(f"{where} is none of {', '.join(allowed[:8])}: {value}")
    pattern = shape.metadata.get("pattern")
    if pattern and not re.fullmatch(translated(pattern), value):
        found.append(f"{where} does not match {pattern}: {value}")
    return found


def translated(pattern: str) -> str:
    """A pattern as Python reads it: services write Java's, whose classes by Unicode property Python does not know."""
    return re.sub(r"\\p\{\w+\}", lambda found: r"\w" if found[0] in (r"\p{L}", r"\p{N}") else r"\s", pattern)
