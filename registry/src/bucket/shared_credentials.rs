//! Reads credentials from the file that tools for S3 share, `~/.aws/credentials`. The variables
//! `AWS_SHARED_CREDENTIALS_FILE` and `AWS_PROFILE` choose the file and the section.

use std::path::PathBuf;

/// The keys of a section.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Keys {
    pub(super) id: String,
    pub(super) secret: String,
    pub(super) token: Option<String>,
}

/// The file and the section, if the file exists.
pub(super) fn find() -> Option<(PathBuf, String)> {
    let of = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let path = match of("AWS_SHARED_CREDENTIALS_FILE") {
        Some(path) => PathBuf::from(path),
        None => PathBuf::from(of("HOME")?).join(".aws/credentials"),
    };
    let profile = of("AWS_PROFILE").and_then(|name| name.into_string().ok());
    path.exists().then(|| (path, profile.unwrap_or_else(|| "default".to_owned())))
}

/// The keys in the section `profile` of the text of a file.
pub(super) fn parse(text: &str, profile: &str) -> Option<Keys> {
    let (mut inside, mut id, mut secret, mut token) = (false, None, None, None);
    for line in text.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            inside = section.trim() == profile;
        } else if let Some((key, value)) = line.split_once('=').filter(|_| inside) {
            let value = Some(value.trim().to_owned());
            match key.trim() {
                "aws_access_key_id" => id = value,
                "aws_secret_access_key" => secret = value,
                "aws_session_token" => token = value,
                _ => {}
            }
        }
    }
    Some(Keys { id: id?, secret: secret?, token })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn section_of_the_profile_has_the_keys() {
        let text = "[default]\naws_access_key_id = a\n# secret\naws_secret_access_key=b=\n\n\
                    [ other ]\naws_access_key_id=c\naws_secret_access_key=d\n\
                    aws_session_token=e\nregion=here\n[half]\naws_access_key_id=f\n";
        let keys = parse(text, "default").unwrap();
        assert_eq!((&*keys.id, &*keys.secret, keys.token), ("a", "b=", None));
        let keys = parse(text, "other").unwrap();
        assert_eq!((&*keys.id, &*keys.secret, keys.token.as_deref()), ("c", "d", Some("e")));
        assert!(parse(text, "half").is_none() && parse(text, "absent").is_none());
    }
}
