//! Data of any size, encrypted to an identity: from a reader to a writer, a chunk at a time.
//!
//! The format is [`keyfleet_threshold::serving::stream`]'s. Encrypting is offline. Decrypting has two steps, since the header
//! says whose key is needed: [`Sealed::read`], then [`Sealed::open`] with the key that [`super::Client::derive`] brings.

use std::io::{self, Read, Write};

use keyfleet_threshold::curve::G2;
use keyfleet_threshold::serving::ibe::{DerivedKey, Identity};
use keyfleet_threshold::serving::stream::{CHUNK_BYTES, Header, StreamError, TAG_BYTES};
use zeroize::Zeroizing;

use keyfleet_api::limits::IDENTITY_BYTES_MAX;

/// First bytes of the format.
const MAGIC: &[u8] = b"KEYFLEET-V1-FILE";
/// Bytes of the longest header: magic, public key, length, identity, encapsulation.
const HEADER_BYTES_MAX: usize = 16 + 96 + 2 + IDENTITY_BYTES_MAX + 96 + 32 + 32;
const HEADER_BYTES_FIXED: usize = 16 + 96 + 2;

/// Why a stream was not encrypted or decrypted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealedError {
    /// The input cannot be read.
    #[error("the input cannot be read: {0}")]
    Read(io::Error),
    /// The output cannot be written.
    #[error("the output cannot be written: {0}")]
    Write(io::Error),
    /// The input does not begin as encrypted data does.
    #[error("this is not data that Keyfleet encrypted: {0}")]
    NotSealed(String),
    /// An identity that nodes do not take.
    #[error("the identity has {0} bytes; 1 to {IDENTITY_BYTES_MAX} of UTF-8 are allowed")]
    Identity(usize),
    /// Data that was changed, cut off, or is for another key.
    #[error(transparent)]
    Stream(#[from] StreamError),
}

/// Encrypts everything that `input` gives to `identity`. `seen` is called with the number of bytes read so far.
///
/// # Errors
/// When input or output fail. What was written then is useless, and opens as nothing.
pub fn seal(
    public_key: &G2,
    identity: &str,
    input: &mut dyn Read,
    output: &mut dyn Write,
    seen: &mut dyn FnMut(u64),
) -> Result<(), SealedError> {
    if !(1..=IDENTITY_BYTES_MAX).contains(&identity.len()) {
        return Err(SealedError::Identity(identity.len()));
    }
    let (header, mut sealer) = Header::begin(public_key, Identity(identity.as_bytes()), &mut rand::rng())?;
    let header = header.encode();
    invariant_header_fits(&header);
    output.write_all(&header).map_err(SealedError::Write)?;
    let mut chunks = Chunks::new(CHUNK_BYTES);
    let mut bytes = 0;
    loop {
        let last = chunks.advance(input).map_err(SealedError::Read)?;
        bytes += chunks.current().len() as u64;
        seen(bytes);
        if last {
            output.write_all(&sealer.last(chunks.current())?).map_err(SealedError::Write)?;
            return output.flush().map_err(SealedError::Write);
        }
        output.write_all(&sealer.next(chunks.current())?).map_err(SealedError::Write)?;
    }
}

/// Checks before a write what [`Sealed::read`] demands of every header: the format's first bytes, and its longest length.
///
/// # Panics
/// When the header could not be read back.
fn invariant_header_fits(header: &[u8]) {
    assert!(header.starts_with(MAGIC), "a header begins with the format's name");
    assert!(header.len() <= HEADER_BYTES_MAX, "a header of {} bytes could not be read back", header.len());
}

/// Encrypted data whose header was read.
pub struct Sealed<R> {
    header: Header,
    identity: String,
    input: R,
}

