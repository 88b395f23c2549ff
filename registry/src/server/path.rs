//! Paths over sftp: pure text, never a path of this machine.

use deploy_store::{ComponentName, ConfigurationName, Digest, VersionName};
use deploy_wire::path::decode;

use crate::put::Target;

/// Longest path that a client may name.
pub const MAX_PATH: usize = 4096;

/// What a path names.
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
    /// `/history`
    Histories,
    /// `/history/NAME`
    History(ConfigurationName),
    /// `/history/NAME/NUMBER.json`
    State(ConfigurationName, u64),
    /// `/put`
    Put,
}

/// `path` as an absolute path without empty, `.` and `..` parts. Relative paths
/// start at the root, and `..` cannot lead above it.
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

/// What `path` names to a service, if it can name anything.
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

/// What `path` names to an operator, who sees more than a service.
pub fn parse_for_operator(path: &str) -> Option<Place> {
    if path.len() > MAX_PATH {
        return None;
    }
    let cleaned = clean(path);
    let parts: Vec<&str> = cleaned[1..].split('/').collect();
    match parts[..] {
        ["put"] => Some(Place::Put),
        ["components"] => Some(Place::Components),
        ["components", name] => decode(name)?.parse().ok().map(Place::Component),
        ["components", name, version] => {
            Some(Place::Version(decode(name)?.parse().ok()?, decode(version)?.parse().ok()?))
        }
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

/// Where an upload to `path` is bound: nowhere, unless it is in `/put`. There, a path that is
/// no target is a mistake that is told.
pub fn put(path: &str) -> Option<Result<Target, String>> {
    let cleaned = clean(path);
    let rest = match cleaned.strip_prefix("/put") {
        Some("") => "",
        Some(rest) => rest.strip_prefix('/')?,
        None => return None,
    };
    let target = || {
        let Some((component, version)) = rest.split_once('/') else {
            return Err("/put takes a component and a version: /put/NAME/VERSION".to_owned());
        };
        let component = component.parse().map_err(|err: deploy_store::Error| err.to_string())?;
        let version = version.parse().map_err(|err: deploy_store::Error| err.to_string())?;
        Ok(Target { component, version })
    };
    Some(target())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaning_never_leads_above_the_root() {
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
    fn only_configurations_and_blobs_have_names() {
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
    fn operators_see_more() {
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
            "/put/a",
            "/put/a/b",
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
    fn what_is_put_has_a_name_and_a_version() {
        let target = |path: &str| {
            put(path).map(|target| {
                target.map(|Target { component, version }| format!("{component} {version}"))
            })
        };
        assert_eq!(target("/put/config/v3"), Some(Ok("config v3".to_owned())));
        assert_eq!(target("put//config/./v3"), Some(Ok("config v3".to_owned())));
        for plain in ["x.tgz", "/putty/a/b", "/x/put/a/b", "/put/../x", "/components/a/b"] {
            assert_eq!(target(plain), None, "{plain}");
        }
        for (bad, why) in
            [("/put", "/NAME/VERSION"), ("put/x/", "/NAME/VERSION"), ("/put/a:b/v", ":")]
        {
            assert!(target(bad).unwrap().unwrap_err().contains(why), "{bad}");
        }
    }
}
