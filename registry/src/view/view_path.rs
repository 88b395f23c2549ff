//! Interprets paths that clients send. These paths are pure text, and never paths on this machine.

use deploy_store::{ComponentName, ConfigurationName, Digest, VersionName, escape};
use deploy_wire::path::decode;

use crate::verbs::put::PutTarget;
use crate::view::temporary_names::{is_temporary, without_ending};

/// Maximum length of a path that a client sends, in bytes.
pub const MAX_PATH: usize = 4096;

/// The endings of archive names.
const ARCHIVES: [&str; 8] =
    [".tar", ".tgz", ".tar.gz", ".tar.zst", ".tzst", ".zst", ".gz", ".tar.xz"];

/// The meaning of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// `/`
    Root,
    /// `/configs`
    Configurations,
    /// `/files`
    Files,
    /// `/configs/NAME.json`
    Configuration(ConfigurationName),
    /// `/files/DIGEST`
    Blob(Digest),
    /// `/components`
    Components,
    /// `/components/NAME`
    Component(ComponentName),
    /// `/components/NAME/VERSION`
    Version(ComponentName, VersionName),
    /// `/fleet`
    Fleets,
    /// `/fleet/NAME.json`
    Fleet(ConfigurationName),
    /// `/history`
    Histories,
    /// `/history/NAME`
    History(ConfigurationName),
    /// `/history/NAME/NUMBER.json`
    State(ConfigurationName, u64),
    /// `/put`
    Put,
    /// `/put/NAME`. The component need not exist.
    PutInto(ComponentName),
}

/// Returns `path` as an absolute path without empty, `.` and `..` parts. Relative paths start at
/// the root, and `..` cannot lead above the root.
pub fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// The meaning of `path` for an agent. `None` if agents see nothing at this path.
pub fn parse(path: &str) -> Option<Place> {
    if path.len() > MAX_PATH || path.contains('\0') {
        return None;
    }
    let path = clean(path);
    match path.as_str() {
        "/" => return Some(Place::Root),
        "/configs" => return Some(Place::Configurations),
        "/files" => return Some(Place::Files),
        _ => {}
    }
    if let Some(file) = path.strip_prefix("/configs/") {
        return file.strip_suffix(".json")?.parse().ok().map(Place::Configuration);
    }
    path.strip_prefix("/files/")?.parse().ok().map(Place::Blob)
}

/// The meaning of `path` for an operator, who sees more than an agent.
pub fn parse_for_operator(path: &str) -> Option<Place> {
    if path.len() > MAX_PATH {
        return None;
    }
    let cleaned = clean(path);
    let parts: Vec<&str> = cleaned[1..].split('/').collect();
    match parts[..] {
        ["put"] => Some(Place::Put),
        ["put", name] => put_into(name).map(Place::PutInto),
        ["put", name, version] => Some(Place::Version(name.parse().ok()?, version.parse().ok()?)),
        ["components"] => Some(Place::Components),
        ["components", name] => decode(name)?.parse().ok().map(Place::Component),
        ["components", name, version] => {
            Some(Place::Version(decode(name)?.parse().ok()?, decode(version)?.parse().ok()?))
        }
        ["fleet"] => Some(Place::Fleets),
        ["fleet", file] => decode(file.strip_suffix(".json")?)?.parse().ok().map(Place::Fleet),
        ["history"] => Some(Place::Histories),
        ["history", name] => decode(name)?.parse().ok().map(Place::History),
        ["history", name, file] => {
            let number = file.strip_suffix(".json")?;
            let number = number.parse().ok().filter(|n: &u64| n.to_string() == number)?;
            Some(Place::State(decode(name)?.parse().ok()?, number))
        }
        _ => parse(path),
    }
}

