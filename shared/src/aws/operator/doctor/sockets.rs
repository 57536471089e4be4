//! The two APIs: whether what a function returns reaches the socket, and whether what is configured is deployed.

use std::collections::HashMap;

use futures_util::future::{join_all, try_join_all};

use super::account::{AskedQuotas, throttles};
use super::event_sources::Source;
use super::functions::Asked;
use super::{Deployment, Finding, LOCAL, Operator, OperatorError, Resource};

const RESPONSES: &str = "route responses";
const DEPLOYED: &str = "API deployment";
/// A deployment that is older than the last change by so much, in seconds, cannot hold it. Below that nothing is certain:
/// CloudFormation notes a change after API Gateway has made it.
const CERTAINLY_OLDER_SECONDS: i64 = 120;
/// How many posts one worker of `broadcast` makes a second (template.yaml).
const POSTS_VARIABLE: &str = "BROADCAST_REQUESTS_PER_SECOND";

/// A route of the WebSocket API.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Route {
    key: String,
    /// Whether what its function returns is meant for the socket.
    answers: bool,
    /// How many route responses it has. Without one, what the function returns is dropped (API Gateway developer guide,
    /// apigateway-websocket-api-route-response.html).
    responses: usize,
}

/// A stage with what it runs.
#[derive(Clone, Debug, Default, PartialEq)]
struct Stage {
    name: String,
    api_id: String,
    deploys_itself: bool,
    deployment_id: Option<String>,
    /// API Gateway's words about the last deployment of a stage that deploys itself.
    message: Option<String>,
    /// When the deployment that it runs was made, in milliseconds since 1970.
    deployed_at: Option<i64>,
    /// Requests per second of routes without a setting of their own.
    default_rate: Option<f64>,
    /// Of the others.
    rates: HashMap<String, f64>,
}

impl Stage {
    /// Requests per second that all these routes let through together; `None` if one of them has no bound.
    fn lets_through(&self, routes: &[Route]) -> Option<f64> {
        let rate = |route: &Route| {
            let own = self.rates.get(&route.key).copied();
            own.or(self.default_rate).filter(|rate| *rate > 0.0)
        };
        routes.iter().map(rate).sum()
    }
}

fn responses(routes: &[Route], is_local: bool) -> Vec<Finding> {
    let answering = routes.iter().filter(|route| route.answers);
    let findings = answering.map(|route| {
        if route.responses > 0 {
            Finding::good(RESPONSES, &route.key, "there")
        } else if is_local {
            Finding::unknown(RESPONSES, &route.key, LOCAL)
        } else {
            Finding::bad(
                RESPONSES,
                &route.key,
                "missing: clients get no answer to this frame",
                "deploy again; the template has one for each such route",
            )
        }
    });
    findings.collect()
}

/// `wanted` is the deployment that the template gives the stage, if it gives it one; `changed_at` is when CloudFormation
/// changed a part of the API last.
fn deployed(
    id: &str,
    stage: &Stage,
    wanted: Option<&str>,
    changed_at: Option<i64>,
    is_local: bool,
) -> Finding {
    let (api, name) = (&stage.api_id, &stage.name);
    if let (Some(wanted), false) = (wanted, is_local)
        && stage.deployment_id.as_deref() != Some(wanted)
    {
        let runs = stage.deployment_id.as_deref().unwrap_or("none");
        return Finding::bad(
            DEPLOYED,
            id,
            format!("the stage runs deployment {runs}, the template asks for {wanted}"),
            format!(
                "aws apigatewayv2 update-stage --api-id {api} --stage-name {name} --deployment-id {wanted}"
            ),
        );
    }
    let remedy = format!("aws apigatewayv2 create-deployment --api-id {api} --stage-name {name}");
    let failed = |message: &&String| message.to_ascii_lowercase().contains("fail");
    if let Some(message) = stage.message.as_ref().filter(failed) {
        return Finding::bad(
            DEPLOYED,
            id,
            format!("the last one failed: {message}"),
            remedy,
        );
    }
    let Some(deployed_at) = stage.deployed_at else {
        return if is_local {
            Finding::unknown(DEPLOYED, id, LOCAL)
        } else {
            Finding::bad(DEPLOYED, id, "the stage runs no deployment", remedy)
        };
    };
    let older = changed_at.map_or(0, |changed_at| (changed_at - deployed_at) / 1000);
    if older > CERTAINLY_OLDER_SECONDS {
        let detail = format!("{older} s older than the last change of its routes");
        Finding::bad(DEPLOYED, id, detail, remedy)
    } else if older > 0 && !stage.deploys_itself {
        let detail = format!(
            "made {older} s before CloudFormation noted the last change of its routes: a frame that is answered proves it \
             (firstcome sale --users 1 --stock 1)"
        );
        Finding::unknown(DEPLOYED, id, detail)
    } else {
        Finding::good(DEPLOYED, id, "as new as its routes")
    }
}

