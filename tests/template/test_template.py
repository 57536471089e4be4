"""Holds template.yaml, expanded, to rules.py; then breaks it in every way that counts and sees each rule complain.

Run by tools/test: .venv/sam/bin/python -m unittest discover -s tests/template (-v shows what each complains of)
"""

import copy
import sys
import tomllib
import unittest

import rules
from expansion import TEMPLATE, expand, load

WRITTEN = load()
# What samconfig.toml deploys to AWS with.
CHOSEN = tomllib.loads((TEMPLATE.parent / "samconfig.toml").read_text())["default"]["deploy"]["parameters"]["parameter_overrides"]
ON_AWS = dict(choice.split("=") for choice in CHOSEN.split())
FUNCTIONS = {name for name, found in WRITTEN["Resources"].items() if found["Type"] == "AWS::Serverless::Function"}


def complaints(template: dict, asked, **parameters: str) -> list[str]:
    resources = expand(template, **(ON_AWS | parameters))
    return [complaint for rule in asked for complaint in rule(resources)]


class TheTemplate(unittest.TestCase):
    def test_keeps_every_rule_on_aws(self):
        self.assertEqual(complaints(WRITTEN, rules.EVERYWHERE + rules.ON_AWS), [])

    def test_keeps_every_rule_with_provisioned_pollers(self):
        self.assertEqual(complaints(WRITTEN, rules.EVERYWHERE + rules.ON_AWS, ClaimPollersMin="4", ClaimPollersMax="20"), [])

    def test_keeps_the_rules_locally(self):
        self.assertEqual(complaints(WRITTEN, rules.EVERYWHERE, Target="local", DeploymentPreference="AllAtOnce"), [])

    def test_expands_every_function_with_alias_role_and_deployment_group(self):
        resources = expand(WRITTEN, **ON_AWS)
        self.assertEqual({name for name in rules.of_type(resources, "AWS::Lambda::Function")}, FUNCTIONS)
        for name in FUNCTIONS:
            for part in ("Aliaslive", "Role", "DeploymentGroup"):
                self.assertIn(name + part, resources)
        self.assertEqual(len(rules.of_type(resources, "AWS::ApiGatewayV2::Route")), 9)

    def test_pollers_take_the_place_of_the_bound_on_the_concurrency(self):
        source = expand(WRITTEN, ClaimPollersMin="4", ClaimPollersMax="20")["ClaimsEventSource"]["Properties"]
        self.assertEqual(source["ProvisionedPollerConfig"], {"MinimumPollers": "4", "MaximumPollers": "20"})
        self.assertNotIn("ScalingConfig", source)

    def test_knows_no_code_deploy_locally(self):
        # The local AWS expands with the defaults, whatever it is told.
        kinds = {found["Type"] for found in expand(WRITTEN, Target="local").values()}
        self.assertFalse({kind for kind in kinds if "CodeDeploy" in kind or kind.endswith("RouteResponse")})

    def test_takes_the_type_of_a_deployment_from_its_parameter(self):
        group = expand(WRITTEN, DeploymentPreference="Linear10PercentEvery1Minute")["ApiFunctionDeploymentGroup"]
        self.assertIn("Linear10PercentEvery1Minute", str(group["Properties"]["DeploymentConfigName"]))


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