/// The component to which a directory in `/put` belongs. A directory whose name has the ending of
/// an archive does not belong to a component. Otherwise, an operator who forgets the component in
/// the path would upload into a directory with the archive's name.
fn put_into(name: &str) -> Option<ComponentName> {
    let is_archive = ARCHIVES.iter().any(|ending| {
        name.len() > ending.len()
            && name.as_bytes()[name.len() - ending.len()..].eq_ignore_ascii_case(ending.as_bytes())
    });
    let component: ComponentName = name.parse().ok()?;
    (!is_archive && component.check_new().is_ok()).then_some(component)
}

/// The result of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Goal {
    /// The upload is staged, and its name is only a label.
    Staged,
    /// The upload is staged until the client renames it. If the name shows which version the upload
    /// will become, the value is this version.
    Temporary(Option<PutTarget>),
    /// The upload becomes a version.
    Version(PutTarget),
}

/// The result of an upload to `path`. An upload to `/put` becomes a version, with a temporary name
/// only after a rename. A path in `/put` that is not a valid target is an error. Uploads to
/// `/components`, `/configs` and `/history` are errors, too. Any other upload is staged.
pub fn goal(path: &str) -> Result<Goal, String> {
    let cleaned = clean(path);
    let (top, rest) = cleaned[1..].split_once('/').unwrap_or((&cleaned[1..], ""));
    match top {
        "put" => {}
        "components" => {
            let (name, version) = rest.split_once('/').unwrap_or((rest, ""));
            let name = if name.is_empty() { "NAME" } else { name };
            let version = if version.is_empty() { "VERSION" } else { version };
            return Err(format!(
                "versions are not written to /components: upload to /put/{}/{}",
                escape(name),
                escape(version)
            ));
        }
        "configs" | "history" => {
            return Err(format!(
                "configurations are not written to /{top}: use the commands addconf and changeconf"
            ));
        }
        _ => return Ok(Goal::Staged),
    }
    let Some((component, version)) = rest.split_once('/') else {
        return Err("/put takes a component and a version: /put/NAME/VERSION".to_owned());
    };
    let wrong = |err: deploy_store::Error| err.to_string();
    let component: ComponentName = component.parse().map_err(wrong)?;
    if is_temporary(version) && !version.contains('/') {
        component.check_new().map_err(wrong)?;
        let version = without_ending(version).and_then(|version| version.parse().ok());
        let version = version.filter(|version: &VersionName| version.check_new().is_ok());
        return Ok(Goal::Temporary(version.map(|version| PutTarget { component, version })));
    }
    let version = version.parse().map_err(wrong)?;
    Ok(Goal::Version(PutTarget { component, version }))
}

