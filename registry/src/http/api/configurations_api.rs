//! Answers requests about configurations with the verbs `configurations`, `showconf`, `history`,
//! `changeconf` and `rollback`.

use std::str::FromStr;
use std::sync::Arc;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::header::{ETAG, IF_MATCH, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use deploy_store::{ConfigurationName, Digest};
use deploy_wire::command::{ChangeOptions, Command, Rolling, RolloutRules};
use deploy_wire::flags;
use serde::{Deserialize, Serialize};

use super::api_answers::{self, Paging};
use super::changing::{self, Changed};
use super::parameters::{Parameters, name};
use crate::error::Error;
use crate::http::access::Viewer;
use crate::http::problem::Problem;
use crate::http::shared_state::Handle;
use crate::registry::Registry;
use crate::verbs::fleet_document::RolloutBrief;

/// `GET configurations`
pub async fn list(
    State(handle): State<Handle>,
    parameters: Parameters,
) -> Result<Response, Problem> {
    let (after, limit) = (parameters.parsed("after")?, Some(parameters.limit()?));
    let command = Command::Configurations { after, limit, json: true };
    let paging = Paging { field: "after", list: "", value: "", backwards: false };
    api_answers::page(&handle, &parameters, &command, paging).await
}

/// `GET configurations/{name}`
pub async fn show(
    State(handle): State<Handle>,
    Path(of): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let shared = handle.shared().map_err(Problem::for_program)?;
    let configuration = shared.registry.catalog.configuration(&name(&of)?).await;
    let configuration = configuration.map_err(|err| Problem::from(err).for_program())?;
    let id = configuration.id();
    let mut response = if tags(&headers, &IF_NONE_MATCH).is_some_and(|tags| tags.names(id)) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        api_answers::answer(String::from_utf8_lossy(&configuration.to_json()).into_owned())
    };
    set_tag(&mut response, id);
    Ok(response)
}

/// `GET configurations/{name}/history`
pub async fn history(
    State(handle): State<Handle>,
    Path(of): Path<String>,
    parameters: Parameters,
) -> Result<Response, Problem> {
    let (before, limit) = (parameters.number("before")?, Some(parameters.limit()?));
    let command = Command::History { name: name(&of)?, before, limit, json: true };
    let paging = Paging { field: "before", list: "/states", value: "/number", backwards: false };
    api_answers::page(&handle, &parameters, &command, paging).await
}

/// The body of a change of versions.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    layers: Vec<NewLayer>,
    waves: Option<String>,
    soak: Option<String>,
    max_failed: Option<String>,
}

/// A layer with its new version.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewLayer {
    component: String,
    version: String,
}

/// The body of a rollback.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Earlier {
    to: Option<u64>,
}

/// The configuration after a change. While a rollout runs, `state` is the rollout's base.
#[derive(Debug, Serialize)]
struct Current {
    configuration: String,
    state: u64,
    hash: Digest,
    rollout: Option<RolloutBrief>,
}

impl Change {
    fn command(
        &self,
        name: ConfigurationName,
        if_hash: Option<Digest>,
    ) -> Result<Command, Problem> {
        let mut changes = Vec::with_capacity(self.layers.len());
        for NewLayer { component, version } in &self.layers {
            let change = (parsed("component", component)?, parsed("version", version)?);
            if changes.iter().any(|(other, _)| *other == change.0) {
                return Err(changing::bad(format!("duplicate component \"{}\"", change.0)));
            }
            changes.push(change);
        }
        if changes.is_empty() {
            let text = "the field \"layers\" is empty: give components with their versions";
            return Err(changing::bad(text));
        }
        let soak = self.soak.as_deref().map(flags::duration).transpose();
        let rules = RolloutRules {
            waves: self.waves.clone(),
            soak: soak.map_err(|why| changing::bad(format!("soak: {why}")))?,
            max_failed: self.max_failed.clone(),
            ..RolloutRules::default()
        };
        let rolling = Rolling { rules, ..Rolling::default() };
        let options = ChangeOptions { rolling, ..ChangeOptions::default() };
        let if_hash = if_hash.map(Into::into);
        Ok(Command::ChangeConfiguration { name, changes, if_hash, options })
    }
}

fn parsed<T: FromStr<Err: std::fmt::Display>>(what: &str, text: &str) -> Result<T, Problem> {
    text.parse().map_err(|err| changing::bad(format!("{what}: {err}")))
}

