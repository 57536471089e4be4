"""Holds template.yaml, expanded, to rules.py and limits.py; then breaks it in every way that counts and sees each rule complain.

Run by tools/test: .venv/sam/bin/python -m unittest discover -s tests/template (-v shows what each complains of)
"""

import copy
import re
import sys
import tomllib
import unittest

import limits
import rules
from expansion import TEMPLATE, Refused, concrete, expand, load

WRITTEN = load()
PARAMETERS = WRITTEN["Parameters"]
CONFIGURED = tomllib.loads((TEMPLATE.parent / "samconfig.toml").read_text())
# What has a value only where somebody wants it.
OPTIONAL = {"AlarmEmail": "on-call@example.com", "CorsAllowedOrigins": "https://console.example.com,https://example.com", "ProtectTables": "true"}
RESERVED = {"DoorReservedConcurrency": 400, "ApiReservedConcurrency": 50, "IssueReservedConcurrency": 25, "BroadcastReservedConcurrency": 15}
FUNCTIONS = {name for name, found in WRITTEN["Resources"].items() if found["Type"] == "AWS::Serverless::Function"}


def chosen(environment: str) -> dict:
    """What samconfig.toml deploys with."""
    return dict(choice.split("=") for choice in CONFIGURED[environment]["deploy"]["parameters"]["parameter_overrides"].split())


ON_AWS = chosen("default") | OPTIONAL | RESERVED
LOCAL = {"Target": "local", "DeploymentPreference": "AllAtOnce"}


def complaints(template: dict, asked, **parameters) -> list[str]:
    """What these rules find in the stack on AWS, with these parameters besides."""
    stack = limits.Stack(template, **(ON_AWS | parameters))
    return [complaint for rule in asked for complaint in rule(stack if rule.__module__ == "limits" else stack.resources)]


def at_bounds(key: str, last: int) -> dict:
    """Every parameter at its lower or upper bound; the last ones allowed, or the longest."""
    found = {}
    for name, given in PARAMETERS.items():
        if "AllowedValues" in given and name not in ("Target", "DeploymentPreference"):
            found[name] = given["AllowedValues"][last]
        elif key in given:
            found[name] = given[key]
        elif key == "MaxValue" and "MaxLength" in given:
            found[name] = "x" * given["MaxLength"]
    return found


