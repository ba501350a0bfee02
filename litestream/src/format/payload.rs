//! Payload of segments: commits, each a list of operations on the file in the order in which redb made them.

use crate::format::error::ObjectError;
use crate::format::header::Reader;
use crate::position::CommitNo;

/// Operation on the database file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Length in bytes to which the file was cut or grown. New bytes read as zero.
    SetLen(u64),
    /// Offset in bytes, and the bytes written there.
    Write(u64, Vec<u8>),
}

impl Op {
    /// Returns the memory that the operation holds, in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        if let Self::Write(_, bytes) = self { bytes.len() + 32 } else { 32 }
    }
}

/// Operations of one commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Number of the transaction.
    pub number: CommitNo,
    /// Time of the commit, in milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// Operations, in the order in which redb made them.
    pub ops: Vec<Op>,
}

impl Commit {
    /// Returns the memory that the operations hold, in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.ops.iter().map(Op::size).sum()
    }
}

/// Drops writes that a later write of the same offset and length replaces. A change of length between the two changes nothing:
/// the later write sets all bytes of the earlier one.
#[must_use]
pub fn coalesce(ops: Vec<Op>) -> Vec<Op> {
    let place = |op: &Op| if let Op::Write(offset, bytes) = op { Some((*offset, bytes.len())) } else { None };
    let last: std::collections::HashMap<_, _> =
        ops.iter().enumerate().filter_map(|(index, op)| Some((place(op)?, index))).collect();
    ops.into_iter()
        .enumerate()
        .filter(|(index, op)| place(op).is_none_or(|place| last[&place] == *index))
        .map(|(_, op)| op)
        .collect()
}

/// Encodes the payload of a segment.
///
/// # Panics
/// Panics when the numbers of the commits do not rise by one, or when one write is longer than 4 GiB, which redb does
/// not make.
#[must_use]
pub fn encode_commits(commits: &[Commit]) -> Vec<u8> {
    assert!(
        commits.windows(2).all(|pair| pair[1].number == pair[0].number.next()),
        "numbers of commits rise by one within a segment"
    );
    let mut out = Vec::with_capacity(commits.iter().map(|commit| commit.size() + 20).sum());
    for commit in commits {
        out.extend(commit.number.0.to_be_bytes());
        out.extend(commit.time_ms.to_be_bytes());
        out.extend(u32::try_from(commit.ops.len()).expect("fewer than 2^32 operations").to_be_bytes());
        for op in &commit.ops {
            match op {
                Op::SetLen(len) => {
                    out.push(0);
                    out.extend(len.to_be_bytes());
                }
                Op::Write(offset, bytes) => {
                    out.push(1);
                    out.extend(offset.to_be_bytes());
                    out.extend(u32::try_from(bytes.len()).expect("redb writes far less than 4 GiB").to_be_bytes());
                    out.extend(bytes);
                }
            }
        }
    }
    out
}

/// Reads the payload of a segment.
///
/// # Errors
/// [`ObjectError`] when the payload is cut short or has an unknown operation.
pub fn decode_commits(bytes: &[u8]) -> Result<Vec<Commit>, ObjectError> {
    let mut read = Reader { bytes, at: 0 };
    let mut commits = Vec::new();
    while !read.is_done() {
        let (number, time_ms, count) = (CommitNo(read.u64()?), read.u64()?, read.u32()?);
        let mut ops = Vec::new();
        for _ in 0..count {
            ops.push(match read.u8()? {
                0 => Op::SetLen(read.u64()?),
                1 => {
                    let (offset, len) = (read.u64()?, read.u32()? as usize);
                    Op::Write(offset, read.take(len)?.to_vec())
                }
                other => return Err(ObjectError::Op(other)),
            });
        }
        commits.push(Commit { number, time_ms, ops });
    }
    Ok(commits)
}

/// Applies operations to an image in memory.
///
/// # Errors
/// [`ObjectError::TooLarge`] when an offset or a length does not fit this machine's memory.
pub fn apply(image: &mut Vec<u8>, ops: &[Op]) -> Result<(), ObjectError> {
    for op in ops {
        match op {
            Op::SetLen(len) => image.resize(fit_memory(*len)?, 0),
            Op::Write(offset, bytes) => {
                let start = fit_memory(*offset)?;
                let end = start.checked_add(bytes.len()).ok_or(ObjectError::TooLarge(*offset))?;
                if image.len() < end {
                    image.resize(end, 0);
                }
                image[start..end].copy_from_slice(bytes);
            }
        }
    }
    Ok(())
}

fn fit_memory(len: u64) -> Result<usize, ObjectError> {
    usize::try_from(len).map_err(|_| ObjectError::TooLarge(len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coalescing_around_shrink_and_grow_changes_no_byte() {
        let ops = vec![
            Op::Write(0, vec![1; 4]),
            Op::Write(2, vec![2; 4]),
            Op::Write(0, vec![3; 4]),
            Op::SetLen(3),
            Op::SetLen(8),
            Op::Write(0, vec![4; 4]),
            Op::Write(0, vec![5; 4]),
        ];
        let (mut full, mut short) = (Vec::new(), Vec::new());
        apply(&mut full, &ops).unwrap();
        let coalesced = coalesce(ops.clone());
        apply(&mut short, &coalesced).unwrap();
        assert_eq!(coalesced.len(), ops.len() - 3, "what a later write replaces was kept");
        assert_eq!(full, short);
    }

    #[test]
    fn coalescing_keeps_the_later_of_overlapping_writes() {
        // The first write is replaced by the third; the second overlaps both and must lose to the third only.
        let ops = vec![Op::Write(0, vec![1; 8]), Op::Write(4, vec![2; 2]), Op::Write(0, vec![3; 8])];
        let (mut full, mut short) = (Vec::new(), Vec::new());
        apply(&mut full, &ops).unwrap();
        apply(&mut short, &coalesce(ops)).unwrap();
        assert_eq!(full, short);
    }

    #[test]
    fn a_payload_survives_and_a_cut_one_is_refused() {
        let commits = vec![
            Commit { number: CommitNo(7), time_ms: 1, ops: vec![Op::SetLen(9), Op::Write(3, vec![1, 2])] },
            Commit { number: CommitNo(8), time_ms: 2, ops: vec![] },
        ];
        let bytes = encode_commits(&commits);
        assert_eq!(decode_commits(&bytes).unwrap(), commits);
        for cut in 1..bytes.len() {
            if cut != bytes.len() - 20 {
                assert!(decode_commits(&bytes[..cut]).is_err(), "a payload cut at {cut} was accepted");
            }
        }
    }
}