/// `PATCH configurations/{name}`
pub async fn change(
    State(handle): State<Handle>,
    Extension(viewer): Extension<Viewer>,
    Path(of): Path<String>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Result<Response, Problem> {
    let actor = changing::actor(&viewer, &headers)?;
    let change: Change = changing::body(&headers, &bytes)?;
    let shared = handle.shared().map_err(Problem::for_program)?;
    let (registry, name) = (&shared.registry, name::<ConfigurationName>(&of)?);
    // A malformed change is an error whatever the current state is. So the code checks the change
    // before `If-Match`.
    change.command(name.clone(), None)?;
    let wanted = tags(&headers, &IF_MATCH);
    let id = current(registry, &name).await?.hash;
    if wanted.as_ref().is_some_and(|wanted| !wanted.is_exactly(id)) {
        return Err(changed_since(&name));
    }
    let if_hash = wanted.filter(|wanted| !wanted.any).map(|_| id);
    let command = change.command(name.clone(), if_hash)?;
    let message = match changing::run(registry, &actor, command).await {
        // Another user may have changed the configuration since the check.
        Err(problem) if problem.status() == StatusCode::CONFLICT && if_hash.is_some() => {
            let is_same = current(registry, &name).await?.hash == id;
            return Err(if is_same { problem } else { changed_since(&name) });
        }
        other => other?,
    };
    changed(registry, &name, message).await
}

/// `POST configurations/{name}/rollback`
pub async fn roll_back(
    State(handle): State<Handle>,
    Extension(viewer): Extension<Viewer>,
    Path(of): Path<String>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Result<Response, Problem> {
    let actor = changing::actor(&viewer, &headers)?;
    let Earlier { to } = changing::body(&headers, &bytes)?;
    if to.is_some_and(|to| i64::try_from(to).is_err()) {
        return Err(changing::bad("the number in the field \"to\" is too large"));
    }
    let shared = handle.shared().map_err(Problem::for_program)?;
    let name: ConfigurationName = name(&of)?;
    let command = Command::Rollback { name: name.clone(), to, options: ChangeOptions::default() };
    let message = changing::run(&shared.registry, &actor, command).await?;
    changed(&shared.registry, &name, message).await
}

async fn changed(
    registry: &Arc<Registry>,
    name: &ConfigurationName,
    message: String,
) -> Result<Response, Problem> {
    let thing = current(registry, name).await?;
    let id = thing.hash;
    let mut response = axum::Json(Changed { message, thing }).into_response();
    set_tag(&mut response, id);
    Ok(response)
}

async fn current(registry: &Registry, name: &ConfigurationName) -> Result<Current, Problem> {
    let failed = |err: Error| Problem::from(err).for_program();
    let state = registry.catalog.current_state(name).await.map_err(failed)?;
    let none = || failed(Error::NotFound(format!("configuration \"{name}\" not found")));
    let (state, _, hash) = state.ok_or_else(none)?;
    let rollout = registry.catalog.last_rollout(name).await.map_err(failed)?;
    let rollout = rollout.filter(|row| row.ended.is_none()).map(|row| RolloutBrief::of(&row));
    Ok(Current { configuration: name.as_str().to_owned(), state, hash, rollout })
}

fn changed_since(name: &ConfigurationName) -> Problem {
    let text = format!(
        "the current state of configuration \"{name}\" is not the state in If-Match; read the \
         configuration again, and send a new change if you still want one"
    );
    Problem::new(StatusCode::PRECONDITION_FAILED, text).for_program()
}

fn set_tag(response: &mut Response, id: Digest) {
    if let Ok(tag) = HeaderValue::try_from(format!("\"{id}\"")) {
        response.headers_mut().insert(ETAG, tag);
    }
}

/// The entity tags in a header.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tags {
    /// Whether the header is `*`.
    any: bool,
    tags: Vec<String>,
}

impl Tags {
    fn of(text: &str) -> Self {
        let tags: Vec<String> = text.split(',').map(|tag| tag.trim().to_owned()).collect();
        Self { any: tags == ["*"], tags }
    }

    /// Whether the header is `*`, or has a strong tag for the state with this id.
    fn is_exactly(&self, id: Digest) -> bool {
        self.any || self.tags.contains(&format!("\"{id}\""))
    }

    /// Whether the header is `*`, or has a strong or weak tag for the state with this id. Weak tags
    /// count, because a proxy may have turned a strong tag into a weak tag.
    fn names(&self, id: Digest) -> bool {
        self.is_exactly(id) || self.tags.contains(&format!("W/\"{id}\""))
    }
}

fn tags(headers: &HeaderMap, name: &axum::http::HeaderName) -> Option<Tags> {
    let all: Vec<&str> =
        headers.get_all(name).iter().map(|value| value.to_str().unwrap_or_default()).collect();
    if all.is_empty() { None } else { Some(Tags::of(&all.join(","))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entity_tags_match_states() {
        let (one, other) = (Digest::of(b"one"), Digest::of(b"other"));
        let strong = Tags::of(&format!("\"x\", \"{one}\""));
        assert!(strong.is_exactly(one) && strong.names(one) && !strong.names(other));
        let weak = Tags::of(&format!("W/\"{one}\""));
        assert!(weak.names(one) && !weak.is_exactly(one));
        assert!(Tags::of("*").is_exactly(other));
        assert!(!Tags::of("").names(one) && !Tags::of(&one.to_string()).names(one));
    }

    #[test]
    fn change_becomes_a_command() {
        let name = || "web".parse().unwrap();
        let change = |text: &str| serde_json::from_str::<Change>(text).unwrap();
        let layer = "{\"component\": \"code\", \"version\": \"v2\"}";
        let rules = "\"waves\": \"1,100%\", \"soak\": \"5m\", \"max_failed\": \"2\"";
        let command = change(&format!("{{\"layers\": [{layer}], {rules}}}"));
        let line = command.command(name(), None).unwrap().to_string();
        let words = deploy_wire::command::split(&line).unwrap();
        assert_eq!(
            deploy_wire::command::parse(&words).unwrap(),
            command.command(name(), None).unwrap()
        );
        for word in ["code", "v2", "1,100%", "300s"] {
            assert!(line.contains(word), "{line}");
        }
        for bad in [
            "{\"layers\": []}".to_owned(),
            format!("{{\"layers\": [{layer}, {layer}]}}"),
            "{\"layers\": [{\"component\": \"a:b\", \"version\": \"v2\"}]}".to_owned(),
            format!("{{\"layers\": [{layer}], \"soak\": \"soon\"}}"),
        ] {
            let status = change(&bad).command(name(), None).err().map(|err| err.status());
            assert_eq!(status, Some(StatusCode::BAD_REQUEST), "{bad}");
        }
    }
}
