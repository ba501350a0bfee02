//! Where the checkout is, and where everything is kept that is not part of it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use keyfleet_local_kubernetes::layout::Folders;

/// The checkout's root: where Cargo runs this from, which need not be where it was compiled.
pub(crate) fn checkout() -> &'static Path {
    static CHECKOUT: OnceLock<PathBuf> = OnceLock::new();
    CHECKOUT.get_or_init(|| {
        let package =
            std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
        package.parent().map_or_else(|| PathBuf::from("."), Path::to_owned)
    })
}

/// Cargo, as it is when somebody calls it from a shell in the checkout.
///
/// What it told this program about this package is taken away: build scripts that ask for it would run again with every
/// change between the two.
pub(crate) fn cargo(words: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    for (key, _) in std::env::vars_os() {
        let name = key.to_string_lossy();
        let told = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"].iter().any(|prefix| name.starts_with(prefix));
        if told || ["CARGO", "CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE"].contains(&&*name) {
            command.env_remove(&key);
        }
    }
    command.args(words).current_dir(checkout());
    command
}

/// The one folder of all caches: `$CARGO_HOME/keyfleet`. Cargo's own build folder is in it too (`.cargo/config.toml`).
pub(crate) fn cache() -> PathBuf {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
    let cache = home.unwrap_or_else(|| PathBuf::from("/var/tmp/cargo")).join("keyfleet");
    std::path::absolute(&cache).unwrap_or(cache)
}

/// The logs of steps; each run of a step replaces its log.
pub(crate) fn logs() -> PathBuf {
    cache().join("logs")
}

/// The archives of images.
pub(crate) fn images() -> PathBuf {
    cache().join("images")
}

/// The folders of the local clusters, whose programs are in `bin`.
pub(crate) fn cluster_folders(bin: PathBuf) -> Folders {
    Folders { clusters: cache().join("clusters"), logs: logs().join("clusters"), bin }
}
