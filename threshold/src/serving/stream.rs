//! Data of any size, encrypted to an identity: a header that holds the key for the identity, then authenticated chunks.
//!
//! ```text
//! header   "KEYFLEET-V1-FILE" ‖ public key (96) ‖ u16 length ‖ identity ‖ U (96) ‖ V (32) ‖ W (32)
//! chunk    up to 65,536 bytes of data under ChaCha20-Poly1305, and a 16-byte tag
//! ```
//! Chunks are all full but the last, which may be short or empty. The STREAM construction (Hoang,
//! Reyhanitabar, Rogaway and Vizár 2015) puts a counter and a last-chunk mark into the nonce, so chunks cannot be dropped,
//! repeated, reordered or cut off unnoticed; the header is every chunk's associated data. Nothing here reads or writes: the
//! caller passes one chunk at a time and needs no more memory than that.

use aead_stream::{DecryptorBE32, EncryptorBE32};
use chacha20poly1305::ChaCha20Poly1305;
use chacha20poly1305::aead::Payload;
use hkdf::Hkdf;
use rand_core::CryptoRng;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::ibe::{DerivedKey, Encapsulation, Identity, OpenError};
use crate::curve::G2;
use crate::encoding::{DecodeError, Reader, Writer};

/// Bytes of data in every chunk but the last.
pub const CHUNK_BYTES: usize = 65_536;

/// Bytes that sealing adds to a chunk.
pub const TAG_BYTES: usize = 16;

const MAGIC: &[u8; 16] = b"KEYFLEET-V1-FILE";

/// Header of a sealed file: the identity it is for, and the data key that only the identity's key opens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// The cluster's public key.
    pub public_key: G2,
    /// The identity to which the data is encrypted.
    pub identity: Vec<u8>,
    encapsulation: Encapsulation<32>,
}

/// Error of opening a stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The identity's key does not open the header.
    #[error(transparent)]
    Key(#[from] OpenError),
    /// A chunk was changed, moved, or is not the last although the data ends.
    #[error("the data was changed or cut off in chunk {chunk}")]
    Chunk {
        /// Position of the chunk, counted from 0.
        chunk: u64,
    },
    /// The identity is longer than a header can say.
    #[error("an identity of {length} bytes: 65,535 are the limit")]
    IdentityTooLong {
        /// Length of the chunk in bytes.
        length: usize,
    },
    /// A chunk of the wrong length: all but the last hold exactly [`CHUNK_BYTES`].
    #[error("chunk {chunk} holds {length} bytes")]
    ChunkLength {
        /// Position of the chunk, counted from 0.
        chunk: u64,
        /// Length of the chunk in bytes.
        length: usize,
    },
}

impl Header {
    /// Begins a stream to `identity`: write the header's bytes, then what the sealer makes of the data.
    ///
    /// # Errors
    /// When the identity is too long.
    pub fn begin(
        public_key: &G2,
        identity: Identity<'_>,
        rng: &mut impl CryptoRng,
    ) -> Result<(Self, Sealer), StreamError> {
        if u16::try_from(identity.0.len()).is_err() {
            return Err(StreamError::IdentityTooLong { length: identity.0.len() });
        }
        let mut key = Zeroizing::new([0; 32]);
        rng.fill_bytes(key.as_mut());
        let encapsulation = Encapsulation::seal(&key, &identity.point(), public_key, rng);
        let header = Self { public_key: *public_key, identity: identity.0.to_vec(), encapsulation };
        let bytes = header.encode();
        let stream = EncryptorBE32::new((&*file_key(&key, &bytes)).into(), &NONCE.into());
        Ok((header, Sealer { stream, header: bytes, chunk: 0 }))
    }

    /// Opens the stream with the key of the header's identity.
    ///
    /// # Errors
    /// When the key is not that of the identity, or the header was changed.
    pub fn open(&self, key: &DerivedKey) -> Result<Opener, StreamError> {
        let key = self.encapsulation.open(key)?;
        let header = self.encode();
        let stream = DecryptorBE32::new((&*file_key(&key, &header)).into(), &NONCE.into());
        Ok(Opener { stream, header, chunk: 0 })
    }

    /// The header's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.raw(MAGIC).raw(&self.public_key.encode());
        let length = u16::try_from(self.identity.len()).expect("checked when the header was made");
        out.u16(length).raw(&self.identity).raw(&self.encapsulation.encode());
        out.finish()
    }

    /// Reads a header from the front of `bytes`; answers how many bytes it took.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] when more bytes are needed, another error when this is no header.
    pub fn read_from(bytes: &[u8]) -> Result<(Self, usize), DecodeError> {
        let mut reader = Reader::new(bytes);
        if reader.array("magic")? != *MAGIC {
            return Err(DecodeError::Invalid { field: "magic" });
        }
        let public_key = reader.g2("public key")?;
        let length = usize::from(reader.u16("identity length")?);
        let identity = reader.slice("identity", length)?.to_vec();
        let encapsulation = Encapsulation::read(&mut reader)?;
        Ok((Self { public_key, identity, encapsulation }, bytes.len() - reader.remaining()))
    }
}

/// The key is used for one stream only, so the nonce's fixed part may be constant.
const NONCE: [u8; 7] = [0; 7];

fn file_key(key: &[u8; 32], header: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut out = Zeroizing::new([0; 32]);
    Hkdf::<Sha256>::new(Some(header), key)
        .expand(b"KEYFLEET-V1-FILE-KEY", out.as_mut())
        .expect("32 bytes are within HKDF's limit");
    out
}

/// Seals one chunk after another.
pub struct Sealer {
    stream: EncryptorBE32<ChaCha20Poly1305>,
    header: Vec<u8>,
    chunk: u64,
}

