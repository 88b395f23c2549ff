//! The verb `put`, which uploads an archive and binds it to a new version in one step. Uploads to
//! `/put` over sftp use this code, too.

use deploy_store::{ComponentName, Digest, VersionName};
use deploy_wire::command::Command;

use crate::catalog::Change;
use crate::error::{Error, Result};
use crate::registry::Registry;
use crate::stdin::Input;
use crate::uploads::upload::Upload;

/// The blob of a new version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Put {
    /// The archive's digest.
    pub digest: Digest,
    /// The size in bytes.
    pub bytes: u64,
}

/// The version that an upload becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutTarget {
    /// The component. `put` creates the component if it does not exist.
    pub component: ComponentName,
    /// The new version.
    pub version: VersionName,
}

impl Registry {
    /// Uploads the bytes of `input` and binds the blob to a new version. `put` checks the names
    /// before it reads a byte.
    pub async fn put(&self, target: &PutTarget, mut input: Input, change: &Change) -> Result<Put> {
        self.catalog.check_new_version(&target.component, &target.version).await?;
        let mut upload = Upload::begin(&self.uploads, &change.key, None).await?;
        while let Some(bytes) = input.next().await.map_err(|err| Error::Failed(err.to_string()))? {
            upload.write(upload.len(), bytes).await?;
        }
        self.put_upload(target, upload, change).await
    }

    /// Binds a complete upload to the version `target`. If no agent could unpack the archive, the
    /// function removes the archive. If the version cannot be made, the upload stays staged. For
    /// example, another client may have made this version in the meantime.
    pub async fn put_upload(
        &self,
        target: &PutTarget,
        upload: Upload,
        change: &Change,
    ) -> Result<Put> {
        let bytes = upload.len();
        let digest = self.finish_upload(upload).await?;
        self.put_staged(target, digest, change).await?;
        Ok(Put { digest, bytes })
    }

    /// Like [`Registry::put_upload`], for a blob that is already staged.
    pub async fn put_staged(
        &self,
        target: &PutTarget,
        digest: Digest,
        change: &Change,
    ) -> Result<()> {
        let PutTarget { component, version } = target;
        // The audit trail gets the command that would repeat the change.
        let command = Command::AddVersion {
            component: component.clone(),
            version: version.clone(),
            digest: digest.into(),
        };
        let change = Change { command: command.to_string(), ..change.clone() };
        if !self.blobs().contains(digest).await?
            && let Err(err) = self.check_staged(digest).await
        {
            self.unstage(digest).await;
            return Err(err);
        }
        let bound = self.bind_version(component, version, digest, &change).await;
        // The error names the staged blob, so a later attempt needs no new upload.
        bound.map_err(|err| Error::NotBound { digest, cause: Box::new(err) })
    }

    /// Removes an upload that cannot become a version.
    async fn unstage(&self, digest: Digest) {
        let binding = self.binding.lock().await;
        if let Err(err) = self.blobs().unstage(digest).await {
            tracing::warn!(%digest, "cannot remove an upload; it stays until it expires: {err}");
        }
        drop(binding);
        self.uploads.release_gone();
    }
}
