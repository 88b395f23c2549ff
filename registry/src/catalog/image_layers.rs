//! Records the origins of blobs, and makes configurations from images.

use std::collections::BTreeSet;

use deploy_store::{ComponentName, ConfigurationName, Digest, Layer, VersionName};
use deploy_wire::image::{Compression, KnownLayer, Origin};
use jiff::Timestamp;

use super::audit::Change;
use super::blob_rows::{self, BlobState};
use super::configuration_rows::{find_current, load, save};
use super::replacing::check_whole;
use super::tx::{Tx, query, query_as, query_scalar};
use super::versions::{find_version, insert_version, no_version};
use super::write_tx::WriteTx;
use super::{Catalog, Error, Result, bad_row, column, nanoseconds, object_rows};

/// A layer of an image to add, and its blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewLayer {
    /// The layer's component. The import creates the component if it does not exist.
    pub component: ComponentName,
    /// The layer's blob.
    pub digest: Digest,
    /// The blob's length, in bytes.
    pub bytes: u64,
    /// The blob's origin; `None` if the importer did not give it.
    pub origin: Option<Origin>,
}

/// A configuration to make from an image.
#[derive(Debug, Clone)]
pub struct NewImage<'a> {
    /// The configuration.
    pub name: &'a ConfigurationName,
    /// The image's layers, lowest first.
    pub layers: Vec<NewLayer>,
    /// The versions of the layers on top of the image's layers, lowest first.
    pub upper: &'a [(ComponentName, VersionName)],
}

/// The result of [`Catalog::add_image`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Imaged {
    /// The configuration's id after the import.
    pub id: Digest,
    /// The number of the configuration's current state after the import.
    pub number: u64,
    /// The number of the state that was current before the import, if there was one.
    pub before: Option<u64>,
}

impl Imaged {
    /// Whether the configuration had the same layers before the import.
    pub fn is_as_it_was(&self) -> bool {
        self.before == Some(self.number)
    }
}

type Row = (String, String, String, String, i64);

/// The query for layers with live blobs, followed by `$rest`.
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
    /// All layers whose blobs are live, sorted by their origins.
    pub async fn layers(&self) -> Result<Vec<KnownLayer>> {
        let select = known_layers!("ORDER BY l.diff_id, l.removals, l.compression");
        let rows: Vec<Row> = query_as(select).fetch_all(&mut self.scan_tx().await?).await?;
        rows.into_iter().map(known).collect()
    }

    /// The layers whose origins are in `asked` and whose blobs are live. They are in the order of
    /// `asked`, and each layer occurs once. The call leases these blobs, see
    /// [`Catalog::leased_since`].
    pub async fn known_layers(&self, asked: &[Origin], now: Timestamp) -> Result<Vec<KnownLayer>> {
        let mut transaction = self.write_tx().await?;
        let select = known_layers!("AND l.diff_id = $1 AND l.removals = $2 AND l.compression = $3");
        let (mut seen, mut found) = (BTreeSet::new(), Vec::new());
        for origin in asked.iter().filter(|origin| seen.insert(**origin)) {
            let row: Option<Row> = query_as(select)
                .bind(origin.diff_id.to_string())
                .bind(origin.removals.to_string())
                .bind(origin.compression.to_string())
                .fetch_optional(&mut transaction)
                .await?;
            let Some(row) = row else { continue };
            query(
                "UPDATE layers SET asked = $4 \
                 WHERE diff_id = $1 AND removals = $2 AND compression = $3",
            )
            .bind(origin.diff_id.to_string())
            .bind(origin.removals.to_string())
            .bind(origin.compression.to_string())
            .bind(nanoseconds(now))
            .execute(&mut transaction)
            .await?;
            found.push(known(row)?);
        }
        transaction.commit().await?;
        Ok(found)
    }

    /// The blobs that were leased at `time` or later. The registry leases a blob when it tells an
    /// importer that the blob exists.
    pub async fn leased_since(&self, time: Timestamp) -> Result<BTreeSet<Digest>> {
        let rows: Vec<String> = query_scalar("SELECT digest FROM layers WHERE asked >= $1")
            .bind(nanoseconds(time))
            .fetch_all(&mut self.scan_tx().await?)
            .await?;
        rows.iter().map(|digest| column(digest)).collect()
    }

    /// Fails if [`Catalog::add_image`] would fail, and changes nothing.
    pub async fn check_image(&self, image: &NewImage<'_>, change: &Change) -> Result<()> {
        // The check creates the configuration, and then undoes the transaction.
        let mut transaction = self.write_tx().await?;
        add_image(&mut transaction, image, change).await?;
        transaction.rollback().await
    }

    /// Creates a configuration from an image, or replaces the layers of an existing configuration.
    /// Adds all versions that the configuration needs. If the configuration already has these
    /// layers, it gets no new state.
    pub async fn add_image(&self, image: &NewImage<'_>, change: &Change) -> Result<Imaged> {
        let mut transaction = self.change_tx(change).await?;
        let imaged = add_image(&mut transaction, image, change).await?;
        for layer in &image.layers {
            object_rows::bind(&mut transaction, layer.digest).await?;
        }
        transaction.commit().await?;
        Ok(imaged)
    }
}

