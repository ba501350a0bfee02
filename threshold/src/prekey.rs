//! Prekeys: one-time HPKE keys that a node offers ahead of rounds, so that a share can be sealed to a node that is away.
//!
//! A [`PrekeySet`] holds one X25519 key per dealer *slot* (a dealer's position in the plan). Revealing the key of one slot,
//! which a complaint does, opens what that dealer sealed in that round and nothing else: each set that may be revealed is
//! named by one plan only, and each slot's key is derived from the set's seed one-way.
//!
//! A set marked *last resort* is the exception: when a node is away and its other sets are consumed, plans name this one
//! again and again. Its keys are therefore never revealed (the mark is signed, so no plan can talk a node out of it).

use hkdf::Hkdf;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, aead::ChaCha20Poly1305, kdf::HkdfSha256};
use hpke::{Kem as _, OpModeR, OpModeS, Serializable};
use rand_core::CryptoRng;
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

use crate::encoding::{DecodeError, Reader, Writer};
use crate::identifiers::{ClusterId, Digest, NodeIndex, PrekeySetNumber};
use crate::identity::{IdentityPublicKey, IdentitySecretKey, Signature};

type Kem = X25519HkdfSha256;
type HpkePublicKey = <Kem as hpke::Kem>::PublicKey;
type HpkePrivateKey = <Kem as hpke::Kem>::PrivateKey;

/// Slots of a set for a cluster of `nodes`: max(8, 2·nodes), so that it outlives a doubling of the cluster.
#[must_use]
pub fn slots_for(nodes: usize) -> usize {
    (2 * nodes).max(8)
}

/// The public half of a prekey set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PrekeySet {
    /// The cluster.
    pub cluster: ClusterId,
    /// Index of the node that made the set.
    pub node: NodeIndex,
    /// Number of the set.
    pub number: PrekeySetNumber,
    /// True if plans may name the set more than once; then its keys are never revealed.
    pub last_resort: bool,
    /// One X25519 public key per dealer slot.
    pub slots: Vec<[u8; 32]>,
}

impl PrekeySet {
    /// The digest by which plans name the set.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut out = Writer::default();
        self.write(&mut out);
        Digest::of("KEYFLEET-V1-PREKEYS", &[&out.finish()])
    }

    fn write(&self, out: &mut Writer) {
        out.raw(&self.cluster.0).index(self.node).u64(self.number.0).u8(self.last_resort.into());
        out.list(&self.slots, |out, key| {
            out.raw(key);
        });
    }
}

/// A prekey set as it travels: signed by its node, unchecked until [`SignedPrekeySet::verify`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignedPrekeySet {
    set: PrekeySet,
    signature: Signature,
    /// Of the set. It is asked for at every turn, and a set is long.
    digest: Digest,
}

impl SignedPrekeySet {
    /// The set, once the node's pinned key is found to have signed it.
    #[must_use]
    pub fn verify(&self, identity: &IdentityPublicKey) -> Option<&PrekeySet> {
        identity.verifies(&self.digest, &self.signature).then_some(&self.set)
    }

    /// The set, whoever signed it: for one's own, and for what is only remembered.
    #[must_use]
    pub fn unverified(&self) -> &PrekeySet {
        &self.set
    }

    /// The digest by which the set is fetched; says nothing about the signature.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The canonical bytes: the set, then the signature.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        self.write(&mut out);
        out.finish()
    }

    /// Decodes canonical bytes.
    ///
    /// # Errors
    /// When the bytes are not exactly one set.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Reader::whole(bytes, Self::read)
    }

    pub(crate) fn write(&self, out: &mut Writer) {
        self.set.write(out);
        out.raw(&self.signature.0);
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let set = PrekeySet {
            cluster: reader.cluster()?,
            node: reader.index("node")?,
            number: reader.set_number()?,
            last_resort: reader.bool("last resort")?,
            slots: reader.list("slots", |reader| reader.array("prekey"))?,
        };
        let digest = set.digest();
        Ok(Self { set, signature: Signature(reader.array("signature")?), digest })
    }
}

