//! Makes the environment of the script, without the variables of `-script-env-file`.

use std::ffi::OsString;
use std::path::Path;

use deploy_store::Configuration;

use crate::script::{Change, Error};

/// Variables of the agent's environment that are passed to the script, if they are set.
pub const PASSED: [&str; 8] =
    ["PATH", "HOME", "TMPDIR", "USER", "LOGNAME", "LANG", "LC_ALL", "SHELL"];
/// Maximum size of the environment in bytes. The operating system accepts up to a quarter of the
/// stack size of 8 MiB.
pub const MAX_ENVIRONMENT: usize = 1_900_000;
/// Number of bytes that a layer takes in the environment in addition to its component and version.
/// These bytes are the names of two variables and the pointers to the two variables.
const PER_LAYER: usize = 2 * ("LAYER_nnnnn_VERSION=".len() + 1 + 8);
/// Number of bytes of the environment that are reserved for all variables except those of the
/// layers.
const BESIDE_LAYERS: usize = 128 << 10;
/// Checks that the layers of `configuration` fit in a script's environment.
pub fn check_environment(configuration: &Configuration) -> Result<(), Error> {
    let refuse =
        |reason: String| Err(Error::Environment { name: configuration.name().to_string(), reason });
    let layers = configuration.layers();
    let with_nul = layers.iter().find(|layer| {
        layer.component.as_str().contains('\0') || layer.version.as_str().contains('\0')
    });
    if let Some(layer) = with_nul {
        return refuse(format!("layer \"{}\" has a NUL in its name or version", layer.component));
    }
    let bytes = layers
        .iter()
        .map(|layer| layer.component.as_str().len() + layer.version.as_str().len() + PER_LAYER);
    match bytes.sum::<usize>() + BESIDE_LAYERS {
        bytes if bytes > MAX_ENVIRONMENT => refuse(format!(
            "its {} layers and the other variables need up to {bytes} bytes of environment; the \
             maximum is {MAX_ENVIRONMENT}; give the configuration fewer layers",
            layers.len()
        )),
        _ => Ok(()),
    }
}

/// Returns the environment of the script, without the variables of `-script-env-file`. `outer`
/// reads a variable of the agent's own environment.
pub fn environment(
    change: Change<'_>,
    state_file: &Path,
    outer: impl Fn(&str) -> Option<OsString>,
) -> Vec<(String, OsString)> {
    let (old_id, old_root) = match change.old {
        Some((id, root)) => (id.to_string(), root.as_os_str().to_owned()),
        None => (String::new(), OsString::new()),
    };
    let mut all: Vec<(String, OsString)> = vec![
        ("OLDID".to_owned(), old_id.into()),
        ("OLDROOT".to_owned(), old_root),
        ("NEWID".to_owned(), change.new.id().to_string().into()),
        ("NEWROOT".to_owned(), change.new_root.into()),
        ("STATEFILE".to_owned(), state_file.into()),
    ];
    all.extend(PASSED.iter().filter_map(|&name| Some((name.to_owned(), outer(name)?))));
    for (n, layer) in change.new.layers().iter().enumerate() {
        all.push((format!("LAYER_{n}_NAME"), layer.component.as_str().into()));
        all.push((format!("LAYER_{n}_VERSION"), layer.version.as_str().into()));
    }
    all
}
