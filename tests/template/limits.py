"""What AWS refuses or does otherwise than a template reads, and no description of a call says: each with its source.

A rule takes the stack and returns its complaints, as in rules.py. Those that only hold of sensible parameters are in WITH_DEFAULTS.
"""

import json
import re
from functools import cached_property

import models
from cfnlint.schema import PROVIDER_SCHEMA_MANAGER
from expansion import concrete, expand, transformed
from rules import as_list, of_type, target


class Stack:
    """A template with parameters."""

    def __init__(self, template: dict, **parameters):
        self.template = template
        self.parameters = parameters

    @cached_property
    def resources(self) -> dict:
        """References between resources as they are."""
        return expand(self.template, **self.parameters)

    @cached_property
    def concrete(self) -> dict:
        """References replaced."""
        return concrete(self.template, **self.parameters)

    @cached_property
    def whole(self) -> tuple[dict, dict]:
        """The whole template, references to parameters as they are; the parameters' values."""
        return transformed(self.template, **self.parameters)


def schema(kind: str) -> dict:
    """The schema by which CloudFormation reads a type, as cfn-lint brings it."""
    return PROVIDER_SCHEMA_MANAGER.get_resource_schema("us-east-1", kind).schema


def described_calls(stack: Stack) -> list[str]:
    """models.py."""
    return models.complaints(stack.concrete)


def alarms(stack: Stack) -> list[str]:
    """10 metrics and 10 expressions, one of which is watched (https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/alarm-limits.html,
    API_PutMetricAlarm); a day of looking back, a week where the period is an hour or more."""
    complaints = []
    for name, alarm in of_type(stack.concrete, "AWS::CloudWatch::Alarm").items():
        queries = alarm.get("Metrics", [])
        metrics = [query for query in queries if "MetricStat" in query]
        expressions = [query for query in queries if "Expression" in query]
        if len(metrics) > 10 or len(expressions) > 10:
            complaints.append(f"{name}: {len(metrics)} metrics and {len(expressions)} expressions; CloudWatch takes 10 of each")
        if queries and [query.get("ReturnData", True) for query in queries].count(True) != 1:
            complaints.append(f"{name}: one of its queries must be the one that is watched")
        if bool(queries) == ("MetricName" in alarm):
            complaints.append(f"{name}: it watches a metric or an expression")
        for expression in expressions:
            named = set(re.findall(r'METRICS\("(\w+)"\)', expression["Expression"]))
            words = {word for word in re.findall(r"\b[a-z]\w*\b", re.sub(r'"[^"]*"', "", expression["Expression"]))}
            missing = {word for word in words if word not in {query["Id"] for query in queries}}
            missing |= {prefix for prefix in named if not any(prefix in query["Id"] for query in metrics)}
            if missing:
                complaints.append(f"{name}: it calculates with {', '.join(sorted(missing))}, which it does not have")
        periods = [alarm["Period"]] if "Period" in alarm else [query["MetricStat"]["Period"] for query in metrics]
        if any(period not in (10, 20, 30) and period % 60 for period in periods):
            complaints.append(f"{name}: a period is 10, 20, 30 or a multiple of 60 seconds")
        longest = max(periods, default=60)
        if longest * alarm["EvaluationPeriods"] > (604_800 if longest >= 3600 else 86_400):
            complaints.append(f"{name}: it looks back too far")
        if alarm.get("DatapointsToAlarm", 1) > alarm["EvaluationPeriods"]:
            complaints.append(f"{name}: it asks for more data points than it looks at")
    return complaints


def deployment_groups(stack: Stack) -> list[str]:
    """10 alarms a group (https://docs.aws.amazon.com/codedeploy/latest/userguide/limits.html)."""
    groups = of_type(stack.resources, "AWS::CodeDeploy::DeploymentGroup").items()
    found = {name: len(group.get("AlarmConfiguration", {}).get("Alarms", [])) for name, group in groups}
    return [f"{name}: {count} alarms stop it; CodeDeploy takes 10" for name, count in found.items() if count > 10]


def names(stack: Stack) -> list[str]:
    """A second stack of the account and Region cannot have the same names: what identifies a resource refers to the stack, or to another
    of its resources. SAM makes literal names as well (https://github.com/aws/serverless-application-model/issues/3109)."""
    complaints = []
    for name, resource in stack.resources.items():
        described = schema(resource["Type"])
        identifying = described["primaryIdentifier"] + [path for path in described.get("createOnlyProperties", []) if path.endswith("Name")]
        given = [resource["Properties"][key] for key in {path.split("/")[2] for path in identifying} if key in resource.get("Properties", {})]
        if given and not any("${AWS::StackName}" in json.dumps(value) or isinstance(value, dict) and target(value) in stack.resources for value in given):
            complaints.append(f"{name}: its name is the same in every stack: {', '.join(map(str, given))}")
    return complaints


