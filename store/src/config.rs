//! Defines layers and configurations, the rule for a configuration's id, and the JSON form that
//! agents read.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result};
use crate::name::{ComponentName, ConfigurationName, VersionName, escape};

/// The maximum number of layers in one configuration.
pub const MAX_LAYERS: usize = 10_000;
/// The maximum size in bytes of the JSON form of a configuration or layer.
pub const MAX_JSON: usize = 4 << 20;

/// One layer of a configuration: a version of a component, and the blob of this version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The component.
    pub component: ComponentName,
    /// The version.
    pub version: VersionName,
    /// The digest of the version's blob.
    pub digest: Digest,
    /// The time at which the version was added.
    pub created: Timestamp,
}

impl Layer {
    /// Reads the JSON form of one layer. The Go tool also stores versions in this form.
    pub fn from_json(bytes: &[u8]) -> Result<Self> {
        let bad = |reason: String| Error::BadConfiguration { name: String::new(), reason };
        if bytes.len() > MAX_JSON {
            return Err(bad(format!("is larger than {MAX_JSON} bytes")));
        }
        let document: LayerDocument =
            serde_json::from_slice(bytes).map_err(|err| bad(format!("is malformed: {err}")))?;
        document.try_into()
    }
}

/// A named, ordered list of layers. The id always matches the layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    name: ConfigurationName,
    modified: Timestamp,
    id: Digest,
    layers: Vec<Layer>,
}

impl Configuration {
    /// Makes a configuration of `layers`, which are ordered from the lowest layer to the highest.
    /// The function fails if there are no layers, too many layers, or two layers of one component.
    pub fn new(name: ConfigurationName, layers: Vec<Layer>, modified: Timestamp) -> Result<Self> {
        let refuse = |reason: String| {
            Err(Error::BadConfiguration { name: name.as_str().to_owned(), reason })
        };
        if layers.is_empty() {
            return refuse("has no layers".to_owned());
        }
        if layers.len() > MAX_LAYERS {
            return refuse(format!("has more than {MAX_LAYERS} layers"));
        }
        let mut seen = std::collections::BTreeSet::new();
        if let Some(twice) = layers.iter().find(|layer| !seen.insert(&layer.component)) {
            return refuse(format!("has component \"{}\" twice", twice.component));
        }
        Ok(Self { id: id_of(&layers), name, modified, layers })
    }

    /// The name.
    pub fn name(&self) -> &ConfigurationName {
        &self.name
    }

    /// The time at which the configuration was last changed.
    pub fn modified(&self) -> Timestamp {
        self.modified
    }

    /// The digest over the layers' digests. Configurations with the same layers in the same order
    /// have the same id.
    pub fn id(&self) -> Digest {
        self.id
    }

    /// The layers, from the lowest to the highest.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// The JSON form. The bytes are the same as the output of Go's encoder with tabs.
    pub fn to_json(&self) -> Vec<u8> {
        let document = Document {
            name: self.name.as_str().to_owned(),
            mtime: self.modified,
            hash: self.id.to_string(),
            layers: self.layers.iter().map(LayerDocument::from).collect(),
        };
        let mut json = Vec::new();
        let tabs = serde_json::ser::PrettyFormatter::with_indent(b"\t");
        let mut writer = serde_json::Serializer::with_formatter(&mut json, tabs);
        document.serialize(&mut writer).expect("strings and times always serialize");
        json.push(b'\n');
        go_escapes(&json)
    }

    /// Reads the JSON form, and checks the names, the digests and the id. The values of the `File`
    /// members are not used, and unknown members are ignored.
    pub fn from_json(bytes: &[u8]) -> Result<Self> {
        let bad =
            |name: &str, reason: String| Error::BadConfiguration { name: name.to_owned(), reason };
        if bytes.len() > MAX_JSON {
            return Err(bad("", format!("is larger than {MAX_JSON} bytes")));
        }
        let document: Document =
            serde_json::from_slice(bytes).map_err(|err| bad("", format!("is malformed: {err}")))?;
        let layers = document.layers.into_iter().map(Layer::try_from).collect::<Result<_>>()?;
        let configuration = Self::new(document.name.parse()?, layers, document.mtime)?;
        if configuration.id.to_string() != document.hash {
            let (id, hash) = (configuration.id, escape(&document.hash));
            return Err(bad(
                configuration.name.as_str(),
                format!("has Hash {hash}, but the id of its layers is {id}"),
            ));
        }
        Ok(configuration)
    }
}

