//! Canonical bytes: fixed-width big-endian integers, fixed-length fields, counts before lists. One value, one encoding.
//!
//! A decoder takes every byte or refuses; it allocates only what the input can fill, so a hostile count costs nothing.

use crate::curve::{CurveError, G1, G2, Scalar};
use crate::identifiers::{Block, ClusterId, Digest, EpochNumber, NodeIndex, PrekeyNumber, Threshold};

/// Error of decoding: the bytes are not the one encoding of a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The input ended inside the named field.
    #[error("the input ends inside {field}")]
    Truncated {
        /// The field that was being read.
        field: &'static str,
    },
    /// Bytes follow the last field.
    #[error("{count} bytes follow the end of the value")]
    Trailing {
        /// Number of bytes left over.
        count: usize,
    },
    /// A list is longer than any that is ever written. Nothing of it was read.
    #[error("{field} holds more than {max} items")]
    TooMany {
        /// The list.
        field: &'static str,
        /// The most that are written.
        max: usize,
    },
    /// A field holds a value that no encoder writes.
    #[error("{field} holds a value that is never written")]
    Invalid {
        /// The field.
        field: &'static str,
    },
    /// A point or scalar was refused.
    #[error("{field}: {source}")]
    Curve {
        /// The field.
        field: &'static str,
        /// The cause.
        source: CurveError,
    },
}

/// Appends fields to a byte string.
#[derive(Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn u8(&mut self, value: u8) -> &mut Self {
        self.raw(&[value])
    }

    pub(crate) fn u16(&mut self, value: u16) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    /// A u16 count, then each item.
    pub(crate) fn list<T>(&mut self, items: &[T], mut write: impl FnMut(&mut Self, &T)) -> &mut Self {
        let count = u16::try_from(items.len()).expect("no list of this crate reaches 65,536 items");
        self.u16(count);
        for item in items {
            write(self, item);
        }
        self
    }

    /// 0, or 1 and the value.
    pub(crate) fn option<T>(&mut self, value: Option<&T>, write: impl FnOnce(&mut Self, &T)) -> &mut Self {
        match value {
            None => {
                self.u8(0);
            }
            Some(value) => {
                self.u8(1);
                write(self, value);
            }
        }
        self
    }

    /// A u32 length, then the bytes.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        let length = u32::try_from(bytes.len()).expect("no field of this crate reaches four gigabytes");
        self.u32(length).raw(bytes)
    }

    pub(crate) fn index(&mut self, index: NodeIndex) -> &mut Self {
        self.u32(index.value())
    }

    pub(crate) fn digest(&mut self, digest: &Digest) -> &mut Self {
        self.raw(&digest.0)
    }

    pub(crate) fn epoch(&mut self, number: EpochNumber) -> &mut Self {
        self.u64(number.0)
    }
}

/// Takes fields off a byte string.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Reads one whole value and refuses anything after it.
    pub(crate) fn whole<T>(
        bytes: &'a [u8],
        read: impl FnOnce(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<T, DecodeError> {
        let mut reader = Self::new(bytes);
        let value = read(&mut reader)?;
        if reader.0.is_empty() { Ok(value) } else { Err(DecodeError::Trailing { count: reader.0.len() }) }
    }

    pub(crate) fn remaining(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn slice(&mut self, field: &'static str, length: usize) -> Result<&'a [u8], DecodeError> {
        let (head, tail) = self.0.split_at_checked(length).ok_or(DecodeError::Truncated { field })?;
        self.0 = tail;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        let (head, tail) = self.0.split_first_chunk().ok_or(DecodeError::Truncated { field })?;
        self.0 = tail;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        Ok(u8::from_be_bytes(self.array(field)?))
    }

    pub(crate) fn u16(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        Ok(u16::from_be_bytes(self.array(field)?))
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        Ok(u32::from_be_bytes(self.array(field)?))
    }

    pub(crate) fn u64(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        Ok(u64::from_be_bytes(self.array(field)?))
    }

    pub(crate) fn bool(&mut self, field: &'static str) -> Result<bool, DecodeError> {
        match self.u8(field)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Invalid { field }),
        }
    }

    pub(crate) fn list<T>(
        &mut self,
        field: &'static str,
        mut read: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let count = usize::from(self.u16(field)?);
        // Every item takes at least one byte: a count beyond what remains is a lie, and reserves nothing.
        let mut items = Vec::with_capacity(count.min(self.remaining()));
        for _ in 0..count {
            items.push(read(self)?);
        }
        Ok(items)
    }

    /// Reads a list of at most `max` items: items that are costly to check are counted first.
    pub(crate) fn short_list<T>(
        &mut self,
        field: &'static str,
        max: usize,
        read: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let count = self.0.first_chunk().map(|count| usize::from(u16::from_be_bytes(*count)));
        if count.is_some_and(|count| count > max) {
            return Err(DecodeError::TooMany { field, max });
        }
        self.list(field, read)
    }

    pub(crate) fn option<T>(
        &mut self,
        field: &'static str,
        read: impl FnOnce(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, DecodeError> {
        if self.bool(field)? { read(self).map(Some) } else { Ok(None) }
    }

    pub(crate) fn index(&mut self, field: &'static str) -> Result<NodeIndex, DecodeError> {
        NodeIndex::new(self.u32(field)?).ok_or(DecodeError::Invalid { field })
    }

    pub(crate) fn digest(&mut self, field: &'static str) -> Result<Digest, DecodeError> {
        self.array(field).map(Digest)
    }

    pub(crate) fn cluster(&mut self) -> Result<ClusterId, DecodeError> {
        self.array("cluster id").map(ClusterId)
    }

    pub(crate) fn epoch(&mut self, field: &'static str) -> Result<EpochNumber, DecodeError> {
        self.u64(field).map(EpochNumber)
    }

    pub(crate) fn block(&mut self, field: &'static str) -> Result<Block, DecodeError> {
        self.u64(field).map(Block)
    }

    pub(crate) fn threshold(&mut self, field: &'static str) -> Result<Threshold, DecodeError> {
        self.u16(field).map(Threshold)
    }

    pub(crate) fn prekey_number(&mut self) -> Result<PrekeyNumber, DecodeError> {
        self.u64("prekey number").map(PrekeyNumber)
    }

    pub(crate) fn g1(&mut self, field: &'static str) -> Result<G1, DecodeError> {
        G1::decode(&self.array(field)?).map_err(|source| DecodeError::Curve { field, source })
    }

    pub(crate) fn g2(&mut self, field: &'static str) -> Result<G2, DecodeError> {
        G2::decode(&self.array(field)?).map_err(|source| DecodeError::Curve { field, source })
    }

    pub(crate) fn scalar(&mut self, field: &'static str) -> Result<Scalar, DecodeError> {
        Scalar::decode(&self.array(field)?).map_err(|source| DecodeError::Curve { field, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lying_count_is_refused_without_memory() {
        let result = Reader::whole(&[0xff, 0xff, 1], |reader| reader.list("items", |item| item.u8("item")));
        assert_eq!(result, Err(DecodeError::Truncated { field: "item" }));
    }

    #[test]
    fn every_byte_is_accounted_for() {
        assert_eq!(Reader::whole(&[0, 7, 9], |reader| reader.u16("n")), Err(DecodeError::Trailing { count: 1 }));
        assert_eq!(Reader::whole(&[2], |reader| reader.bool("flag")), Err(DecodeError::Invalid { field: "flag" }));
    }
}