class TheTemplate(unittest.TestCase):
    maxDiff = None

    def test_keeps_every_rule_on_aws(self):
        self.assertEqual(complaints(WRITTEN, rules.EVERYWHERE + rules.ON_AWS + limits.ALWAYS + limits.WITH_DEFAULTS), [])

    def test_keeps_the_rules_locally(self):
        self.assertEqual(complaints(WRITTEN, rules.EVERYWHERE + limits.ALWAYS, **LOCAL), [])

    def test_keeps_every_rule_at_the_bounds_of_its_parameters(self):
        for key, last in (("MinValue", 0), ("MaxValue", -1)):
            with self.subTest(key):
                bounds = {name: value for name, value in at_bounds(key, last).items() if name not in RESERVED | OPTIONAL}
                self.assertGreater(len(bounds), 10)
                self.assertEqual(complaints(WRITTEN, rules.EVERYWHERE + rules.ON_AWS + limits.ALWAYS, **bounds), [])

    def test_needs_nothing_that_is_optional(self):
        unreserved = dict.fromkeys(RESERVED, 0)
        asked = [rule for rule in rules.EVERYWHERE if rule is not rules.reservations] + [rules.one_change_at_a_time] + limits.ALWAYS
        self.assertEqual(complaints(WRITTEN, asked, AlarmEmail="", CorsAllowedOrigins="", **unreserved), [])
        functions = rules.of_type(expand(WRITTEN, **unreserved), "AWS::Lambda::Function")
        self.assertFalse([name for name, function in functions.items() if "ReservedConcurrentExecutions" in function])

    def test_reserves_what_its_parameters_say(self):
        functions = rules.of_type(expand(WRITTEN, **RESERVED), "AWS::Lambda::Function")
        found = {rules.RESERVED[name]: function["ReservedConcurrentExecutions"] for name, function in functions.items() if name in rules.RESERVED}
        self.assertEqual(found, RESERVED)

    def test_fits_into_a_small_and_a_large_region(self):
        self.assertEqual(complaints(WRITTEN, limits.WITH_DEFAULTS, **chosen("small")), [])
        self.assertEqual(chosen("small")["RegionRequestQuota"], "2500")
        self.assertEqual(complaints(WRITTEN, limits.WITH_DEFAULTS, RegionRequestQuota=40000), [])

    def test_leaves_nothing_behind_that_hinders_a_second_creation(self):
        tables = rules.of_type(expand(WRITTEN, **chosen("default")), "AWS::DynamoDB::Table")
        self.assertEqual({table["DeletionProtectionEnabled"] for table in tables.values()}, {False})

    def test_refuses_large_batches_without_a_window(self):
        for size, window in ((11, 0), (495, 0), (990, 0)):
            with self.assertRaisesRegex(Refused, "ClaimBatchWindowSeconds of 1 or more"):
                expand(WRITTEN, ClaimBatchSize=size, ClaimBatchWindowSeconds=window)
        for size, window in ((1, 0), (10, 0), (10, 5), (11, 1), (495, 1)):
            source = expand(WRITTEN, ClaimBatchSize=size, ClaimBatchWindowSeconds=window)["ClaimsEventSource"]["Properties"]
            self.assertEqual((source["BatchSize"], source["MaximumBatchingWindowInSeconds"]), (size, window))

    def test_expands_every_function_with_alias_role_and_deployment_group(self):
        resources = expand(WRITTEN, **ON_AWS)
        self.assertEqual({name for name in rules.of_type(resources, "AWS::Lambda::Function")}, FUNCTIONS)
        for name in FUNCTIONS:
            for part in ("Aliaslive", "Role", "DeploymentGroup"):
                self.assertIn(name + part, resources)
        self.assertEqual(len(rules.of_type(resources, "AWS::ApiGatewayV2::Route")), 9)

    def test_publishes_a_version_when_a_parameter_of_the_environment_changes(self):
        before, after = (concrete(WRITTEN, **ON_AWS, BroadcastRequestsPerSecond=rate) for rate in (280, 281))
        (name, version), (same, described) = (
            next((name, found["Description"]) for name, found in rules.of_type(resources, "AWS::Lambda::Version").items() if name.startswith("Broadcast"))
            for resources in (before, after)
        )
        # The transform does not see the value, so the name stays; the description cannot be updated, so CloudFormation replaces the version.
        self.assertEqual(name, same)
        self.assertNotEqual(version, described)
        self.assertIn("/properties/Description", limits.schema("AWS::Lambda::Version")["createOnlyProperties"])

    def test_knows_no_code_deploy_locally(self):
        # The local AWS expands with the defaults, whatever it is told.
        kinds = {found["Type"] for found in expand(WRITTEN, Target="local").values()}
        self.assertFalse({kind for kind in kinds if "CodeDeploy" in kind or kind.endswith(("RouteResponse", "V2::Deployment"))})

    def test_takes_the_type_of_a_deployment_from_its_parameter(self):
        group = expand(WRITTEN, DeploymentPreference="Linear10PercentEvery1Minute")["ApiFunctionDeploymentGroup"]
        self.assertIn("Linear10PercentEvery1Minute", str(group["Properties"]["DeploymentConfigName"]))

    def test_has_as_many_alarms_as_the_readme_says(self):
        alarms = rules.of_type(expand(WRITTEN, **ON_AWS), "AWS::CloudWatch::Alarm").values()
        words = ["none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen"]
        words += ["sixteen", "seventeen", "eighteen", "nineteen", "twenty"]
        readme = re.sub(r"\s+", " ", (TEMPLATE.parent / "README.md").read_text())
        calculating = words[len([alarm for alarm in alarms if "Metrics" in alarm])]
        self.assertTrue(f"{words[len(alarms)]} alarms" in readme, words[len(alarms)])
        self.assertTrue(f"{calculating} of the alarms calculate" in readme, calculating)


