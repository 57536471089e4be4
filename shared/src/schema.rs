//! The service's contracts as JSON Schemas (2020-12), made from the types that read and write them. Feature `schema`:
//! tests hold `schemas/` and the OpenAPI document to them; no function carries this module.

use schemars::{
    JsonSchema, Schema, SchemaGenerator,
    generate::SchemaSettings,
    transform::{Transform, transform_subschemas},
};
use serde_json::Value;

use crate::{BroadcastJob, ClaimMessage, ClientFrame, DeliveryJob, ServerFrame};

/// Every message of the queues and every frame of a socket: the file's name in `schemas/` without its ending, and the
/// schema. What comes in is described as it is read, what clients get as it is written.
pub fn contracts() -> [(&'static str, Schema); 5] {
    [
        ("claim-message", root::<ClaimMessage>(reading())),
        ("delivery-job", root::<DeliveryJob>(reading())),
        ("broadcast-job", root::<BroadcastJob>(reading())),
        ("client-frame", root::<ClientFrame>(reading())),
        ("server-frame", root::<ServerFrame>(writing())),
    ]
}

/// How types are described that come in: what may be left out is optional.
pub fn reading() -> SchemaSettings {
    SchemaSettings::draft2020_12()
        .for_deserialize()
        .with_transform(Plain)
}

/// How types are described that go out: what is always written is required.
pub fn writing() -> SchemaSettings {
    SchemaSettings::draft2020_12()
        .for_serialize()
        .with_transform(LeftOut)
        .with_transform(Plain)
}

fn root<T: JsonSchema>(settings: SchemaSettings) -> Schema {
    SchemaGenerator::new(settings).into_root_schema_for::<T>()
}

/// Takes out what says something about Rust and nothing about JSON: the width of integers, line breaks of comments, `null`
/// as a default.
#[derive(Clone)]
struct Plain;

impl Transform for Plain {
    fn transform(&mut self, schema: &mut Schema) {
        let format = schema.get("format").and_then(Value::as_str);
        if format.is_some_and(|format| format.starts_with("uint") || format.starts_with("int")) {
            schema.remove("format");
        }
        if schema.get("default") == Some(&Value::Null) {
            schema.remove("default");
        }
        if let Some(text) = schema.get("description").and_then(Value::as_str) {
            let text = text.replace('\n', " ");
            schema.insert("description".to_owned(), text.into());
        }
        transform_subschemas(self, schema);
    }
}

/// What may be absent from an answer is left out, never written as `null`.
#[derive(Clone)]
struct LeftOut;

impl Transform for LeftOut {
    fn transform(&mut self, schema: &mut Schema) {
        let required = schema.get("required").cloned().unwrap_or_default();
        let is_required = |name: &str| {
            required
                .as_array()
                .is_some_and(|all| all.contains(&name.into()))
        };
        if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
            properties
                .iter_mut()
                .filter(|(name, _)| !is_required(name))
                .for_each(|(_, property)| never_null(property));
        }
        transform_subschemas(self, schema);
    }
}

fn never_null(property: &mut Value) {
    let Some(property) = property.as_object_mut() else {
        return;
    };
    match property
        .get("type")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
    {
        Some([only, null]) if null == "null" => {
            let only = only.clone();
            property.insert("type".to_owned(), only);
        }
        _ => {}
    }
    match property
        .get("anyOf")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
    {
        Some([Value::Object(only), null]) if null["type"] == "null" => {
            let only = only.clone();
            property.remove("anyOf");
            property.extend(only);
        }
        _ => {}
    }
}
