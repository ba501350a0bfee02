//! The keys of a node, and what stands for one in the inventory.

use std::fmt;
use std::str::FromStr;

use keyfleet_threshold::identifiers::{Digest, EpochNumber, PrekeyNumber};
use keyfleet_threshold::round::SecretName;
use rand::CryptoRng;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Names a key that lives in the node's two key stores.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum KeyName {
    /// The seed of the node's identity key. Never retired.
    Identity,
    /// The data key of rows that belong to no epoch. Never retired.
    Node,
    /// The secret of an own prekey.
    Prekey(PrekeyNumber),
    /// The seed of an own dealing.
    DealerSeed(EpochNumber),
    /// The data key of an epoch: it seals the epoch's share.
    Data(EpochNumber),
}

impl From<SecretName> for KeyName {
    /// The key whose destruction destroys the secret: a share dies with the data key that seals it.
    fn from(secret: SecretName) -> Self {
        match secret {
            SecretName::Prekey(number) => Self::Prekey(number),
            SecretName::DealerSeed(number) => Self::DealerSeed(number),
            SecretName::Share(number) => Self::Data(number),
        }
    }
}

/// The name of the entry in both key stores: also part of what a wrap is bound to.
impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity => f.write_str("identity"),
            Self::Node => f.write_str("node"),
            Self::Prekey(number) => write!(f, "prekey-{number}"),
            Self::DealerSeed(number) => write!(f, "seed-{number}"),
            Self::Data(number) => write!(f, "data-{number}"),
        }
    }
}

/// The text is no key's name.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{0}` is not the name of a node's key")]
pub struct KeyNameError(pub String);

impl KeyName {
    fn parse_numbered(text: &str) -> Option<Self> {
        let (kind, digits) = text.split_once('-')?;
        let number: u64 = digits.parse().ok()?;
        match kind {
            "prekey" => Some(Self::Prekey(PrekeyNumber(number))),
            "seed" => Some(Self::DealerSeed(EpochNumber(number))),
            "data" => Some(Self::Data(EpochNumber(number))),
            _ => None,
        }
    }
}

impl FromStr for KeyName {
    type Err = KeyNameError;

    fn from_str(text: &str) -> Result<Self, KeyNameError> {
        let name = match text {
            "identity" => Some(Self::Identity),
            "node" => Some(Self::Node),
            _ => Self::parse_numbered(text),
        };
        // One name, one spelling: `data-07` would be a second entry for the same key.
        name.filter(|name| name.to_string() == text).ok_or_else(|| KeyNameError(text.to_owned()))
    }
}

/// Thirty-two secret bytes. Wiped when dropped; they have no printable form.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct KeyMaterial(pub(crate) [u8; 32]);

impl KeyMaterial {
    /// Takes bytes in.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Fresh random bytes.
    pub fn random(rng: &mut impl CryptoRng) -> Self {
        let mut bytes = [0; 32];
        rng.fill_bytes(&mut bytes);
        Self(bytes)
    }

    /// The bytes: for wrapping, deriving and restoring, and for nothing else.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// Stands for the key in the inventory.
    #[must_use]
    pub fn fingerprint(&self, name: KeyName) -> Fingerprint {
        let digest = Digest::of("KEYFLEET-V1-FINGERPRINT", &[&self.0, name.to_string().as_bytes()]);
        let mut short = [0; 16];
        short.copy_from_slice(&digest.0[..16]);
        Fingerprint(short)
    }
}

impl fmt::Debug for KeyMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyMaterial(redacted)")
    }
}

/// Sixteen bytes that tell one key under a name from another under the same name. A hash of 32 random bytes: it gives
/// nothing away.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Fingerprint(pub [u8; 16]);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_one_name_and_a_name_one_spelling() {
        let names = [
            KeyName::Identity,
            KeyName::Node,
            KeyName::Prekey(PrekeyNumber(7)),
            KeyName::DealerSeed(EpochNumber(0)),
            KeyName::Data(EpochNumber(u64::MAX)),
        ];
        for name in names {
            assert_eq!(name.to_string().parse(), Ok(name), "{name} does not survive its spelling");
        }
        let others =
            ["data-07", "data--1", "data-+1", "data-", "Data-1", "floor", "", "share-1", "node-1", "prekeys-1"];
        for text in others {
            assert!(text.parse::<KeyName>().is_err(), "`{text}` was taken for a key");
        }
    }

    /// seed: 000-09
    #[test]
    fn key_material_never_prints_itself() {
        assert_eq!(format!("{:?}", KeyMaterial::new([0xab; 32])), "KeyMaterial(redacted)");
    }
}