def set_at(value, *path):
    """A mutation: the value at the path below Resources; None removes it."""

    def mutate(template: dict) -> None:
        found = template["Resources"]
        for step in path[:-1]:
            found = found[step]
        if value is None:
            del found[path[-1]]
        else:
            found[path[-1]] = value

    return mutate


def statement(function: str, position: int, key: str, value):
    return set_at(value, function, "Properties", "Policies", 0, "Statement", position, key)


def extra_statement(function: str, **added):
    def mutate(template: dict) -> None:
        template["Resources"][function]["Properties"]["Policies"][0]["Statement"].append({"Effect": "Allow"} | added)

    return mutate


def gates(template: dict) -> list:
    return template["Globals"]["Function"]["DeploymentPreference"]["Alarms"]["Fn::If"][1]


def metric(template: dict, alarm: str, count: int) -> None:
    """More metrics of the last one's kind."""
    metrics = template["Resources"][alarm]["Properties"]["Metrics"]
    metrics += [copy.deepcopy(metrics[-1]) | {"Id": f"{metrics[-1]['Id']}x{number}"} for number in range(count)]


def table(number: int) -> dict:
    return {"Type": "AWS::SNS::Topic", "Properties": {"TopicName": {"Fn::Sub": f"${{AWS::StackName}}-{number}"}}}