/// The secret half of a prekey set: one seed, from which each slot's key is derived.
pub struct PrekeySecret {
    cluster: ClusterId,
    node: NodeIndex,
    number: PrekeySetNumber,
    last_resort: bool,
    seed: Zeroizing<[u8; 32]>,
}

impl PrekeySecret {
    /// A new set of `slots` keys.
    pub fn generate(
        cluster: ClusterId,
        node: NodeIndex,
        number: PrekeySetNumber,
        last_resort: bool,
        rng: &mut impl CryptoRng,
    ) -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        rng.fill_bytes(seed.as_mut());
        Self { cluster, node, number, last_resort, seed }
    }

    /// The set again from its stored seed.
    #[must_use]
    pub fn restore(
        cluster: ClusterId,
        node: NodeIndex,
        number: PrekeySetNumber,
        last_resort: bool,
        seed: &[u8; 32],
    ) -> Self {
        Self { cluster, node, number, last_resort, seed: Zeroizing::new(*seed) }
    }

    /// The seed: for wrapping into the node's two key stores, and for nothing else.
    #[must_use]
    pub fn expose_seed(&self) -> &[u8; 32] {
        &self.seed
    }

    /// The set's number.
    #[must_use]
    pub fn number(&self) -> PrekeySetNumber {
        self.number
    }

    /// Returns true for a last resort, whose keys are never revealed.
    #[must_use]
    pub fn is_last_resort(&self) -> bool {
        self.last_resort
    }

    /// The public half, signed.
    #[must_use]
    pub fn offer(&self, slots: usize, identity: &IdentitySecretKey) -> SignedPrekeySet {
        let set = PrekeySet {
            cluster: self.cluster,
            node: self.node,
            number: self.number,
            last_resort: self.last_resort,
            slots: (0..slots).map(|slot| self.slot_key(slot).public()).collect(),
        };
        let digest = set.digest();
        let signature = identity.sign(&digest);
        SignedPrekeySet { set, signature, digest }
    }

    /// The secret key of one slot.
    #[must_use]
    pub fn slot_key(&self, slot: usize) -> SlotKey {
        let mut info = Writer::default();
        info.raw(b"KEYFLEET-V1-PREKEY").raw(&self.cluster.0).index(self.node).u64(self.number.0).u64(slot as u64);
        let mut ikm = Zeroizing::new([0; 32]);
        Hkdf::<Sha256>::new(None, self.seed.as_ref())
            .expand(&info.finish(), ikm.as_mut())
            .expect("32 bytes are within HKDF's limit");
        let (secret, public) = Kem::derive_keypair(ikm.as_ref());
        SlotKey { secret, public: public.to_bytes().into() }
    }
}

/// The secret HPKE key of one slot, with its public half; a complaint reveals it on purpose.
pub struct SlotKey {
    secret: HpkePrivateKey,
    public: [u8; 32],
}

impl SlotKey {
    /// The public half.
    #[must_use]
    pub fn public(&self) -> [u8; 32] {
        self.public
    }

    /// Gives the key away: what a complaint does.
    #[must_use]
    pub fn reveal(&self) -> RevealedKey {
        RevealedKey(self.secret.to_bytes().into())
    }
}

/// The key of one slot after it was revealed: public knowledge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RevealedKey(pub [u8; 32]);

impl RevealedKey {
    /// The slot key, if the bytes are the private half of `public`.
    #[must_use]
    pub fn matching(&self, public: &[u8; 32]) -> Option<SlotKey> {
        let secret = HpkePrivateKey::from_bytes(&self.0).ok()?;
        let own: [u8; 32] = Kem::sk_to_pk(&secret).to_bytes().into();
        (own == *public).then_some(SlotKey { secret, public: own })
    }
}

/// A share sealed to one slot: HPKE base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20-Poly1305 (RFC 9180).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SealedShare {
    /// The encapsulated key.
    pub encapsulated: [u8; 32],
    /// 32 bytes of share and a 16-byte tag.
    pub ciphertext: [u8; 48],
}

impl SealedShare {
    /// Length in bytes.
    pub const BYTES: usize = 80;

