"""template.yaml as CloudFormation gets it: SAM's transform applied, parameters and conditions resolved, no AWS involved.

`expand` leaves references between resources as they are, because the rules follow them. `concrete` replaces them as well, by names
and ARNs such as AWS would give, so that what is sent to AWS can be measured.
"""

import copy
import logging
import os
import re
from pathlib import Path

from samtranslator.translator.managed_policy_translator import ManagedPolicyLoader
from samtranslator.translator.transform import transform
from samtranslator.yaml_helper import yaml_parse

TEMPLATE = Path(__file__).resolve().parents[2] / "template.yaml"
ABSENT = object()
# As long as a name of a stack may be here (docs/first-deploy.md): CloudFormation takes 128 characters, API Gateway 128 for "<stack>-partners".
STACK = "firstcome-" + "x" * 109
PSEUDO = {
    "AWS::AccountId": "123456789012",
    "AWS::Partition": "aws",
    "AWS::Region": "ap-northeast-2",
    "AWS::StackName": STACK,
    "AWS::StackId": f"arn:aws:cloudformation:ap-northeast-2:123456789012:stack/{STACK}/00000000-0000-0000-0000-000000000000",
    "AWS::URLSuffix": "amazonaws.com",
}

logging.disable(logging.WARNING)  # the transform warns of feature toggles and metrics, which are AWS's own
os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")  # it wants a Region to know the partition


class Refused(Exception):
    """A rule of the template does not admit these parameters."""


def load() -> dict:
    """The template as written."""
    return yaml_parse(TEMPLATE.read_text())


def transformed(template: dict, **parameters) -> tuple[dict, dict]:
    """The whole template after the transform, with references to parameters as they are; and the parameters' values."""
    template = copy.deepcopy(template)
    values = {}
    for name, given in template["Parameters"].items():
        value = parameters.get(name, given["Default"])
        values[name] = float(value) if given["Type"] == "Number" and "." in str(value) else int(value) if given["Type"] == "Number" else value
    for resource in template["Resources"].values():
        if "CodeUri" in resource["Properties"]:  # `sam deploy` uploads the build and writes where to
            resource["Properties"]["CodeUri"] = "s3://bucket/key"
    return transform(template, copy.deepcopy(values), _NoPolicies()), values


def expand(template: dict, **parameters) -> dict:
    """Logical id → resource of the stack with these parameters, the others at their defaults."""
    resolver = _Resolver(*transformed(template, **parameters))
    resolver.judge()
    return resolver.resources()


def concrete(template: dict, **parameters) -> dict:
    """Likewise, with names and ARNs in the place of references."""
    resolver = _Concrete(*transformed(template, **parameters))
    resolver.judge()
    return resolver.resources()


class _NoPolicies(ManagedPolicyLoader):
    """Knows no managed policy by name, so that nothing is asked of IAM; the template names none."""

    def __init__(self):
        super().__init__(None)

    def load(self):
        return {}


class _Resolver:
    """Parameters, Fn::If and conditions; all else is left."""

    def __init__(self, template: dict, values: dict):
        self.template = template
        self.values = values | {"AWS::NoValue": ABSENT}

    def resources(self) -> dict:
        return {
            name: self.value(resource)
            for name, resource in self.template["Resources"].items()
            if "Condition" not in resource or self.condition(resource["Condition"])
        }

    def judge(self) -> None:
        """The section `Rules`, which CloudFormation asks before it does anything."""
        for rule in self.template.get("Rules", {}).values():
            for assertion in rule["Assertions"]:
                if not self.condition(assertion["Assert"]):
                    raise Refused(assertion["AssertDescription"])

    def value(self, given):
        if isinstance(given, list):
            return [item for item in map(self.value, given) if item is not ABSENT]
        if not isinstance(given, dict):
            return given
        if set(given) == {"Ref"} and given["Ref"] in self.values:
            return self.values[given["Ref"]]
        if set(given) == {"Fn::If"}:
            condition, yes, no = given["Fn::If"]
            return self.value(yes if self.condition(condition) else no)
        return {key: item for key, item in ((key, self.value(item)) for key, item in given.items()) if item is not ABSENT}

    def condition(self, given) -> bool:
        if isinstance(given, str):
            return self.condition(self.template["Conditions"][given])
        ((function, arguments),) = given.items()
        match function:
            case "Condition":
                return self.condition(arguments)
            case "Fn::Equals":
                left, right = map(self.value, arguments)
                return str(left) == str(right)
            case "Fn::Contains":
                return str(self.value(arguments[1])) in arguments[0]
            case "Fn::Not":
                return not self.condition(arguments[0])
            case "Fn::And":
                return all(map(self.condition, arguments))
            case "Fn::Or":
                return any(map(self.condition, arguments))
        raise ValueError(f"unknown condition function {function}")


