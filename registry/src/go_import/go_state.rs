//! Reads the catalogue of the Go tool from its bolt file. The code is pure: it uses no disk,
//! network or clock.
//!
//! ```text
//! components/NAME/byVersion/VERSION         JSON of the version
//! components/NAME/byTime/SECOND#VERSION     JSON of the version
//! configs/NAME/current                      JSON of the configuration
//! configs/NAME/SECOND#HASH5                 JSON of each state of the configuration
//! files/DIGEST                              JSON list of the versions that use the file
//! ```

use std::collections::{BTreeMap, BTreeSet};

use deploy_store::{
    ComponentName, Configuration, ConfigurationName, Digest, Hasher, Layer, escape,
};
use serde::Deserialize;

use crate::go_import::bolt::{self, Bolt, Bucket, Item};

/// Maximum number of bytes of a list of the versions that use one file.
const MAX_REFERENCES: usize = 64 << 20;

/// Why the Go tool's catalogue cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error(transparent)]
    Bolt(#[from] bolt::Error),
    /// The file belongs to another program.
    #[error("is not the catalogue of a Go registry: it has neither components nor configs")]
    Foreign,
    /// A necessary part of the file is invalid.
    #[error("cannot be imported: {path}: {why}; repair or delete this part with the Go tool")]
    Unusable {
        /// The path of the invalid part within the file.
        path: String,
        /// What is wrong with this part.
        why: String,
    },
}

/// The contents of a Go registry's catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// The number of the last transaction in the bolt file.
    pub transaction: u64,
    /// The digest of all keys and values that the import reads. If two reads have equal digests,
    /// none of these keys and values has changed between the reads.
    pub contents: Digest,
    /// All components.
    pub components: BTreeSet<ComponentName>,
    /// All versions, in the order in which they were added.
    pub versions: Vec<Layer>,
    /// All configurations that have a current state.
    pub configurations: Vec<States>,
    /// Contradictions in the Go registry's state, one line each. Contradictions do not prevent an
    /// import.
    pub odd: Vec<String>,
}

/// A configuration with all its states.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct States {
    /// The configuration's name.
    pub name: ConfigurationName,
    /// The states, oldest first. The last state is the current state.
    pub states: Vec<Configuration>,
}

/// A version in the Go tool's list of the versions that use a file.
#[derive(Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
struct Named {
    #[serde(rename = "Component")]
    component: String,
    #[serde(rename = "Version")]
    version: String,
}

impl State {
    /// Reads the whole bolt file `bytes`.
    pub fn read(bytes: &[u8]) -> Result<Self, Error> {
        let mut reader =
            Reader { bolt: Bolt::open(bytes)?, hasher: Hasher::default(), odd: vec![] };
        let top = reader.entries(&reader.bolt.root(), "")?;
        let mut top: BTreeMap<&[u8], Item> = top.into_iter().collect();
        let mut take = |name: &[u8]| match top.remove(name) {
            Some(Item::Bucket(bucket)) => Some(bucket),
            _ => None,
        };
        let [components, configurations, files] =
            [b"components".as_slice(), b"configs", b"files"].map(&mut take);
        if components.is_none() && configurations.is_none() && !top.is_empty() {
            return Err(Error::Foreign);
        }
        for name in top.keys() {
            let name = name.escape_ascii();
            reader.odd.push(format!("key \"{name}\" of state.db does not come from the Go tool"));
        }
        let (components, versions) = reader.components(components)?;
        let configurations = reader.configurations(configurations)?;
        reader.files(files, &versions)?;
        let transaction = reader.bolt.transaction();
        let (contents, odd) = (reader.hasher.finish(), reader.odd);
        Ok(Self { transaction, contents, components, versions, configurations, odd })
    }
}

struct Reader<'a> {
    bolt: Bolt<'a>,
    hasher: Hasher,
    odd: Vec<String>,
}

impl<'a> Reader<'a> {
    /// Returns the entries of a bucket, and adds the entries to the digest of all keys and values.
    fn entries(
        &mut self,
        bucket: &Bucket<'a>,
        path: &str,
    ) -> Result<Vec<(&'a [u8], Item<'a>)>, Error> {
        let entries = self.bolt.entries(bucket)?;
        let mut put = |bytes: &[u8]| {
            self.hasher.update(&(bytes.len() as u64).to_le_bytes());
            self.hasher.update(bytes);
        };
        put(path.as_bytes());
        for (key, item) in &entries {
            put(key);
            if let Item::Value(value) = item {
                put(value);
            }
        }
        Ok(entries)
    }

    /// The buckets in `bucket`. The function reports other entries as contradictions.
    fn buckets(
        &mut self,
        bucket: Option<Bucket<'a>>,
        path: &str,
    ) -> Result<Vec<(String, Bucket<'a>)>, Error> {
        let Some(bucket) = bucket else { return Ok(Vec::new()) };
        let mut buckets = Vec::new();
        for (key, item) in self.entries(&bucket, path)? {
            match (std::str::from_utf8(key), item) {
                (Ok(name), Item::Bucket(bucket)) => buckets.push((name.to_owned(), bucket)),
                (Err(_), Item::Bucket(_)) => {
                    return Err(bad(path, key, "its name is not UTF-8"));
                }
                (_, Item::Value(_)) => {
                    self.odd.push(format!("{path}/{} is not a bucket", key.escape_ascii()));
                }
            }
        }
        Ok(buckets)
    }