/// An API of the stack with its stage's resource.
struct Api<'a> {
    id: String,
    stage: &'a Resource,
    takes_sockets: bool,
}

fn apis(deployment: &Deployment) -> Vec<Api<'_>> {
    let stages = deployment.of_type("AWS::ApiGatewayV2::Stage");
    let apis = stages.filter_map(|stage| {
        let id = stage.text(&["ApiId"])?;
        let api = deployment
            .of_type("AWS::ApiGatewayV2::Api")
            .find(|api| api.physical_id == id)?;
        let takes_sockets = api.text(&["ProtocolType"]).as_deref() == Some("WEBSOCKET");
        Some(Api {
            id,
            stage,
            takes_sockets,
        })
    });
    apis.collect()
}

/// When a part of this API changed last.
fn changed_at(deployment: &Deployment, api_id: &str) -> Option<i64> {
    const PARTS: [&str; 4] = ["Authorizer", "Integration", "Route", "RouteResponse"];
    let parts = deployment.resources.iter().filter(|resource| {
        let kind = resource.kind.strip_prefix("AWS::ApiGatewayV2::");
        kind.is_some_and(|kind| PARTS.contains(&kind))
            && resource.text(&["ApiId"]).as_deref() == Some(api_id)
    });
    parts
        .filter_map(|part| deployment.changed.get(&part.logical_id).copied())
        .max()
}

/// Posts per second of all workers of `broadcast` together.
fn posts(functions: &[Asked], sources: &[Source]) -> f64 {
    let functions = functions
        .iter()
        .filter_map(|asked| asked.function.as_ref().ok());
    let of_each = functions.filter_map(|function| {
        let each: f64 = function.live.variables.get(POSTS_VARIABLE)?.parse().ok()?;
        let workers = sources
            .iter()
            .filter_map(|source| source.found.as_ref().ok())
            .filter(|source| source.invokes(&function.name))
            .filter_map(|source| source.most_executions());
        Some(each * workers.sum::<i64>() as f64)
    });
    of_each.sum()
}

impl Operator {
    pub(super) async fn check_stages(
        &self,
        deployment: &Deployment,
        functions: &[Asked],
        sources: &[Source],
        quotas: &AskedQuotas,
    ) -> Vec<Finding> {
        let is_local = deployment.is_local;
        let apis = apis(deployment);
        let asked = apis.iter().map(async |api| {
            let stage = api.stage.text(&["StageName"]).unwrap_or_default();
            let routes = self.routes(&api.id, api.takes_sockets);
            tokio::try_join!(routes, self.stage(&api.id, &stage))
        });
        let (mut findings, mut allowed) = (Vec::new(), Some(0.0));
        for (api, asked) in apis.iter().zip(join_all(asked).await) {
            let id = &api.stage.logical_id;
            match asked {
                Ok((routes, stage)) => {
                    findings.extend(responses(&routes, is_local));
                    let changed_at = changed_at(deployment, &api.id);
                    let wanted = api.stage.text(&["DeploymentId"]);
                    let wanted = wanted.as_deref();
                    findings.push(deployed(id, &stage, wanted, changed_at, is_local));
                    allowed = allowed.zip(stage.lets_through(&routes)).map(|(a, b)| a + b);
                }
                Err(error) => {
                    findings.push(Finding::unasked(DEPLOYED, id, &error, is_local));
                    allowed = None;
                }
            }
        }
        let posts = posts(functions, sources);
        findings.push(match allowed {
            Some(allowed) => throttles(allowed, posts, quotas, is_local),
            None if is_local => Finding::unknown("throttles", "requests/s", LOCAL),
            None => Finding::bad(
                "throttles",
                "requests/s",
                "a route has no throttle of its own, so that it can take the account's whole quota",
                "deploy again",
            ),
        });
        findings
    }