class _Concrete(_Resolver):
    """All functions that the template uses."""

    def __init__(self, template: dict, values: dict):
        super().__init__(template, values | PSEUDO)

    def value(self, given):
        if not isinstance(given, dict) or len(given) != 1:
            return super().value(given)
        ((function, argument),) = given.items()
        match function:
            case "Ref":
                return self.values[argument] if argument in self.values else self.attribute(argument, "Ref")
            case "Fn::GetAtt":
                name, attribute = argument if isinstance(argument, list) else argument.split(".", 1)
                return self.attribute(name, attribute)
            case "Fn::Sub":
                text, given = (argument, {}) if isinstance(argument, str) else argument
                return re.sub(r"\$\{([^}!]*)\}", lambda found: str(self.named(found[1], given)), text)
            case "Fn::Join":
                return argument[0].join(str(self.value(part)) for part in argument[1])
            case "Fn::Split":
                return self.value(argument[1]).split(argument[0])
        return super().value(given)

    def named(self, name: str, given: dict):
        if name in given:
            return self.value(given[name])
        return self.value({"Fn::GetAtt": name} if "." in name else {"Ref": name})

    def attribute(self, name: str, attribute: str) -> str:
        """What AWS would return, in form and length. CloudFormation cuts the names that it makes to what the service takes."""
        kind = self.template["Resources"][name]["Type"]
        region = f"{PSEUDO['AWS::Region']}:{PSEUDO['AWS::AccountId']}"
        made = f"{STACK[:24]}-{name[:24]}-ABCDEFGHIJKL"
        unknown = ("attribute", kind, attribute)
        properties = self.template["Resources"][name].get("Properties", {})
        match kind.removeprefix("AWS::"), attribute:
            case "Lambda::Function", "Ref":
                return made
            case "Lambda::Function", "Arn":
                return f"arn:aws:lambda:{region}:function:{made}"
            case "Lambda::Alias", "Ref":
                function = properties["FunctionName"]["Ref"]
                return f"{self.attribute(function, 'Arn')}:{properties['Name']}"
            case "Lambda::Version", "Version":
                return "10000"
            case ("Lambda::EventSourceMapping", "Ref") | ("KMS::Key", "Ref"):
                return "14e0db71-xmpl-4eb5-b481-8945cf9d10c2".replace("xmpl", "4a2c")
            case "DynamoDB::Table", "Ref":
                return made
            case "DynamoDB::Table", "Arn":
                return f"arn:aws:dynamodb:{region}:table/{made}"
            case "SQS::Queue", "Ref":
                return f"https://sqs.{PSEUDO['AWS::Region']}.amazonaws.com/{PSEUDO['AWS::AccountId']}/{made}"
            case "SQS::Queue", "Arn":
                return f"arn:aws:sqs:{region}:{made}"
            case "SQS::Queue", "QueueName":
                return made
            case "SecretsManager::Secret", "Ref" | "Id":
                return f"arn:aws:secretsmanager:{region}:secret:{name}-ABCDEFGHIJKL-abcdef"
            case "SNS::Topic", "Ref":
                return f"arn:aws:sns:{region}:{self.value(properties['TopicName'])}"
            case "KMS::Key", "Arn":
                return f"arn:aws:kms:{region}:key/{self.attribute(name, 'Ref')}"
            case "IAM::Role", "Arn":
                return f"arn:aws:iam::{PSEUDO['AWS::AccountId']}:role/{made}"
            case "Logs::LogGroup", "Ref":
                return self.value(properties["LogGroupName"])
            case "Logs::LogGroup", "Arn":
                return f"arn:aws:logs:{region}:log-group:{self.value(properties['LogGroupName'])}:*"
            case "CloudWatch::Alarm", "Ref":
                return self.value(properties["AlarmName"])
            case "CloudWatch::Alarm", "Arn":
                return f"arn:aws:cloudwatch:{region}:alarm:{self.value(properties['AlarmName'])}"
            case "CodeDeploy::Application" | "CodeDeploy::DeploymentGroup", "Ref":
                return made
            case "ApiGatewayV2::Api" | "ApiGatewayV2::Authorizer" | "ApiGatewayV2::Deployment" | "ApiGatewayV2::Integration" | "ApiGatewayV2::Route", "Ref":
                return "a1b2c3d4e5"
        raise ValueError(f"unknown {unknown}")
