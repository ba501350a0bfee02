//! The frozen objects under `fixtures/`: what version 2 wrote, every later version reads. Version 1 was never released, and is
//! refused.
//!
//! `KEYFLEET_WRITE_FIXTURES=1` writes them anew. That is right for a new version, in a folder of its own, and
//! never for an old one.

use std::path::PathBuf;

use keyfleet_litestream::chain::ChainCursor;
use keyfleet_litestream::format::header::{Header, Kind};
use keyfleet_litestream::format::{Commit, Op, ReplicaName};
use keyfleet_litestream::keys::{Identity, KeyEncryptionKey, KeyRing};
use keyfleet_litestream::layout;
use keyfleet_litestream::position::CommitNo;
use keyfleet_litestream::term::{Answer, Event, Request, Settings, TermState};
use rand::SeedableRng as _;
use rand_chacha::ChaCha20Rng;

const IMAGE: &[u8] = b"the image of a database file, which is not looked into here";

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/v2")
}

fn replica() -> ReplicaName {
    ReplicaName::new("5f1c/node-2/state").unwrap()
}

fn ring() -> KeyRing {
    let mut ring = KeyRing::with_key(KeyEncryptionKey::new("fixture", [0x42; 32]).unwrap());
    ring.recipients.push(identity().recipient());
    ring
}

fn identity() -> Identity {
    Identity::from_hex(&"17".repeat(32)).unwrap()
}

fn commits() -> [Commit; 2] {
    let first = vec![Op::Write(0, b"page".to_vec()), Op::SetLen(64)];
    let second = vec![Op::Write(60, b"tail and more".to_vec()), Op::SetLen(70)];
    [
        Commit { number: CommitNo(8), time_ms: 1_800_000_000_001, ops: first },
        Commit { number: CommitNo(9), time_ms: 1_800_000_000_777, ops: second },
    ]
}

/// The objects of a first term: opening, base, one segment of two commits.
fn written() -> Vec<(&'static str, String, Vec<u8>)> {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let settings = Settings { replica: replica(), idle_grace_ms: 1000, segment_bytes: 1 << 20 };
    let mut term = TermState::open(settings, None, &ring(), 1_800_000_000_000, b"{}", &mut rng).unwrap();
    let mut objects = Vec::new();
    for what in ["opening", "snapshot", "segment"] {
        let Some(Request::Create { key, bytes }) = term.request(1_800_000_000_000, &mut rng) else {
            panic!("{what} was not offered")
        };
        objects.push((what, key, bytes.to_vec()));
        let mut event = term.answer(Answer::Created, 1_800_000_000_000);
        if event.is_none() {
            // The opening is sent once more, and refused.
            assert!(term.request(1_800_000_000_000, &mut rng).is_some(), "the proof was not offered");
            event = term.answer(Answer::Exists, 1_800_000_000_000);
        }
        match event {
            Some(Event::Opened(_)) => {
                let frame = zstd::bulk::compress(IMAGE, 3).unwrap();
                term.base(frame, IMAGE.len() as u64, CommitNo(7), 1_800_000_000_000, &mut rng);
            }
            Some(Event::Based { .. }) => commits().into_iter().for_each(|commit| term.offer(commit)),
            Some(Event::Durable { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    objects
}

#[test]
fn frozen_objects_of_version_2_are_read() {
    if std::env::var_os("KEYFLEET_WRITE_FIXTURES").is_some() {
        std::fs::create_dir_all(folder()).unwrap();
        for (what, _, bytes) in written() {
            std::fs::write(folder().join(format!("{what}.bin")), bytes).unwrap();
        }
    }
    let read = |what: &str| std::fs::read(folder().join(format!("{what}.bin"))).expect("a frozen fixture");
    let (opening, snapshot, segment) = (read("opening"), read("snapshot"), read("segment"));
    let hash = keyfleet_litestream::position::Digest::of(&opening);
    let seq = keyfleet_litestream::position::Seq(1);
    let offline = KeyRing { identities: vec![identity()], ..KeyRing::default() };
    for keys in [&ring(), &offline] {
        let (mut cursor, frame) = ChainCursor::from_snapshot(&replica(), keys, (seq, hash), &snapshot).unwrap();
        assert_eq!(zstd::bulk::decompress(&frame, 1 << 16).unwrap(), IMAGE);
        assert_eq!(cursor.read_next(&segment).unwrap(), commits());
        assert_eq!((cursor.file_len(), cursor.last_commit(), cursor.time_ms()), (70, CommitNo(9), 1_800_000_000_777));
    }
    for (kind, object) in [(Kind::Opening, &opening), (Kind::Snapshot, &snapshot), (Kind::Segment, &segment)] {
        let (header, len) = Header::decode(object).unwrap();
        assert_eq!(header.kind, kind);
        assert_eq!(header.encode(), object[..len], "the {kind}'s header is written differently today");
    }
    // Digests pin every byte of the fixtures themselves.
    let digests: Vec<String> = [&opening, &snapshot, &segment]
        .iter()
        .map(|object| keyfleet_litestream::position::Digest::of(object).to_string()[..16].to_owned())
        .collect();
    assert_eq!(digests, DIGESTS, "a frozen fixture was changed");
}

/// The sentence says what to do.
#[test]
fn an_object_of_version_1_is_refused_with_a_sentence() {
    let old = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/v1/opening.bin");
    let refused = Header::decode(&std::fs::read(old).expect("a frozen fixture")).expect_err("version 1 was read");
    let text = refused.to_string();
    assert!(text.contains("version 1") && text.contains("another prefix"), "{text}");
}

#[test]
fn no_flipped_byte_of_a_frozen_object_is_accepted() {
    let read = |what: &str| std::fs::read(folder().join(format!("{what}.bin"))).expect("a frozen fixture");
    let (opening, snapshot, segment) = (read("opening"), read("snapshot"), read("segment"));
    let hash = keyfleet_litestream::position::Digest::of(&opening);
    let seq = keyfleet_litestream::position::Seq(1);
    let ring = ring();
    for at in 0..segment.len() {
        let (mut cursor, _) = ChainCursor::from_snapshot(&replica(), &ring, (seq, hash), &snapshot).unwrap();
        let mut flipped = segment.clone();
        flipped[at] ^= 0x10;
        assert!(cursor.read_next(&flipped).is_err(), "a segment with byte {at} flipped was accepted");
    }
    for at in 0..snapshot.len() {
        let mut flipped = snapshot.clone();
        flipped[at] ^= 0x10;
        let begun = ChainCursor::from_snapshot(&replica(), &ring, (seq, hash), &flipped);
        assert!(begun.is_err(), "a snapshot with byte {at} flipped was accepted");
    }
}

#[test]
fn todays_objects_have_the_frozen_layout() {
    for (what, key, bytes) in written() {
        let frozen = std::fs::read(folder().join(format!("{what}.bin"))).expect("a frozen fixture");
        let (today, _) = Header::decode(&bytes).unwrap();
        let (then, _) = Header::decode(&frozen).unwrap();
        assert_eq!(today, then, "the {what} has another header today");
        assert!(key.starts_with(layout::SEQUENCE) || key.starts_with(layout::SNAPSHOTS));
    }
}

const DIGESTS: [&str; 3] = ["ae0585e79112398c", "4b121f2c42d357d5", "cd750656cc4d0fc7"];
