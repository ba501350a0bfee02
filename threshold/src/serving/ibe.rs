//! Identity-based encryption (Boneh–Franklin 2001, with the Fujisaki–Okamoto transform as drand's tlock applies it).
//!
//! Anyone encrypts to an identity with the cluster's public key alone; the key that opens it is the cluster's signature over
//! the identity, which the nodes make together when their rules allow it. The mathematics and byte orders are tlock's:
//!
//! | | |
//! |---|---|
//! | Q | the identity's point in G1 |
//! | r | H3(σ, M), a scalar; σ random, as long as M |
//! | U, V, W | r·g2, σ ⊕ H2(e(Q, public key)^r), M ⊕ H4(σ) |
//! | open | σ = V ⊕ H2(e(key, U)), M = W ⊕ H4(σ), and U must equal H3(σ, M)·g2 |
//!
//! An [`Identity`] hashes under a tag of its own; [`timelock_point`] is the beacon's, so unmodified tlock clients work with
//! the beacon purpose and no identity's key is ever a beacon's or a message's signature.

use rand_core::CryptoRng;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::curve::{G1, G2, HashDomain, SecretScalar, pairing_bytes};
use crate::encoding::{DecodeError, Reader, Writer};
use crate::purpose::{Purpose, verifies};

/// Identity that data is encrypted to: any bytes, up to 64 KiB in a sealed file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity<'a>(pub &'a [u8]);

impl Identity<'_> {
    /// The identity's point.
    #[must_use]
    pub fn point(&self) -> G1 {
        G1::hash(self.0, HashDomain::Identity)
    }
}

/// The point to which a timelock ciphertext of drand's clients is bound.
#[must_use]
pub fn timelock_point(round: u64) -> G1 {
    Purpose::beacon(round).point()
}

/// The key of an identity: the cluster's signature over its point. It opens everything encrypted to the identity.
pub struct DerivedKey(G1);

impl DerivedKey {
    /// Checks that `key` is the key of the identity at `point`.
    #[must_use]
    pub fn verify(key: G1, point: &G1, public_key: &G2) -> Option<Self> {
        verifies(public_key, point, &key).then_some(Self(key))
    }

    /// The key's 48 bytes, for handing it to its owner.
    #[must_use]
    pub fn expose(&self) -> Zeroizing<[u8; G1::BYTES]> {
        Zeroizing::new(self.0.encode())
    }
}

/// A key of `N` bytes (16 as in tlock, 32 in Keyfleet's own format), encrypted to an identity.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Encapsulation<const N: usize> {
    /// U.
    pub u: G2,
    /// V.
    pub v: [u8; N],
    /// W.
    pub w: [u8; N],
}

/// The ciphertext was not made for this identity's key, or was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the data was not encrypted to this identity under this cluster's key, or was changed since")]
pub struct OpenError;

impl<const N: usize> Encapsulation<N> {
    const SIZE_FITS: () = assert!(N <= 32, "a key of this scheme is at most one hash long");

    /// Encrypts `message`, itself a random key, to the identity at `point`.
    #[must_use]
    pub fn seal(message: &[u8; N], point: &G1, public_key: &G2, rng: &mut impl CryptoRng) -> Self {
        let () = Self::SIZE_FITS;
        let mut sigma = Zeroizing::new([0; N]);
        rng.fill_bytes(sigma.as_mut());
        let r = h3(sigma.as_ref(), message);
        // e(Q, pk)^r = e(r·Q, pk), and the multiplication is in constant time.
        let mask = h2(&pairing_bytes(&point.times_secret(&r), public_key));
        Self { u: G2::of_secret(&r), v: xor(&sigma, &mask), w: xor(message, &h4(sigma.as_ref())) }
    }

    /// Decrypts with the identity's key.
    ///
    /// # Errors
    /// [`OpenError`]; nothing of the message is given away.
    pub fn open(&self, key: &DerivedKey) -> Result<Zeroizing<[u8; N]>, OpenError> {
        let sigma = Zeroizing::new(xor(&self.v, &h2(&pairing_bytes(&key.0, &self.u))));
        let message = Zeroizing::new(xor(&self.w, &h4(sigma.as_ref())));
        let u = G2::of_secret(&h3(sigma.as_ref(), message.as_ref()));
        if bool::from(u.encode().ct_eq(&self.u.encode())) { Ok(message) } else { Err(OpenError) }
    }

    /// U (96 bytes), V, W: for `N` = 16 the body of an age stanza of type `tlock`.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.raw(&self.u.encode()).raw(&self.v).raw(&self.w);
        out.finish()
    }

    /// Decodes what [`Encapsulation::encode`] wrote.
    ///
    /// # Errors
    /// When the bytes are not exactly one encapsulation with a valid point.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Reader::whole(bytes, Self::read)
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { u: reader.g2("U")?, v: reader.array("V")?, w: reader.array("W")? })
    }
}

fn h2(pairing: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(b"IBE-H2").chain_update(pairing).finalize().into()
}

fn h4(sigma: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(b"IBE-H4").chain_update(sigma).finalize().into()
}

/// The first of SHA-256(i ‖ SHA-256("IBE-H3", σ, M)), i = 1, 2, … (u16, little-endian), whose 255 low bits are a scalar.
///
/// The comparison with the group order takes as long as the number of tries, which depends on σ and M through a hash only.
fn h3(sigma: &[u8], message: &[u8]) -> SecretScalar {
    let inner = Sha256::new().chain_update(b"IBE-H3").chain_update(sigma).chain_update(message).finalize();
    for i in 1..u16::MAX {
        let mut candidate: Zeroizing<[u8; 32]> =
            Zeroizing::new(Sha256::new().chain_update(i.to_le_bytes()).chain_update(inner).finalize().into());
        candidate[0] >>= 1;
        if let Ok(scalar) = SecretScalar::decode(&candidate)
            && !bool::from(scalar.ct_eq(&SecretScalar::zero()))
        {
            return scalar;
        }
    }
    // One try in ten fails: sixty-five thousand in a row do not.
    unreachable!("a hash function that never yields a scalar is broken")
}

fn xor<const N: usize>(a: &[u8; N], mask: &[u8; 32]) -> [u8; N] {
    std::array::from_fn(|i| a[i] ^ mask[i])
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    #[test]
    fn data_opens_for_its_identity_and_for_no_other_key() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let secret = SecretScalar::random(&mut rng);
        let public_key = G2::of_secret(&secret);
        let (alice, bob) = (Identity(b"alice").point(), Identity(b"bob").point());
        let key_of = |point: &G1| DerivedKey::verify(point.times_secret(&secret), point, &public_key).unwrap();
        let sealed = Encapsulation::<32>::seal(&[7; 32], &alice, &public_key, &mut rng);
        let again = Encapsulation::decode(&sealed.encode()).unwrap();
        assert_eq!(again.open(&key_of(&alice)).as_deref(), Ok(&[7; 32]));
        assert_eq!(again.open(&key_of(&bob)), Err(OpenError));
        assert!(DerivedKey::verify(bob.times_secret(&secret), &alice, &public_key).is_none());
        let mut changed = again.clone();
        changed.w[31] ^= 1;
        assert_eq!(changed.open(&key_of(&alice)), Err(OpenError), "a flipped bit must be noticed");
    }

    #[test]
    fn an_identity_that_looks_like_a_beacon_round_has_another_key() {
        let digest: [u8; 32] = Sha256::digest(7u64.to_be_bytes()).into();
        assert_ne!(Identity(&digest).point(), timelock_point(7));
    }
}
