//! The node's configuration: one YAML file, rendered from the resources; the environment holds secrets and nothing else.
//!
//! Strict: a key that nobody reads is an error. Errors say where, and what to do. A missing or malformed
//! key-encryption key is a [`KeyFault`], apart from [`ConfigFault`]: the node starts all the same and says so on
//! `/status` and in its KmsNode, since a pod that only crashes tells nobody what it lacks.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use keyfleet_threshold::identifiers::{ClusterId, NodeIndex};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::seal::wrap::WrapFault;
use crate::seal::{KeyEncryptionKey, KeyRing};

/// A node's configuration, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node's index.
    pub index: NodeIndex,
    /// The folder of the state file, the bundles and `seal/`. Absolute.
    pub data: PathBuf,
    /// The key-encryption keys: the first writes, all read.
    pub key_encryption: Vec<KeySource>,
    /// Where the node listens.
    pub listen: Listen,
    /// Where the state file is replicated; `None`: nowhere.
    pub replication: Option<Replication>,
    /// A folder in the place of the seal Secret, for development outside Kubernetes.
    pub second_home: Option<PathBuf>,
}

/// Where a key-encryption key comes from.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct KeySource {
    /// Its public name.
    pub id: String,
    /// A file of 64 hexadecimal digits or of 32 bytes: a mounted Secret, usually.
    pub file: Option<PathBuf>,
    /// An environment variable of 64 hexadecimal digits.
    pub env: Option<String>,
}

/// Where the node listens.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Listen {
    /// Peers and operator.
    pub peers: SocketAddr,
    /// Callers.
    pub kms: SocketAddr,
    /// `/health`, `/ready`, `/status`, `/metrics`.
    pub http: SocketAddr,
}

impl Default for Listen {
    fn default() -> Self {
        let on = |port| SocketAddr::from(([0, 0, 0, 0], port));
        Self { peers: on(7400), kms: on(7443), http: on(9090) }
    }
}

/// Where the state file is replicated.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Replication {
    /// The bucket.
    pub bucket: String,
    /// Keys begin with it.
    pub prefix: String,
    /// The region, where the service wants one.
    pub region: Option<String>,
    /// The service, if it is not AWS.
    pub endpoint: Option<String>,
    /// How long a round's commit waits for the bucket, in milliseconds.
    #[serde(default = "acknowledge_timeout_ms")]
    pub acknowledge_timeout_ms: u64,
}

fn acknowledge_timeout_ms() -> u64 {
    10_000
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct File {
    cluster_id: String,
    index: u32,
    data: PathBuf,
    key_encryption: Vec<KeySource>,
    #[serde(default)]
    listen: Listen,
    replication: Option<Replication>,
    second_home: Option<PathBuf>,
}

/// What is wrong with the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigFault {
    /// The file is not there or not readable.
    #[error("{}: {error}", .path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// Not the YAML that is wanted: the message names line, key and what is allowed there.
    #[error("the configuration: {0}")]
    Yaml(#[from] serde_yaml::Error),
    /// A value makes no sense.
    #[error("the configuration: {at}: {what}")]
    Value {
        /// The key.
        at: &'static str,
        /// What is wrong, and what is right.
        what: String,
    },
}

/// What is wrong with a key-encryption key. Its text is never repeated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFault {
    /// It is not there.
    #[error(
        "KeyEncryptionKeyMissing: key `{id}`: {place} {why}; create it with 32 random bytes, written as 64 hexadecimal digits"
    )]
    Missing {
        /// The key's name.
        id: String,
        /// Where it was looked for.
        place: String,
        /// Why it is not there.
        why: String,
    },
    /// It is not 32 bytes.
    #[error(
        "KeyEncryptionKeyMalformed: key `{id}`: {place} holds {found} bytes; 64 hexadecimal digits (or 32 raw bytes in a file) are needed"
    )]
    Malformed {
        /// The key's name.
        id: String,
        /// Where it is.
        place: String,
        /// Its length as found.
        found: usize,
    },
    /// The keys do not make a ring.
    #[error("KeyEncryptionKeyMalformed: {0}")]
    Ring(#[from] WrapFault),
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn read(path: &Path) -> Result<Self, ConfigFault> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigFault::Read { path: path.to_owned(), error })?;
        Self::parse(&text)
    }

    /// Checks a text.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn parse(text: &str) -> Result<Self, ConfigFault> {
        let file: File = serde_yaml::from_str(text)?;
        let fault = |at, what: &str| ConfigFault::Value { at, what: what.to_owned() };
        let mut cluster = [0; 16];
        hex::decode_to_slice(&file.cluster_id, &mut cluster)
            .map_err(|_| fault("clusterId", "must be 32 hexadecimal digits"))?;
        let index = NodeIndex::new(file.index);
        let index = index.ok_or_else(|| fault("index", "must be at least 1; a share at 0 would be the key itself"))?;
        if !file.data.is_absolute() {
            return Err(fault("data", "must be an absolute path, or a restart elsewhere would begin with nothing"));
        }
        if file.key_encryption.is_empty() {
            return Err(fault("keyEncryption", "must name at least one key; nothing is stored unsealed"));
        }
        for source in &file.key_encryption {
            if source.file.is_some() == source.env.is_some() {
                let what = format!("key `{}` needs exactly one of `file` and `env`", source.id);
                return Err(fault("keyEncryption", &what));
            }
        }
        Ok(Self {
            cluster: ClusterId(cluster),
            index,
            data: file.data,
            key_encryption: file.key_encryption,
            listen: file.listen,
            replication: file.replication,
            second_home: file.second_home,
        })
    }

    /// Loads the key-encryption keys. `env` looks a variable up.
    ///
    /// # Errors
    /// Which key is wrong, and what to do.
    pub fn key_ring(&self, env: impl Fn(&str) -> Option<String>) -> Result<KeyRing, KeyFault> {
        let keys = self.key_encryption.iter().map(|source| source.load(&env)).collect::<Result<_, _>>()?;
        Ok(KeyRing::new(self.cluster, self.index, keys)?)
    }
}

