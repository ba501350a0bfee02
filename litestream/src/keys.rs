//! Keys: a term's key, the key-encryption keys and recovery recipients that wrap it, and the wraps.
//!
//! A term's key is random and never stored bare. Each opening and each snapshot carries it wrapped once by the
//! key-encryption key (`AES-256-GCM` under a key derived with a fresh 32-byte salt) and once per recovery
//! recipient (HPKE, RFC 9180, X25519 / HKDF-SHA256 / AES-256-GCM, base mode).

use aes_gcm::aead::{Aead as _, KeyInit as _, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use hkdf::Hkdf;
use hpke::aead::AesGcm256;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use rand::CryptoRng;
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::position::Term;

const WRAP_LABEL: &[u8] = b"keyfleet-litestream v1 term key";
const SALT_LEN: usize = 32;

/// Random key of one term. Every object of the term is sealed under a key derived from it.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct TermKey([u8; 32]);

impl TermKey {
    /// Generates a key.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut key = [0; 32];
        rng.fill_bytes(&mut key);
        Self(key)
    }

    /// Derives the key of one object: HKDF-SHA256 over the term's key, salted with the object's random salt and bound
    /// to its whole header.
    pub(crate) fn object_key(&self, salt: &[u8; 32], header_digest: &[u8; 32]) -> Zeroizing<[u8; 32]> {
        let mut key = Zeroizing::new([0; 32]);
        let hkdf = Hkdf::<Sha256>::new(Some(salt), &self.0);
        hkdf.expand_multi_info(&[b"keyfleet-litestream v1 object", header_digest], &mut *key)
            .expect("32 bytes are within HKDF's limit");
        key
    }

    fn from_plain(mut plain: Vec<u8>) -> Result<Self, KeyError> {
        let key = <[u8; 32]>::try_from(plain.as_slice()).map_err(|_| KeyError::Malformed);
        plain.zeroize();
        Ok(Self(key?))
    }
}

impl std::fmt::Debug for TermKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TermKey(redacted)")
    }
}

/// Named symmetric key that wraps term keys. The name is public, and travels with every wrap.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct KeyEncryptionKey {
    #[zeroize(skip)]
    id: String,
    key: [u8; 32],
}

impl KeyEncryptionKey {
    /// Names a key of 32 random bytes.
    ///
    /// # Errors
    /// [`KeyError::Name`] when the name is empty or longer than 64 bytes.
    pub fn new(id: impl Into<String>, key: [u8; 32]) -> Result<Self, KeyError> {
        let id = id.into();
        if id.is_empty() || id.len() > 64 {
            return Err(KeyError::Name(id));
        }
        Ok(Self { id, key })
    }

    /// Reads a key from 64 hexadecimal digits, as a file or an environment variable holds it.
    ///
    /// # Errors
    /// [`KeyError::Malformed`] when the text is anything else. The error does not repeat the text.
    pub fn from_hex(id: impl Into<String>, text: &str) -> Result<Self, KeyError> {
        let mut key = [0; 32];
        hex::decode_to_slice(text.trim(), &mut key).map_err(|_| KeyError::Malformed)?;
        Self::new(id, key)
    }

    /// Returns the public name.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    fn cipher(&self, salt: &[u8]) -> Aes256Gcm {
        let mut key = Zeroizing::new([0; 32]);
        Hkdf::<Sha256>::new(Some(salt), &self.key)
            .expand(WRAP_LABEL, &mut *key)
            .expect("32 bytes are within HKDF's limit");
        Aes256Gcm::new(&(*key).into())
    }
}

impl std::fmt::Debug for KeyEncryptionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeyEncryptionKey({}, redacted)", self.id)
    }
}

/// Public half of a recovery key (X25519). The holder of the other half can read every term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    id: String,
    public: [u8; 32],
}

impl Recipient {
    /// Reads a recipient from 64 hexadecimal digits, of which the first 16 are its name.
    ///
    /// # Errors
    /// [`KeyError::Malformed`] when the text is not an X25519 public key.
    pub fn from_hex(text: &str) -> Result<Self, KeyError> {
        let mut public = [0; 32];
        hex::decode_to_slice(text.trim(), &mut public).map_err(|_| KeyError::Malformed)?;
        <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(&public).map_err(|_| KeyError::Malformed)?;
        Ok(Self { id: hex::encode(&public[..8]), public })
    }

    /// Returns the public key in hexadecimal.
    #[must_use]
    pub fn to_hex(&self) -> String {
        hex::encode(self.public)
    }
}

/// Private half of a recovery key.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Identity([u8; 32]);

