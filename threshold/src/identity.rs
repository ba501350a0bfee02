//! A node's identity key: Ed25519 (RFC 8032), pinned per index, under which everything a node says is signed.
//!
//! Ed25519 signatures are deterministic, so a node that restarts says byte-identical messages; and the same key signs the
//! node's TLS certificate. A TLS 1.3 signature covers 64 spaces and a context string, ours a tag of this crate, so neither
//! passes for the other.

use std::fmt;

use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use rand_core::CryptoRng;
use zeroize::Zeroizing;

use crate::identifiers::{ClusterId, Digest, NodeIndex};

const TAG: &[u8] = b"KEYFLEET-V1-IDENTITY\0";

/// A node's secret identity key. Wiped when dropped; it has no printable form.
pub struct IdentitySecretKey(SigningKey);

impl IdentitySecretKey {
    /// A fresh key.
    pub fn random(rng: &mut impl CryptoRng) -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        rng.fill_bytes(seed.as_mut());
        Self::from_seed(&seed)
    }

    /// The key of a stored 32-byte seed.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The seed, wiped when dropped: for sealing into the node's two key stores, and for nothing else.
    #[must_use]
    pub fn expose_seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// The public half, which the operator pins.
    #[must_use]
    pub fn public(&self) -> IdentityPublicKey {
        IdentityPublicKey(self.0.verifying_key().to_bytes())
    }

    /// Signs the digest of a canonical encoding.
    #[must_use]
    pub fn sign(&self, digest: &Digest) -> Signature {
        Signature(self.0.sign(&tagged(digest)).to_bytes())
    }

    /// Offers this identity for one index of one cluster: the proof that [`IdentityPublicKey::is_offered`] checks.
    #[must_use]
    pub fn offer(&self, cluster: ClusterId, index: NodeIndex) -> Signature {
        self.sign(&offer_digest(cluster, index, &self.public()))
    }
}

/// The public half of an identity key, as it is pinned: 32 bytes, checked when a signature is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdentityPublicKey(pub [u8; 32]);

impl IdentityPublicKey {
    /// Verifies `signature` over `digest` under this key. Weak keys and malleable signatures are refused.
    #[must_use]
    pub fn verifies(&self, digest: &Digest, signature: &Signature) -> bool {
        let verify = || {
            let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
            VerifyingKey::from_bytes(&self.0).is_ok_and(|key| key.verify_strict(&tagged(digest), &signature).is_ok())
        };
        #[cfg(feature = "transparent-group")]
        return crate::verified_before::remember(&self.0, digest, &signature.0, verify);
        #[cfg(not(feature = "transparent-group"))]
        verify()
    }

    /// Verifies that the key signed itself for exactly this index of this cluster.
    #[must_use]
    pub fn is_offered(&self, cluster: ClusterId, index: NodeIndex, proof: &Signature) -> bool {
        self.verifies(&offer_digest(cluster, index, self), proof)
    }
}

impl fmt::Debug for IdentityPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "identity {:?}", Digest(self.0))
    }
}

/// An Ed25519 signature: 64 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; 64]);

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signature(…)")
    }
}

/// SHA-256 over `KEYFLEET-V1-OFFER`, a zero byte, cluster id, index (u32, big-endian) and key.
fn offer_digest(cluster: ClusterId, index: NodeIndex, key: &IdentityPublicKey) -> Digest {
    Digest::of("KEYFLEET-V1-OFFER", &[&cluster.0, &index.value().to_be_bytes(), &key.0])
}

fn tagged(digest: &Digest) -> Vec<u8> {
    [TAG, digest.0.as_slice()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// seed: 002-27
    #[test]
    fn an_identity_for_another_index_or_cluster_is_refused() {
        let identity = IdentitySecretKey::from_seed(&[7; 32]);
        let (cluster, index) = (ClusterId([1; 16]), NodeIndex::new(3).unwrap());
        let proof = identity.offer(cluster, index);
        assert!(identity.public().is_offered(cluster, index, &proof));
        assert!(!identity.public().is_offered(cluster, NodeIndex::new(4).unwrap(), &proof), "another index");
        assert!(!identity.public().is_offered(ClusterId([2; 16]), index, &proof), "another cluster");
        assert!(!IdentitySecretKey::from_seed(&[9; 32]).public().is_offered(cluster, index, &proof), "another key");
    }
}
