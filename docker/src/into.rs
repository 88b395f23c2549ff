//! A directory as where layers go: their archives, as they would be sent, and their order.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use deploy_store::{ComponentName, ConfigurationName, Digest, VersionName};
use deploy_wire::image::{Compression, Image, KnownLayer, Origin};

use crate::error::{Error, Result};
use crate::import::{Committed, Destination};

/// The file that has the names of the others, lowest layer first.
const ORDER: &str = "layers";

/// A directory that an image's layers are written to.
#[derive(Debug)]
pub struct Into {
    dir: PathBuf,
    suffix: &'static str,
    writing: Option<(PathBuf, File)>,
}

impl Into {
    /// The directory, which is made if it is not there.
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
        Err(Error::Choice(
            "a layer of a registry cannot be put on top of files: leave -layer out".into(),
        ))
    }

    fn known(&mut self, _: &[Origin]) -> Result<Vec<KnownLayer>> {
        Ok(Vec::new())
    }

    fn begin(&mut self, component: &ComponentName) -> Result<()> {
        let path = self.dir.join(format!("{}.{}", component.as_str(), self.suffix));
        let file = File::create(&path).map_err(|cause| output(&path, cause))?;
        self.writing = Some((path, file));
        Ok(())
    }

    fn write(&mut self, bytes: Vec<u8>) -> Result<()> {
        let Some((path, file)) = &mut self.writing else { return Ok(()) };
        file.write_all(&bytes).map_err(|cause| output(path, cause))
    }

    fn finish(&mut self, _: Digest) -> Result<()> {
        self.writing = None;
        Ok(())
    }

    fn commit(
        &mut self,
        _: &ConfigurationName,
        image: &Image,
        _: &[(ComponentName, VersionName)],
    ) -> Result<Committed> {
        // A layer that an image has twice was written once.
        let mut order = String::new();
        for (n, layer) in image.layers.iter().enumerate() {
            let first = image.layers.iter().position(|other| other.hash == layer.hash);
            let first = &image.layers[first.unwrap_or(n)];
            order = order + first.component.as_str() + "." + self.suffix + "\n";
        }
        let path = self.dir.join(ORDER);
        fs::write(&path, &order).map_err(|cause| output(&path, cause))?;
        Ok(Committed::Done(String::new()))
    }
}

fn output(path: &Path, cause: std::io::Error) -> Error {
    Error::Output { path: path.to_owned(), cause }
}