impl Identity {
    /// Generates a recovery key.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut ikm = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *ikm);
        let (secret, _) = X25519HkdfSha256::derive_keypair(&*ikm);
        Self(secret.to_bytes().into())
    }

    /// Reads the private key from 64 hexadecimal digits.
    ///
    /// # Errors
    /// [`KeyError::Malformed`] when the text is anything else.
    pub fn from_hex(text: &str) -> Result<Self, KeyError> {
        let mut secret = [0; 32];
        hex::decode_to_slice(text.trim(), &mut secret).map_err(|_| KeyError::Malformed)?;
        Ok(Self(secret))
    }

    /// Returns the private key in hexadecimal, for the file that is kept offline.
    #[must_use]
    pub fn to_hex(&self) -> Zeroizing<String> {
        Zeroizing::new(hex::encode(self.0))
    }

    /// Returns the recipient to configure.
    #[must_use]
    pub fn recipient(&self) -> Recipient {
        let public: [u8; 32] = X25519HkdfSha256::sk_to_pk(&self.secret()).to_bytes().into();
        Recipient { id: hex::encode(&public[..8]), public }
    }

    fn secret(&self) -> <X25519HkdfSha256 as Kem>::PrivateKey {
        <X25519HkdfSha256 as Kem>::PrivateKey::from_bytes(&self.0).expect("any 32 bytes are an X25519 private key")
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity(redacted)")
    }
}

/// Wrapped key of a term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrap {
    /// Kind of key that wraps it.
    pub kind: WrapKind,
    /// Name of the key-encryption key, or of the recipient.
    pub key_id: String,
    /// Key-encryption key: salt (32), ciphertext (32), tag (16). Recipient: encapsulated key (32), ciphertext
    /// (32), tag (16).
    pub data: Vec<u8>,
}

/// Kind of key that wraps a term's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WrapKind {
    /// [`KeyEncryptionKey`]: AES-256-GCM.
    KeyEncryptionKey = 1,
    /// [`Recipient`]: HPKE.
    Recipient = 2,
}

/// Keys of a process. The first key-encryption key and all recipients wrap; every key-encryption key and every
/// identity unwraps.
#[derive(Debug, Default)]
pub struct KeyRing {
    /// Key-encryption keys, newest first: a rotation puts a new one in front and keeps the old ones while they are
    /// needed.
    pub key_encryption_keys: Vec<KeyEncryptionKey>,
    /// Recovery recipients of new terms.
    pub recipients: Vec<Recipient>,
    /// Recovery identities, for a restore without the key-encryption key.
    pub identities: Vec<Identity>,
}

impl KeyRing {
    /// Returns a ring of one key-encryption key.
    #[must_use]
    pub fn with_key(key: KeyEncryptionKey) -> Self {
        Self { key_encryption_keys: vec![key], ..Self::default() }
    }

    /// Wraps a term's key, once for each key that may open it.
    ///
    /// # Errors
    /// [`KeyError::NothingWraps`] when the ring has neither a key-encryption key nor a recipient: nobody could read
    /// such a replica.
    pub fn wrap(
        &self,
        key: &TermKey,
        replica: &str,
        term: Term,
        rng: &mut impl CryptoRng,
    ) -> Result<Vec<Wrap>, KeyError> {
        let context = wrap_context(replica, term);
        let mut wraps = Vec::new();
        if let Some(kek) = self.key_encryption_keys.first() {
            let mut data = vec![0; SALT_LEN];
            rng.fill_bytes(&mut data);
            let sealed = kek
                .cipher(&data)
                .encrypt(&Nonce::default(), Payload { msg: &key.0, aad: &context })
                .expect("32 bytes are within AES-GCM's limit");
            data.extend(sealed);
            wraps.push(Wrap { kind: WrapKind::KeyEncryptionKey, key_id: kek.id.clone(), data });
        }
        for recipient in &self.recipients {
            let public =
                <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(&recipient.public).map_err(|_| KeyError::Malformed)?;
            let (encapsulated, sealed) = hpke::single_shot_seal_with_rng::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
                &OpModeS::Base,
                &public,
                WRAP_LABEL,
                &key.0,
                &context,
                rng,
            )
            .map_err(|_| KeyError::Malformed)?;
            let mut data = encapsulated.to_bytes().to_vec();
            data.extend(sealed);
            wraps.push(Wrap { kind: WrapKind::Recipient, key_id: recipient.id.clone(), data });
        }
        if wraps.is_empty() { Err(KeyError::NothingWraps) } else { Ok(wraps) }
    }

    /// Opens the first wrap that one of the ring's keys fits.
    ///
    /// # Errors
    /// [`KeyError::NoKey`] when no wrap names one of the ring's keys, [`KeyError::Refused`] when one does and does not
    /// open.
    pub fn unwrap(&self, wraps: &[Wrap], replica: &str, term: Term) -> Result<TermKey, KeyError> {
        let context = wrap_context(replica, term);
        let mut refused = None;
        for wrap in wraps {
            let opened = match wrap.kind {
                WrapKind::KeyEncryptionKey => {
                    let Some(kek) = self.key_encryption_keys.iter().find(|key| key.id == wrap.key_id) else { continue };
                    let Some((salt, sealed)) = wrap.data.split_at_checked(SALT_LEN) else {
                        return Err(KeyError::Malformed);
                    };
                    kek.cipher(salt).decrypt(&Nonce::default(), Payload { msg: sealed, aad: &context }).ok()
                }
                WrapKind::Recipient => {
                    let Some(identity) = self.identities.iter().find(|own| own.recipient().id == wrap.key_id) else {
                        continue;
                    };
                    let Some((encapsulated, sealed)) = wrap.data.split_at_checked(32) else {
                        return Err(KeyError::Malformed);
                    };
                    let encapsulated = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(encapsulated)
                        .map_err(|_| KeyError::Malformed)?;
                    hpke::single_shot_open::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
                        &OpModeR::Base,
                        &identity.secret(),
                        &encapsulated,
                        WRAP_LABEL,
                        sealed,
                        &context,
                    )
                    .ok()
                }
            };
            match opened {
                Some(plain) => return TermKey::from_plain(plain),
                None => refused = Some(wrap.key_id.clone()),
            }
        }
        Err(match refused {
            Some(id) => KeyError::Refused { id, term },
            None => {
                let ids = wraps.iter().map(|wrap| wrap.key_id.as_str()).collect::<Vec<_>>().join(", ");
                KeyError::NoKey { ids, term }
            }
        })
    }
}