impl Sealer {
    /// Seals a full chunk that is not the last.
    ///
    /// # Errors
    /// When it does not hold exactly [`CHUNK_BYTES`], or the stream has 2³² chunks.
    pub fn next(&mut self, data: &[u8]) -> Result<Vec<u8>, StreamError> {
        if data.len() != CHUNK_BYTES {
            return Err(StreamError::ChunkLength { chunk: self.chunk, length: data.len() });
        }
        let payload = Payload { msg: data, aad: &self.header };
        let sealed = self.stream.encrypt_next(payload).map_err(|_| StreamError::Chunk { chunk: self.chunk })?;
        self.chunk += 1;
        Ok(sealed)
    }

    /// Seals the last chunk, at most [`CHUNK_BYTES`] long, and ends the stream.
    ///
    /// # Errors
    /// When it is too long.
    pub fn last(self, data: &[u8]) -> Result<Vec<u8>, StreamError> {
        if data.len() > CHUNK_BYTES {
            return Err(StreamError::ChunkLength { chunk: self.chunk, length: data.len() });
        }
        let payload = Payload { msg: data, aad: &self.header };
        self.stream.encrypt_last(payload).map_err(|_| StreamError::Chunk { chunk: self.chunk })
    }
}

/// Opens one chunk after another. Nothing of a chunk is given out before it is authenticated.
pub struct Opener {
    stream: DecryptorBE32<ChaCha20Poly1305>,
    header: Vec<u8>,
    chunk: u64,
}

impl Opener {
    /// Opens a chunk that is not the last: [`CHUNK_BYTES`] + [`TAG_BYTES`] long.
    ///
    /// # Errors
    /// When it was changed, moved, or is the last.
    pub fn next(&mut self, sealed: &[u8]) -> Result<Vec<u8>, StreamError> {
        if sealed.len() != CHUNK_BYTES + TAG_BYTES {
            return Err(StreamError::ChunkLength { chunk: self.chunk, length: sealed.len() });
        }
        let payload = Payload { msg: sealed, aad: &self.header };
        let data = self.stream.decrypt_next(payload).map_err(|_| StreamError::Chunk { chunk: self.chunk })?;
        self.chunk += 1;
        Ok(data)
    }

    /// Opens the last chunk. Only when this succeeds was the whole stream received.
    ///
    /// # Errors
    /// When it was changed, moved, or is not the last.
    pub fn last(self, sealed: &[u8]) -> Result<Vec<u8>, StreamError> {
        let payload = Payload { msg: sealed, aad: &self.header };
        self.stream.decrypt_last(payload).map_err(|_| StreamError::Chunk { chunk: self.chunk })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::curve::SecretScalar;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    fn key_and_public() -> (SecretScalar, G2) {
        let mut rng = ChaCha20Rng::seed_from_u64(3);
        let secret = SecretScalar::random(&mut rng);
        let public_key = G2::of_secret(&secret);
        (secret, public_key)
    }

    fn seal(data: &[u8]) -> (Vec<u8>, Vec<Vec<u8>>) {
        let (_, public_key) = key_and_public();
        let mut rng = ChaCha20Rng::seed_from_u64(4);
        let (header, mut sealer) = Header::begin(&public_key, Identity(b"backups/2026"), &mut rng).unwrap();
        let mut chunks = Vec::new();
        let mut rest = data;
        while rest.len() > CHUNK_BYTES {
            let (head, tail) = rest.split_at(CHUNK_BYTES);
            chunks.push(sealer.next(head).unwrap());
            rest = tail;
        }
        chunks.push(sealer.last(rest).unwrap());
        (header.encode(), chunks)
    }

    fn open(header: &[u8], chunks: &[Vec<u8>]) -> Result<Vec<u8>, StreamError> {
        let (secret, public_key) = key_and_public();
        let (header, length) = Header::read_from(header).unwrap();
        assert_eq!(length, header.encode().len());
        let point = Identity(&header.identity).point();
        let key = DerivedKey::verify(point.times_secret(&secret), &point, &public_key).unwrap();
        let mut opener = header.open(&key)?;
        let mut data = Vec::new();
        let (last, full) = chunks.split_last().unwrap();
        for chunk in full {
            data.extend(opener.next(chunk)?);
        }
        data.extend(opener.last(last)?);
        Ok(data)
    }

    #[test]
    fn data_of_every_length_comes_back() {
        for length in [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 17] {
            let data: Vec<_> = (0..length).map(|i| u8::try_from(i % 251).unwrap()).collect();
            let (header, chunks) = seal(&data);
            assert!(open(&header, &chunks).unwrap() == data, "{length} bytes must come back as they were");
        }
    }

    #[test]
    fn a_stream_that_was_cut_reordered_or_changed_does_not_open() {
        let (header, chunks) = seal(&vec![5; 3 * CHUNK_BYTES]);
        assert_eq!(open(&header, &chunks[..2]), Err(StreamError::Chunk { chunk: 1 }), "cut off");
        let swapped = [chunks[1].clone(), chunks[0].clone(), chunks[2].clone()];
        assert_eq!(open(&header, &swapped), Err(StreamError::Chunk { chunk: 0 }), "reordered");
        let mut changed = chunks.clone();
        changed[2][9] ^= 1;
        assert_eq!(open(&header, &changed), Err(StreamError::Chunk { chunk: 2 }), "changed");
        let (other_header, _) = seal(b"x");
        assert!(open(&other_header, &chunks).is_err() || other_header == header, "the header belongs to the data");
        let mut renamed = header.clone();
        renamed[16 + 96 + 2] ^= 1;
        assert!(open(&renamed, &chunks).is_err(), "another identity in the header");
    }
}
