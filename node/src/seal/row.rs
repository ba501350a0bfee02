//! Sealed rows: what the state file holds instead of a value.
//!
//! version (1 byte, 1), nonce (12, random), AES-256-GCM ciphertext and tag (16). Associated data is, each length-prefixed
//! with a u32: label, cluster id, u32 node, table, row key, purpose, u64 epoch, u32 schema version. A row that is moved to
//! another place, or read by a program that means something else by it, does not open.

use aes_gcm::aead::{Aead as _, KeyInit as _, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use keyfleet_threshold::identifiers::{ClusterId, EpochNumber, NodeIndex};
use rand::CryptoRng;
use zeroize::Zeroizing;

use super::name::KeyMaterial;

const VERSION: u8 = 1;
const NONCE_BYTES: usize = 12;

/// Where a row is, and what for.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeIndex,
    /// The table.
    pub table: &'a str,
    /// The row's key in the table.
    pub row: &'a [u8],
    /// Purpose of the value.
    pub purpose: &'a str,
    /// The epoch whose data key seals it; zero for the node's own.
    pub epoch: EpochNumber,
    /// Version of the file's schema.
    pub schema: u32,
}

impl Place<'_> {
    fn associated_data(&self) -> Vec<u8> {
        let (node, epoch) = (self.node.value().to_be_bytes(), self.epoch.0.to_be_bytes());
        let schema = self.schema.to_be_bytes();
        let fields: [&[u8]; 8] = [
            b"KEYFLEET-V1-ROW",
            &self.cluster.0,
            &node,
            self.table.as_bytes(),
            self.row,
            self.purpose.as_bytes(),
            &epoch,
            &schema,
        ];
        let mut out = Vec::new();
        for field in fields {
            out.extend(u32::try_from(field.len()).expect("fields are short").to_be_bytes());
            out.extend(field);
        }
        out
    }
}

/// A row does not open: cut, forged, moved, or sealed under another key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("row {row} of table `{table}` does not open: damaged, moved, or sealed under another key")]
pub struct OpenRowError {
    /// The table.
    pub table: String,
    /// The row's key in hexadecimal.
    pub row: String,
}

/// A key that seals rows.
#[derive(Debug)]
pub struct DataKey<'a>(pub &'a KeyMaterial);

impl DataKey<'_> {
    /// Seals a value for one place.
    #[must_use]
    pub fn seal(&self, place: &Place<'_>, value: &[u8], rng: &mut impl CryptoRng) -> Vec<u8> {
        let mut nonce = [0; NONCE_BYTES];
        rng.fill_bytes(&mut nonce);
        let payload = Payload { msg: value, aad: &place.associated_data() };
        let sealed = self.cipher().encrypt(&Nonce::from(nonce), payload);
        let mut out = vec![VERSION];
        out.extend(nonce);
        out.extend(sealed.expect("rows are far below AES-GCM's limit"));
        out
    }

    /// Opens what was sealed for this place.
    ///
    /// # Errors
    /// [`OpenRowError`].
    pub fn open(&self, place: &Place<'_>, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenRowError> {
        let refused = || OpenRowError { table: place.table.to_owned(), row: hex::encode(place.row) };
        let (&version, rest) = sealed.split_first().ok_or_else(refused)?;
        let (nonce, ciphertext) = rest.split_at_checked(NONCE_BYTES).ok_or_else(refused)?;
        let nonce: [u8; NONCE_BYTES] = nonce.try_into().map_err(|_| refused())?;
        if version != VERSION {
            return Err(refused());
        }
        let payload = Payload { msg: ciphertext, aad: &place.associated_data() };
        self.cipher().decrypt(&Nonce::from(nonce), payload).map(Zeroizing::new).map_err(|_| refused())
    }

    fn cipher(&self) -> Aes256Gcm {
        Aes256Gcm::new(&(*self.0.expose()).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;
    use rand_chacha::ChaCha20Rng;

    /// seed: 001-37, 001-41
    #[test]
    fn a_row_opens_in_its_own_place_alone() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let key = KeyMaterial::new([1; 32]);
        let place = Place {
            cluster: ClusterId([1; 16]),
            node: NodeIndex::new(1).unwrap(),
            table: "shares",
            row: &[7],
            purpose: "share",
            epoch: EpochNumber(7),
            schema: 1,
        };
        let sealed = DataKey(&key).seal(&place, b"secret", &mut rng);
        assert_eq!(DataKey(&key).open(&place, &sealed).unwrap().as_slice(), b"secret");
        let moved = [
            Place { cluster: ClusterId([2; 16]), ..place },
            Place { node: NodeIndex::new(2).unwrap(), ..place },
            Place { table: "state", ..place },
            Place { row: &[8], ..place },
            Place { purpose: "seed", ..place },
            Place { epoch: EpochNumber(8), ..place },
            Place { schema: 2, ..place },
        ];
        for other in moved {
            assert!(DataKey(&key).open(&other, &sealed).is_err(), "opened in {other:?}");
        }
        assert!(DataKey(&KeyMaterial::new([2; 32])).open(&place, &sealed).is_err(), "opened under another key");
        assert_ne!(DataKey(&key).seal(&place, b"secret", &mut rng), sealed, "two seals share a nonce");
    }
}