def json_without_numbers(stack: Stack) -> list[str]:
    """Where CloudFormation knows no types (`Json` in its documentation), a reference to a number parameter arrives as a text: every
    parameter is one until the schema asks for a number."""
    template, _ = stack.whole
    numbers = {name for name, given in template["Parameters"].items() if given["Type"] == "Number"}
    complaints = []
    for name, resource in template["Resources"].items():
        described = schema(resource["Type"])
        for path, part in _untyped(described, described, resource.get("Properties", {}), ""):
            for found in sorted(_references(part) & numbers):
                complaints.append(f"{name}: {path} is of type Json, and refers to the number {found}")
    return complaints


def _untyped(root: dict, described: dict, value, path: str):
    """(path, value) of all parts whose type is not described."""
    if isinstance(value, dict) and set(value) == {"Fn::If"}:
        for branch in value["Fn::If"][1:]:
            yield from _untyped(root, described, branch, path)
        return
    while "$ref" in described:
        described = root["definitions"][described["$ref"].split("/")[-1]]
    members = described.get("properties", {})
    if isinstance(value, list):
        for position, item in enumerate(value):
            yield from _untyped(root, described.get("items", {}), item, f"{path}[{position}]")
    elif isinstance(value, dict) and members:
        for key, item in value.items():
            if key in members:
                yield from _untyped(root, members[key], item, f"{path}.{key}".lstrip("."))
    elif isinstance(value, dict) and "object" in as_list(described.get("type", "object")) and "patternProperties" not in described:
        yield path, value


def _references(value) -> set[str]:
    if isinstance(value, list):
        return {name for item in value for name in _references(item)}
    if not isinstance(value, dict):
        return set()
    if set(value) == {"Ref"}:
        return {value["Ref"]}
    return {name for item in value.values() for name in _references(item)}


def versions(stack: Stack) -> list[str]:
    """A new version is published when, and only when, the configuration of a function changes with a parameter.

    When: SAM names a version by a hash of the text, in which parameters are still references, so that CloudFormation sees the same
    resource and publishes nothing (https://github.com/aws/serverless-application-model/issues/3820). Its description does change, and
    cannot be updated: CloudFormation replaces the version. Only when: of a function that is as it was, Lambda publishes nothing, and
    CloudFormation refuses ("A version for this Lambda function exists"). Reserved concurrency and tags are not part of a version.
    """
    if "/properties/Description" not in schema("AWS::Lambda::Version")["createOnlyProperties"]:
        return ["the description of a version can be updated: this rule stands on nothing"]
    before = _published(stack.concrete)
    complaints = set()
    for parameter, value in _changes(stack):
        after = _published(concrete(stack.template, **(stack.parameters | {parameter: value})))
        for function, (configuration, version) in after.items():
            changed, published = configuration != before[function][0], version != before[function][1]
            if changed and not published:
                complaints.add(f"{function}: {parameter} changes it and publishes no version")
            if published and not changed:
                complaints.add(f"{function}: {parameter} publishes a version and changes nothing")
    return sorted(complaints)


def _published(resources: dict) -> dict:
    """Function → (what a version of it holds, the version's logical id and description)."""
    found = {}
    for name, version in of_type(resources, "AWS::Lambda::Version").items():
        function = next(key for key in of_type(resources, "AWS::Lambda::Function") if name.startswith(key + "Version"))
        configuration = models.without(resources[function]["Properties"], "ReservedConcurrentExecutions", "Tags")
        found[function] = (configuration, (name, version.get("Description")))
    return found


def _changes(stack: Stack):
    """(parameter, another value that it may have) for those that a function, a version or a condition names."""
    whole, values = stack.whole
    kinds = ("AWS::Lambda::Function", "AWS::Lambda::Version")
    told = json.dumps([whole["Conditions"], [found for found in whole["Resources"].values() if found["Type"] in kinds]])
    for name, given in whole["Parameters"].items():
        if f'"Ref": "{name}"' not in told and f"${{{name}}}" not in told:
            continue
        if "AllowedValues" in given:
            others = given["AllowedValues"]
        elif given["Type"] == "Number":
            others = [values[name] + 1, values[name] - 1, given.get("MinValue", 0)]
            others = [other for other in others if given.get("MinValue", other) <= other <= given.get("MaxValue", other)]
        else:
            others = [given["Default"], values[name] + "x" if len(values[name]) < given.get("MaxLength", 4096) else values[name][1:]]
        yield from ((name, other) for other in others if other != values[name])


