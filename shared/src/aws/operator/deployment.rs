//! A stack as it was asked for: its processed template with its parameters put in.
//!
//! Of the template only what ours uses is resolved: `Ref` of parameters and resources, `Fn::If`, and the conditions'
//! functions. Whatever else there is stays as it is written, and nothing reads it.

use std::collections::HashMap;

use aws_sdk_cloudformation::types::TemplateStage;
use serde_json::{Map, Value};

use super::{Operator, OperatorError};

/// A resource that the stack should have.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Resource {
    pub(super) logical_id: String,
    /// Its type, such as `AWS::Lambda::Function`.
    pub(super) kind: String,
    /// What `Ref` of it gives; empty if CloudFormation lists no such resource.
    pub(super) physical_id: String,
    /// Its properties, resolved.
    pub(super) properties: Value,
}

impl Resource {
    /// A property by its path, if it is there and not `null`.
    pub(super) fn property(&self, path: &[&str]) -> Option<&Value> {
        path.iter()
            .try_fold(&self.properties, |value, name| value.get(name))
            .filter(|value| !value.is_null())
    }

    /// A whole number; parameters come as text.
    pub(super) fn number(&self, path: &[&str]) -> Option<i64> {
        text(self.property(path)?)?.parse().ok()
    }

    /// A text.
    pub(super) fn text(&self, path: &[&str]) -> Option<String> {
        text(self.property(path)?)
    }

    /// Whether a property is there and true.
    pub(super) fn is_on(&self, path: &[&str]) -> bool {
        self.text(path).as_deref() == Some("true")
    }
}

/// The stack as it was asked for.
pub(super) struct Deployment {
    pub(super) resources: Vec<Resource>,
    /// When CloudFormation last changed each resource, by logical id, in milliseconds since 1970.
    pub(super) changed: HashMap<String, i64>,
    pub(super) is_local: bool,
}

impl Deployment {
    /// All resources of a type.
    pub(super) fn of_type<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Resource> {
        self.resources
            .iter()
            .filter(move |resource| resource.kind == kind)
    }

    pub(super) fn named(&self, logical_id: &str) -> Option<&Resource> {
        self.resources
            .iter()
            .find(|resource| resource.logical_id == logical_id)
    }
}

impl Operator {
    /// The stack as its processed template and its parameters ask for it.
    pub(super) async fn deployment(&self) -> Result<Deployment, OperatorError> {
        let template = self
            .cloudformation
            .get_template()
            .stack_name(&self.name)
            .template_stage(TemplateStage::Processed);
        let body = template
            .send()
            .await
            .map_err(|error| self.failed("read the stack's template", error))?
            .template_body
            .unwrap_or_default();
        let template: Value = serde_json::from_str(&body).map_err(|error| OperatorError::Call {
            operation: "read the stack's template",
            message: error.to_string(),
        })?;
        let (mut physical_ids, mut changed) = (HashMap::new(), HashMap::new());
        let listed = self
            .cloudformation
            .list_stack_resources()
            .stack_name(&self.name);
        let mut listed = listed.into_paginator().items().send();
        while let Some(resource) = listed.next().await {
            let resource =
                resource.map_err(|error| self.failed("list the stack's resources", error))?;
            let Some(logical_id) = resource.logical_resource_id else {
                continue;
            };
            let at = resource
                .last_updated_timestamp
                .and_then(|at| at.to_millis().ok());
            changed.extend(at.map(|at| (logical_id.clone(), at)));
            physical_ids.extend(resource.physical_resource_id.map(|id| (logical_id, id)));
        }
        Ok(Deployment {
            resources: resources(&template, &self.parameters, &physical_ids),
            changed,
            is_local: self.is_local(),
        })
    }
}

