//! Parses a value of `-owner`: `USER[:GROUP]` for the whole root, or `GLOB=USER[:GROUP]` for some
//! paths.

use deploy_store::OwnerRule;

/// Why a value of `-owner` is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The value names no owner.
    #[error("{0:?} names no owner; give USER, USER:GROUP, or GLOB=USER:GROUP")]
    Empty(String),
    /// The system knows no such user.
    #[error("no user {0:?} on this server; create it first (useradd -r), or give a number")]
    NoUser(String),
    /// The system knows no such group.
    #[error("no group {0:?} on this server; create it first (groupadd -r), or give a number")]
    NoGroup(String),
}

/// Parses `text`, and looks up the numbers of the user and the group on this system. As with
/// chown(1), `USER:` also sets the user's own group, and `USER` does not change the group. If
/// `USER` is a number, `USER:` does not change the group, either.
pub fn rule(text: &str) -> Result<OwnerRule, Error> {
    let (pattern, owner) = match text.rsplit_once('=') {
        Some((pattern, owner)) => (Some(pattern.to_owned()), owner),
        None => (None, text),
    };
    let (user, group) = match owner.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (owner, None),
    };
    if user.is_empty() && group.unwrap_or_default().is_empty() {
        return Err(Error::Empty(text.to_owned()));
    }
    let (uid, own_group) = match (user, user.parse()) {
        ("", _) => (None, None),
        (_, Ok(number)) => (Some(number), None),
        (name, Err(_)) => {
            let user = uzers::get_user_by_name(name);
            let user = user.ok_or_else(|| Error::NoUser(name.to_owned()))?;
            (Some(user.uid()), Some(user.primary_group_id()))
        }
    };
    let gid = match group.map(|name| (name, name.parse())) {
        None => None,
        Some(("", _)) => own_group,
        Some((_, Ok(number))) => Some(number),
        Some((name, Err(_))) => {
            let group = uzers::get_group_by_name(name);
            Some(group.ok_or_else(|| Error::NoGroup(name.to_owned()))?.gid())
        }
    };
    Ok(OwnerRule { pattern, uid, gid })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_parsed_with_the_rules_of_chown() {
        let is = |text: &str, pattern: Option<&str>, uid, gid| {
            let pattern = pattern.map(str::to_owned);
            assert_eq!(rule(text), Ok(OwnerRule { pattern, uid, gid }), "{text}");
        };
        is("root", None, Some(0), None);
        is("root:", None, Some(0), Some(0));
        is(":0", None, None, Some(0));
        is("1000:1001", None, Some(1000), Some(1001));
        is("var/**=root:root", Some("var/**"), Some(0), Some(0));
        is("etc/a=b.conf=5", Some("etc/a=b.conf"), Some(5), None);
        for (text, want) in [
            ("", "names no owner"),
            (":", "names no owner"),
            ("var/**=", "names no owner"),
            ("nobody-of-that-name", "no user \"nobody-of-that-name\""),
            ("root:no-such-group", "no group \"no-such-group\""),
        ] {
            let err = rule(text).unwrap_err().to_string();
            assert!(err.contains(want), "{text}: {err}");
        }
    }
}