    fn components(
        &mut self,
        bucket: Option<Bucket<'a>>,
    ) -> Result<(BTreeSet<ComponentName>, Vec<Layer>), Error> {
        let (mut components, mut versions) = (BTreeSet::new(), Vec::new());
        for (name, bucket) in self.buckets(bucket, "components")? {
            let path = format!("components/{}", escape(&name));
            let component: ComponentName =
                name.parse().map_err(|err| bad("components", name.as_bytes(), err))?;
            let mut by_time = BTreeSet::new();
            let mut here = Vec::new();
            for (kind, bucket) in self.buckets(Some(bucket), &path)? {
                let path = format!("{path}/{}", escape(&kind));
                for (key, item) in self.entries(&bucket, &path)? {
                    let Item::Value(value) = item else {
                        self.odd.push(format!("{path}/{} is a bucket", key.escape_ascii()));
                        continue;
                    };
                    match &*kind {
                        "byVersion" => here.push(
                            version(&component, key, value).map_err(|why| bad(&path, key, why))?,
                        ),
                        "byTime" => {
                            by_time.extend(
                                key.iter().position(|&byte| byte == b'#').map(|at| &key[at + 1..]),
                            );
                        }
                        _ => {}
                    }
                }
            }
            let filed: BTreeSet<&[u8]> =
                here.iter().map(|version| version.version.as_str().as_bytes()).collect();
            for lost in by_time.symmetric_difference(&filed) {
                let lost = lost.escape_ascii();
                self.odd.push(format!(
                    "{path}: version \"{lost}\" is not in both byVersion and byTime"
                ));
            }
            components.insert(component);
            versions.extend(here);
        }
        // The Go tool sorts versions by second and name. The stored times also have nanoseconds,
        // which give the exact order.
        versions.sort_by_key(|version| version.created);
        Ok((components, versions))
    }

    fn configurations(&mut self, bucket: Option<Bucket<'a>>) -> Result<Vec<States>, Error> {
        let mut configurations = Vec::new();
        for (name, bucket) in self.buckets(bucket, "configs")? {
            let path = format!("configs/{}", escape(&name));
            let name: ConfigurationName =
                name.parse().map_err(|err| bad("configs", name.as_bytes(), err))?;
            let (mut current, mut states) = (None, Vec::new());
            for (key, item) in self.entries(&bucket, &path)? {
                let Item::Value(value) = item else {
                    self.odd.push(format!("{path}/{} is a bucket", key.escape_ascii()));
                    continue;
                };
                match (configuration(&name, value), key == b"current") {
                    (Ok(state), true) => current = Some(state),
                    (Ok(state), false) => states.push(state),
                    (Err(why), true) => return Err(bad(&path, key, why)),
                    (Err(why), false) => {
                        let key = key.escape_ascii();
                        self.odd.push(format!("{path}/{key} is skipped: {why}"));
                    }
                }
            }
            let Some(current) = current else {
                // The configuration was deleted, or the Go tool never finished its creation.
                self.odd.push(format!("{path} has no current state: it is skipped"));
                continue;
            };
            states.retain(|state| *state != current);
            states.sort_by_key(Configuration::modified);
            if states.last().is_some_and(|last| last.modified() > current.modified()) {
                self.odd.push(format!("{path}: a state is newer than the current state"));
            }
            states.push(current);
            configurations.push(States { name, states });
        }
        Ok(configurations)
    }

    /// Compares the versions with the lists that say which versions use each file.
    fn files(&mut self, bucket: Option<Bucket<'a>>, versions: &[Layer]) -> Result<(), Error> {
        let Some(bucket) = bucket else { return Ok(()) };
        let mut bound: BTreeSet<(String, Named)> = versions
            .iter()
            .map(|layer| {
                let component = layer.component.as_str().to_owned();
                let version = layer.version.as_str().to_owned();
                (layer.digest.to_string(), Named { component, version })
            })
            .collect();
        for (key, item) in self.entries(&bucket, "files")? {
            let file = key.escape_ascii().to_string();
            let named: Vec<Named> = match item {
                Item::Value(value) if value.len() <= MAX_REFERENCES => {
                    serde_json::from_slice(value).unwrap_or_else(|err| {
                        self.odd.push(format!(
                            "key files/{file} of state.db is not a list of versions: {err}"
                        ));
                        Vec::new()
                    })
                }
                _ => Vec::new(),
            };
            for named in named {
                let text = format!("{}:{}", escape(&named.component), escape(&named.version));
                if !bound.remove(&(file.clone(), named)) {
                    self.odd.push(format!(
                        "key files/{file} of state.db names {text}, which does not use the file"
                    ));
                }
            }
        }
        for (file, named) in bound {
            let text = format!("{}:{}", escape(&named.component), escape(&named.version));
            self.odd.push(format!(
                "key files/{file} of state.db does not name {text}, which uses the file"
            ));
        }
        Ok(())
    }
}

/// Parses the version that is stored under `key`.
fn version(component: &ComponentName, key: &[u8], value: &[u8]) -> Result<Layer, String> {
    let layer = Layer::from_json(value).map_err(|err| err.to_string())?;
    if layer.component != *component || layer.version.as_str().as_bytes() != key {
        return Err(format!("its name is {}:{}", layer.component, layer.version));
    }
    Ok(layer)
}

fn configuration(name: &ConfigurationName, value: &[u8]) -> Result<Configuration, String> {
    let configuration = Configuration::from_json(value).map_err(|err| err.to_string())?;
    if configuration.name() != name {
        return Err(format!("it belongs to \"{}\"", configuration.name()));
    }
    Ok(configuration)
}

fn bad(path: &str, key: &[u8], why: impl std::fmt::Display) -> Error {
    let path = format!("{path}/{}", key.escape_ascii());
    Error::Unusable { path, why: why.to_string() }
}

#[cfg(test)]
mod tests;
