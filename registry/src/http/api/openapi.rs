//! Serves `openapi.json`, the description of the API for programs (`OpenAPI` 3.1).
//!
//! The schemas of the documents come from `docs/schemas`. They also describe the documents that the
//! console prints.

use std::sync::LazyLock;

use axum::response::Response;
use serde_json::{Value, json};

use super::api_answers;

/// The description without the schemas of the documents.
const OPENAPI: &str = include_str!("openapi.json");

macro_rules! schema {
    ($name:literal) => {
        include_str!(concat!("../../../../docs/schemas/registry/", $name, ".json"))
    };
}

/// Each schema: its name in the description, the text of its file, and its place in the file as a
/// JSON pointer.
const SCHEMAS: [(&str, &str, &str); 15] = [
    ("Audit", schema!("audit"), ""),
    ("Component", schema!("showcomp"), ""),
    ("Components", schema!("components"), ""),
    ("Configuration", schema!("showconf"), ""),
    ("Configurations", schema!("configurations"), ""),
    ("Event", schema!("events"), ""),
    ("Fleet", schema!("fleet"), ""),
    ("History", schema!("history"), ""),
    ("Hosts", schema!("host"), ""),
    ("References", schema!("refs"), ""),
    ("Rollout", schema!("rollout"), "/oneOf/0"),
    ("Rollouts", schema!("rollout"), "/oneOf/2"),
    ("Stat", schema!("stat"), ""),
    ("Why", schema!("why"), ""),
    ("Windows", schema!("window"), ""),
];

static TEXT: LazyLock<String> = LazyLock::new(|| format!("{:#}\n", document()));

/// The description with all schemas.
pub fn document() -> Value {
    let read = |text: &str| -> Value {
        serde_json::from_str(text).expect("a test reads all embedded documents")
    };
    let mut document = read(OPENAPI);
    document["info"]["version"] = json!(env!("CARGO_PKG_VERSION"));
    for (name, text, pointer) in SCHEMAS {
        let schema = read(text);
        let mut schema = schema.pointer(pointer).cloned().unwrap_or_default();
        if let Some(fields) = schema.as_object_mut() {
            fields.remove("$schema");
        }
        document["components"]["schemas"][name] = schema;
    }
    document
}

/// `GET openapi.json`
pub async fn get() -> Response {
    api_answers::answer(TEXT.clone())
}