fn wrap_context(replica: &str, term: Term) -> Vec<u8> {
    let mut context = WRAP_LABEL.to_vec();
    context.extend(term.0.to_be_bytes());
    context.extend(replica.as_bytes());
    context
}

/// Error of a key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Malformed key: not 32 bytes, or not a point of the curve.
    #[error("a key is malformed: expected 32 bytes, written as 64 hexadecimal digits")]
    Malformed,
    /// Name that does not fit the format.
    #[error("key name `{0}` must have 1 to 64 bytes")]
    Name(String),
    /// Ring without a key to wrap with.
    #[error("neither a key-encryption key nor a recovery recipient is configured: nobody could read the replica")]
    NothingWraps,
    /// Object whose wraps name none of the ring's keys.
    #[error("term {term} is wrapped for [{ids}], none of which was given")]
    NoKey {
        /// Names of the keys that could open it, separated by commas.
        ids: String,
        /// Term of the object.
        term: Term,
    },
    /// Key of the right name with the wrong content, or a forged wrap.
    #[error("key `{id}` does not open the key of term {term}: another key under the same name, or a forged object")]
    Refused {
        /// Name of the key.
        id: String,
        /// Term of the object.
        term: Term,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;
    use rand_chacha::ChaCha20Rng;

    /// A term key opens for the key-encryption key and for each recipient, and for nobody else.
    #[test]
    fn a_term_key_opens_for_the_keys_that_wrap_it() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let identity = Identity::generate(&mut rng);
        let mut ring = KeyRing::with_key(KeyEncryptionKey::new("one", [7; 32]).unwrap());
        ring.recipients.push(identity.recipient());
        let key = TermKey::generate(&mut rng);
        let wraps = ring.wrap(&key, "a/b", Term(4), &mut rng).unwrap();
        assert_eq!(wraps.len(), 2);

        assert_eq!(ring.unwrap(&wraps, "a/b", Term(4)).unwrap().0, key.0);
        let offline = KeyRing { identities: vec![identity], ..KeyRing::default() };
        assert_eq!(offline.unwrap(&wraps, "a/b", Term(4)).unwrap().0, key.0);

        assert!(matches!(ring.unwrap(&wraps, "a/c", Term(4)), Err(KeyError::Refused { .. })), "another replica");
        assert!(matches!(ring.unwrap(&wraps, "a/b", Term(5)), Err(KeyError::Refused { .. })), "another term");
        let other = KeyRing::with_key(KeyEncryptionKey::new("two", [7; 32]).unwrap());
        assert!(matches!(other.unwrap(&wraps, "a/b", Term(4)), Err(KeyError::NoKey { .. })), "another key");
        assert!(matches!(KeyRing::default().wrap(&key, "a", Term(1), &mut rng), Err(KeyError::NothingWraps)));
    }

    #[test]
    fn keys_never_show_their_bytes() {
        let kek = KeyEncryptionKey::from_hex("k", &"ab".repeat(32)).unwrap();
        assert!(!format!("{kek:?}").contains("ab"), "a key-encryption key printed itself");
        let error = KeyEncryptionKey::from_hex("k", "secret-but-short").unwrap_err();
        assert!(!error.to_string().contains("secret-but"), "an error repeated key material");
    }
}
