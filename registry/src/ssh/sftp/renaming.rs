//! Serves renames, new directories and removals by operators over sftp. Some clients upload a file
//! under a temporary name, and rename the complete file. Some clients also create the file's
//! directory, and remove abandoned files.

use deploy_store::{ComponentName, escape};
use deploy_wire::command::Command;

use super::packets::{Reply, SftpError};
use super::writing::{Uploads, put};
use crate::console;
use crate::uploads::recent::Uploaded;
use crate::verbs::put::PutTarget;
use crate::view::lookup;
use crate::view::view_path::{self, Goal, MAX_PATH, Place};

impl Uploads {
    /// Renames an upload. A rename to the path of a version binds the upload to that version.
    pub(super) async fn rename(&mut self, from: &str, to: &str) -> Result<Reply, SftpError> {
        if from.len().max(to.len()) > MAX_PATH {
            return Err(SftpError::denied());
        }
        let (old, new) = (view_path::clean(from), view_path::clean(to));
        if self.open_size(&old).is_some() {
            let why = "the upload is still open: close the file before you rename it";
            return Err(self.refuse(from, why.to_owned()));
        }
        // The error must not show whether another key has such an upload.
        let found = self.registry.recent.find(&self.caller, &old);
        let uploaded = found.ok_or_else(SftpError::denied)?;
        if uploaded.bound && !self.registry.recent.is_own(&self.caller, &old) {
            return Err(SftpError::denied());
        }
        if old == new {
            return Ok(Reply::Done);
        }
        let bound = match view_path::goal(to).map_err(|why| self.refuse(to, why))? {
            Goal::Version(target) => {
                self.check(to, &target).await?;
                self.bind(&old, to, &target, uploaded).await?;
                true
            }
            Goal::Staged | Goal::Temporary(_) if uploaded.bound => {
                let why = "the upload is a version: it can only be renamed to another version, \
                           /put/NAME/VERSION";
                return Err(self.refuse(to, why.to_owned()));
            }
            Goal::Staged | Goal::Temporary(_) => false,
        };
        self.registry.recent.forget(&self.caller, &old);
        self.registry.recent.remember(&self.caller, &new, Uploaded { bound, ..uploaded });
        Ok(Reply::Done)
    }

    async fn bind(
        &self,
        old: &str,
        to: &str,
        target: &PutTarget,
        uploaded: Uploaded,
    ) -> Result<(), SftpError> {
        let change = self.caller.change(&put(target));
        if let Err(err) = self.registry.put_staged(target, uploaded.digest, &change).await {
            console::audit_refusal(&self.registry, &change, &err).await;
            return Err(self.refuse(to, err.to_string()));
        }
        let (label, digest) = (escape(to), uploaded.digest);
        tracing::info!(key = self.caller.key, label, %digest, "upload renamed and bound");
        if let (true, Ok(Goal::Version(before))) = (uploaded.bound, view_path::goal(old)) {
            self.delete_former(before).await;
        }
        Ok(())
    }

    /// Deletes the former version of a renamed upload. The upload was bound to this version because
    /// the upload's former name did not look temporary. A former version that is in use stays.
    async fn delete_former(&self, former: PutTarget) {
        let PutTarget { component, version } = former;
        let command = Command::DeleteVersion {
            component: component.clone(),
            version: version.clone(),
            force: false,
        };
        let change = self.caller.change(&command);
        let catalog = &self.registry.catalog;
        let deleted = catalog.delete_version(&component, &version, false, &change).await;
        if let Err(err) = deleted {
            tracing::warn!(%component, %version, "the version of a renamed upload stays: {err}");
            console::audit_refusal(&self.registry, &change, &err).await;
        }
    }

    /// Creates a directory. The directory of a component in `/put` always exists.
    pub(super) async fn make_directory(&mut self, path: &str) -> Result<Reply, SftpError> {
        match view_path::parse_for_operator(path) {
            Some(Place::Put | Place::PutInto(_)) => return Ok(Reply::Done),
            Some(Place::Version(component, version)) if view_path::is_in_put(path) => {
                let found = self.registry.catalog.find_version(&component, &version).await?;
                if found.is_none() && self.nested.make(path) {
                    return Ok(Reply::Done);
                }
                let why = "/put/NAME/VERSION is a file: upload the archive to it";
                return Err(self.refuse(path, why.to_owned()));
            }
            // Clients create each directory of a path, and expect a failure for existing
            // directories.
            Some(place) if lookup::is_directory(&self.registry, &place).await.unwrap_or(false) => {
                return Err(SftpError::failure("the directory already exists"));
            }
            _ if !view_path::is_in_put(path) => return Err(SftpError::denied()),
            _ => {}
        }
        let cleaned = view_path::clean(path);
        let name = cleaned.strip_prefix("/put/").unwrap_or_default();
        let why = match name.parse::<ComponentName>().and_then(|name| name.check_new()) {
            Ok(()) => format!("{:?} is not a directory for uploads, want /put/NAME", escape(name)),
            Err(err) => err.to_string(),
        };
        Err(self.refuse(path, why))
    }

    /// Forgets an unbound upload. The staged bytes stay until they expire, because other clients
    /// may need them.
    pub(super) fn remove(&self, path: &str) -> Result<Reply, SftpError> {
        if path.len() > MAX_PATH {
            return Err(SftpError::denied());
        }
        let path = view_path::clean(path);
        match self.registry.recent.find(&self.caller, &path) {
            Some(uploaded) if !uploaded.bound => {
                self.registry.recent.forget(&self.caller, &path);
                Ok(Reply::Done)
            }
            _ => Err(SftpError::denied()),
        }
    }

    /// Lists this connection's uploads to `/put` that still have temporary names. These uploads did
    /// not become versions, and the user may not have noticed this.
    pub(super) fn left_over(&self) -> Option<String> {
        let recent = self.registry.recent.of_connection(&self.caller);
        let left = recent.iter().filter(|(path, uploaded)| {
            !uploaded.bound && matches!(view_path::goal(path), Ok(Goal::Temporary(_)))
        });
        let lines = left.map(|(path, uploaded)| {
            let (path, digest) = (escape(path), uploaded.digest);
            format!(
                "{path} was not renamed and is not a version; the upload stays staged for a while, \
                 and addver can bind it: -hash={digest}\n"
            )
        });
        let text: String = lines.collect();
        (!text.is_empty()).then_some(text)
    }
}
