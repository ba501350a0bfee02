//! Wraps: a key as a key store holds it, encrypted under a named key-encryption key.
//!
//! | bytes | |
//! |---|---|
//! | 1 | version, 1 |
//! | 1, n | length of the key id, then the id in UTF-8 |
//! | 32 | salt |
//! | 48 | AES-256-GCM of the 32 bytes and the tag; key = HKDF-SHA256(key-encryption key, salt, label), nonce zero |
//!
//! The cipher's key is used once, since its salt is fresh; associated data is label, cluster id, u32 node and key name, so
//! a wrap that is moved to another name, node or cluster opens nowhere.

use aes_gcm::aead::{Aead as _, KeyInit as _, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use hkdf::Hkdf;
use keyfleet_threshold::identifiers::{ClusterId, NodeIndex};
use rand::CryptoRng;
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::name::{KeyMaterial, KeyName};

const VERSION: u8 = 1;
const LABEL: &[u8] = b"KEYFLEET-V1-WRAP";
const SALT_BYTES: usize = 32;

/// A named symmetric key that wraps others. Its name is public and travels with every wrap.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct KeyEncryptionKey {
    #[zeroize(skip)]
    id: String,
    key: [u8; 32],
}

impl KeyEncryptionKey {
    /// Names a key of 32 random bytes. The id has 1 to 64 bytes.
    ///
    /// # Errors
    /// [`WrapError::Id`].
    pub fn new(id: impl Into<String>, key: [u8; 32]) -> Result<Self, WrapError> {
        let id = id.into();
        if (1..=64).contains(&id.len()) { Ok(Self { id, key }) } else { Err(WrapError::Id(id)) }
    }

    /// The public name.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The bytes: for the replica's own wraps, which hang on the same key.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.key
    }

    fn cipher(&self, salt: &[u8]) -> Aes256Gcm {
        let mut key = Zeroizing::new([0; 32]);
        Hkdf::<Sha256>::new(Some(salt), &self.key).expand(LABEL, &mut *key).expect("32 bytes are within HKDF's limit");
        Aes256Gcm::new(&(*key).into())
    }
}

impl std::fmt::Debug for KeyEncryptionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeyEncryptionKey({}, redacted)", self.id)
    }
}

/// The key-encryption keys of a node: the first writes, all of them read.
#[derive(Debug)]
pub struct KeyRing {
    cluster: ClusterId,
    node: NodeIndex,
    keys: Vec<KeyEncryptionKey>,
}

/// Error in a key-encryption key or a wrap.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WrapError {
    /// The configuration is at fault.
    #[error("key id `{0}` must have 1 to 64 bytes")]
    Id(String),
    /// The configuration is at fault.
    #[error("no key-encryption key is configured: nothing could be sealed")]
    Empty,
    /// The configuration is at fault.
    #[error("two key-encryption keys are named `{0}`: every key needs its own id")]
    Twice(String),
    /// The configuration lacks a key, or the entry is another node's.
    #[error("`{name}` is wrapped by key-encryption key `{id}`, which is not configured; add it as a key that reads")]
    NoKey {
        /// The entry.
        name: String,
        /// The id in the wrap.
        id: String,
    },
    /// Another key under the same id, an entry of another node or cluster, or a forgery.
    #[error("key-encryption key `{id}` does not open `{name}`: another key under the same id, or a forged entry")]
    Refused {
        /// The entry.
        name: String,
        /// The id in the wrap.
        id: String,
    },
    /// The entry was cut or overwritten, or is of a later version.
    #[error(
        "`{0}` is not a wrapped key that this release can read; restore it from a backup, or run the release that wrote it"
    )]
    Malformed(String),
}

impl KeyRing {
    /// The ring of one node.
    ///
    /// # Errors
    /// When there is no key, or two have one id.
    pub fn new(cluster: ClusterId, node: NodeIndex, keys: Vec<KeyEncryptionKey>) -> Result<Self, WrapError> {
        if keys.is_empty() {
            return Err(WrapError::Empty);
        }
        if let Some((_, twice)) =
            keys.iter().enumerate().find(|(at, key)| keys[..*at].iter().any(|earlier| earlier.id == key.id))
        {
            return Err(WrapError::Twice(twice.id.clone()));
        }
        Ok(Self { cluster, node, keys })
    }

    /// Returns cluster and index of the node.
    #[must_use]
    pub fn owner(&self) -> (ClusterId, NodeIndex) {
        (self.cluster, self.node)
    }

    /// The keys, the writing one first.
    pub fn keys(&self) -> impl Iterator<Item = &KeyEncryptionKey> {
        self.keys.iter()
    }

    /// The id of the key that wraps.
    #[must_use]
    pub fn writing_id(&self) -> &str {
        &self.keys.first().expect("a ring has at least one key").id
    }

    /// The id of the key-encryption key that a wrap names.
    #[must_use]
    pub fn id_of(wrap: &[u8]) -> Option<&str> {
        let (_, rest) = wrap.split_first()?;
        let (&length, rest) = rest.split_first()?;
        std::str::from_utf8(rest.get(..length.into())?).ok()
    }

