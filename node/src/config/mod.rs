//! The node's configuration: one YAML file, rendered from the resources; the environment holds secrets and nothing else.
//!
//! The file is [`keyfleet_crds::node_config`]; here is what a node makes of it. A missing or malformed key-encryption key
//! is a [`KeyError`], apart from [`ConfigError`]: the node starts all the same and says so on `/status` and in its
//! KmsNode, since a pod that only crashes tells nobody what it lacks.

use std::path::{Path, PathBuf};

use keyfleet_crds::cluster::keys;
use keyfleet_crds::config_file::ConfigFileError;
use keyfleet_crds::node_config::{KEK_FOLDER, NodeConfig};
use keyfleet_threshold::identifiers::{ClusterId, NodeIndex};
use zeroize::Zeroizing;

use crate::seal::wrap::WrapError;
use crate::seal::{KeyEncryptionKey, KeyRing};

/// A node's configuration, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node's index.
    pub index: NodeIndex,
    /// The key-encryption keys: the first writes, all read.
    pub key_encryption: Vec<KeySource>,
    /// The whole file.
    pub file: NodeConfig,
}

/// Where a key-encryption key comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeySource {
    pub id: String,
    pub place: KeyPlace,
}

/// Where the bytes of a key-encryption key lie.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KeyPlace {
    /// A file of 64 hexadecimal digits or of 32 bytes: a mounted Secret, usually.
    File(PathBuf),
    /// An environment variable of 64 hexadecimal digits.
    Variable(String),
}

/// Error in the configuration file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file is not there or not readable.
    #[error("{}: {error}", .path.display())]
    Read {
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The text is not a configuration.
    #[error(transparent)]
    File(#[from] ConfigFileError),
    /// A value makes no sense.
    #[error("the configuration: {at}: {what}")]
    Value {
        /// The key.
        at: &'static str,
        /// Problem, and the right value.
        what: String,
    },
}

/// Error in a key-encryption key. Repeats nothing of the key's text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    #[error("key `{id}`: {place} {why}; create it with 32 random bytes, written as 64 hexadecimal digits")]
    Missing {
        /// The key's name.
        id: String,
        /// Where it was looked for.
        place: String,
        /// Why it is not there.
        why: String,
    },
    #[error("key `{id}`: {place} holds {found} bytes; 64 hexadecimal digits (or 32 raw bytes in a file) are needed")]
    Malformed {
        /// The key's name.
        id: String,
        place: String,
        found: usize,
    },
    /// The keys do not make a ring.
    #[error(transparent)]
    Ring(#[from] WrapError),
}

impl KeyError {
    /// The condition reason.
    #[must_use]
    pub fn reason(&self) -> keyfleet_crds::conditions::Reason {
        use keyfleet_crds::conditions::Reason;
        match self {
            Self::Missing { .. } => Reason::KeyEncryptionKeyMissing,
            _ => Reason::KeyEncryptionKeyWrong,
        }
    }
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// Names the field that is wrong, and says what is right.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Read { path: path.to_owned(), error })?;
        Self::parse(&text)
    }

    /// Checks a text.
    ///
    /// # Errors
    /// Names the field that is wrong, and says what is right.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let file = NodeConfig::parse(text)?;
        let index = NodeIndex::new(file.index);
        let index = index.ok_or_else(|| ConfigError::Value { at: "index", what: "must be at least 1".to_owned() })?;
        let keys = [&file.key_encryption.active].into_iter().chain(&file.key_encryption.previous);
        let key_encryption = keys.map(KeySource::of).collect::<Result<_, _>>()?;
        Ok(Self { cluster: ClusterId(file.cluster_id.0), index, key_encryption, file })
    }

    /// The folder of the state file, the bundles and `seal/`.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.file.state_folder
    }

    /// The id of the key that new wraps are made with.
    #[must_use]
    pub fn active_key(&self) -> &str {
        &self.file.key_encryption.active.id
    }

    /// An environment variable that the configuration counts on and that is not set.
    pub fn lacked(&self, is_set: impl Fn(&str) -> bool) -> Option<String> {
        let keys = self.key_encryption.iter().filter_map(|source| match &source.place {
            KeyPlace::Variable(name) => Some(name.as_str()),
            _ => None,
        });
        let s3 = self.file.replication.as_ref().and_then(|replication| replication.s3.credentials_secret.as_ref());
        let mut named = keys.chain(s3.map(|_| "AWS_ACCESS_KEY_ID"));
        named.find(|name| !is_set(name)).map(str::to_owned)
    }

    /// Loads the key-encryption keys. `env` looks a variable up.
    ///
    /// # Errors
    /// Names the key that is wrong, and says what to do.
    pub fn key_ring(&self, env: impl Fn(&str) -> Option<String>) -> Result<KeyRing, KeyError> {
        let keys = self.key_encryption.iter().map(|source| source.load(&env)).collect::<Result<_, _>>()?;
        Ok(KeyRing::new(self.cluster, self.index, keys)?)
    }
}

