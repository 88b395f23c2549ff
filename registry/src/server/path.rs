//! Paths of the sftp view: pure text, never a path of this machine.

use deploy_store::{ConfigurationName, Digest};

/// Longest path that a client may name.
pub const MAX_PATH: usize = 4096;

/// What a path of the view names.
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

/// What `path` names, if it can name anything.
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
}
