use std::collections::{BTreeMap, BTreeSet};

use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use serde_json::Value;
use tower::ServiceExt as _;

use super::*;

/// The methods of each address.
type Addresses = BTreeMap<String, BTreeSet<String>>;

fn described() -> Addresses {
    let document = openapi::document();
    let paths = document["paths"].as_object().unwrap();
    let methods = |item: &Value| {
        let names = item.as_object().unwrap().keys();
        names.map(|name| name.to_uppercase()).collect()
    };
    paths.iter().map(|(path, item)| (path.clone(), methods(item))).collect()
}

async fn ask(method: Method, path: &str) -> Response {
    let router = with_problems(routes()).with_state(Handle::default());
    let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
    router.oneshot(request).await.unwrap()
}

#[tokio::test]
async fn description_has_exactly_the_routed_addresses() {
    let mut routed = Addresses::new();
    for (path, _) in table() {
        let filled = format!("{TOP}{}", path.replace(['{', '}'], ""));
        let response = ask(Method::TRACE, &filled).await;
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
        assert_eq!(response.headers()[header::CONTENT_TYPE], PROBLEM_JSON);
        let allowed = response.headers()[header::ALLOW].to_str().unwrap().to_owned();
        let methods = allowed.split(',').filter(|method| *method != "HEAD");
        routed.insert(path.to_owned(), methods.map(str::to_owned).collect());
    }
    assert_eq!(routed, described());
}

#[test]
fn description_has_all_components_that_it_uses_and_no_others() {
    fn check(value: &Value, document: &Value, seen: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                if let Some(target) = fields.get("$ref") {
                    let target = target.as_str().unwrap().strip_prefix('#').unwrap();
                    let found = document.pointer(target).is_some_and(|found| !found.is_null());
                    assert!(found, "{target}");
                    seen.insert(target.to_owned());
                }
                fields.values().for_each(|value| check(value, document, seen));
            }
            Value::Array(items) => items.iter().for_each(|value| check(value, document, seen)),
            _ => {}
        }
    }
    let (document, mut used) = (openapi::document(), BTreeSet::new());
    check(&document, &document, &mut used);
    for (kind, named) in document["components"].as_object().unwrap() {
        if kind == "securitySchemes" {
            continue;
        }
        for name in named.as_object().unwrap().keys() {
            let target = format!("/components/{kind}/{name}");
            assert!(used.contains(&target), "nothing uses {target}");
        }
    }
}

#[tokio::test]
async fn unknown_address_is_a_problem_for_programs() {
    for path in ["/api/v1/", "/api/v1/nothing", "/api/v2/fleet", "/api/v1/fleet/", "/api/v1/a/b/c"]
    {
        let response = ask(Method::GET, path).await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND, "{path}");
        assert_eq!(response.headers()[header::CONTENT_TYPE], PROBLEM_JSON, "{path}");
    }
    let response = ask(Method::OPTIONS, "/api/v1/fleet").await;
    assert!(!response.headers().contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN));
    let response = ask(Method::GET, "/api/v1/configurations/%ff").await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    assert_eq!(response.headers()[header::CONTENT_TYPE], PROBLEM_JSON);
}
