//! Prekeys: a node's Diffie–Hellman key, shown ahead of rounds, so that a share can be sealed to a node that is away.
//!
//! A prekey is a point PK = x·g1. Each node shows one, and makes another when it holds a share that was sealed under it. A plan
//! carries the prekey of every receiver with the node's signature, so that dealers need nothing else, and nobody can put a key
//! of his own in its place. What a complaint gives away is x·E for the ephemeral point E of one bundle whose dealer cheated: it
//! opens nothing that another dealer sealed under the same prekey (Shoup and Gennaro 2002; Baek and Zheng 2003).

use rand_core::CryptoRng;
use zeroize::Zeroizing;

use crate::curve::{CurveError, G1, SecretPoint, SecretScalar};
use crate::encoding::{DecodeError, Reader, Writer};
use crate::identifiers::{ClusterId, Digest, NodeIndex, PrekeyNumber};
use crate::identity::{IdentityPublicKey, IdentitySecretKey, Signature};

/// A prekey as its node shows it and a plan carries it: unchecked until [`SignedPrekey::is_of`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SignedPrekey {
    /// Number of the prekey; a newer one has a higher number.
    pub number: PrekeyNumber,
    /// PK = x·g1.
    pub key: G1,
    /// The node's signature over cluster, index, number and key.
    pub signature: Signature,
}

impl SignedPrekey {
    /// Verifies that `identity` signed the prekey for exactly this index of this cluster.
    #[must_use]
    pub fn is_of(&self, cluster: ClusterId, node: NodeIndex, identity: &IdentityPublicKey) -> bool {
        identity.verifies(&digest(cluster, node, self.number, &self.key), &self.signature)
    }

    /// Returns the canonical bytes: u64 number, key, signature.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        self.write(&mut out);
        out.finish()
    }

    /// Decodes canonical bytes, checking the point but not the signature.
    ///
    /// # Errors
    /// When the bytes are not exactly one prekey.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Reader::whole(bytes, Self::read)
    }

    pub(crate) fn write(&self, out: &mut Writer) {
        out.u64(self.number.0).raw(&self.key.encode()).raw(&self.signature.0);
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            number: reader.prekey_number()?,
            key: reader.g1("prekey")?,
            signature: Signature(reader.array("prekey signature")?),
        })
    }
}

fn digest(cluster: ClusterId, node: NodeIndex, number: PrekeyNumber, key: &G1) -> Digest {
    let mut out = Writer::default();
    out.raw(&cluster.0).index(node).u64(number.0).raw(&key.encode());
    Digest::of("KEYFLEET-V2-PREKEY", &[&out.finish()])
}

/// The secret half of a prekey: x. Wiped when dropped, and it cannot be printed:
///
/// ```compile_fail
/// fn log(secret: &keyfleet_threshold::prekey::PrekeySecret) {
///     println!("{secret:?}");
/// }
/// ```
pub struct PrekeySecret {
    number: PrekeyNumber,
    secret: SecretScalar,
    key: G1,
}

impl PrekeySecret {
    /// Makes a new one.
    pub fn generate(number: PrekeyNumber, rng: &mut impl CryptoRng) -> Self {
        loop {
            let secret = SecretScalar::random(rng);
            if !secret.is_zero() {
                return Self::of(number, secret);
            }
        }
    }

    /// Takes up a stored one.
    ///
    /// # Errors
    /// When the bytes are not a scalar.
    pub fn restore(number: PrekeyNumber, bytes: &[u8; 32]) -> Result<Self, CurveError> {
        let secret = SecretScalar::decode(bytes)?;
        if secret.is_zero() { Err(CurveError::NotAScalar) } else { Ok(Self::of(number, secret)) }
    }

    fn of(number: PrekeyNumber, secret: SecretScalar) -> Self {
        let key = G1::generator().times_secret(&secret);
        Self { number, secret, key }
    }

    /// Returns the bytes: for wrapping into the node's two key stores, and for nothing else.
    #[must_use]
    pub fn expose(&self) -> Zeroizing<[u8; 32]> {
        self.secret.expose()
    }

    /// Returns the prekey's number.
    #[must_use]
    pub fn number(&self) -> PrekeyNumber {
        self.number
    }

    /// Returns the public half.
    #[must_use]
    pub fn public(&self) -> G1 {
        self.key
    }

    /// Signs the public half for showing it.
    #[must_use]
    pub fn offer(&self, cluster: ClusterId, node: NodeIndex, identity: &IdentitySecretKey) -> SignedPrekey {
        let signature = identity.sign(&digest(cluster, node, self.number, &self.key));
        SignedPrekey { number: self.number, key: self.key, signature }
    }

    /// Computes K = x·E: what this node shares with the dealer of one bundle.
    #[must_use]
    pub(crate) fn shared_with(&self, ephemeral: &G1) -> SecretPoint {
        SecretPoint::shared(ephemeral, &self.secret)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    /// Signs any point as a prekey: what a corrupt node can do.
    pub(crate) fn forge(
        number: PrekeyNumber,
        key: G1,
        cluster: ClusterId,
        node: NodeIndex,
        identity: &IdentitySecretKey,
    ) -> SignedPrekey {
        SignedPrekey { number, key, signature: identity.sign(&digest(cluster, node, number, &key)) }
    }

    const CLUSTER: ClusterId = ClusterId([1; 16]);

    /// seed: 001-46, 002-28
    #[test]
    fn a_signed_prekey_survives_its_encoding_and_no_change() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let (identity, node) = (IdentitySecretKey::from_seed(&[9; 32]), NodeIndex::new(3).unwrap());
        let signed = PrekeySecret::generate(PrekeyNumber(4), &mut rng).offer(CLUSTER, node, &identity);
        let bytes = signed.encode();
        assert!(SignedPrekey::decode(&bytes).unwrap().is_of(CLUSTER, node, &identity.public()));
        for position in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[position] ^= 0x40;
            let accepted =
                SignedPrekey::decode(&changed).is_ok_and(|prekey| prekey.is_of(CLUSTER, node, &identity.public()));
            assert!(!accepted, "a change in byte {position} went unnoticed");
        }
        assert!(!signed.is_of(ClusterId([2; 16]), node, &identity.public()), "another cluster's");
        assert!(!signed.is_of(CLUSTER, NodeIndex::new(4).unwrap(), &identity.public()), "another node's");
    }

    /// seed: 001-40
    #[test]
    fn both_ends_share_one_point_and_zero_is_no_secret() {
        let mut rng = ChaCha20Rng::seed_from_u64(2);
        let (prekey, ephemeral) = (PrekeySecret::generate(PrekeyNumber(1), &mut rng), SecretScalar::random(&mut rng));
        let of_dealer = SecretPoint::shared(&prekey.public(), &ephemeral);
        let of_receiver = prekey.shared_with(&G1::generator().times_secret(&ephemeral));
        assert_eq!(of_dealer.expose(), of_receiver.expose());
        let again = PrekeySecret::restore(PrekeyNumber(1), &prekey.expose()).unwrap();
        assert_eq!(again.public(), prekey.public(), "a stored secret is the same prekey");
        assert!(PrekeySecret::restore(PrekeyNumber(1), &[0; 32]).is_err(), "zero opens for everybody");
    }
}