    async fn routes(&self, api: &str, takes_sockets: bool) -> Result<Vec<Route>, OperatorError> {
        let mut routes = Vec::new();
        let mut token = None;
        loop {
            let call = self.gateway.get_routes().api_id(api).set_next_token(token);
            let page = call
                .send()
                .await
                .map_err(|error| self.failed("list the routes", error))?;
            routes.extend(page.items.unwrap_or_default());
            token = page.next_token;
            if token.is_none() {
                break;
            }
        }
        let routes = routes.into_iter().map(async |route| {
            let answers = takes_sockets && route.route_response_selection_expression.is_some();
            let id = route.route_id.unwrap_or_default();
            let responses = if answers {
                let call = self.gateway.get_route_responses().api_id(api).route_id(id);
                let answer = call.send().await;
                answer
                    .map_err(|error| self.failed("list a route's responses", error))?
                    .items
                    .unwrap_or_default()
                    .len()
            } else {
                0
            };
            Ok(Route {
                key: route.route_key.unwrap_or_default(),
                answers,
                responses,
            })
        });
        try_join_all(routes).await
    }

    async fn stage(&self, api: &str, name: &str) -> Result<Stage, OperatorError> {
        let call = self.gateway.get_stage().api_id(api).stage_name(name);
        let found = call
            .send()
            .await
            .map_err(|error| self.failed("read the stage", error))?;
        let deployed_at = match &found.deployment_id {
            Some(id) => {
                let call = self.gateway.get_deployment().api_id(api).deployment_id(id);
                let answer = call.send().await;
                answer
                    .map_err(|error| self.failed("read the deployment", error))?
                    .created_date
                    .and_then(|at| at.to_millis().ok())
            }
            None => None,
        };
        let settings = found.route_settings.unwrap_or_default().into_iter();
        Ok(Stage {
            name: name.to_owned(),
            api_id: api.to_owned(),
            deployment_id: found.deployment_id,
            deploys_itself: found.auto_deploy.unwrap_or_default(),
            message: found.last_deployment_status_message,
            deployed_at,
            default_rate: found
                .default_route_settings
                .and_then(|settings| settings.throttling_rate_limit),
            rates: settings
                .filter_map(|(route, settings)| Some((route, settings.throttling_rate_limit?)))
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Health;
    use super::*;
    use crate::aws::operator::testing;

    fn route(key: &str, answers: bool, responses: usize) -> Route {
        Route {
            key: key.into(),
            answers,
            responses,
        }
    }

    fn stage(deployed_at: Option<i64>) -> Stage {
        Stage {
            name: "live".into(),
            api_id: "api".into(),
            deployment_id: Some("d-1".into()),
            deployed_at,
            ..Stage::default()
        }
    }

    #[test]
    fn a_route_that_answers_needs_a_response() {
        let routes = [
            route("claim", true, 1),
            route("ping", true, 0),
            route("$connect", false, 0),
        ];
        let health = |is_local| {
            let findings = responses(&routes, is_local);
            let health = findings
                .iter()
                .map(|one| (one.subjects[0].clone(), one.health));
            health.collect::<Vec<_>>()
        };
        let claim = ("claim".to_owned(), Health::Good);
        let ping = |health| ("ping".to_owned(), health);
        assert_eq!(health(false), [claim.clone(), ping(Health::Bad)]);
        assert_eq!(health(true), [claim, ping(Health::Unknown)]);
    }

    #[test]
    fn a_deployment_older_than_its_routes_is_bad_and_one_about_as_old_is_not_known() {
        let second = 1000;
        let health =
            |stage: &Stage, changed_at| deployed("Stage", stage, None, changed_at, false).health;
        let at = |at| stage(Some(at));
        assert_eq!(health(&at(0), Some(121 * second)), Health::Bad);
        assert_eq!(health(&at(0), Some(120 * second)), Health::Unknown);
        assert_eq!(health(&at(0), Some(second)), Health::Unknown);
        assert_eq!(health(&at(second), Some(second)), Health::Good);
        assert_eq!(health(&at(second), None), Health::Good);
        assert_eq!(health(&stage(None), Some(second)), Health::Bad);
        let by_itself = Stage {
            deploys_itself: true,
            ..at(0)
        };
        assert_eq!(health(&by_itself, Some(120 * second)), Health::Good);
        assert_eq!(health(&by_itself, Some(121 * second)), Health::Bad);
        let local = deployed("Stage", &stage(None), None, None, true).health;
        assert_eq!(local, Health::Unknown);
    }

    #[test]
    fn a_stage_runs_the_deployment_that_the_template_gives_it() {
        let health =
            |wanted, is_local| deployed("Stage", &stage(Some(0)), wanted, None, is_local).health;
        assert_eq!(health(Some("d-1"), false), Health::Good);
        assert_eq!(health(Some("d-2"), false), Health::Bad);
        assert_eq!(health(Some("d-2"), true), Health::Good);
    }

    #[test]
    fn a_deployment_that_failed_is_told_in_the_gateways_words() {
        let mut failing = stage(Some(0));
        failing.message = Some("Deployment attempt failed: no integration".into());
        let finding = deployed("Stage", &failing, None, None, false);
        assert_eq!(finding.health, Health::Bad);
        assert!(finding.detail.ends_with("no integration"));
        failing.message = Some("Successfully deployed stage with deployment ID 'x'".into());
        let finding = deployed("Stage", &failing, None, None, false);
        assert_eq!(finding.health, Health::Good);
    }

    #[test]
    fn routes_let_through_what_their_own_or_the_default_throttle_says() {
        let mut stage = stage(None);
        stage.default_rate = Some(200.0);
        stage.rates = HashMap::from([("claim".to_owned(), 2500.0)]);
        let routes = [route("claim", true, 1), route("ping", true, 1)];
        assert_eq!(stage.lets_through(&routes), Some(2700.0));
        stage.default_rate = None;
        assert_eq!(stage.lets_through(&routes), None);
    }

    #[test]
    fn an_apis_last_change_is_that_of_its_own_parts() {
        let part = |id: &str, kind: &str, api: &str| Resource {
            logical_id: id.into(),
            kind: format!("AWS::ApiGatewayV2::{kind}"),
            physical_id: id.into(),
            properties: json!({"ApiId": api, "StageName": "live", "ProtocolType": "WEBSOCKET"}),
        };
        let deployment = Deployment {
            resources: vec![
                part("api", "Api", ""),
                part("route", "Route", "api"),
                part("response", "RouteResponse", "api"),
                part("stage", "Stage", "api"),
                part("strange", "Route", "other"),
            ],
            changed: [("route", 1), ("response", 5), ("stage", 7), ("strange", 9)]
                .map(|(id, at)| (id.to_owned(), at))
                .into(),
            is_local: false,
        };
        assert_eq!(changed_at(&deployment, "api"), Some(5));
        let apis = apis(&deployment);
        assert_eq!(apis.len(), 1);
        assert!(apis[0].takes_sockets && apis[0].id == "api");
    }

    #[tokio::test]
    async fn routes_are_read_page_by_page_and_those_that_answer_with_their_responses() {
        let (operator, http) = testing::operator(&[
            (
                200,
                json!({"items": [{"routeId": "r-1", "routeKey": "$connect"}], "nextToken": "more"}),
            ),
            (
                200,
                json!({"items": [{"routeId": "r-2", "routeKey": "ping", "routeResponseSelectionExpression": "$default"}]}),
            ),
            (
                200,
                json!({"items": [{"routeResponseId": "x", "routeResponseKey": "$default"}]}),
            ),
        ]);
        let routes = operator.routes("api", true).await.unwrap();
        assert_eq!(
            routes,
            [route("$connect", false, 0), route("ping", true, 1)]
        );
        let paths: Vec<_> = http
            .actual_requests()
            .filter_map(|request| request.uri().split_once("/v2/apis/api/"))
            .map(|(_, path)| path.to_owned())
            .collect();
        assert_eq!(
            paths,
            [
                "routes",
                "routes?nextToken=more",
                "routes/r-2/routeresponses"
            ]
        );
    }

    #[tokio::test]
    async fn a_stage_is_read_with_the_time_of_what_it_runs() {
        let (operator, _) = testing::operator(&[
            (
                200,
                json!({
                    "stageName": "live", "deploymentId": "d-1", "autoDeploy": false,
                    "defaultRouteSettings": {"throttlingRateLimit": 2500.0},
                    "routeSettings": {"ping": {"throttlingRateLimit": 200.0}},
                }),
            ),
            (
                200,
                json!({"deploymentId": "d-1", "createdDate": "2026-11-28T07:15:17Z"}),
            ),
        ]);
        let found = operator.stage("api", "live").await.unwrap();
        let expected = Stage {
            default_rate: Some(2500.0),
            rates: HashMap::from([("ping".to_owned(), 200.0)]),
            ..stage(Some(1_795_850_117_000))
        };
        assert_eq!(found, expected);
    }
}