impl<R: Read> Sealed<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// When the input does not begin with a header.
    pub fn read(mut input: R) -> Result<Self, SealedError> {
        let mut bytes = vec![0; HEADER_BYTES_FIXED];
        fill(&mut input, &mut bytes)?;
        let length = usize::from(u16::from_be_bytes([bytes[HEADER_BYTES_FIXED - 2], bytes[HEADER_BYTES_FIXED - 1]]));
        if !bytes.starts_with(MAGIC) {
            return Err(SealedError::NotSealed("it does not begin with KEYFLEET-V1-FILE".to_owned()));
        }
        let whole = HEADER_BYTES_MAX - IDENTITY_BYTES_MAX + length;
        if whole > HEADER_BYTES_MAX {
            return Err(SealedError::Identity(length));
        }
        bytes.resize(whole, 0);
        fill(&mut input, &mut bytes[HEADER_BYTES_FIXED..])?;
        let (header, _) = Header::read_from(&bytes).map_err(|error| SealedError::NotSealed(error.to_string()))?;
        let identity = String::from_utf8(header.identity.clone());
        let identity = identity.map_err(|_| SealedError::NotSealed("its identity is not UTF-8".to_owned()))?;
        Ok(Self { header, identity, input })
    }

    /// Returns the identity that the data is encrypted to. Anyone could have written it, until the data is opened.
    #[must_use]
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Returns the public key of the fleet that can open the data.
    #[must_use]
    pub fn public_key(&self) -> &G2 {
        &self.header.public_key
    }

    /// Decrypts into `output`. `seen` is called with the number of bytes written so far.
    ///
    /// # Errors
    /// When the key is another's, or the data was changed or cut off. What was written until then is authentic, but
    /// incomplete: use it only after success.
    pub fn open(
        mut self,
        key: &DerivedKey,
        output: &mut dyn Write,
        seen: &mut dyn FnMut(u64),
    ) -> Result<(), SealedError> {
        let mut opener = self.header.open(key)?;
        let mut chunks = Chunks::new(CHUNK_BYTES + TAG_BYTES);
        let mut bytes = 0;
        loop {
            let last = chunks.advance(&mut self.input).map_err(SealedError::Read)?;
            if last {
                let data = Zeroizing::new(opener.last(chunks.current())?);
                output.write_all(&data).map_err(SealedError::Write)?;
                seen(bytes + data.len() as u64);
                return output.flush().map_err(SealedError::Write);
            }
            let data = Zeroizing::new(opener.next(chunks.current())?);
            output.write_all(&data).map_err(SealedError::Write)?;
            bytes += data.len() as u64;
            seen(bytes);
        }
    }
}

fn fill(input: &mut impl Read, bytes: &mut [u8]) -> Result<(), SealedError> {
    input.read_exact(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => SealedError::NotSealed("it ends within the header".to_owned()),
        _ => SealedError::Read(error),
    })
}

/// Cuts a reader into chunks, and knows of each whether it is the last: it always holds the next one as well.
struct Chunks {
    size: usize,
    current: Zeroizing<Vec<u8>>,
    next: Option<Zeroizing<Vec<u8>>>,
}

impl Chunks {
    fn new(size: usize) -> Self {
        Self { size, current: Zeroizing::new(Vec::new()), next: None }
    }

    fn current(&self) -> &[u8] {
        &self.current
    }

    /// Goes to the next chunk. Returns true when it is the last.
    fn advance(&mut self, input: &mut dyn Read) -> io::Result<bool> {
        self.current = match self.next.take() {
            Some(next) => next,
            None => self.read(input)?,
        };
        if self.current.len() < self.size {
            return Ok(true);
        }
        let next = self.read(input)?;
        let last = next.is_empty();
        self.next = Some(next);
        Ok(last)
    }

