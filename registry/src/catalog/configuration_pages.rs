//! Reads pages of the list of configurations. The module also reads the layers of a configuration's
//! current state, with the length of each layer's file.

use deploy_store::{ComponentName, Configuration, ConfigurationName, Layer, VersionName};
use jiff::Timestamp;

use super::configuration_rows::{load, require_current};
use super::tx::query_as;
use super::versions::{Row, layer};
use super::{Catalog, Result, column, timestamp};

/// A configuration on a page of the list.
#[derive(Debug, Clone)]
pub struct ConfigurationSummary {
    /// The name of the configuration.
    pub name: ConfigurationName,
    /// When the current state was made.
    pub modified: Timestamp,
    /// The fingerprint and the comment of the key that made the current state.
    pub who: String,
    /// The command that made the current state.
    pub command: String,
    /// The number of layers of the current state.
    pub count: u64,
    /// The lowest layers of the current state: component and version.
    pub layers: Vec<(ComponentName, VersionName)>,
}

/// A layer of a current state.
#[derive(Debug, Clone)]
pub struct CurrentLayer {
    /// The layer.
    pub layer: Layer,
    /// The length of the layer's file, in bytes; `None` if the file is missing.
    pub bytes: Option<u64>,
    /// Whether the layer's file is damaged.
    pub is_damaged: bool,
    /// The newest version of the layer's component; `None` if the component has no versions.
    pub newest: Option<Layer>,
}

/// The columns of one row: the configuration's name; the time, the key and the command of the
/// current state; the number of layers; and the component and the version of one layer.
type SummaryRow = (String, i64, String, String, i64, String, String);

impl Catalog {
    /// The first `limit` configurations with names after `after`, in byte order. Each summary has
    /// only the lowest layers of the current state, at most `layers` layers.
    pub async fn configuration_page(
        &self,
        after: Option<&ConfigurationName>,
        limit: u64,
        layers: u64,
    ) -> Result<Vec<ConfigurationSummary>> {
        let rows: Vec<SummaryRow> = query_as(
            "SELECT c.name, s.modified, s.who, s.command, (SELECT COUNT(*) FROM state_layers a \
               WHERE a.history = c.history AND a.number = c.current), l.component, l.version \
             FROM (SELECT name, history, current FROM configurations WHERE name > $1 \
                   ORDER BY name LIMIT $2) AS c \
             JOIN states s ON s.history = c.history AND s.number = c.current \
             JOIN state_layers l ON l.history = c.history AND l.number = c.current \
             WHERE l.position < $3 ORDER BY c.name, l.position",
        )
        .bind(after.map_or("", ConfigurationName::as_str))
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .bind(i64::try_from(layers).unwrap_or(i64::MAX))
        .fetch_all(&mut self.scan_tx().await?)
        .await?;
        let mut page = Vec::new();
        for rows in rows.chunk_by(|one, other| one.0 == other.0) {
            let (name, modified, who, command, count, ..) = &rows[0];
            let layers = rows.iter().map(|(.., component, version)| {
                Ok::<_, super::Error>((column(component)?, column(version)?))
            });
            page.push(ConfigurationSummary {
                name: column(name)?,
                modified: timestamp(*modified),
                who: who.clone(),
                command: command.clone(),
                count: count.cast_unsigned(),
                layers: layers.collect::<Result<_>>()?,
            });
        }
        Ok(page)
    }

    /// The number of the current state of a configuration, the state, and its layers.
    pub async fn current_layers(
        &self,
        name: &ConfigurationName,
    ) -> Result<(u64, Configuration, Vec<CurrentLayer>)> {
        let mut transaction = self.read_tx().await?;
        let number = require_current(&mut transaction, name).await?;
        let configuration = load(&mut transaction, name, number).await?;
        let mut layers = Vec::new();
        for one in configuration.layers() {
            let blob: Option<(i64, String)> = query_as(
                "SELECT bytes, state FROM blobs WHERE digest = $1 AND state != 'condemned'",
            )
            .bind(one.digest.to_string())
            .fetch_optional(&mut transaction)
            .await?;
            let newest: Option<Row> = query_as(
                "SELECT component, name, digest, created FROM versions WHERE component = $1 \
                 ORDER BY number DESC LIMIT 1",
            )
            .bind(one.component.as_str())
            .fetch_optional(&mut transaction)
            .await?;
            layers.push(CurrentLayer {
                layer: one.clone(),
                is_damaged: blob.as_ref().is_some_and(|(_, state)| state == "damaged"),
                bytes: blob.map(|(bytes, _)| u64::try_from(bytes).unwrap_or(0)),
                newest: newest.map(layer).transpose()?,
            });
        }
        Ok((number, configuration, layers))
    }
}