def queues(stack: Stack) -> list[str]:
    """https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_CreateQueue.html; they are attributes without a type."""
    allowed = {"VisibilityTimeout": (0, 43_200), "MessageRetentionPeriod": (60, 1_209_600), "DelaySeconds": (0, 900), "ReceiveMessageWaitTimeSeconds": (0, 20)}
    complaints = []
    for name, queue in of_type(stack.concrete, "AWS::SQS::Queue").items():
        for key, (least, most) in allowed.items():
            if key in queue and not least <= int(queue[key]) <= most:
                complaints.append(f"{name}: {key} is {queue[key]}; AWS takes {least} to {most}")
        receives = queue.get("RedrivePolicy", {}).get("maxReceiveCount", 1)
        if not 1 <= int(receives) <= 1000:
            complaints.append(f"{name}: maxReceiveCount is {receives}; AWS takes 1 to 1000")
    return complaints


def retention(stack: Stack) -> list[str]:
    """https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_PutRetentionPolicy.html"""
    days = {1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653}
    groups = of_type(stack.concrete, "AWS::Logs::LogGroup").items()
    return [f"{name}: {group['RetentionInDays']} days" for name, group in groups if group.get("RetentionInDays", 1) not in days]


def environments(stack: Stack) -> list[str]:
    """4 KB, all variables together (https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html)."""
    complaints = []
    for name, function in of_type(stack.concrete, "AWS::Lambda::Function").items():
        size = len(json.dumps(function.get("Environment", {}).get("Variables", {})).encode())
        if size > 4096:
            complaints.append(f"{name}: an environment of {size} bytes; Lambda takes 4096")
    return complaints


def policies(stack: Stack) -> list[str]:
    """10,240 characters of inline policies a role, 2,048 of trust, 10 managed policies; white space does not count
    (https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html)."""
    complaints = []
    for name, role in of_type(stack.concrete, "AWS::IAM::Role").items():
        inline = sum(len(json.dumps(policy["PolicyDocument"], separators=(",", ":"))) for policy in role.get("Policies", []))
        trust = len(json.dumps(role["AssumeRolePolicyDocument"], separators=(",", ":")))
        if inline > 10_240 or trust > 2048 or len(role.get("ManagedPolicyArns", [])) > 10:
            complaints.append(f"{name}: {inline} characters of policies, {trust} of trust; IAM takes 10240 and 2048")
    return complaints


