//! Reads the values in paths and queries.

use std::fmt::Display;
use std::str::FromStr;

use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;
use deploy_store::escape;

use crate::http::problem::Problem;

/// Without `limit`, a list has at most this many entries.
const LIMIT: u64 = 100;
/// Maximum number of entries of a list.
const MAX_LIMIT: u64 = 1000;
/// The largest number that the catalogue can store.
const MAX_NUMBER: u64 = i64::MAX.unsigned_abs();

/// The path and the query of a request. Unknown fields have no effect.
#[derive(Debug, Clone)]
pub struct Parameters {
    path: String,
    fields: Vec<(String, String)>,
}

impl<S: Sync> FromRequestParts<S> for Parameters {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self::read(parts.uri.path(), parts.uri.query().unwrap_or_default()))
    }
}

impl Parameters {
    /// The parameters of an address.
    pub fn read(path: &str, query: &str) -> Self {
        let fields = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        Self { path: path.to_owned(), fields }
    }

    fn get(&self, name: &str) -> Option<&str> {
        let found = self.fields.iter().rfind(|(field, _)| field == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The value of a field, parsed with `read`.
    pub fn value<T, E: Display>(
        &self,
        name: &str,
        read: impl Fn(&str) -> Result<T, E>,
    ) -> Result<Option<T>, Problem> {
        self.get(name).map(|text| read(text).map_err(|err| malformed(name, text, &err))).transpose()
    }

    /// The value of a field, parsed as a `T`, such as a name.
    pub fn parsed<T: FromStr<Err: Display>>(&self, name: &str) -> Result<Option<T>, Problem> {
        self.value(name, str::parse)
    }

    /// The value of a field as a number.
    pub fn number(&self, name: &str) -> Result<Option<u64>, Problem> {
        self.value(name, number)
    }

    /// Whether a field is `true`.
    pub fn is_set(&self, name: &str) -> Result<bool, Problem> {
        let read = |text: &str| match text {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err("give true or false"),
        };
        Ok(self.value(name, read)?.unwrap_or(false))
    }

    /// The maximum number of entries of the list: the field `limit`, or `LIMIT` without this field.
    pub fn limit(&self) -> Result<u64, Problem> {
        let read = |text: &str| match number(text) {
            Ok(limit @ 1..=MAX_LIMIT) => Ok(limit),
            _ => Err(format!("give a number from 1 to {MAX_LIMIT}")),
        };
        Ok(self.value("limit", read)?.unwrap_or(LIMIT))
    }

    /// The address of another page of the same list. In this address, the field `name` has the
    /// value `value`.
    pub fn page(&self, name: &str, value: &str) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(self.fields.iter().filter(|(field, _)| field != name));
        query.append_pair(name, value);
        format!("{}?{}", self.path, query.finish())
    }
}

fn number(text: &str) -> Result<u64, String> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|number| is_number && *number <= MAX_NUMBER);
    number.ok_or_else(|| format!("give a number from 0 to {MAX_NUMBER}"))
}

fn malformed(name: &str, text: &str, why: &dyn Display) -> Problem {
    let text = escape(&text.chars().take(80).collect::<String>());
    Problem::new(StatusCode::BAD_REQUEST, format!("{name} is \"{text}\": {why}")).for_program()
}

/// A name in a path. For a malformed name, the answer is 404, because nothing can have this name.
pub fn name<T: FromStr<Err: Display>>(text: &str) -> Result<T, Problem> {
    let none = |err: T::Err| Problem::new(StatusCode::NOT_FOUND, err.to_string()).for_program();
    text.parse().map_err(none)
}

/// A number in a path.
pub fn path_number(text: &str) -> Result<u64, Problem> {
    number(text).map_err(|why| Problem::new(StatusCode::NOT_FOUND, why).for_program())
}

#[cfg(test)]
mod tests {
    use deploy_store::ConfigurationName;

    use super::*;

    fn query(text: &str) -> Parameters {
        Parameters::read("/api/v1/hosts", text)
    }

    #[test]
    fn lists_have_a_limit() {
        let limit = |text: &str| query(text).limit().ok();
        assert_eq!(limit(""), Some(100));
        assert_eq!((limit("limit=1"), limit("limit=1000")), (Some(1), Some(1000)));
        for bad in ["", "0", "1001", "-1", "+1", "1.0", "x", "99999999999999999999"] {
            assert_eq!(limit(&format!("limit={bad}")), None, "{bad}");
        }
    }

    #[test]
    fn malformed_values_are_refused_and_unknown_fields_are_ignored() {
        assert_eq!(query("other=1").number("before").unwrap(), None);
        assert!(query("before=9223372036854775807").number("before").is_ok());
        assert!(query("before=9223372036854775808").number("before").is_err());
        assert!(query("behind=yes").is_set("behind").is_err());
        assert!(query("name=").parsed::<ConfigurationName>("name").is_err());
        assert!(query("name=a%2Fb").parsed::<ConfigurationName>("name").is_err());
    }

    #[test]
    fn next_page_keeps_the_other_fields() {
        let page = query("limit=2&after=a&name=x%20y%26z").page("after", "<script>&");
        assert_eq!(page, "/api/v1/hosts?limit=2&name=x+y%26z&after=%3Cscript%3E%26");
    }
}