/// The id of a list of layers: the sha256 of the layers' hex digests, each followed by a newline.
fn id_of(layers: &[Layer]) -> Digest {
    let mut hasher = Hasher::default();
    for layer in layers {
        hasher.update(format!("{}\n", layer.digest).as_bytes());
    }
    hasher.finish()
}

/// Returns `json` with the escapes that Go's encoder makes and `serde_json` does not. In the JSON
/// form of a configuration, the escaped characters occur only inside strings.
fn go_escapes(json: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(json);
    let text = text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026");
    text.replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029").into_bytes()
}

#[derive(Serialize, Deserialize)]
struct Document {
    #[serde(rename = "Name")]
    name: String,
    #[serde(rename = "Mtime")]
    mtime: Timestamp,
    #[serde(rename = "Hash")]
    hash: String,
    #[serde(rename = "Layers")]
    layers: Vec<LayerDocument>,
}

#[derive(Serialize, Deserialize)]
struct LayerDocument {
    #[serde(rename = "Name")]
    name: String,
    #[serde(rename = "Version")]
    version: String,
    #[serde(rename = "File")]
    file: String,
    #[serde(rename = "Hash")]
    hash: String,
    #[serde(rename = "Ctime")]
    ctime: Timestamp,
}

impl From<&Layer> for LayerDocument {
    fn from(layer: &Layer) -> Self {
        Self {
            name: layer.component.as_str().to_owned(),
            version: layer.version.as_str().to_owned(),
            file: format!("files/{}", layer.digest),
            hash: layer.digest.to_string(),
            ctime: layer.created,
        }
    }
}

impl TryFrom<LayerDocument> for Layer {
    type Error = Error;

    fn try_from(document: LayerDocument) -> Result<Self> {
        Ok(Self {
            component: document.name.parse()?,
            version: document.version.parse()?,
            digest: document.hash.parse()?,
            created: document.ctime,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORDED: &str = "{\n\t\"Name\": \"project1\",\n\t\"Mtime\": \"2026-11-23T03:49:03.337679474Z\",\n\t\"Hash\": \"HASH\",\n\t\"Layers\": [\n\t\t{\n\t\t\t\"Name\": \"code\",\n\t\t\t\"Version\": \"v01\\u003c\",\n\t\t\t\"File\": \"files/e8b8172f4adad32b92b3d25f37711331c5b9c5067ea29beda544976b424c89a8\",\n\t\t\t\"Hash\": \"e8b8172f4adad32b92b3d25f37711331c5b9c5067ea29beda544976b424c89a8\",\n\t\t\t\"Ctime\": \"2026-11-23T03:49:00.95Z\"\n\t\t}\n\t]\n}\n";

    fn recorded() -> String {
        let id = Digest::of(b"e8b8172f4adad32b92b3d25f37711331c5b9c5067ea29beda544976b424c89a8\n");
        RECORDED.replace("HASH", &id.to_string())
    }

    #[test]
    fn json_is_byte_for_byte_the_go_form() {
        let configuration = Configuration::from_json(recorded().as_bytes()).unwrap();
        assert_eq!(String::from_utf8(configuration.to_json()).unwrap(), recorded());
    }

    #[test]
    fn contradictory_json_is_refused() {
        let good = recorded();
        let layer = good.find("\t\t{").unwrap()..good.find("\n\t]").unwrap();
        let doubled = good.replace(&good[layer.clone()], &format!("{0},\n{0}", &good[layer]));
        for (bad, why) in [
            (good.replace("\"Hash\": \"e8", "\"Hash\": \"E8"), "hex"),
            (good.replace("\"Hash\": \"e8", "\"Hash\": \"e9"), "the id of its layers is"),
            (good.replace("project1", "a/b"), "cannot contain /"),
            (doubled, "twice"),
            (good[..40].to_owned(), "is malformed"),
            (" ".repeat(MAX_JSON + 1), "larger than"),
        ] {
            let message = Configuration::from_json(bad.as_bytes()).unwrap_err().to_string();
            assert!(message.contains(why), "{message:?} does not say {why:?}");
        }
    }
}
