//! Defines the JSON documents that an importer of container images and the registry exchange. These
//! documents are the output of `showlayers -json -`, and the input of `showlayers -` and `addimage
//! -`.

use std::fmt;
use std::str::FromStr;

use deploy_store::{ComponentName, Digest, MAX_JSON, MAX_LAYERS};
use serde::{Deserialize, Serialize};

/// The compression format of a layer's blob.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// gzip (RFC 1952), which every agent unpacks.
    #[default]
    Gzip,
    /// Zstandard (RFC 8878), which Go agents do not unpack.
    Zstd,
}

/// The origin of a layer's blob. Two blobs of the same origin contain the same archive. If the
/// registry knows an origin, the importer neither makes nor sends a blob of this origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// The sha256 of the image's uncompressed layer (`diff_id` in the OCI image specification).
    #[serde(with = "text")]
    pub diff_id: Digest,
    /// The sha256 over the entries that were left out or added because of other layers. If there
    /// are no such entries, this is the sha256 of an empty input.
    #[serde(with = "text")]
    pub removals: Digest,
    /// The compression of the blob.
    pub compression: Compression,
}

/// A blob that the registry has, and the origin of the blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownLayer {
    /// The origin.
    pub origin: Origin,
    /// The blob.
    #[serde(with = "text")]
    pub hash: Digest,
    /// The blob's length in bytes.
    pub bytes: u64,
}

/// A layer of a new configuration. The blob's hash is the name of the layer's version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageLayer {
    /// The component. The registry creates the component if it does not exist.
    #[serde(with = "text")]
    pub component: ComponentName,
    /// The blob, which the registry must already have.
    #[serde(with = "text")]
    pub hash: Digest,
    /// The origin of the blob, which the registry stores.
    pub origin: Option<Origin>,
}

/// An image that becomes a configuration, in one transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// The layers, lowest first.
    pub layers: Vec<ImageLayer>,
}

/// The reason why a document is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadImage(String);

impl Image {
    /// The image as a JSON document.
    pub fn to_json(&self) -> Vec<u8> {
        to_json(self)
    }

    /// Reads an image from a JSON document, within limits.
    pub fn from_json(bytes: &[u8]) -> Result<Self, BadImage> {
        let image: Self = from_json(bytes)?;
        check_count(image.layers.len())?;
        Ok(image)
    }
}

/// The request of `showlayers -`, as a JSON document.
pub fn origins_to_json(origins: &[Origin]) -> Vec<u8> {
    to_json(&origins)
}

/// Reads the request of `showlayers -`, within limits.
pub fn origins_from_json(bytes: &[u8]) -> Result<Vec<Origin>, BadImage> {
    let origins: Vec<Origin> = from_json(bytes)?;
    check_count(origins.len())?;
    Ok(origins)
}

/// Reads the answer of `showlayers -json -`, within limits.
pub fn known_from_json(bytes: &[u8]) -> Result<Vec<KnownLayer>, BadImage> {
    from_json(bytes)
}

fn check_count(count: usize) -> Result<(), BadImage> {
    if count > MAX_LAYERS {
        return Err(BadImage(format!("has {count} layers, more than {MAX_LAYERS}")));
    }
    Ok(())
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("names, digests and numbers are JSON")
}

fn from_json<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, BadImage> {
    if bytes.len() > MAX_JSON {
        return Err(BadImage(format!("is larger than {MAX_JSON} bytes")));
    }
    serde_json::from_slice(bytes).map_err(|err| BadImage(format!("is malformed: {err}")))
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        })
    }
}

impl FromStr for Compression {
    type Err = BadImage;

    fn from_str(text: &str) -> Result<Self, BadImage> {
        match text {
            "gzip" => Ok(Self::Gzip),
            "zstd" => Ok(Self::Zstd),
            _ => Err(BadImage(format!("\"{text}\" is not a compression; use gzip or zstd"))),
        }
    }
}

/// Serialises values as text.
mod text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(value: &impl Display, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub fn deserialize<'de, D, T>(from: D) -> Result<T, D::Error>
    where
        D: Deserializer<'de>,
        T: FromStr,
        T::Err: Display,
    {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin() -> Origin {
        let digest = Digest::of(b"");
        Origin { diff_id: digest, removals: digest, compression: Compression::Zstd }
    }

    #[test]
    fn documents_are_written_and_read_back() {
        let component = "app.l1".parse().unwrap();
        let layer = ImageLayer { component, hash: Digest::of(b"x"), origin: Some(origin()) };
        let image = Image { layers: vec![layer] };
        assert_eq!(Image::from_json(&image.to_json()).unwrap(), image);
        let asked = [origin(), origin()];
        assert_eq!(origins_from_json(&origins_to_json(&asked)).unwrap(), asked);
        assert_eq!("gzip".parse(), Ok(Compression::Gzip));
    }

    #[test]
    fn invalid_documents_are_refused() {
        let many = Image { layers: Vec::new() }.to_json();
        assert!(Image::from_json(&many).is_ok());
        for bad in ["", "{}", "[]", "{\"layers\":[{}]}", "{\"layers\":[],\"more\":1}"] {
            assert!(Image::from_json(bad.as_bytes()).is_err(), "{bad}");
        }
        let large = " ".repeat(MAX_JSON + 1);
        assert!(Image::from_json(large.as_bytes()).unwrap_err().to_string().contains("larger"));
        let layer = ",".to_owned() + &serde_json::to_string(&origin()).unwrap();
        let list = format!("[{}]", &layer.repeat(MAX_LAYERS + 1)[1..]);
        assert!(origins_from_json(list.as_bytes()).unwrap_err().to_string().contains("layers"));
    }
}