    /// Stand-in for a share whose receiver's prekey cannot be sealed to: zeros, which open for nobody.
    pub const IMPOSSIBLE: Self = Self { encapsulated: [0; 32], ciphertext: [0; 48] };
}

const INFO: &[u8] = b"KEYFLEET-V1-SHARE";

/// Seals 32 secret bytes to a slot's public key; `None` when the key is one of X25519's degenerate points.
pub(crate) fn seal(
    public: &[u8; 32],
    secret: &[u8; 32],
    associated_data: &[u8],
    rng: &mut impl CryptoRng,
) -> Option<SealedShare> {
    let public = HpkePublicKey::from_bytes(public).ok()?;
    let (encapsulated, mut context) =
        hpke::setup_sender_with_rng::<ChaCha20Poly1305, HkdfSha256, Kem>(&OpModeS::Base, &public, INFO, rng).ok()?;
    let ciphertext = context.seal(secret, associated_data).ok()?;
    Some(SealedShare {
        encapsulated: encapsulated.to_bytes().into(),
        ciphertext: ciphertext.try_into().expect("32 bytes seal to 48"),
    })
}

/// Opens a sealed share with the slot's key; `None` when it was not sealed to this key under this associated data.
pub(crate) fn open(key: &SlotKey, sealed: &SealedShare, associated_data: &[u8]) -> Option<Zeroizing<[u8; 32]>> {
    let encapsulated = <Kem as hpke::Kem>::EncappedKey::from_bytes(&sealed.encapsulated).ok()?;
    let mut context =
        hpke::setup_receiver::<ChaCha20Poly1305, HkdfSha256, Kem>(&OpModeR::Base, &key.secret, &encapsulated, INFO)
            .ok()?;
    let mut opened = context.open(&sealed.ciphertext, associated_data).ok()?;
    let secret = opened.as_slice().try_into().ok().map(Zeroizing::new);
    opened.zeroize();
    secret
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    fn secret(number: u64) -> PrekeySecret {
        let mut rng = ChaCha20Rng::seed_from_u64(number);
        let node = NodeIndex::new(3).unwrap();
        PrekeySecret::generate(ClusterId([1; 16]), node, PrekeySetNumber(number), false, &mut rng)
    }

    /// seed: 001-46, 002-28
    #[test]
    fn a_share_opens_for_its_slot_and_context_alone() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let set = secret(1);
        let sealed = seal(&set.slot_key(2).public(), &[7; 32], b"here", &mut rng).unwrap();
        assert_eq!(open(&set.slot_key(2), &sealed, b"here").as_deref(), Some(&[7; 32]));
        assert!(open(&set.slot_key(2), &sealed, b"there").is_none(), "another plan or dealer must not open it");
        assert!(open(&set.slot_key(1), &sealed, b"here").is_none(), "another slot must not open it");
        assert!(open(&secret(2).slot_key(2), &sealed, b"here").is_none(), "another set must not open it");
    }

    #[test]
    fn a_revealed_key_is_checked_against_its_public_half() {
        let set = secret(1);
        let revealed = set.slot_key(0).reveal();
        assert!(revealed.matching(&set.slot_key(0).public()).is_some());
        assert!(revealed.matching(&set.slot_key(1).public()).is_none(), "a key of another slot is no evidence");
    }

    #[test]
    fn degenerate_prekeys_are_noticed_by_the_sealer() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        assert!(seal(&[0; 32], &[7; 32], b"", &mut rng).is_none(), "nothing may be sealed to the zero point");
    }

    #[test]
    fn a_signed_set_survives_its_encoding_and_no_change() {
        let identity = IdentitySecretKey::from_seed(&[9; 32]);
        let signed = secret(4).offer(8, &identity);
        let bytes = signed.encode();
        assert!(SignedPrekeySet::decode(&bytes).unwrap().verify(&identity.public()).is_some());
        for position in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[position] ^= 0x40;
            let accepted = SignedPrekeySet::decode(&changed).is_ok_and(|set| set.verify(&identity.public()).is_some());
            assert!(!accepted, "a change in byte {position} went unnoticed");
        }
    }
}