impl KeySource {
    fn of(source: &keys::KeySource) -> Result<Self, ConfigError> {
        let id = source.id.clone();
        let secret = source.secret.as_ref().map(|_| KeyPlace::File(Path::new(KEK_FOLDER).join(&id).join("key")));
        let file = source.file.as_ref().map(|file| KeyPlace::File(file.path.clone().into()));
        let env = source.env.as_ref().map(|variable| KeyPlace::Variable(variable.name.clone()));
        let mut places = [secret, file, env].into_iter().flatten();
        match (places.next(), places.next()) {
            (Some(place), None) => Ok(Self { id, place }),
            _ => {
                let what = format!("key `{id}` needs exactly one of `secret`, `file` and `env`");
                Err(ConfigError::Value { at: "keyEncryption", what })
            }
        }
    }

    fn load(&self, env: impl Fn(&str) -> Option<String>) -> Result<KeyEncryptionKey, KeyError> {
        let (place, found) = match &self.place {
            KeyPlace::File(path) => {
                (format!("file {}", path.display()), std::fs::read(path).map_err(|error| error.to_string()))
            }
            KeyPlace::Variable(name) => {
                let value = env(name).map(String::into_bytes).ok_or_else(|| "is not set".to_owned());
                (format!("environment variable {name}"), value)
            }
        };
        let missing = |why| KeyError::Missing { id: self.id.clone(), place: place.clone(), why };
        let bytes = Zeroizing::new(found.map_err(missing)?);
        let mut key = Zeroizing::new([0; 32]);
        let is_file = matches!(self.place, KeyPlace::File(_));
        if let (Ok(raw), true) = (<[u8; 32]>::try_from(bytes.as_slice()), is_file) {
            *key = raw;
        } else {
            let text = bytes.trim_ascii();
            hex::decode_to_slice(text, key.as_mut_slice()).map_err(|_| KeyError::Malformed {
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

    const GOOD: &str = include_str!("../../../crds/tests/data/node.yaml");

    /// seed: 003-19, 003-24, 003-26
    #[test]
    fn what_only_a_new_container_would_have_is_named() {
        let config = Config::parse(GOOD).unwrap();
        assert_eq!(config.lacked(|_| false).as_deref(), Some("KEK"));
        assert_eq!(config.lacked(|name| name == "KEK"), None);
        let text = format!("{GOOD}replication: {{s3: {{bucket: fleet, credentialsSecret: s3}}}}\n");
        let config = Config::parse(&text).unwrap();
        assert_eq!(config.lacked(|name| name == "KEK").as_deref(), Some("AWS_ACCESS_KEY_ID"));
    }

    #[test]
    fn a_key_has_exactly_one_place() {
        assert!(Config::parse(GOOD).is_ok());
        for wrong in ["{id: one}", "{id: one, env: {name: KEK}, file: {path: /x}}"] {
            let text = GOOD.replace("{id: one, env: {name: KEK}}", wrong);
            let error = Config::parse(&text).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains("key `one` needs exactly one of"), "{wrong}: {error}");
        }
    }

    /// Reads the files that the operator renders for the samples, and the paths that it mounts.
    #[test]
    fn keys_of_secrets_are_looked_for_where_the_pod_mounts_them() {
        let golden = |name: &str| {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../operator/golden").join(name);
            serde_yaml::from_str::<serde_json::Value>(&std::fs::read_to_string(path).unwrap()).unwrap()
        };
        for sample in ["smallest", "full"] {
            let map = golden(&format!("{sample}/config.yaml"));
            let config = Config::parse(map["data"]["node.yaml"].as_str().unwrap()).expect("a node reads it");
            let pod = golden(&format!("{sample}/pod.yaml"));
            let mounts = pod["spec"]["containers"][0]["volumeMounts"].as_array().unwrap().clone();
            let mounted = |folder: &Path| mounts.iter().any(|mount| mount["mountPath"].as_str() == folder.to_str());
            assert!(mounted(config.data()), "{sample}: the state folder is no volume");
            for source in &config.key_encryption {
                if let KeyPlace::File(file) = &source.place {
                    assert!(mounted(file.parent().unwrap()), "{sample}: {} is not mounted", file.display());
                }
            }
        }
    }

    /// A key-encryption key that is missing or of the wrong length is named, and nothing of it is shown.
    ///
    /// seed: 000-04
    #[test]
    fn a_bad_key_encryption_key_is_named_and_never_shown() {
        let config = Config::parse(GOOD).unwrap();
        let missing = config.key_ring(|_| None).unwrap_err().to_string();
        assert!(missing.contains("environment variable KEK is not set"), "{missing}");
        let short = config.key_ring(|_| Some("0badc0de".to_owned())).unwrap_err().to_string();
        assert!(short.contains("holds 8 bytes") && !short.contains("0badc0de"), "{short}");
        assert!(config.key_ring(|_| Some(format!("{}\n", "ab".repeat(32)))).is_ok(), "a newline at the end hurts");
        let file = tempfile::NamedTempFile::new().unwrap();
        let from_file = GOOD.replace("env: {name: KEK}", &format!("file: {{path: {}}}", file.path().display()));
        let config = Config::parse(&from_file).unwrap();
        assert!(matches!(config.key_ring(|_| None), Err(KeyError::Malformed { found: 0, .. })), "an empty file");
        std::fs::write(file.path(), [7; 32]).unwrap();
        assert!(config.key_ring(|_| None).is_ok(), "32 raw bytes in a file");
    }
}
