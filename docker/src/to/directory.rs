//! Implements a directory as the destination of an import. The directory gets the archives that a
//! registry would get, and a list of the layers in order.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use deploy_store::{ComponentName, ConfigurationName, Digest, VersionName};
use deploy_wire::image::{Compression, Image, KnownLayer, Origin};

use super::{Committed, Destination};
use crate::error::{Error, Result};

/// The file that lists the names of the layers' files, lowest layer first.
const ORDER: &str = "layers";

/// A directory that gets the layers of an image.
#[derive(Debug)]
pub struct Into {
    dir: PathBuf,
    suffix: &'static str,
    writing: Option<Unfinished>,
}

/// A file that gets its final name only when it is complete.
#[derive(Debug)]
struct Unfinished {
    path: PathBuf,
    temporary: PathBuf,
    file: File,
}

impl Unfinished {
    fn new(path: PathBuf) -> Result<Self> {
        let mut temporary = path.clone().into_os_string();
        temporary.push(".unfinished");
        let temporary = PathBuf::from(temporary);
        let file = File::create(&temporary).map_err(|cause| output(&temporary, cause))?;
        Ok(Self { path, temporary, file })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|cause| output(&self.temporary, cause))
    }

    fn finish(self) -> Result<()> {
        let synced = self.file.sync_all();
        synced.map_err(|cause| output(&self.temporary, cause))?;
        fs::rename(&self.temporary, &self.path).map_err(|cause| output(&self.path, cause))
    }
}

impl Into {
    /// Opens the directory. A missing directory is created.
    pub fn new(dir: &Path, compression: Compression) -> Result<Self> {
        let suffix = match compression {
            Compression::Gzip => "tar.gz",
            Compression::Zstd => "tar.zst",
        };
        fs::create_dir_all(dir).map_err(|cause| output(dir, cause))?;
        Ok(Self { dir: dir.to_owned(), suffix, writing: None })
    }
}

impl Destination for Into {
    fn check(&mut self, layers: &[(ComponentName, VersionName)]) -> Result<()> {
        if layers.is_empty() {
            return Ok(());
        }
        Err(Error::Choice("-into cannot add layers of a registry: leave out -layer".into()))
    }

    fn known(&mut self, _: &[Origin]) -> Result<Vec<KnownLayer>> {
        Ok(Vec::new())
    }

    fn begin(&mut self, component: &ComponentName) -> Result<()> {
        // The import overwrites layers of an earlier image in the directory, so the earlier image's
        // list is removed first.
        let order = self.dir.join(ORDER);
        match fs::remove_file(&order) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
                return Err(output(&order, cause));
            }
            _ => {}
        }
        let name = format!("{}.{}", component.as_str(), self.suffix);
        self.writing = Some(Unfinished::new(self.dir.join(name))?);
        Ok(())
    }

    fn write(&mut self, bytes: Vec<u8>) -> Result<()> {
        self.writing.as_mut().map_or(Ok(()), |file| file.write(&bytes))
    }

    fn finish(&mut self, _: Digest) -> Result<()> {
        self.writing.take().map_or(Ok(()), Unfinished::finish)
    }

    fn commit(
        &mut self,
        _: &ConfigurationName,
        image: &Image,
        _: &[(ComponentName, VersionName)],
    ) -> Result<Committed> {
        // A layer that occurs twice in an image is written only once.
        let mut order = String::new();
        for (n, layer) in image.layers.iter().enumerate() {
            let first = image.layers.iter().position(|other| other.hash == layer.hash);
            let first = &image.layers[first.unwrap_or(n)];
            order = order + first.component.as_str() + "." + self.suffix + "\n";
        }
        // The names of the layers' files are synced before the list gets its name, because an
        // existing list means that all layers are complete.
        sync(&self.dir)?;
        let mut file = Unfinished::new(self.dir.join(ORDER))?;
        file.write(order.as_bytes())?;
        file.finish()?;
        sync(&self.dir)?;
        Ok(Committed::Done(String::new()))
    }
}

fn sync(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|cause| output(dir, cause))
}

fn output(path: &Path, cause: std::io::Error) -> Error {
    Error::Output { path: path.to_owned(), cause }
}
