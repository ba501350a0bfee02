//! Layout of the bucket: the key of each object under the replica's prefix. Numbers are sixteen hexadecimal digits,
//! so that the order of keys is the order of numbers.

use crate::position::{Digest, Seq};

/// Folder of the sequence.
pub const SEQUENCE: &str = "seq/";
/// Folder of the snapshots.
pub const SNAPSHOTS: &str = "snap/";
/// Folder of the merged segments.
pub(crate) const MERGED: &str = "merged/";
/// Folder of the pins that running restores hold.
pub(crate) const PINS: &str = "pin/";
/// Key of the object that holds the lowest sequence number that may still be needed.
pub(crate) const LOWEST_NEEDED: &str = "boundary";

/// Returns the key of an opening or a segment.
#[must_use]
pub fn sequence(seq: Seq) -> String {
    format!("{SEQUENCE}{:016x}", seq.0)
}

/// Returns the key of the snapshot of the state after object `seq`, whose digest is `hash`.
#[must_use]
pub fn snapshot(seq: Seq, hash: Digest) -> String {
    format!("{SNAPSHOTS}{:016x}-{hash}", seq.0)
}

/// Returns the key of a merged segment.
#[must_use]
pub fn merged(first: Seq, last: Seq, hash: Digest) -> String {
    format!("{MERGED}{:016x}-{:016x}-{hash}", first.0, last.0)
}

/// Reads the number in the key of an opening or a segment.
#[must_use]
pub fn parse_sequence(key: &str) -> Option<Seq> {
    parse_number(key.strip_prefix(SEQUENCE)?)
}

/// Reads number and digest in the key of a snapshot.
#[must_use]
pub fn parse_snapshot(key: &str) -> Option<(Seq, Digest)> {
    let (seq, hash) = key.strip_prefix(SNAPSHOTS)?.split_once('-')?;
    Some((parse_number(seq)?, hash.parse().ok()?))
}

/// Reads first number, last number and digest in the key of a merged segment.
#[must_use]
pub(crate) fn parse_merged(key: &str) -> Option<(Seq, Seq, Digest)> {
    let (first, rest) = key.strip_prefix(MERGED)?.split_once('-')?;
    let (last, hash) = rest.split_once('-')?;
    Some((parse_number(first)?, parse_number(last)?, hash.parse().ok()?))
}

/// Reads time (milliseconds since the Unix epoch) and lowest needed number in the key of a pin.
#[must_use]
pub(crate) fn parse_pin(key: &str) -> Option<(u64, Seq)> {
    let mut parts = key.strip_prefix(PINS)?.split('-');
    let (time, seq) = (parts.next()?, parts.next()?);
    Some((u64::from_str_radix(time, 16).ok()?, parse_number(seq)?))
}

/// Returns the key of a pin: the time it was set (milliseconds since the Unix epoch), the lowest number that its
/// restore needs, and random bytes of its owner.
#[must_use]
pub fn pin(time_ms: u64, lowest: Seq, owner: [u8; 8]) -> String {
    format!("{PINS}{time_ms:016x}-{:016x}-{}", lowest.0, hex::encode(owner))
}

fn parse_number(digits: &str) -> Option<Seq> {
    (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok().map(Seq)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_name_what_they_hold_and_sort_by_number() {
        let hash = Digest::of(b"x");
        assert_eq!(parse_sequence(&sequence(Seq(300))), Some(Seq(300)));
        assert_eq!(parse_snapshot(&snapshot(Seq(9), hash)), Some((Seq(9), hash)));
        assert_eq!(parse_merged(&merged(Seq(2), Seq(9), hash)), Some((Seq(2), Seq(9), hash)));
        assert_eq!(parse_pin(&pin(77, Seq(3), [1; 8])), Some((77, Seq(3))));
        assert!(sequence(Seq(9)) < sequence(Seq(10)));
        assert_eq!(parse_sequence("seq/12"), None);
        assert_eq!(parse_snapshot("snap/0000000000000001-zz"), None);
    }
}
