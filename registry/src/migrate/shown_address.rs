//! Removes passwords from the addresses that reports and records contain.

/// The address of a database server without passwords.
pub(super) fn without_password(url: &str) -> String {
    let (address, query) = url.split_once('?').map_or((url, None), |(a, q)| (a, Some(q)));
    let address = match address.split_once("://") {
        Some((scheme, rest)) => {
            let (host, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
            let host = match host.rsplit_once('@') {
                Some((user, host)) => {
                    format!("{}@{host}", user.split(':').next().unwrap_or_default())
                }
                None => host.to_owned(),
            };
            format!("{scheme}://{host}{path}")
        }
        None => address.to_owned(),
    };
    let is_shown = |pair: &&str| !pair.split('=').next().unwrap_or_default().contains("password");
    let query: Vec<&str> = query.unwrap_or_default().split('&').filter(is_shown).collect();
    match query.join("&") {
        query if query.is_empty() => address,
        query => format!("{address}?{query}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_removed() {
        for (url, shown) in [
            ("postgres://me:secret@host:5432/deploy", "postgres://me@host:5432/deploy"),
            ("postgres://me:a@b@host/deploy", "postgres://me@host/deploy"),
            ("postgres://host/deploy", "postgres://host/deploy"),
            (
                "postgres://me@localhost/deploy?host=/run/pg&password=secret&sslmode=require",
                "postgres://me@localhost/deploy?host=/run/pg&sslmode=require",
            ),
            ("postgres://me@host/deploy?password=secret", "postgres://me@host/deploy"),
            ("postgres://me:secret@host?sslpassword=x", "postgres://me@host"),
        ] {
            assert_eq!(without_password(url), shown);
        }
    }
}