impl KeySource {
    fn load(&self, env: impl Fn(&str) -> Option<String>) -> Result<KeyEncryptionKey, KeyFault> {
        let (place, found) = match (&self.file, &self.env) {
            (Some(path), _) => {
                (format!("file {}", path.display()), std::fs::read(path).map_err(|error| error.to_string()))
            }
            (_, variable) => {
                let name = variable.as_deref().unwrap_or_default();
                let value = env(name).map(String::into_bytes).ok_or_else(|| "is not set".to_owned());
                (format!("environment variable {name}"), value)
            }
        };
        let missing = |why| KeyFault::Missing { id: self.id.clone(), place: place.clone(), why };
        let bytes = Zeroizing::new(found.map_err(missing)?);
        let mut key = Zeroizing::new([0; 32]);
        if let (Ok(raw), true) = (<[u8; 32]>::try_from(bytes.as_slice()), self.file.is_some()) {
            *key = raw;
        } else {
            let text = bytes.trim_ascii();
            hex::decode_to_slice(text, key.as_mut_slice()).map_err(|_| KeyFault::Malformed {
                id: self.id.clone(),
                place: place.clone(),
                found: bytes.len(),
            })?;
        }
        Ok(KeyEncryptionKey::new(self.id.clone(), *key)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "
clusterId: 000102030405060708090a0b0c0d0e0f
index: 2
data: /data
keyEncryption: [{id: one, env: KEK}]
";

    /// seed: 003-19, 003-24, 003-26
    #[test]
    fn a_fault_says_where_and_what_to_do() {
        assert_eq!(Config::parse(GOOD).unwrap().listen.peers.port(), 7400);
        let cases = [
            (GOOD.replace("index: 2", "index: 0"), "index: must be at least 1"),
            (GOOD.replace("index: 2", "index: two"), "index"),
            (GOOD.replace("/data", "data"), "data: must be an absolute path"),
            (GOOD.replace("000102", "00010"), "clusterId: must be 32 hexadecimal digits"),
            (format!("{GOOD}retention: 2\n"), "unknown field `retention`"),
            (GOOD.replace("env: KEK", "env: KEK, file: /x"), "key `one` needs exactly one of"),
            (GOOD.replace("[{id: one, env: KEK}]", "[]"), "nothing is stored unsealed"),
            (GOOD.replace("index: 2\n", ""), "missing field `index`"),
        ];
        for (text, says) in cases {
            let fault = Config::parse(&text).err().map(|fault| fault.to_string()).unwrap_or_default();
            assert!(fault.contains(says), "expected `{says}`, got `{fault}`");
        }
    }

    /// seed: 000-04
    #[test]
    fn a_key_encryption_key_that_is_missing_or_of_the_wrong_length_is_named_and_never_shown() {
        let config = Config::parse(GOOD).unwrap();
        let missing = config.key_ring(|_| None).unwrap_err().to_string();
        assert!(missing.contains("environment variable KEK is not set"), "{missing}");
        let short = config.key_ring(|_| Some("0badc0de".to_owned())).unwrap_err().to_string();
        assert!(short.contains("holds 8 bytes") && !short.contains("0badc0de"), "{short}");
        assert!(config.key_ring(|_| Some(format!("{}\n", "ab".repeat(32)))).is_ok(), "a newline at the end hurts");
        let file = tempfile::NamedTempFile::new().unwrap();
        let from_file = GOOD.replace("env: KEK", &format!("file: {}", file.path().display()));
        let config = Config::parse(&from_file).unwrap();
        assert!(matches!(config.key_ring(|_| None), Err(KeyFault::Malformed { found: 0, .. })), "an empty file");
        std::fs::write(file.path(), [7; 32]).unwrap();
        assert!(config.key_ring(|_| None).is_ok(), "32 raw bytes in a file");
    }
}
