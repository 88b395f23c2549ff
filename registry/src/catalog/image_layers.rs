//! What blobs of container images were made from, and images that become configurations.

use std::collections::BTreeSet;

use deploy_store::{ComponentName, ConfigurationName, Digest, Layer, VersionName};
use deploy_wire::command::Refusal;
use deploy_wire::exit;
use deploy_wire::image::{Compression, KnownLayer, Origin};
use jiff::Timestamp;
use sqlx::{Sqlite, Transaction};

use crate::catalog::audit::Change;
use crate::catalog::blob_rows;
use crate::catalog::configurations::{current, load, save};
use crate::catalog::replacing::find_whole;
use crate::catalog::versions::{find_version, insert_version};
use crate::catalog::{Catalog, Error, Result, nanoseconds, refuse};

/// A layer of an image, with its blob's length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewLayer {
    /// Its component, made if it is new.
    pub component: ComponentName,
    /// Its blob.
    pub digest: Digest,
    /// The blob's length.
    pub bytes: u64,
    /// What the blob was made from, to be remembered.
    pub origin: Option<Origin>,
}

/// A configuration to be made of an image.
#[derive(Debug, Clone)]
pub struct NewImage<'a> {
    /// The configuration.
    pub name: &'a ConfigurationName,
    /// The image's layers, lowest first.
    pub layers: Vec<NewLayer>,
    /// Layers on top of them.
    pub upper: &'a [(ComponentName, VersionName)],
}

/// What became of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Imaged {
    /// The configuration's id now.
    pub id: Digest,
    /// The number of its state now.
    pub number: u64,
    /// The number of the state that was current before, if there was one.
    pub before: Option<u64>,
}

impl Imaged {
    /// Whether the configuration had these layers before.
    pub fn is_as_it_was(&self) -> bool {
        self.before == Some(self.number)
    }
}

type Row = (String, String, String, String, i64);

/// The layers whose blobs are live, and more of a query.
macro_rules! known_layers {
    ($rest:literal) => {
        concat!(
            "SELECT l.diff_id, l.removals, l.compression, l.digest, b.bytes FROM layers l \
             JOIN blobs b ON b.digest = l.digest WHERE b.state = 'live' ",
            $rest
        )
    };
}

impl Catalog {
    /// All layers whose blobs are live, by their origins.
    pub async fn layers(&self) -> Result<Vec<KnownLayer>> {
        let query = known_layers!("ORDER BY l.diff_id, l.removals, l.compression");
        let rows: Vec<Row> = sqlx::query_as(query).fetch_all(&self.pool).await?;
        rows.into_iter().map(known).collect()
    }

    /// Those of `asked` whose blobs are live, in that order, each once. Who asks may count on
    /// them for a while, see [`Catalog::asked_since`].
    pub async fn known_layers(&self, asked: &[Origin], now: Timestamp) -> Result<Vec<KnownLayer>> {
        let mut transaction = self.begin().await?;
        let query = known_layers!("AND l.diff_id = $1 AND l.removals = $2 AND l.compression = $3");
        let (mut seen, mut found) = (BTreeSet::new(), Vec::new());
        for origin in asked.iter().filter(|origin| seen.insert(**origin)) {
            let row: Option<Row> = sqlx::query_as(query)
                .bind(origin.diff_id.to_string())
                .bind(origin.removals.to_string())
                .bind(origin.compression.to_string())
                .fetch_optional(&mut *transaction)
                .await?;
            let Some(row) = row else { continue };
            sqlx::query(
                "UPDATE layers SET asked = $4 \
                 WHERE diff_id = $1 AND removals = $2 AND compression = $3",
            )
            .bind(origin.diff_id.to_string())
            .bind(origin.removals.to_string())
            .bind(origin.compression.to_string())
            .bind(nanoseconds(now))
            .execute(&mut *transaction)
            .await?;
            found.push(known(row)?);
        }
        transaction.commit().await?;
        Ok(found)
    }

    /// Blobs that somebody was told of at `time` or later.
    pub async fn asked_since(&self, time: Timestamp) -> Result<BTreeSet<Digest>> {
        let mut transaction = self.look().await?;
        asked_since(&mut transaction, time).await
    }

    /// Fails as [`Catalog::add_image`] would, as far as that can be told before.
    pub async fn check_image(&self, image: &NewImage<'_>, change: &Change) -> Result<()> {
        // Made, and not committed.
        let mut transaction = self.begin().await?;
        add_image(&mut transaction, image, change).await?;
        Ok(transaction.rollback().await?)
    }

    /// Makes a configuration of an image, or replaces the layers of one, with all versions
    /// that it needs. If it has these layers already, it gets no other state.
    pub async fn add_image(&self, image: &NewImage<'_>, change: &Change) -> Result<Imaged> {
        let mut transaction = self.begin_change(change).await?;
        let imaged = add_image(&mut transaction, image, change).await?;
        transaction.commit().await?;
        Ok(imaged)
    }
}

