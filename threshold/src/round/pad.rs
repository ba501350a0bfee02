//! Pads: how a dealer seals a share to a receiver.
//!
//! A share is sealed by adding a pad modulo r: every ciphertext opens to some scalar, which the commitments then accept or not.
//! The pad is hashed from the Diffie–Hellman value K = e·PK = x·E and from everything that it must not be used for twice: plan,
//! dealer, receiver, commitments, ephemeral point and prekey. One ephemeral secret serves all receivers of a bundle
//! (Bellare, Boldyreva and Staddon 2003).

use sha2::{Digest as _, Sha512};
use zeroize::Zeroizing;

use crate::curve::{G1, Scalar, SecretPoint, SecretScalar};
use crate::identifiers::{Digest, NodeIndex};

/// Context that all pads of one bundle share.
pub(super) struct PadContext {
    /// Digest of the plan.
    pub plan: Digest,
    /// The bundle's dealer.
    pub dealer: NodeIndex,
    /// Digest of its commitments.
    pub commitments: Digest,
    /// E1 = e·g1.
    pub ephemeral: G1,
}

impl PadContext {
    /// Seals `share` to the receiver with this prekey, under the value that the two ends share.
    pub(super) fn seal(&self, share: &SecretScalar, receiver: NodeIndex, prekey: &G1, shared: &SecretPoint) -> Scalar {
        share.plus(&self.pad(receiver, prekey, &shared.expose())).disclose()
    }

    /// Opens a sealed share. Any other shared value than the right one gives another scalar.
    pub(super) fn open(&self, sealed: &Scalar, receiver: NodeIndex, prekey: &G1, shared: &SecretPoint) -> SecretScalar {
        self.pad(receiver, prekey, &shared.expose()).taken_from(sealed)
    }

    /// Opens a sealed share with a shared value that a complaint made public.
    pub(super) fn open_disclosed(
        &self,
        sealed: &Scalar,
        receiver: NodeIndex,
        prekey: &G1,
        shared: &G1,
    ) -> SecretScalar {
        self.pad(receiver, prekey, &shared.encode()).taken_from(sealed)
    }

    fn pad(&self, receiver: NodeIndex, prekey: &G1, shared: &[u8; G1::BYTES]) -> SecretScalar {
        let mut hash = Sha512::new();
        hash.update(b"KEYFLEET-V2-PAD\0");
        hash.update(self.plan.0);
        hash.update(self.dealer.value().to_be_bytes());
        hash.update(receiver.value().to_be_bytes());
        hash.update(self.commitments.0);
        hash.update(self.ephemeral.encode());
        hash.update(prekey.encode());
        hash.update(shared);
        let wide = Zeroizing::new(hash.finalize().into());
        SecretScalar::from_wide(&wide)
    }
}