    /// Wraps a key under the writing key-encryption key.
    #[must_use]
    pub fn wrap(&self, name: KeyName, key: &KeyMaterial, rng: &mut impl CryptoRng) -> Vec<u8> {
        let writing = self.keys.first().expect("a ring has at least one key");
        let mut out = vec![VERSION, u8::try_from(writing.id.len()).expect("an id has at most 64 bytes")];
        out.extend(writing.id.as_bytes());
        let mut salt = [0; SALT_BYTES];
        rng.fill_bytes(&mut salt);
        out.extend(salt);
        let payload = Payload { msg: key.expose(), aad: &self.associated_data(name) };
        let sealed = writing.cipher(&salt).encrypt(&Nonce::default(), payload);
        out.extend(sealed.expect("32 bytes are within AES-GCM's limit"));
        out
    }

    /// Opens a wrap.
    ///
    /// # Errors
    /// Why it stays closed.
    pub fn unwrap(&self, name: KeyName, wrap: &[u8]) -> Result<KeyMaterial, WrapError> {
        let malformed = || WrapError::Malformed(name.to_string());
        let (&version, rest) = wrap.split_first().ok_or_else(malformed)?;
        let (&length, rest) = rest.split_first().ok_or_else(malformed)?;
        let (id, rest) = rest.split_at_checked(length.into()).ok_or_else(malformed)?;
        let (salt, sealed) = rest.split_at_checked(SALT_BYTES).ok_or_else(malformed)?;
        let id = std::str::from_utf8(id).map_err(|_| malformed())?;
        if version != VERSION {
            return Err(malformed());
        }
        let key = self.keys.iter().find(|key| key.id == id);
        let key = key.ok_or_else(|| WrapError::NoKey { name: name.to_string(), id: id.to_owned() })?;
        let payload = Payload { msg: sealed, aad: &self.associated_data(name) };
        let opened = key.cipher(salt).decrypt(&Nonce::default(), payload);
        let refused = |_| WrapError::Refused { name: name.to_string(), id: id.to_owned() };
        let opened = Zeroizing::new(opened.map_err(refused)?);
        Ok(KeyMaterial::new(opened.as_slice().try_into().map_err(|_| malformed())?))
    }

    fn associated_data(&self, name: KeyName) -> Vec<u8> {
        let mut out = LABEL.to_vec();
        out.extend(self.cluster.0);
        out.extend(self.node.value().to_be_bytes());
        out.extend(name.to_string().as_bytes());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyfleet_threshold::identifiers::EpochNumber;
    use rand::SeedableRng as _;
    use rand_chacha::ChaCha20Rng;

    fn ring(cluster: u8, node: u32, keys: &[(&str, u8)]) -> KeyRing {
        let keys = keys.iter().map(|(id, byte)| KeyEncryptionKey::new(*id, [*byte; 32]).unwrap()).collect();
        KeyRing::new(ClusterId([cluster; 16]), NodeIndex::new(node).unwrap(), keys).unwrap()
    }

    /// seed: 000-03
    #[test]
    fn a_wrap_opens_for_its_name_node_and_cluster_alone() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let (ours, name) = (ring(1, 1, &[("a", 1)]), KeyName::Data(EpochNumber(4)));
        let wrap = ours.wrap(name, &KeyMaterial::new([9; 32]), &mut rng);
        assert_eq!(ours.unwrap(name, &wrap).unwrap().expose(), &[9; 32]);
        let other_name = KeyName::Data(EpochNumber(5));
        assert!(matches!(ours.unwrap(other_name, &wrap), Err(WrapError::Refused { .. })), "moved to another epoch");
        for other in [ring(2, 1, &[("a", 1)]), ring(1, 2, &[("a", 1)]), ring(1, 1, &[("a", 2)])] {
            assert!(matches!(other.unwrap(name, &wrap), Err(WrapError::Refused { .. })), "{other:?} opened it");
        }
        for position in 0..wrap.len() {
            let mut changed = wrap.clone();
            changed[position] ^= 1;
            assert!(ours.unwrap(name, &changed).is_err(), "a change in byte {position} went unnoticed");
            assert!(ours.unwrap(name, &wrap[..position]).is_err(), "a wrap cut at byte {position} opened");
        }
    }

    #[test]
    fn a_rotated_ring_reads_old_wraps_and_writes_new_ones() {
        let mut rng = ChaCha20Rng::seed_from_u64(2);
        let (old, rotated) = (ring(1, 1, &[("a", 1)]), ring(1, 1, &[("b", 2), ("a", 1)]));
        let wrap = old.wrap(KeyName::Node, &KeyMaterial::new([3; 32]), &mut rng);
        assert_eq!(rotated.unwrap(KeyName::Node, &wrap).unwrap().expose(), &[3; 32]);
        assert_eq!((KeyRing::id_of(&wrap), rotated.writing_id()), (Some("a"), "b"), "a wrap does not name its key");
        let fresh = rotated.wrap(KeyName::Node, &KeyMaterial::new([3; 32]), &mut rng);
        assert_eq!(
            old.unwrap(KeyName::Node, &fresh).unwrap_err().to_string(),
            "`node` is wrapped by key-encryption key `b`, which is not configured; add it as a key that reads"
        );
    }
}