/// Whether `path` is `/put`, or a path below `/put`.
pub fn is_in_put(path: &str) -> bool {
    let cleaned = clean(path);
    cleaned.strip_prefix("/put").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Splits a cleaned path into its directory and its name.
pub fn split(path: &str) -> (&str, &str) {
    match path.rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some(split) => split,
        None => ("/", path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaned_path_never_leads_above_the_root() {
        for (path, want) in [
            ("", "/"),
            (".", "/"),
            ("..", "/"),
            ("/../../etc/passwd", "/etc/passwd"),
            ("configs/", "/configs"),
            ("./configs//./a.json", "/configs/a.json"),
            ("/configs/a/../../files", "/files"),
        ] {
            assert_eq!(clean(path), want, "{path:?}");
        }
    }

    #[test]
    fn agents_see_only_configurations_and_blobs() {
        let digest = Digest::of(b"x");
        let configuration = |name: &str| Some(Place::Configuration(name.parse().unwrap()));
        assert_eq!(parse("configs/p.json"), configuration("p"));
        assert_eq!(parse("/configs/../configs/p.json"), configuration("p"));
        assert_eq!(parse("/configs/a b*.json"), configuration("a b*"));
        assert_eq!(parse(&format!("files/{digest}")), Some(Place::Blob(digest)));
        for nothing in [
            "/host_key",
            "files/../host_key",
            "/files/../uploads/x",
            "/configs/project1",
            "/configs/.json",
            "/configs/a/b.json",
            "/files/ABCD",
            "/configs/a\0.json",
            "/catalogue.db",
            &format!("/files/{}", digest.to_string().to_uppercase()),
            &format!("/configs/{}.json", "x".repeat(MAX_PATH)),
        ] {
            assert_eq!(parse(nothing), None, "{nothing:?}");
        }
    }

    #[test]
    fn operators_also_see_components_and_states() {
        let see = |path: &str| parse_for_operator(path);
        let (code, p) = ("code".parse().unwrap(), "p".parse().unwrap());
        assert_eq!(see("/"), Some(Place::Root));
        assert_eq!(see("configs/p.json"), parse("configs/p.json"));
        assert_eq!(see("put/"), Some(Place::Put));
        assert_eq!(see("/components/code"), Some(Place::Component(code)));
        let odd = Place::Version("a/b".parse().unwrap(), "..".parse().unwrap());
        assert_eq!(see("components/a%2Fb/%2E%2E"), Some(odd));
        assert_eq!(see("/history/p/12.json"), Some(Place::State(p, 12)));
        for nothing in [
            "/components/a/b/c",
            "/history/p/012.json",
            "/history/p/+1.json",
            "/history/p/1",
            "/components/a:b",
            "/components/%",
            "/uploads",
            &format!("/components/{}", "x".repeat(MAX_PATH)),
        ] {
            assert_eq!(see(nothing), None, "{nothing}");
        }
        assert_eq!(parse("/components/code"), None);
    }

    #[test]
    fn put_paths_name_a_component_and_a_version() {
        let what = |path: &str| {
            goal(path).map(|goal| match goal {
                Goal::Staged => "staged".to_owned(),
                Goal::Temporary(None) => "temporary".to_owned(),
                Goal::Temporary(Some(PutTarget { component, version })) => {
                    format!("temporary {component} {version}")
                }
                Goal::Version(PutTarget { component, version }) => format!("{component} {version}"),
            })
        };
        for (path, wanted) in [
            ("/put/config/v3", "config v3"),
            ("put//config/./v3", "config v3"),
            ("x.tgz", "staged"),
            ("/putty/a/b", "staged"),
            ("/x/put/a/b", "staged"),
            ("/put/../x.part", "staged"),
            ("/put/config/v3.filepart", "temporary config v3"),
            ("/put/config/.in.v3", "temporary"),
            ("/put/config/.v3.tmp", "temporary"),
        ] {
            assert_eq!(what(path), Ok(wanted.to_owned()), "{path}");
        }
        for (bad, why) in [
            ("/put", "/NAME/VERSION"),
            ("put/x/", "/NAME/VERSION"),
            ("put/x.part", "/NAME/VERSION"),
            ("/put/a:b/v", ":"),
            ("/components/a/b", "upload to /put/a/b"),
            ("/components", "upload to /put/NAME/VERSION"),
            ("/configs/p.json", "addconf"),
        ] {
            assert!(what(bad).unwrap_err().contains(why), "{bad}");
        }
        assert!(is_in_put("put/") && is_in_put("/put/a") && !is_in_put("/putty"));
        assert_eq!(split("/put/a/b"), ("/put/a", "b"));
        assert_eq!(split("/x"), ("/", "x"));
    }

    #[test]
    fn put_directories_are_components() {
        let see = |path: &str| parse_for_operator(path);
        assert_eq!(see("/put/code"), Some(Place::PutInto("code".parse().unwrap())));
        let version = Place::Version("code".parse().unwrap(), "v1".parse().unwrap());
        assert_eq!(see("put/code/v1"), Some(version));
        for nothing in ["/put/.code", "/put/a:b", "/put/x.tgz", "/put/x.TAR.zst", "/put/a/b/c"] {
            assert_eq!(see(nothing), None, "{nothing}");
        }
    }
}