/// The resources of a processed template under these parameters; those whose condition does not hold are left out.
pub(super) fn resources(
    template: &Value,
    parameters: &HashMap<String, String>,
    physical_ids: &HashMap<String, String>,
) -> Vec<Resource> {
    let resolver = Resolver {
        conditions: &template["Conditions"],
        parameters,
        physical_ids,
    };
    let all = template["Resources"].as_object();
    let wanted = all.into_iter().flatten().filter(|(_, resource)| {
        let condition = resource["Condition"].as_str();
        condition.is_none_or(|name| resolver.condition(name).unwrap_or(true))
    });
    wanted
        .map(|(logical_id, resource)| Resource {
            logical_id: logical_id.clone(),
            kind: resource["Type"].as_str().unwrap_or_default().to_owned(),
            physical_id: physical_ids.get(logical_id).cloned().unwrap_or_default(),
            properties: resolver.value(&resource["Properties"]).unwrap_or_default(),
        })
        .collect()
}

/// A scalar as text: CloudFormation compares parameters, numbers and booleans as text.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}

struct Resolver<'a> {
    conditions: &'a Value,
    parameters: &'a HashMap<String, String>,
    physical_ids: &'a HashMap<String, String>,
}

impl Resolver<'_> {
    /// The value, resolved; `None` is `AWS::NoValue`.
    fn value(&self, value: &Value) -> Option<Value> {
        match value {
            Value::Array(all) => Some(all.iter().filter_map(|one| self.value(one)).collect()),
            Value::Object(map) => self.object(map),
            scalar => Some(scalar.clone()),
        }
    }

    fn object(&self, map: &Map<String, Value>) -> Option<Value> {
        if let (1, Some((name, argument))) = (map.len(), map.iter().next()) {
            match (name.as_str(), argument) {
                ("Ref", Value::String(target)) => return self.reference(target),
                ("Fn::If", Value::Array(parts)) => {
                    if let Some(chosen) = self.branch(parts) {
                        return self.value(chosen);
                    }
                }
                _ => {}
            }
        }
        let kept = map
            .iter()
            .filter_map(|(name, value)| Some((name.clone(), self.value(value)?)));
        Some(Value::Object(kept.collect()))
    }

    fn reference(&self, target: &str) -> Option<Value> {
        if target == "AWS::NoValue" {
            return None;
        }
        let found = self
            .parameters
            .get(target)
            .or_else(|| self.physical_ids.get(target));
        Some(found.map_or_else(
            || serde_json::json!({ "Ref": target }),
            |text| Value::String(text.clone()),
        ))
    }

    fn branch<'v>(&self, parts: &'v [Value]) -> Option<&'v Value> {
        let [condition, yes, no] = parts else {
            return None;
        };
        let holds = self.condition(condition.as_str()?)?;
        Some(if holds { yes } else { no })
    }

    /// Whether a named condition holds; `None` if it uses something that is not resolved here.
    fn condition(&self, name: &str) -> Option<bool> {
        self.holds(self.conditions.get(name)?)
    }

    fn holds(&self, condition: &Value) -> Option<bool> {
        let (function, argument) = condition.as_object()?.iter().next()?;
        let parts = argument.as_array().map(Vec::as_slice).unwrap_or_default();
        let mut each = parts.iter().map(|part| self.holds(part));
        match function.as_str() {
            "Condition" => self.condition(argument.as_str()?),
            "Fn::Equals" => {
                let [one, other] = parts else { return None };
                let scalar = |value| text(&self.value(value)?);
                Some(scalar(one)? == scalar(other)?)
            }
            "Fn::Not" => each.next()?.map(|holds| !holds),
            "Fn::And" => each.try_fold(true, |all, one| Some(all & one?)),
            "Fn::Or" => each.try_fold(false, |any, one| Some(any | one?)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn template() -> Value {
        json!({
            "Conditions": {
                "OnAws": {"Fn::Equals": [{"Ref": "Target"}, "aws"]},
                "Local": {"Fn::Not": [{"Condition": "OnAws"}]},
                "Protected": {"Fn::And": [{"Condition": "OnAws"}, {"Fn::Equals": [{"Ref": "Protect"}, "true"]}]},
                "Either": {"Fn::Or": [{"Condition": "OnAws"}, {"Condition": "Local"}]},
                "Strange": {"Fn::Sub": "x"},
            },
            "Resources": {
                "Source": {"Type": "AWS::Lambda::EventSourceMapping", "Properties": {
                    "EventSourceArn": {"Fn::GetAtt": ["Queue", "Arn"]},
                    "FunctionName": {"Ref": "Alias"},
                    "BatchSize": {"Ref": "Size"},
                    "Pollers": {"Fn::If": ["OnAws", {"Ref": "AWS::NoValue"}, {"Min": 2}]},
                    "ScalingConfig": {"Fn::If": ["OnAws", {"MaximumConcurrency": {"Ref": "Workers"}}, {"MaximumConcurrency": 8}]},
                    "Types": [{"Ref": "AWS::NoValue"}, "One"],
                    "Odd": {"Fn::If": ["Strange", 1, 2]},
                }},
                "OnAwsOnly": {"Type": "T", "Condition": "OnAws", "Properties": {}},
                "Table": {"Type": "T", "Properties": {"DeletionProtectionEnabled": {"Fn::If": ["Protected", true, false]}}},
                "Always": {"Type": "T", "Condition": "Either"},
            },
        })
    }

    fn under(target: &str) -> Vec<Resource> {
        let owned = |pairs: &[(&str, &str)]| {
            let pairs = pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
            pairs.collect::<HashMap<_, _>>()
        };
        let parameters = owned(&[
            ("Target", target),
            ("Size", "495"),
            ("Workers", "20"),
            ("Protect", "true"),
        ]);
        let ids = owned(&[("Source", "uuid-1"), ("Alias", "arn:x:live")]);
        resources(&template(), &parameters, &ids)
    }

    fn named<'a>(resources: &'a [Resource], id: &str) -> &'a Resource {
        let found = resources.iter().find(|one| one.logical_id == id);
        found.unwrap_or_else(|| panic!("{id}"))
    }

    #[test]
    fn parameters_and_physical_ids_take_the_place_of_their_references() {
        let resources = under("aws");
        let source = named(&resources, "Source");
        assert_eq!(source.physical_id, "uuid-1");
        assert_eq!(source.kind, "AWS::Lambda::EventSourceMapping");
        assert_eq!(source.number(&["BatchSize"]), Some(495));
        assert_eq!(
            source.text(&["FunctionName"]).as_deref(),
            Some("arn:x:live")
        );
        assert_eq!(source.properties["Types"], json!(["One"]));
        assert_eq!(
            source.properties["EventSourceArn"],
            json!({"Fn::GetAtt": ["Queue", "Arn"]})
        );
    }

    #[test]
    fn a_condition_chooses_the_branch_and_the_resource() {
        let (aws, local) = (under("aws"), under("local"));
        let workers = ["ScalingConfig", "MaximumConcurrency"];
        assert_eq!(named(&aws, "Source").number(&workers), Some(20));
        assert_eq!(named(&local, "Source").number(&workers), Some(8));
        assert_eq!(named(&aws, "Source").property(&["Pollers"]), None);
        assert_eq!(named(&local, "Source").number(&["Pollers", "Min"]), Some(2));
        let protection = ["DeletionProtectionEnabled"];
        assert!(named(&aws, "Table").is_on(&protection));
        assert!(!named(&local, "Table").is_on(&protection));
        let has = |all: &[Resource], id: &str| all.iter().any(|one| one.logical_id == id);
        assert!(has(&aws, "OnAwsOnly") && !has(&local, "OnAwsOnly"));
        assert!(has(&aws, "Always") && has(&local, "Always"));
    }

    #[test]
    fn what_is_not_understood_stays_as_it_is_written() {
        let resources = under("aws");
        let odd = &named(&resources, "Source").properties["Odd"];
        assert_eq!(*odd, json!({"Fn::If": ["Strange", 1, 2]}));
    }
}