ARN = {"Fn::GetAtt": ["ClaimFunction", "Arn"]}
QUALIFIED = {"Fn::Sub": "arn:${AWS::Partition}:apigateway:${AWS::Region}:lambda:path/2015-03-31/functions/${ApiFunction.Arn}/invocations"}
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
    "a route that bypasses the alias": (set_at(ARN, "WebSocketApi", "Properties", "Routes", "claim", "FunctionArn"), rules.aliases_only, "bypasses the alias: ClaimFunction"),
    "an integration that bypasses the alias": (set_at(QUALIFIED, "HttpApiIntegration", "Properties", "IntegrationUri"), rules.aliases_only, "HttpApiIntegration bypasses the alias"),
    "an event source that bypasses the alias": (set_at({"Ref": "IssueFunction"}, "ClaimsEventSource", "Properties", "FunctionName"), rules.aliases_only, "ClaimsEventSource bypasses"),
    "an authorizer that bypasses the alias": (set_at({"Fn::GetAtt": ["AuthorizeFunction", "Arn"]}, "WebSocketApi", "Properties", "Auth", "AuthArn"), rules.aliases_only, "bypasses the alias: AuthorizeFunction"),
    "a schedule that bypasses the alias": (
        set_at({"Type": "AWS::Scheduler::Schedule", "Properties": {"Target": {"Arn": {"Fn::GetAtt": ["RefreshFunction", "Arn"]}}}}, "NewSchedule"),
        rules.aliases_only,
        "NewSchedule bypasses the alias",
    ),
    "no authorizer": (set_at(None, "WebSocketApi", "Properties", "Auth"), rules.aliases_only, "admits anybody"),
    "a dead-letter queue removed": (set_at(None, "ClaimsQueue", "Properties", "RedrivePolicy"), rules.dead_letters, "ClaimsQueue has no dead-letter queue"),
    "dead letters that expire at once": (set_at(60, "BroadcastDeadLetterQueue", "Properties", "MessageRetentionPeriod"), rules.dead_letters, "expire with it"),
    "visibility lowered by a second": (set_at(60, "ClaimsQueue", "Properties", "VisibilityTimeout"), rules.visibility, "ClaimsQueue: hidden for 60 s"),
    "a timeout raised": (set_at(31, "BroadcastFunction", "Properties", "Timeout"), rules.visibility, "the timeout is 31 s"),
    "batches answered as a whole": (set_at(None, "DeliveriesEventSource", "Properties", "FunctionResponseTypes"), rules.visibility, "one bad message fails its batch"),
    "pollers beside a bound on the concurrency": (
        set_at({"MinimumPollers": 2, "MaximumPollers": 4}, "DeliveriesEventSource", "Properties", "ProvisionedPollerConfig"),
        rules.visibility,
        "exclude each other",
    ),
    "retention removed": (set_at(None, "IssueLogGroup", "Properties", "RetentionInDays"), rules.logs_end, "IssueLogGroup keeps its logs for ever"),
    "a function without a log group": (set_at(None, "ApiFunction", "Properties", "LoggingConfig", "LogGroup"), rules.logs_end, "ApiFunction has no log group"),
    "paths in the access log": (set_at("$context.path", "HttpApiStage", "Properties", "AccessLogSettings", "Format"), rules.logs_end, "may hold keys"),
    "a table in the clear": (set_at(None, "WalletsTable", "Properties", "SSESpecification"), rules.encryption, "WalletsTable is not encrypted"),
    "a queue in the clear": (set_at(False, "DeliveriesQueue", "Properties", "SqsManagedSseEnabled"), rules.encryption, "DeliveriesQueue is not encrypted"),
    "a topic in the clear": (set_at({"Type": "AWS::SNS::Topic", "Properties": {}}, "NewTopic"), rules.encryption, "NewTopic is not encrypted"),
    "a table that goes with its stack": (set_at("Delete", "CouponsTable", "DeletionPolicy"), rules.tables_last, "CouponsTable goes with its stack"),
    "no point-in-time recovery": (set_at(None, "CouponsTable", "Properties", "PointInTimeRecoverySpecification"), rules.tables_last, "no point-in-time recovery"),
    "a function that moves at once": (set_at({"Enabled": False}, "IssueFunction", "Properties", "DeploymentPreference"), rules.deploys_gradually, "IssueFunctionAliaslive moves at once"),
    "a deploy that no alarm stops": (lambda template: template["Globals"]["Function"]["DeploymentPreference"].pop("Alarms"), rules.deploys_gradually, "no alarm stops it"),
    "an eleventh alarm that stops a deploy": (
        lambda template: template["Globals"]["Function"]["DeploymentPreference"]["Alarms"]["Fn::If"][1].append({"Ref": "SnapshotOldAlarm"}),
        rules.deploys_gradually,
        "CodeDeploy takes 10",
    ),
    "a table that can be deleted": (set_at(None, "PartnersTable", "Properties", "DeletionProtectionEnabled"), rules.tables_protected, "PartnersTable can be deleted"),
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
        self.assertEqual({rule for _, rule, _ in BROKEN.values()}, set(rules.EVERYWHERE + rules.ON_AWS))


if __name__ == "__main__":
    unittest.main()
