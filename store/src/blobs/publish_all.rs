//! Publishes, withdraws and renews many blobs together. Publishing and withdrawing sync each
//! directory once for all blobs.

use std::fs::File;
use std::time::SystemTime;

use super::Blobs;
use crate::digest::Digest;
use crate::disk::{fault, name_of};
use crate::error::{Error, Result};

impl Blobs {
    /// Publishes each blob as [`Blobs::publish`] does. Returns the blobs that were not already
    /// published. If an error occurs, the method withdraws the blobs that it has published.
    pub fn publish_all(&self, digests: &[Digest]) -> Result<Vec<Digest>> {
        let mut published = Vec::with_capacity(digests.len());
        let done = self.publish_each(digests, &mut published);
        if let Err(err) = done {
            // A blob that cannot be withdrawn stays published, but no database row refers to the
            // blob.
            let _ = self.withdraw_all(&published);
            return Err(err);
        }
        Ok(published)
    }

    fn publish_each(&self, digests: &[Digest], published: &mut Vec<Digest>) -> Result<()> {
        for &digest in digests {
            let name = name_of(digest);
            if self.files.contains(&name)? {
                self.staging.remove_file(&name)?;
                continue;
            }
            match self.staging.rename(&name, &self.files, &name) {
                Err(err) if err.is_not_found() => return Err(Error::NoSuchBlob(digest)),
                other => other?,
            }
            published.push(digest);
        }
        self.files.sync()?;
        self.staging.sync()
    }

    /// Withdraws each blob as [`Blobs::withdraw`] does.
    pub fn withdraw_all(&self, digests: &[Digest]) -> Result<()> {
        for &digest in digests {
            let name = name_of(digest);
            self.files.rename(&name, &self.staging, &name)?;
        }
        self.staging.sync()?;
        self.files.sync()
    }

    /// Sets the age of staged blobs to zero, as if the blobs had arrived now. Missing blobs are
    /// skipped.
    pub fn renew_staged(&self, digests: &[Digest]) -> Result<()> {
        let now = SystemTime::now();
        for &digest in digests {
            let file: File = match self.staging.open_file(&name_of(digest)) {
                Err(err) if err.is_not_found() => continue,
                other => other?,
            };
            let touched = fault::step().map_err(Into::into).and_then(|()| file.set_modified(now));
            touched
                .map_err(|err| Error::io("touch", self.staging.path_of(&name_of(digest)), err))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::*;

    fn open(dir: &Path) -> Blobs {
        Blobs::open(&dir.join("files"), &dir.join("uploads"), 1 << 20).unwrap()
    }

    fn stage(blobs: &Blobs, text: &str) -> Digest {
        let mut staging = blobs.stage().unwrap();
        staging.write_at(0, text.as_bytes()).unwrap();
        staging.finish().unwrap()
    }

    #[test]
    fn publish_all_is_all_or_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let blobs = open(temp.path());
        let [one, two, three] = ["one", "two", "three"].map(|text| stage(&blobs, text));
        blobs.publish(two).unwrap();
        stage(&blobs, "two");
        let absent = Digest::of(b"absent");
        let refused = blobs.publish_all(&[one, two, absent, three]);
        assert!(matches!(refused, Err(Error::NoSuchBlob(digest)) if digest == absent));
        assert!(!blobs.contains(one).unwrap() && blobs.is_staged(one).unwrap());
        assert!(blobs.contains(two).unwrap(), "blob two was published before");
        assert_eq!(blobs.publish_all(&[one, two, three, one]).unwrap(), [one, three]);
        assert_eq!((blobs.list().unwrap().len(), blobs.staged().unwrap().files), (3, 0));
        blobs.withdraw_all(&[one, three]).unwrap();
        assert_eq!((blobs.list().unwrap().len(), blobs.staged().unwrap().files), (1, 2));
    }

    #[test]
    fn renewed_blobs_do_not_expire() {
        let temp = tempfile::tempdir().unwrap();
        let blobs = open(temp.path());
        let [one, two] = ["one", "two"].map(|text| stage(&blobs, text));
        for digest in [one, two] {
            let path = temp.path().join("uploads").join(digest.to_string());
            File::options()
                .append(true)
                .open(path)
                .unwrap()
                .set_modified(SystemTime::UNIX_EPOCH)
                .unwrap();
        }
        blobs.renew_staged(&[Digest::of(b"absent"), one]).unwrap();
        let before = SystemTime::now() - Duration::from_secs(3600);
        assert_eq!(blobs.expire(before).unwrap().files, 1);
        assert!(blobs.is_staged(one).unwrap() && !blobs.is_staged(two).unwrap());
    }
}