pub(super) async fn asked_since(
    transaction: &mut Transaction<'_, Sqlite>,
    time: Timestamp,
) -> Result<BTreeSet<Digest>> {
    let rows: Vec<String> = sqlx::query_scalar("SELECT digest FROM layers WHERE asked >= $1")
        .bind(nanoseconds(time))
        .fetch_all(&mut **transaction)
        .await?;
    rows.iter().map(|digest| Ok(digest.parse()?)).collect()
}

/// Deletes what is remembered of a blob.
pub(super) async fn forget(
    transaction: &mut Transaction<'_, Sqlite>,
    digest: Digest,
) -> Result<()> {
    sqlx::query(
        "DELETE FROM layers WHERE digest IN \
         (SELECT digest FROM blobs WHERE digest = $1 AND state = 'condemned')",
    )
    .bind(digest.to_string())
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

async fn add_image(
    transaction: &mut Transaction<'_, Sqlite>,
    image: &NewImage<'_>,
    change: &Change,
) -> Result<Imaged> {
    let name = image.name;
    let mut layers = Vec::with_capacity(image.layers.len() + image.upper.len());
    for layer in &image.layers {
        layers.push(bind(transaction, layer, change).await?);
    }
    for (component, version) in image.upper {
        let found = find_whole(transaction, component, version).await;
        layers.push(found.map_err(not_on_top)?);
    }
    let before = match current(transaction, name).await {
        Ok(number) => Some(number),
        Err(Error::Refused(_)) => None,
        Err(err) => return Err(err),
    };
    if let Some(number) = before {
        let now = load(transaction, name, number).await?;
        if is_same(now.layers(), &layers) {
            return Ok(Imaged { id: now.id(), number, before });
        }
    } else {
        name.check_new().map_err(|err| Error::Refused(err.into()))?;
    }
    let (number, id) = save(transaction, name, layers, change).await?;
    Ok(Imaged { id, number, before })
}

/// The version of a layer, made if it is not there, and all else that is known of its blob.
async fn bind(
    transaction: &mut Transaction<'_, Sqlite>,
    layer: &NewLayer,
    change: &Change,
) -> Result<Layer> {
    let NewLayer { component, digest, bytes, origin } = layer;
    let version: VersionName = digest
        .to_string()
        .parse()
        .map_err(|err: deploy_store::Error| Error::Refused(err.into()))?;
    let bound = match find_version(transaction, component, &version).await {
        Ok(found) if found.digest == *digest => found,
        Ok(found) => {
            let text = format!(
                "version \"{version}\" of component \"{component}\" is the file {}, not what it is \
                 called after",
                found.digest
            );
            return refuse(exit::CONFLICT, text);
        }
        Err(Error::Refused(_)) => {
            insert_version(transaction, component, &version, *digest, change).await?
        }
        Err(err) => return Err(err),
    };
    blob_rows::put(transaction, *digest, *bytes, "live", change.now).await?;
    if let Some(origin) = origin {
        sqlx::query(
            "INSERT INTO layers (diff_id, removals, compression, digest, asked) \
             VALUES ($1, $2, $3, $4, 0) \
             ON CONFLICT (diff_id, removals, compression) DO UPDATE SET digest = $4",
        )
        .bind(origin.diff_id.to_string())
        .bind(origin.removals.to_string())
        .bind(origin.compression.to_string())
        .bind(digest.to_string())
        .execute(&mut **transaction)
        .await?;
    }
    Ok(bound)
}

/// An importer takes "not found" for blobs that it has to send again.
fn not_on_top(err: Error) -> Error {
    match err {
        Error::Refused(Refusal { text, code: exit::NOT_FOUND }) => {
            Error::Refused(Refusal::new(exit::FAILED, text))
        }
        other => other,
    }
}

fn is_same(one: &[Layer], other: &[Layer]) -> bool {
    let key = |layer: &Layer| (layer.component.clone(), layer.version.clone(), layer.digest);
    one.len() == other.len() && one.iter().map(key).eq(other.iter().map(key))
}

fn known((diff_id, removals, compression, digest, bytes): Row) -> Result<KnownLayer> {
    let compression: Compression = compression.parse().map_err(|err| {
        let path = "catalogue.db".into();
        deploy_store::Error::Corrupt { path, reason: format!("a layer of an image: {err}") }
    })?;
    let origin = Origin { diff_id: diff_id.parse()?, removals: removals.parse()?, compression };
    let bytes = u64::try_from(bytes).unwrap_or(0);
    Ok(KnownLayer { origin, hash: digest.parse()?, bytes })
}
