//! What operators do with the names of their uploads: clients upload under a temporary name and
//! rename the whole file, make the directory that it goes to, and remove what they gave up.

use deploy_store::{ComponentName, escape};
use deploy_wire::command::{Command, Refusal as Refused};

use crate::console;
use crate::ssh::sftp::writing::{Uploads, put};
use crate::ssh::sftp::{Refusal, Reply};
use crate::uploads::recent::Uploaded;
use crate::verbs::put::Target;
use crate::view::lookup;
use crate::view::view_path::{self, Goal, MAX_PATH, Place};

impl Uploads {
    /// Renames an upload. What is renamed to a version becomes that version.
    pub(super) async fn rename(&mut self, from: &str, to: &str) -> Result<Reply, Refusal> {
        if from.len().max(to.len()) > MAX_PATH {
            return Err(Refusal::denied());
        }
        let (old, new) = (view_path::clean(from), view_path::clean(to));
        if self.open_size(&old).is_some() {
            let why = "it is still being uploaded: close it before it is renamed";
            return Err(self.refuse(from, why.to_owned()));
        }
        // Of others nothing is said, as ever.
        let found = self.registry.recent.find(&self.caller, &old);
        let uploaded = found.ok_or_else(Refusal::denied)?;
        if uploaded.bound && !self.registry.recent.is_own(&self.caller, &old) {
            return Err(Refusal::denied());
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
                let why = "it is a version, which can only become another: /put/NAME/VERSION";
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
        target: &Target,
        uploaded: Uploaded,
    ) -> Result<(), Refusal> {
        let change = self.caller.change(&put(target));
        if let Err(refusal) = self.registry.put_staged(target, uploaded.digest, &change).await {
            console::audit_refusal(&self.registry, &change, &refusal).await;
            return Err(self.refuse(to, refusal.text));
        }
        let (label, digest) = (escape(to), uploaded.digest);
        tracing::info!(key = self.caller.key, label, %digest, "upload renamed and bound");
        if let (true, Ok(Goal::Version(before))) = (uploaded.bound, view_path::goal(old)) {
            self.give_up(before).await;
        }
        Ok(())
    }

    /// Deletes the version that an upload was under a name that did not look like a temporary
    /// one. Whoever uses it already keeps it.
    async fn give_up(&self, before: Target) {
        let Target { component, version } = before;
        let command = Command::DeleteVersion {
            component: component.clone(),
            version: version.clone(),
            force: false,
        };
        let change = self.caller.change(&command);
        let catalog = &self.registry.catalog;
        let deleted = catalog.delete_version(&component, &version, false, &change).await;
        if let Err(refusal) = deleted.map_err(Refused::from) {
            tracing::warn!(%component, %version, "a version that was renamed stays: {refusal}");
            console::audit_refusal(&self.registry, &change, &refusal).await;
        }
    }

    /// The directory of a component is there, whether or not it has versions.
    pub(super) async fn make_directory(&mut self, path: &str) -> Result<Reply, Refusal> {
        match view_path::parse_for_operator(path) {
            Some(Place::Put | Place::PutInto(_)) => return Ok(Reply::Done),
            Some(Place::Version(component, version)) if view_path::is_in_put(path) => {
                let found = self.registry.catalog.version(&component, &version).await;
                if found.is_err() && self.nested.make(path) {
                    return Ok(Reply::Done);
                }
                let why = "/put/NAME/VERSION is a file: upload the archive to it";
                return Err(self.refuse(path, why.to_owned()));
            }
            // As every server answers who makes sure that a path is there, part by part.
            Some(place) if lookup::is_directory(&self.registry, &place).await.unwrap_or(false) => {
                return Err(Refusal::failure("there is such a directory already"));
            }
            _ if !view_path::is_in_put(path) => return Err(Refusal::denied()),
            _ => {}
        }
        let cleaned = view_path::clean(path);
        let name = cleaned.strip_prefix("/put/").unwrap_or_default();
        let why = match name.parse::<ComponentName>().and_then(|name| name.check_new()) {
            Ok(()) => format!("{:?} is no directory that can be put into: /put/NAME", escape(name)),
            Err(err) => err.to_string(),
        };
        Err(self.refuse(path, why))
    }

    /// Forgets an upload that is no version. Its bytes wait until they expire, as others may
    /// count on them.
    pub(super) fn remove(&self, path: &str) -> Result<Reply, Refusal> {
        if path.len() > MAX_PATH {
            return Err(Refusal::denied());
        }
        let path = view_path::clean(path);
        match self.registry.recent.find(&self.caller, &path) {
            Some(uploaded) if !uploaded.bound => {
                self.registry.recent.forget(&self.caller, &path);
                Ok(Reply::Done)
            }
            _ => Err(Refusal::denied()),
        }
    }

    /// What this connection uploaded to `/put` under a temporary name and did not rename: no
    /// version came of it, which its user may not know.
    pub(super) fn left_over(&self) -> Option<String> {
        let recent = self.registry.recent.of_connection(&self.caller);
        let left = recent.iter().filter(|(path, uploaded)| {
            !uploaded.bound && matches!(view_path::goal(path), Ok(Goal::Temporary(_)))
        });
        let lines = left.map(|(path, uploaded)| {
            let (path, digest) = (escape(path), uploaded.digest);
            format!(
                "{path} was not renamed and is no version; it stays for a while as -hash={digest}\n"
            )
        });
        let text: String = lines.collect();
        (!text.is_empty()).then_some(text)
    }
}
