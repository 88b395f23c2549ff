//! Uploading and binding in one step: `put`, and files that are written to `/put` over sftp.

use deploy_store::{ComponentName, Digest, VersionName};
use deploy_wire::command::{Command, Refusal};
use deploy_wire::exit;

use crate::catalog::Change;
use crate::registry::Registry;
use crate::stdin::Input;
use crate::uploads::upload::Upload;

/// A version that was put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Put {
    /// The archive's digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub bytes: u64,
}

/// What is put, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Component, made if it is new.
    pub component: ComponentName,
    /// Version to make.
    pub version: VersionName,
}

impl Registry {
    /// Uploads what comes from `input` and binds it. What can be refused before a byte is
    /// read is.
    pub async fn put(
        &self,
        target: &Target,
        mut input: Input,
        change: &Change,
    ) -> Result<Put, Refusal> {
        self.catalog.check_new_version(&target.component, &target.version).await?;
        let failed = |why: String| Refusal::new(exit::FAILED, why);
        let mut upload = Upload::begin(self, &change.who, None).await.map_err(failed)?;
        while let Some(bytes) = input.next().await.map_err(|err| failed(err.to_string()))? {
            upload.write(self, upload.len(), bytes).await.map_err(failed)?;
        }
        self.put_upload(target, upload, change).await
    }

    /// Binds an upload that is whole. An archive that no agent could unpack is not kept; one
    /// that cannot be bound, as when somebody made the version meanwhile, stays staged.
    pub async fn put_upload(
        &self,
        target: &Target,
        upload: Upload,
        change: &Change,
    ) -> Result<Put, Refusal> {
        let bytes = upload.len();
        let failed = |why: String| Refusal::new(exit::FAILED, why);
        let digest = upload.finish(self).await.map_err(failed)?;
        self.put_staged(target, digest, change).await?;
        Ok(Put { digest, bytes })
    }

    /// As [`Registry::put_upload`], of what is staged already.
    pub async fn put_staged(
        &self,
        target: &Target,
        digest: Digest,
        change: &Change,
    ) -> Result<(), Refusal> {
        let Target { component, version } = target;
        // What says most afterwards, and does it again.
        let command = Command::AddVersion {
            component: component.clone(),
            version: version.clone(),
            digest: digest.into(),
        };
        let change = Change { command: command.to_string(), ..change.clone() };
        if !self.blobs().contains(digest)?
            && let Err(refusal) = self.check_staged(digest).await
        {
            self.unstage(digest).await;
            return Err(refusal);
        }
        self.bind(component, version, digest, &change).await.map_err(|Refusal { text, code }| {
            // Whatever is in the way may go; the bytes need not come again.
            let text = text + &format!("; what was uploaded stays for a while as -hash={digest}");
            Refusal::new(code, text)
        })
    }

    /// Forgets an upload that nothing can be made of.
    async fn unstage(&self, digest: Digest) {
        let binding = self.binding.lock().await;
        if let Err(err) = self.blobs().unstage(digest) {
            tracing::warn!(%digest, "an upload stays until it expires: {err}");
        }
        drop(binding);
        self.staged.settle(|digest| self.blobs().is_staged(digest).unwrap_or(true));
    }
}
