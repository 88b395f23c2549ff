//! Parses the address of a bucket: `s3://NAME?endpoint=URL&region=REGION&prefix=PREFIX`.

use std::fmt;
use std::str::FromStr;

/// The address of a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketAddress {
    /// The name of the bucket.
    pub name: String,
    /// The URL of the server. `None`: the server of the region at Amazon.
    pub endpoint: Option<String>,
    /// The region. `None`: the variables `AWS_REGION` or `AWS_DEFAULT_REGION` name it.
    pub region: Option<String>,
    /// The beginning of all keys. It is empty or ends with a slash.
    pub prefix: String,
}

impl FromStr for BucketAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = "should have the form s3://NAME?endpoint=URL&region=REGION&prefix=PREFIX";
        let rest = text.strip_prefix("s3://").ok_or(form)?;
        let (name, query) = rest.split_once('?').unwrap_or((rest, ""));
        let is_allowed = |sign: char| sign.is_ascii_alphanumeric() || "-._".contains(sign);
        if name.is_empty() || !name.chars().all(is_allowed) {
            return Err(format!("the name of the bucket is missing or not allowed; {form}"));
        }
        let mut address =
            Self { name: name.to_owned(), endpoint: None, region: None, prefix: String::new() };
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*key {
                "endpoint" if value.starts_with("http://") || value.starts_with("https://") => {
                    address.endpoint = Some(value.trim_end_matches('/').to_owned());
                }
                "endpoint" => return Err("endpoint should begin with https:// or http://".into()),
                "region" => address.region = Some(value.into_owned()),
                "prefix" => address.prefix = prefix(&value)?,
                other => {
                    let other = deploy_store::escape(other);
                    return Err(format!("{other} is not a known parameter; {form}"));
                }
            }
        }
        Ok(address)
    }
}

impl BucketAddress {
    /// The address in the form that the flag `-bucket` reads.
    pub fn flag(&self) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        let prefix = self.prefix.trim_end_matches('/');
        let prefix = (!prefix.is_empty()).then(|| prefix.to_owned());
        for (key, value) in
            [("endpoint", &self.endpoint), ("region", &self.region), ("prefix", &prefix)]
        {
            if let Some(value) = value {
                query.append_pair(key, value);
            }
        }
        let query = query.finish();
        let mark = if query.is_empty() { "" } else { "?" };
        // These characters need no escape in the value of a parameter.
        let query = query.replace("%3A", ":").replace("%2F", "/");
        format!("s3://{}{mark}{query}", self.name)
    }
}

/// The beginning of all keys. Only characters that need no escapes are allowed.
fn prefix(text: &str) -> Result<String, String> {
    let text = text.trim_matches('/');
    let is_allowed = |sign: char| sign.is_ascii_alphanumeric() || "-._/".contains(sign);
    let is_name = |part: &str| !part.is_empty() && part != "." && part != "..";
    if text.is_empty() {
        Ok(String::new())
    } else if text.chars().all(is_allowed) && text.split('/').all(is_name) {
        Ok(format!("{text}/"))
    } else {
        Err("prefix may have letters, digits, dots, hyphens, underscores and slashes".into())
    }
}

impl fmt::Display for BucketAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.name, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_has_a_name_and_parameters() {
        let parse = |text: &str| text.parse::<BucketAddress>();
        let address =
            parse("s3://blobs?endpoint=http://127.0.0.1:9000/&region=here&prefix=/a/b/").unwrap();
        assert_eq!(address.endpoint.as_deref(), Some("http://127.0.0.1:9000"));
        assert_eq!((&*address.prefix, address.region.as_deref()), ("a/b/", Some("here")));
        assert_eq!(address.to_string(), "s3://blobs/a/b/");
        assert_eq!(
            address.flag(),
            "s3://blobs?endpoint=http://127.0.0.1:9000&region=here&prefix=a/b"
        );
        assert_eq!(parse(&address.flag()).unwrap(), address);
        let plain = parse("s3://my.blobs").unwrap();
        assert_eq!(plain.flag(), "s3://my.blobs");
        assert_eq!((plain.endpoint, plain.region, &*plain.prefix), (None, None, ""));
        for bad in [
            "blobs",
            "s3://",
            "s3://?prefix=a",
            "s3://a/b",
            "s3://a?prefix=..",
            "s3://a?prefix=a//b",
            "s3://a?endpoint=127.0.0.1",
            "s3://a?color=red",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
