//! Sealing and opening of objects: `header ‖ AES-256-GCM(zstd(payload))`.
//!
//! The key of an object is derived from the term's key, 32 random bytes and the digest of the whole header, so
//! it is used once; the nonce is therefore zero. The header is the associated data as well: no field can be
//! changed, and no object can be moved to another place, database or term.

use aes_gcm::aead::{Aead as _, AeadInOut as _, KeyInit as _, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use rand::CryptoRng;
use zeroize::Zeroizing;

use crate::format::error::ObjectError;
use crate::format::header::Header;
use crate::keys::TermKey;
use crate::position::Digest;

/// Zstd level of payloads: fast enough to stay off the commit's critical path.
pub(crate) const ZSTD_LEVEL: i32 = 3;

/// Finished object, ready for the bucket.
#[derive(Clone, Debug)]
pub struct Sealed {
    /// Clear part of the object.
    pub header: Header,
    /// Whole object, header included.
    pub bytes: Vec<u8>,
    /// Digest of `bytes`, which the next object of the chain names.
    pub digest: Digest,
}

/// Compresses and seals a payload. Fills in `header.salt`, `header.nonce` and `header.plain_len`.
pub fn seal(key: &TermKey, header: Header, payload: &[u8], rng: &mut impl CryptoRng) -> Sealed {
    let compressed = zstd::bulk::compress(payload, ZSTD_LEVEL).expect("compression into a growing buffer succeeds");
    seal_compressed(key, header, payload.len() as u64, compressed, rng)
}

/// Seals a payload that is already a zstd frame; `plain_len` is its length before compression, in bytes.
pub(crate) fn seal_compressed(
    key: &TermKey,
    mut header: Header,
    plain_len: u64,
    mut body: Vec<u8>,
    rng: &mut impl CryptoRng,
) -> Sealed {
    assert!(
        header.first_seq <= header.seq && header.first_commit <= header.last_commit,
        "an object covers its numbers in ascending order"
    );
    rng.fill_bytes(&mut header.salt);
    rng.fill_bytes(&mut header.nonce);
    header.plain_len = plain_len;
    let mut bytes = header.encode();
    debug_assert!(
        Header::decode(&bytes).is_ok_and(|(read, len)| read == header && len == bytes.len()),
        "a header is read as it was written"
    );
    cipher(key, &header, &bytes)
        .encrypt_in_place(&Nonce::default(), &bytes, &mut body)
        .expect("an object is within AES-GCM's limit of 64 GiB");
    bytes.append(&mut body);
    let digest = Digest::of(&bytes);
    Sealed { header, bytes, digest }
}

/// Opens an object and returns its payload, which the seal proves to be the writer's.
///
/// # Errors
/// [`ObjectError::Seal`] when the object was altered or the key is another; others when the object is malformed.
pub fn open(key: &TermKey, object: &[u8]) -> Result<Zeroizing<Vec<u8>>, ObjectError> {
    let compressed = open_compressed(key, object)?;
    let (header, _) = Header::decode(object)?;
    let plain_len = usize::try_from(header.plain_len).map_err(|_| ObjectError::TooLarge(header.plain_len))?;
    let plain = zstd::bulk::decompress(&compressed, plain_len).map_err(|_| ObjectError::Compression)?;
    if plain.len() != plain_len {
        return Err(ObjectError::Compression);
    }
    Ok(Zeroizing::new(plain))
}

/// Opens an object and returns its payload as a zstd frame, for payloads too large to hold twice.
///
/// # Errors
/// As [`open`].
pub(crate) fn open_compressed(key: &TermKey, object: &[u8]) -> Result<Vec<u8>, ObjectError> {
    let (header, len) = Header::decode(object)?;
    let (clear, sealed) = object.split_at(len);
    cipher(key, &header, clear)
        .decrypt(&Nonce::default(), Payload { msg: sealed, aad: clear })
        .map_err(|_| ObjectError::Seal { term: header.term, seq: header.seq })
}

fn cipher(key: &TermKey, header: &Header, encoded: &[u8]) -> Aes256Gcm {
    let key = key.object_key(&header.salt, &Digest::of(encoded).0);
    Aes256Gcm::new(&(*key).into())
}
