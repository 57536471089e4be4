"""template.yaml as CloudFormation gets it: SAM's transform applied, parameters and conditions resolved, no AWS involved.

References between resources stay as they are; the rules follow them.
"""

import copy
import logging
import os
from pathlib import Path

from samtranslator.translator.managed_policy_translator import ManagedPolicyLoader
from samtranslator.translator.transform import transform
from samtranslator.yaml_helper import yaml_parse

TEMPLATE = Path(__file__).resolve().parents[2] / "template.yaml"
ABSENT = object()

logging.disable(logging.WARNING)  # the transform warns of feature toggles and metrics, which are AWS's own
os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")  # it wants a Region to know the partition


def load() -> dict:
    """The template as written."""
    return yaml_parse(TEMPLATE.read_text())


def expand(template: dict, **parameters: str) -> dict:
    """Logical id → resource of the stack with these parameters, the others at their defaults."""
    template = copy.deepcopy(template)
    values = {name: given["Default"] for name, given in template["Parameters"].items()} | parameters
    for resource in template["Resources"].values():
        if "CodeUri" in resource["Properties"]:  # `sam deploy` uploads the build and writes where to
            resource["Properties"]["CodeUri"] = "s3://bucket/key"
    expanded = transform(template, values, _NoPolicies())
    return _Resolver(expanded, values).resources()


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
            case "Fn::Not":
                return not self.condition(arguments[0])
            case "Fn::And":
                return all(map(self.condition, arguments))
            case "Fn::Or":
                return any(map(self.condition, arguments))
        raise ValueError(f"unknown condition function {function}")