    fn read(&self, input: &mut dyn Read) -> io::Result<Zeroizing<Vec<u8>>> {
        let mut chunk = Zeroizing::new(Vec::with_capacity(self.size));
        input.take(self.size as u64).read_to_end(&mut chunk)?;
        Ok(chunk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyfleet_threshold::curve::SecretScalar;

    fn keys(identity: &str) -> (G2, DerivedKey) {
        let secret = SecretScalar::random(&mut rand::rng());
        let (public_key, point) = (G2::of_secret(&secret), Identity(identity.as_bytes()).point());
        let key = DerivedKey::verify(point.times_secret(&secret), &point, &public_key).unwrap();
        (public_key, key)
    }

    fn sealed(public_key: &G2, data: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        seal(public_key, "backups/2026", &mut &*data, &mut out, &mut |_| ()).unwrap();
        out
    }

    fn open(bytes: &[u8], key: &DerivedKey) -> Result<Vec<u8>, SealedError> {
        let mut out = Vec::new();
        Sealed::read(bytes)?.open(key, &mut out, &mut |_| ()).map(|()| out)
    }

    /// Gives a few bytes at a time, as pipes do.
    struct Drip<'a>(&'a [u8]);

    impl Read for Drip<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = self.0.len().min(buffer.len()).min(7001);
            buffer[..length].copy_from_slice(&self.0[..length]);
            self.0 = &self.0[length..];
            Ok(length)
        }
    }

    #[test]
    fn data_of_every_length_comes_back_through_a_pipe() {
        let (public_key, key) = keys("backups/2026");
        for length in [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, 3 * CHUNK_BYTES + 9] {
            let data: Vec<_> = (0..length).map(|i| u8::try_from(i % 251).unwrap()).collect();
            let bytes = sealed(&public_key, &data);
            let (mut out, mut heard) = (Vec::new(), 0);
            let read = Sealed::read(Drip(&bytes)).unwrap();
            assert_eq!((read.identity(), read.public_key()), ("backups/2026", &public_key));
            read.open(&key, &mut out, &mut |bytes| heard = bytes).unwrap();
            assert!(out == data, "{length} bytes came back as {}", out.len());
            assert_eq!(heard, length as u64, "progress must end at the whole");
        }
    }

    /// Every cut, and every change of a bit in the header and at the chunks' borders.
    #[test]
    fn data_that_was_cut_or_changed_is_refused() {
        let (public_key, key) = keys("backups/2026");
        let bytes = sealed(&public_key, &vec![5; 2 * CHUNK_BYTES]);
        let chunk = CHUNK_BYTES + TAG_BYTES;
        let header = bytes.len() - 2 * chunk;
        let cuts =
            [0, 1, 15, 16, 113, 114, header - 1, header, header + 1, header + 16, header + chunk, bytes.len() - 1];
        for cut in cuts {
            assert!(open(&bytes[..cut], &key).is_err(), "{cut} of {} bytes opened", bytes.len());
        }
        let places = (0..header).chain([header, header + chunk - 1, header + chunk, bytes.len() - 1]);
        for place in places {
            let mut changed = bytes.clone();
            changed[place] ^= 1;
            assert!(open(&changed, &key).is_err(), "a bit changed at {place} went unnoticed");
        }
        let longer = [bytes.as_slice(), b"x"].concat();
        assert!(open(&longer, &key).is_err(), "a byte more went unnoticed");
        assert!(open(&bytes, &keys("backups/2026").1).is_err(), "another cluster's key opened it");
    }

    #[test]
    fn what_was_never_encrypted_is_told_so() {
        let key = keys("x").1;
        let error = open(b"PK\x03\x04 surely a zip archive, and one that is long enough to have had a header ..................................................", &key);
        assert!(matches!(error, Err(SealedError::NotSealed(_))), "{:?}", error.err());
        for identity in [String::new(), "i".repeat(IDENTITY_BYTES_MAX + 1)] {
            let sealed = seal(&keys("x").0, &identity, &mut io::empty(), &mut io::sink(), &mut |_| ());
            assert!(matches!(sealed, Err(SealedError::Identity(_))), "nodes do not take {} bytes", identity.len());
        }
    }
}