ARN = {"Fn::GetAtt": ["ClaimFunction", "Arn"]}
QUALIFIED = {"Fn::Sub": "arn:${AWS::Partition}:apigateway:${AWS::Region}:lambda:path/2015-03-31/functions/${ApiFunction.Arn}/invocations"}
CLAIM = {"Fn::Sub": "arn:${AWS::Partition}:apigateway:${AWS::Region}:lambda:path/2015-03-31/functions/${ClaimFunction.Arn}/invocations"}
THROTTLE = {"Ref": "ClaimRequestsPerSecond"}
SETTINGS = ("WebSocketStage", "Properties", "RouteSettings", "Fn::If", 2, "Fn::If", 2)
# What is done to the template → the rule that must complain → what it must say.
BROKEN = {
    "an action widened to *": (statement("ConnectFunction", 0, "Action", "*"), rules.least_privilege, "wildcard action *"),
    "an action widened to a service": (statement("ClaimFunction", 1, "Action", "dynamodb:*"), rules.least_privilege, "wildcard action dynamodb:*"),
    "a resource widened to *": (statement("IssueFunction", 3, "Resource", "*"), rules.least_privilege, "wildcard resource *"),
    "every table of the account": (
        statement("ApiFunction", 1, "Resource", {"Fn::Sub": "arn:${AWS::Partition}:dynamodb:${AWS::Region}:${AWS::AccountId}:table/*"}),
        rules.least_privilege,
        "wildcard resource",
    ),
    "all but one resource": (extra_statement("ClaimFunction", Action="sqs:SendMessage", NotResource="arn:aws:sqs:::x"), rules.least_privilege, "all but something"),
    "an action that the design does not name": (
        statement("ClaimFunction", 1, "Action", ["dynamodb:GetItem", "dynamodb:PutItem"]),
        rules.least_privilege,
        "ClaimFunctionRole: dynamodb:PutItem on CouponsTable",
    ),
    "another table": (statement("DisconnectFunction", 0, "Resource", {"Fn::GetAtt": ["CouponsTable", "Arn"]}), rules.least_privilege, "on CouponsTable"),
    "a managed policy": (
        lambda template: template["Resources"]["ApiFunction"]["Properties"]["Policies"].append("arn:aws:iam::aws:policy/AmazonDynamoDBFullAccess"),
        rules.least_privilege,
        "managed policy",
    ),
    "an event source that brings its policy": (
        set_at({"Q": {"Type": "SQS", "Properties": {"Queue": {"Fn::GetAtt": ["BroadcastQueue", "Arn"]}}}}, "ClaimFunction", "Properties", "Events"),
        rules.least_privilege,
        "ClaimFunctionRole: managed policy",
    ),
    "a route that bypasses the alias": (set_at(CLAIM, "WebSocketClaimIntegration", "Properties", "IntegrationUri"), rules.aliases_only, "bypasses the alias: ClaimFunction"),
    "an integration that bypasses the alias": (set_at(QUALIFIED, "HttpApiIntegration", "Properties", "IntegrationUri"), rules.aliases_only, "HttpApiIntegration bypasses the alias"),
    "an event source that bypasses the alias": (set_at({"Ref": "IssueFunction"}, "ClaimsEventSource", "Properties", "FunctionName"), rules.aliases_only, "ClaimsEventSource bypasses"),
    "an authorizer that bypasses the alias": (
        set_at({"Fn::GetAtt": ["AuthorizeFunction", "Arn"]}, "WebSocketAuthorizer", "Properties", "AuthorizerUri"),
        rules.aliases_only,
        "bypasses the alias: AuthorizeFunction",
    ),
    "a schedule that bypasses the alias": (
        set_at({"Type": "AWS::Scheduler::Schedule", "Properties": {"Target": {"Arn": {"Fn::GetAtt": ["RefreshFunction", "Arn"]}}}}, "NewSchedule"),
        rules.aliases_only,
        "NewSchedule bypasses the alias",
    ),
    "no authorizer": (set_at(None, "WebSocketConnectRoute", "Properties", "AuthorizationType"), rules.aliases_only, "admits anybody"),
    "a dead-letter queue removed": (set_at(None, "ClaimsQueue", "Properties", "RedrivePolicy"), rules.dead_letters, "ClaimsQueue has no dead-letter queue"),
    "dead letters that expire at once": (set_at(60, "BroadcastDeadLetterQueue", "Properties", "MessageRetentionPeriod"), rules.dead_letters, "expire with it"),
    "visibility lowered by a second": (set_at(59, "ClaimsQueue", "Properties", "VisibilityTimeout"), rules.visibility, "ClaimsQueue: hidden for 59 s"),
    "a window that the visibility does not cover": (set_at(11, "ClaimsEventSource", "Properties", "MaximumBatchingWindowInSeconds"), rules.visibility, "the window 11 s"),
    "a timeout raised": (set_at(31, "BroadcastFunction", "Properties", "Timeout"), rules.visibility, "the timeout is 31 s"),
    "batches answered as a whole": (set_at(None, "DeliveriesEventSource", "Properties", "FunctionResponseTypes"), rules.visibility, "one bad message fails its batch"),
    "a large batch without a window": (set_at(11, "PriorityClaimsEventSource", "Properties", "BatchSize"), rules.visibility, "a window above a batch of 10"),
    "pollers beside a bound on the concurrency": (
        set_at({"MinimumPollers": 2, "MaximumPollers": 4}, "DeliveriesEventSource", "Properties", "ProvisionedPollerConfig"),
        rules.visibility,
        "exclude each other",
    ),
    "pollers that no template ends": (
        set_at({"MinimumPollers": 2, "MaximumPollers": 4}, "ClaimsEventSource", "Properties", "ProvisionedPollerConfig"),
        rules.pollers_by_hand,
        "ClaimsEventSource has a ProvisionedPollerConfig",
    ),
    "retention removed": (set_at(None, "IssueLogGroup", "Properties", "RetentionInDays"), rules.logs_end, "IssueLogGroup keeps its logs for ever"),
    "a function without a log group": (set_at(None, "ApiFunction", "Properties", "LoggingConfig", "LogGroup"), rules.logs_end, "ApiFunction has no log group"),
    "metrics discarded by level": (set_at("WARN", "ApiFunction", "Properties", "LoggingConfig", "ApplicationLogLevel"), rules.logs_end, "nothing says that its metrics are kept"),
    "paths in the access log": (set_at("$context.path", "HttpApiStage", "Properties", "AccessLogSettings", "Format"), rules.logs_end, "may hold keys"),
    "a table in the clear": (set_at(None, "WalletsTable", "Properties", "SSESpecification"), rules.encryption, "WalletsTable is not encrypted"),
    "a queue in the clear": (set_at(False, "DeliveriesQueue", "Properties", "SqsManagedSseEnabled"), rules.encryption, "DeliveriesQueue is not encrypted"),
    "a topic in the clear": (set_at({"Type": "AWS::SNS::Topic", "Properties": {}}, "NewTopic"), rules.encryption, "NewTopic is not encrypted"),
    "a table that goes with its stack": (set_at("Delete", "CouponsTable", "DeletionPolicy"), rules.tables_last, "CouponsTable goes with its stack"),
    "a table left behind by a failed creation": (set_at("Retain", "CouponsTable", "DeletionPolicy"), rules.tables_last, "left behind"),
    "no point-in-time recovery": (set_at(None, "CouponsTable", "Properties", "PointInTimeRecoverySpecification"), rules.tables_last, "no point-in-time recovery"),
    "a table warmed by the template": (
        set_at({"WriteUnitsPerSecond": 4000}, "CouponsTable", "Properties", "WarmThroughput"),
        rules.warm_by_hand,
        "CouponsTable has a WarmThroughput",
    ),
    "a webhook that a deployment overwrites": (set_at("unset", "AlertWebhookSecret", "Properties", "SecretString"), rules.stored_by_hand, "has a value of the template: SecretString"),
    "a missing reservation": (set_at(None, "IssueFunction", "Properties", "ReservedConcurrentExecutions"), rules.reservations, "IssueFunction has no reservation"),
    "a reservation of another function": (
        set_at({"Ref": "DoorReservedConcurrency"}, "IssueFunction", "Properties", "ReservedConcurrentExecutions"),
        rules.reservations,
        "the same reservation",
    ),
    "a function that moves at once": (set_at({"Enabled": False}, "IssueFunction", "Properties", "DeploymentPreference"), rules.deploys_gradually, "IssueFunctionAliaslive moves at once"),
    "a deploy that no alarm stops": (lambda template: template["Globals"]["Function"]["DeploymentPreference"].pop("Alarms"), rules.deploys_gradually, "no alarm stops it"),
    "a gate alarm too many": (lambda template: gates(template).append({"Ref": "ClaimsDeadLettersAlarm"}), rules.deploys_gradually, "stopped by ClaimsDeadLettersAlarm"),
    "a gate alarm too few": (lambda template: gates(template).pop(), rules.deploys_gradually, "stopped by too few"),
    "a table that can be deleted": (set_at(None, "PartnersTable", "Properties", "DeletionProtectionEnabled"), rules.tables_protected, "PartnersTable can be deleted"),
    "a route response without its dependency": (
        set_at("WebSocketPingRoute", "WebSocketSubscribeRouteResponse", "DependsOn"),
        rules.one_change_at_a_time,
        "WebSocketDefaultRouteResponse and WebSocketSubscribeRouteResponse may change at once",
    ),
    "a stage that waits for no route response": (
        set_at(None, "WebSocketStage", "Properties", "DeploymentId"),
        rules.one_change_at_a_time,
        "WebSocketStage does not wait for WebSocketClaimRouteResponse",
    ),
    "a route that answers nobody": (set_at(None, "WebSocketResultRouteResponse"), rules.one_change_at_a_time, "WebSocketResultRoute: what its function returns reaches nobody"),
    "an HTTP stage beside its route": (set_at(None, "HttpApiStage", "DependsOn"), rules.one_change_at_a_time, "HttpApiRoute and HttpApiStage may change at once"),
    "a route changed under the same deployment": (set_at("joins", "WebSocketSubscribeRoute", "Properties", "RouteKey"), rules.deployment_is_current, "the API has changed; call it WebSocketDeployment"),
    "an eleventh metric": (lambda template: metric(template, "FunctionErrorsAlarm", 3), limits.alarms, "FunctionErrorsAlarm: 11 metrics"),
    "a seventeenth metric": (lambda template: metric(template, "FunctionThrottlesAlarm", 9), limits.alarms, "FunctionThrottlesAlarm: 17 metrics"),
    "an alarm that watches two series": (set_at(True, "TableThrottlesAlarm", "Properties", "Metrics", 1, "ReturnData"), limits.alarms, "the one that is watched"),
    "a calculation with what is not there": (set_at("uncalled + lost", "SocketErrorsAlarm", "Properties", "Metrics", 1, "Expression"), limits.alarms, "calculates with lost"),
    "a prefix that no metric has": (set_at('SUM(METRICS("bad"))', "TableThrottlesAlarm", "Properties", "Metrics", 0, "Expression"), limits.alarms, "calculates with bad"),
    "an odd period": (set_at(90, "ApiErrorsAlarm", "Properties", "Period"), limits.alarms, "a multiple of 60"),
    "an alarm that looks back for eight days": (set_at(200, "PollersOnAlarm", "Properties", "EvaluationPeriods"), limits.alarms, "looks back too far"),
    "more breaches than data points": (set_at(4, "ApiErrorsAlarm", "Properties", "DatapointsToAlarm"), limits.alarms, "more data points than it looks at"),
    "an eleventh alarm that stops a deploy": (
        lambda template: gates(template).extend({"Ref": name} for name, found in template["Resources"].items() if found["Type"] == "AWS::CloudWatch::Alarm"),
        limits.deployment_groups,
        "CodeDeploy takes 10",
    ),
    "a literal physical name": (set_at("alarms", "AlarmTopic", "Properties", "TopicName"), limits.names, "AlarmTopic: its name is the same in every stack: alarms"),
    "a name that SAM makes": (set_at(None, "RefreshFunction", "Properties", "Events", "EveryMinute", "Properties", "OmitName"), limits.names, "RefreshFunctionEveryMinute"),
    "a name of the Region alone": (set_at({"Fn::Sub": "firstcome-${AWS::Region}"}, "Dashboard", "Properties", "DashboardName"), limits.names, "Dashboard: its name"),
    "a reference to a number in Json": (
        set_at({"ThrottlingRateLimit": THROTTLE, "ThrottlingBurstLimit": 500}, *SETTINGS, "subscribe"),
        limits.json_without_numbers,
        "WebSocketStage: RouteSettings is of type Json, and refers to the number ClaimRequestsPerSecond",
    ),
    "a parameter in an environment without its version description": (
        set_at({"Fn::Sub": "${Architecture}, ${Target}"}, "BroadcastFunction", "Properties", "VersionDescription"),
        limits.versions,
        "BroadcastFunction: BroadcastRequestsPerSecond changes it and publishes no version",
    ),
    "a parameter in the environment of every function": (
        lambda template: template["Globals"]["Function"]["Environment"]["Variables"].update(RUST_LOG={"Fn::Sub": "info,stack=${AlarmEmail}"}),
        limits.versions,
        "ConnectFunction: AlarmEmail changes it and publishes no version",
    ),
    "a condition in an environment": (
        set_at({"Fn::If": ["AllowsCors", "yes", "no"]}, "ApiFunction", "Properties", "Environment", "Variables", "CORS"),
        limits.versions,
        "ApiFunction: CorsAllowedOrigins changes it and publishes no version",
    ),
    "a version of a function that has not changed": (
        set_at({"Fn::Sub": "${Architecture}, ${Target}, ${IssueMaxConcurrency}"}, "IssueFunction", "Properties", "VersionDescription"),
        limits.versions,
        "IssueFunction: IssueMaxConcurrency publishes a version and changes nothing",
    ),
    "a queue that hides for a day": (set_at(86_400, "BroadcastQueue", "Properties", "VisibilityTimeout"), limits.queues, "VisibilityTimeout is 86400"),
    "a message that is tried for ever": (set_at(5000, "BroadcastQueue", "Properties", "RedrivePolicy", "maxReceiveCount"), limits.queues, "maxReceiveCount is 5000"),
    "a retention that AWS does not have": (set_at(31, "IssueLogGroup", "Properties", "RetentionInDays"), limits.retention, "31 days"),
    "an environment above 4 KB": (set_at("x" * 4000, "ApiFunction", "Properties", "Environment", "Variables", "LONG"), limits.environments, "Lambda takes 4096"),
    "a policy above 10,240 characters": (extra_statement("ApiFunction", Action="sqs:SendMessage", Resource=["arn:aws:sqs:x"] * 800), limits.policies, "IAM takes 10240"),
    "five hundred resources": (
        lambda template: template["Resources"].update({f"Topic{number}": table(number) for number in range(400)}),
        limits.template_size,
        "resources; CloudFormation takes 500",
    ),
    "a long description": (lambda template: template.update(Description="x" * 1025), limits.template_size, "1025 bytes of description"),
    "an alarm that the dashboard does not show": (set_at({"Fn::Sub": "${AWS::StackName}-other"}, "TableThrottlesAlarm", "Properties", "AlarmName"), limits.dashboards, "not both"),
    "a function slower than its gateway": (set_at(30, "ApiFunction", "Properties", "Timeout"), limits.gateway_waits, "HttpApiIntegration: the gateway waits for 30 s"),
    "a door slower than its gateway": (set_at(29, "ClaimFunction", "Properties", "Timeout"), limits.gateway_waits, "WebSocketClaimIntegration: the gateway waits for 29 s"),
    "a socket API that logs": (
        set_at({"DestinationArn": {"Fn::GetAtt": "HttpApiLogGroup.Arn"}, "Format": "$context.requestId"}, "WebSocketStage", "Properties", "AccessLogSettings"),
        limits.account_settings,
        "WebSocketStage: its logs need a role",
    ),
    "a route that takes the others' requests": (set_at({"ThrottlingRateLimit": 900, "ThrottlingBurstLimit": 900}, *SETTINGS, "ping"), limits.requests_fit, "the Region has 10000"),
    "a route without a throttle": (set_at(None, *SETTINGS, "ping"), limits.requests_fit, "have the throttle of one route"),
    "a throttle without a route": (set_at({"ThrottlingRateLimit": 1, "ThrottlingBurstLimit": 1}, *SETTINGS, "pong"), limits.requests_fit, "or are none: claim, pong"),
    "a property that AWS does not have": (set_at(1, "ClaimsEventSource", "Properties", "BatchSizes"), limits.described_calls, "ClaimsEventSource: CreateEventSourceMapping: BatchSizes is unknown"),
    "a value that AWS does not know": (set_at("PER_REQUEST", "CouponsTable", "Properties", "BillingMode"), limits.described_calls, "CouponsTable: CreateTable: BillingMode is none of"),
    "a number below its bound": (
        set_at({"Fn::If": ["OnAws", {"MaximumConcurrency": 1}, {"MaximumConcurrency": 8}]}, "ClaimsEventSource", "Properties", "ScalingConfig"),
        limits.described_calls,
        "ScalingConfig.MaximumConcurrency is 1, below 2",
    ),
    "a text above its length": (set_at("x" * 1025, "ApiErrorsAlarm", "Properties", "AlarmDescription"), limits.described_calls, "AlarmDescription (length) is 1025, above 1024"),
    "a text in the place of a number": (set_at("Share", "TableThrottlesAlarm", "Properties", "Metrics", 0, "Period"), limits.described_calls, "is not a number: Share"),
    "a name with a space": (set_at({"Fn::Sub": "${AWS::StackName} logs"}, "IssueLogGroup", "Properties", "LogGroupName"), limits.described_calls, "does not match"),
    "something required left out": (set_at(None, "CouponsTable", "Properties", "TimeToLiveSpecification", "AttributeName"), limits.described_calls, "TimeToLiveSpecification lacks AttributeName"),
    "a type that nobody has described": (set_at({"Type": "AWS::SSM::Parameter", "Properties": {}}, "NewParameter"), limits.described_calls, "no call is known that creates AWS::SSM::Parameter"),
}


class TheRules(unittest.TestCase):
    def test_each_complains_of_what_breaks_it(self):
        for what, (mutate, rule, expected) in BROKEN.items():
            with self.subTest(what):
                template = copy.deepcopy(WRITTEN)
                mutate(template)
                found = complaints(template, [rule])
                self.assertTrue(any(expected in complaint for complaint in found), found)
                if "-v" in sys.argv:
                    print(f"  {what}: {next(complaint for complaint in found if expected in complaint)}")

    def test_all_are_broken_once(self):
        self.assertEqual({rule for _, rule, _ in BROKEN.values()}, set(rules.EVERYWHERE + rules.ON_AWS + limits.ALWAYS + limits.WITH_DEFAULTS))


if __name__ == "__main__":
    unittest.main()
