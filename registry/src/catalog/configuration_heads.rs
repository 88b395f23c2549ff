//! Reads the current states of configurations, each with its first layers, for lists of
//! configurations.

use deploy_store::ConfigurationName;
use jiff::Timestamp;

use super::tx::query_as;
use super::{Catalog, Result, timestamp};

/// Maximum number of layers in a [`ConfigurationHead`].
pub const HEAD_LAYERS: usize = 3;

/// The current state of a configuration, with its first layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigurationHead {
    /// The name of the configuration.
    pub name: String,
    /// The number of the state.
    pub number: u64,
    /// When the state was made.
    pub modified: Timestamp,
    /// The fingerprint and the comment of the key that made the state.
    pub who: String,
    /// The command that made the state.
    pub command: String,
    /// The first [`HEAD_LAYERS`] layers: component and version.
    pub layers: Vec<(String, String)>,
    /// The number of all layers of the state.
    pub all_layers: u64,
}

type Row = (String, i64, i64, String, String, i64);

/// The query for the configurations of a page. The parameters are the name after which the page
/// begins, and the length of the page.
const PAGE: &str =
    "SELECT name, history, current FROM configurations WHERE name > $1 ORDER BY name LIMIT $2";

impl Catalog {
    /// The current states of the first `limit` configurations with names after `after`, in byte
    /// order of the names.
    pub async fn configuration_heads(
        &self,
        after: Option<&ConfigurationName>,
        limit: u64,
    ) -> Result<Vec<ConfigurationHead>> {
        let (after, limit) = (after.map_or("", ConfigurationName::as_str), limit.cast_signed());
        let mut transaction = self.read_tx().await?;
        let heads = format!(
            "SELECT c.name, c.current, s.modified, s.who, s.command, (SELECT COUNT(*) \
             FROM state_layers l WHERE l.history = c.history AND l.number = c.current) \
             FROM ({PAGE}) c JOIN states s ON s.history = c.history AND s.number = c.current \
             ORDER BY c.name"
        );
        let rows: Vec<Row> = query_as(sqlx::AssertSqlSafe(heads))
            .bind(after)
            .bind(limit)
            .fetch_all(&mut transaction)
            .await?;
        let layers = format!(
            "SELECT c.name, l.component, l.version FROM ({PAGE}) c JOIN state_layers l \
             ON l.history = c.history AND l.number = c.current AND l.position < $3 \
             ORDER BY c.name, l.position"
        );
        let layers: Vec<(String, String, String)> = query_as(sqlx::AssertSqlSafe(layers))
            .bind(after)
            .bind(limit)
            .bind(i64::try_from(HEAD_LAYERS).unwrap_or(i64::MAX))
            .fetch_all(&mut transaction)
            .await?;
        let mut layers = layers.into_iter().peekable();
        let head = |(name, number, modified, who, command, all_layers): Row| {
            let mut own = Vec::new();
            while let Some((_, component, version)) = layers.next_if(|(of, ..)| *of == name) {
                own.push((component, version));
            }
            own.truncate(HEAD_LAYERS);
            ConfigurationHead {
                number: number.cast_unsigned(),
                modified: timestamp(modified),
                layers: own,
                all_layers: all_layers.cast_unsigned(),
                name,
                who,
                command,
            }
        };
        Ok(rows.into_iter().map(head).collect())
    }
}