/// Whether the blob was leased at `time` or later, see [`Catalog::leased_since`].
pub(super) async fn is_leased(
    transaction: &mut Tx,
    digest: Digest,
    time: Timestamp,
) -> Result<bool> {
    let count: i64 = query_scalar("SELECT COUNT(*) FROM layers WHERE digest = $1 AND asked >= $2")
        .bind(digest.to_string())
        .bind(nanoseconds(time))
        .fetch_one(&mut *transaction)
        .await?;
    Ok(count > 0)
}

/// If the blob is condemned, deletes the rows that record the blob's origins.
pub(super) async fn forget(transaction: &mut Tx, digest: Digest) -> Result<()> {
    query(
        "DELETE FROM layers WHERE digest IN \
         (SELECT digest FROM blobs WHERE digest = $1 AND state = 'condemned')",
    )
    .bind(digest.to_string())
    .execute(&mut *transaction)
    .await?;
    Ok(())
}

async fn add_image(
    transaction: &mut WriteTx,
    image: &NewImage<'_>,
    change: &Change,
) -> Result<Imaged> {
    let name = image.name;
    let mut layers = Vec::with_capacity(image.layers.len() + image.upper.len());
    for layer in &image.layers {
        layers.push(bind(transaction, layer, change).await?);
    }
    for (component, version) in image.upper {
        let found = find_version(transaction, component, version).await?;
        // The error must not be [`Error::NotFound`], because importers respond to that error by
        // uploading the blobs again.
        let layer = found.ok_or_else(|| Error::Failed(no_version(component, version)))?;
        check_whole(transaction, &layer).await?;
        layers.push(layer);
    }
    let before = find_current(transaction, name).await?;
    if let Some(number) = before {
        let now = load(transaction, name, number).await?;
        if is_same(now.layers(), &layers) {
            return Ok(Imaged { id: now.id(), number, before });
        }
    } else {
        name.check_new()?;
    }
    let (number, id) = save(transaction, name, layers, change).await?;
    Ok(Imaged { id, number, before })
}

/// Returns the version of a layer, and creates the version if it does not exist. Records the origin
/// of the blob.
async fn bind(transaction: &mut Tx, layer: &NewLayer, change: &Change) -> Result<Layer> {
    let NewLayer { component, digest, bytes, origin } = layer;
    let version: VersionName = digest.to_string().parse()?;
    let bound = match find_version(transaction, component, &version).await? {
        Some(found) if found.digest == *digest => found,
        Some(found) => {
            let text = format!(
                "version \"{version}\" of component \"{component}\" is bound to the file {}, \
                 but the version is named after another digest",
                found.digest
            );
            return Err(Error::Conflict(text));
        }
        None => insert_version(transaction, component, &version, *digest, change).await?,
    };
    blob_rows::put(transaction, *digest, *bytes, BlobState::Live, change.now).await?;
    if let Some(origin) = origin {
        query(
            "INSERT INTO layers (diff_id, removals, compression, digest, asked) \
             VALUES ($1, $2, $3, $4, 0) \
             ON CONFLICT (diff_id, removals, compression) DO UPDATE SET digest = $4",
        )
        .bind(origin.diff_id.to_string())
        .bind(origin.removals.to_string())
        .bind(origin.compression.to_string())
        .bind(digest.to_string())
        .execute(&mut *transaction)
        .await?;
    }
    Ok(bound)
}

fn is_same(one: &[Layer], other: &[Layer]) -> bool {
    let key = |layer: &Layer| (layer.component.clone(), layer.version.clone(), layer.digest);
    one.len() == other.len() && one.iter().map(key).eq(other.iter().map(key))
}

fn known((diff_id, removals, compression, digest, bytes): Row) -> Result<KnownLayer> {
    let compression: Compression = compression.parse().map_err(|err| {
        let path = "catalogue.db".into();
        bad_row(&deploy_store::Error::Corrupt {
            path,
            reason: format!("a layer of an image: {err}"),
        })
    })?;
    let (diff_id, removals) = (column(&diff_id)?, column(&removals)?);
    let origin = Origin { diff_id, removals, compression };
    let bytes = u64::try_from(bytes).unwrap_or(0);
    Ok(KnownLayer { origin, hash: column(&digest)?, bytes })
}