def template_size(stack: Stack) -> list[str]:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/cloudformation-limits.html"""
    whole, _ = stack.whole
    measured = [
        ("bytes of template", len(json.dumps(whole).encode()), 1_000_000),
        ("resources", len(whole["Resources"]), 500),
        ("parameters", len(whole["Parameters"]), 200),
        ("outputs", len(whole.get("Outputs", {})), 200),
        ("mappings", len(whole.get("Mappings", {})), 200),
        ("bytes of description", len(whole.get("Description", "").encode()), 1024),
        ("bytes of the longest default", max(len(str(given["Default"]).encode()) for given in whole["Parameters"].values()), 4096),
        ("characters of the longest description", max(len(given["Description"]) for given in whole["Parameters"].values()), 4000),
    ]
    return [f"{count} {what}; CloudFormation takes {most}" for what, count, most in measured if count > most]


def dashboards(stack: Stack) -> list[str]:
    """500 widgets, 500 metrics a widget, 2,500 a dashboard (https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/cloudwatch_limits.html);
    100 alarms a widget; a grid of 24 columns (CloudWatch-Dashboard-Body-Structure.html)."""
    complaints = []
    for name, dashboard in of_type(stack.concrete, "AWS::CloudWatch::Dashboard").items():
        widgets = json.loads(dashboard["DashboardBody"])["widgets"]
        metrics = [len(widget["properties"].get("metrics", [])) for widget in widgets]
        if len(widgets) > 500 or max(metrics) > 500 or sum(metrics) > 2500:
            complaints.append(f"{name}: {len(widgets)} widgets with {sum(metrics)} metrics; CloudWatch takes 500 with 2500")
        for widget in widgets:
            title = widget["properties"]["title"]
            if widget["x"] + widget["width"] > 24:
                complaints.append(f"{name}: {title} leaves the grid")
            if len(widget["properties"].get("alarms", [])) > 100:
                complaints.append(f"{name}: {title} has more than 100 alarms")
    if stack.whole[1]["Target"] == "local":  # it has fewer alarms than the dashboard names
        return complaints
    shown = {arn for dashboard in of_type(stack.concrete, "AWS::CloudWatch::Dashboard").values() for arn in re.findall(r"arn:aws:cloudwatch:[^\"]*", dashboard["DashboardBody"])}
    there = {f"arn:aws:cloudwatch:ap-northeast-2:123456789012:alarm:{alarm['AlarmName']}" for alarm in of_type(stack.concrete, "AWS::CloudWatch::Alarm").values()}
    return complaints + [f"Dashboard: {arn.split(':')[-1]} is shown or there, not both" for arn in sorted(shown ^ there)]


def gateway_waits(stack: Stack) -> list[str]:
    """API Gateway waits 30 s for an HTTP API's function and 29 s for a WebSocket API's
    (https://docs.aws.amazon.com/apigateway/latest/developerguide/limits.html)."""
    resources, complaints = stack.resources, []
    for name, integration in of_type(resources, "AWS::ApiGatewayV2::Integration").items():
        waits = 29 if resources[target(integration["ApiId"])]["Properties"]["ProtocolType"] == "WEBSOCKET" else 30
        function = target(resources[target(integration["IntegrationUri"])]["Properties"]["FunctionName"])
        timeout = resources.get(function, {"Properties": {"Timeout": 0}})["Properties"]["Timeout"]
        if timeout >= waits:
            complaints.append(f"{name}: the gateway waits for {waits} s, {function} may take {timeout} s")
    return complaints


def account_settings(stack: Stack) -> list[str]:
    """A WebSocket API logs with a role of the account's settings, or its stage is refused ("CloudWatch Logs role ARN must be set in account
    settings to enable logging", https://docs.aws.amazon.com/apigateway/latest/developerguide/websocket-api-logging.html)."""
    complaints = []
    for name, stage in of_type(stack.resources, "AWS::ApiGatewayV2::Stage").items():
        settings = [stage.get("DefaultRouteSettings", {})] + list(stage.get("RouteSettings", {}).values())
        logs = "AccessLogSettings" in stage or any(given.get("LoggingLevel", "OFF") != "OFF" for given in settings)
        if logs and stack.resources[target(stage["ApiId"])]["Properties"]["ProtocolType"] == "WEBSOCKET":
            complaints.append(f"{name}: its logs need a role that an account does not have by itself")
    return complaints


def requests_fit(stack: Stack) -> list[str]:
    """All throttles of routes and all posts together stay within the account's requests per second in the Region, which every HTTP and
    WebSocket API and every post count in (https://docs.aws.amazon.com/apigateway/latest/developerguide/limits.html). So no door starves another."""
    quota = stack.whole[1]["RegionRequestQuota"]
    total, complaints = 0, []
    for name, stage in of_type(stack.resources, "AWS::ApiGatewayV2::Stage").items():
        routes = [route["RouteKey"] for route in of_type(stack.resources, "AWS::ApiGatewayV2::Route").values() if route["ApiId"] == stage["ApiId"]]
        settings = stage.get("RouteSettings", {})
        total += sum(settings.get(route, stage["DefaultRouteSettings"])["ThrottlingRateLimit"] for route in routes)
        unlisted = set(routes) - set(settings)
        if len(unlisted) > 1 or set(settings) - set(routes):
            complaints.append(f"{name}: these have the throttle of one route, or are none: {', '.join(sorted(unlisted | set(settings) - set(routes)))}")
    for source in of_type(stack.resources, "AWS::Lambda::EventSourceMapping").values():
        function = stack.resources[target(stack.resources[target(source["FunctionName"])]["Properties"]["FunctionName"])]
        posts = function["Properties"]["Environment"]["Variables"].get("BROADCAST_REQUESTS_PER_SECOND", 0)
        total += posts * source["ScalingConfig"]["MaximumConcurrency"]
    return complaints + ([f"{total} requests a second; the Region has {quota}"] if total > quota else [])


ALWAYS = [described_calls, alarms, deployment_groups, names, json_without_numbers, versions, queues, retention, environments, policies, template_size, dashboards, gateway_waits, account_settings]
# Sums of what each may be set to by itself.
WITH_DEFAULTS = [requests_fit]
