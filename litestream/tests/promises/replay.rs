//! Replaying what was recorded, prefix by prefix: every boundary at which redb synced must open, and show the
//! last durable state or the one that was being committed, nothing else.
//!
//! `KEYFLEET_SEED=<n>` replays one workload, `KEYFLEET_REPLAY_STEPS=<n>` makes them longer.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use keyfleet_litestream::format::payload::{apply, coalesce, decode_commits, encode_commits};
use keyfleet_litestream::format::{Commit, Op};
use keyfleet_litestream::position::CommitNo;
use keyfleet_litestream::recorder::{Recorder, Tape};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use redb::{Durability, ReadableDatabase as _, StorageBackend};

use crate::support::{TABLE, entries_of, value};

type Contents = BTreeMap<u64, Vec<u8>>;

/// A file in memory that outlives its database.
#[derive(Clone, Debug, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl StorageBackend for Memory {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().len() as u64)
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let file = self.0.lock().unwrap();
        let start = offset as usize;
        let source = file.get(start..start + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(source);
        Ok(())
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.lock().unwrap().resize(len as usize, 0);
        Ok(())
    }
    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut file = self.0.lock().unwrap();
        let end = offset as usize + data.len();
        if file.len() < end {
            file.resize(end, 0);
        }
        file[offset as usize..end].copy_from_slice(data);
        Ok(())
    }
}

/// Backend under the recorder: cuts the tape whenever redb syncs, which is more often than a commit.
#[derive(Clone, Debug, Default)]
struct CutAtSync {
    file: Memory,
    tape: Arc<Mutex<Option<Tape<Self>>>>,
    log: Arc<Mutex<Log>>,
}

#[derive(Debug, Default)]
struct Log {
    cuts: Vec<Cut>,
    durable: Contents,
    committing: Option<Contents>,
}

/// Writes up to one sync, and the states that may be seen after it.
#[derive(Debug)]
struct Cut {
    ops: Vec<Op>,
    durable: Contents,
    committing: Option<Contents>,
    /// `commit()` returned after this one.
    is_commit: bool,
}

impl StorageBackend for CutAtSync {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        if let Some(tape) = &*self.tape.lock().unwrap() {
            let mut log = self.log.lock().unwrap();
            let cut = Cut {
                ops: tape.cut(),
                durable: log.durable.clone(),
                committing: log.committing.clone(),
                is_commit: false,
            };
            log.cuts.push(cut);
        }
        Ok(())
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write(offset, data)
    }
}

#[derive(Clone, Copy, Debug)]
enum Mode {
    OnePhase,
    TwoPhase,
    QuickRepair,
    Mixed,
}

fn seeds() -> Vec<u64> {
    match std::env::var("KEYFLEET_SEED") {
        Ok(seed) => vec![seed.parse().expect("KEYFLEET_SEED is a number")],
        Err(_) => vec![1, 2],
    }
}

fn steps() -> u64 {
    std::env::var("KEYFLEET_REPLAY_STEPS").map_or(120, |steps| steps.parse().expect("a number of steps"))
}

/// Runs a workload, with a clean reopen in the middle, and returns every cut and the file at the end.
fn record(mode: Mode, seed: u64) -> (Vec<Cut>, Vec<u8>) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let under = CutAtSync::default();
    // A small cache makes redb write pages in the middle of transactions as well.
    let cache = if seed.is_multiple_of(2) { 400 << 10 } else { 64 << 20 };
    let mut model = Contents::new();
    let mut savepoint = None;
    for _session in 0..2 {
        let (recorder, tape) = Recorder::new(under.clone());
        tape.start();
        *under.tape.lock().unwrap() = Some(tape.clone());
        let mut database = redb::Builder::new().set_cache_size(cache).create_with_backend(recorder).unwrap();
        for _ in 0..steps() / 2 {
            step(&mut database, mode, &mut rng, &mut model, &mut savepoint, &under.log);
        }
        // A clean close makes lazy commits durable.
        under.log.lock().unwrap().committing = Some(model.clone());
        drop(database);
        // Whatever came after the last sync of it.
        let mut log = under.log.lock().unwrap();
        log.committing = None;
        let durable = model.clone();
        log.durable.clone_from(&durable);
        log.cuts.push(Cut { ops: tape.cut(), durable, committing: None, is_commit: false });
    }
    let file = under.file.0.lock().unwrap().clone();
    let cuts = std::mem::take(&mut under.log.lock().unwrap().cuts);
    (cuts, file)
}

/// Makes one transaction, or a chore.
fn step(
    database: &mut redb::Database,
    mode: Mode,
    rng: &mut ChaCha8Rng,
    model: &mut Contents,
    savepoint: &mut Option<(u64, Contents)>,
    log: &Mutex<Log>,
) {
    if rng.random_ratio(1, 40) {
        if savepoint.is_none() {
            // Makes lazy commits durable as well.
            log.lock().unwrap().committing = Some(model.clone());
            database.compact().unwrap();
            let mut log = log.lock().unwrap();
            log.committing = None;
            log.durable.clone_from(model);
        }
        return;
    }
    let mut txn = database.begin_write().unwrap();
    let lazy = rng.random_ratio(1, 8) && savepoint.is_none();
    txn.set_durability(if lazy { Durability::None } else { Durability::Immediate }).unwrap();
    let (two_phase, quick) = match mode {
        Mode::OnePhase => (false, false),
        Mode::TwoPhase => (true, false),
        Mode::QuickRepair => (false, true),
        Mode::Mixed => (rng.random(), rng.random()),
    };
    txn.set_two_phase_commit(two_phase);
    txn.set_quick_repair(quick && !lazy);
    let mut next = model.clone();
    let mut restored = false;
    match savepoint.take() {
        Some((id, then)) if rng.random_ratio(1, 5) && !lazy => {
            let point = txn.get_persistent_savepoint(id).unwrap();
            txn.restore_savepoint(&point).unwrap();
            txn.delete_persistent_savepoint(id).unwrap();
            next = then;
            restored = true;
        }
        kept => *savepoint = kept,
    }
    if savepoint.is_none() && !restored && rng.random_ratio(1, 25) && !lazy {
        *savepoint = Some((txn.persistent_savepoint().unwrap(), next.clone()));
    }
    {
        let mut table = txn.open_table(TABLE).unwrap();
        let big = rng.random_ratio(1, 12);
        for _ in 0..rng.random_range(1..if big { 60 } else { 5 }) {
            let key = rng.random_range(0..200);
            if rng.random_ratio(1, 4) {
                table.remove(key).unwrap();
                next.remove(&key);
            } else {
                let len = if big { rng.random_range(1000..30_000) } else { rng.random_range(0..9000) };
                let bytes = value(rng.random(), len);
                table.insert(key, bytes.as_slice()).unwrap();
                next.insert(key, bytes);
            }
        }
        if rng.random_ratio(1, 20) {
            table.retain(|key, _| key % 3 == 0).unwrap();
            next.retain(|key, _| key % 3 == 0);
        }
    }
    if rng.random_ratio(1, 10) && savepoint.is_none() && !restored {
        txn.abort().unwrap();
        return;
    }
    log.lock().unwrap().committing = Some(next.clone());
    txn.commit().unwrap();
    let mut log = log.lock().unwrap();
    log.committing = None;
    *model = next;
    if !lazy {
        log.durable.clone_from(model);
        if let Some(last) = log.cuts.last_mut() {
            last.is_commit = true;
            last.durable.clone_from(model);
            last.committing = None;
        }
    }
}

/// Through the same encoding that a segment goes through.
fn shipped(ops: &[Op]) -> Vec<Op> {
    let commit = Commit { number: CommitNo(1), time_ms: 1, ops: coalesce(ops.to_vec()) };
    decode_commits(&encode_commits(&[commit])).unwrap().remove(0).ops
}

fn contents(image: &[u8]) -> Result<(Contents, bool), redb::DatabaseError> {
    let memory = Memory(Arc::new(Mutex::new(image.to_vec())));
    let mut database = redb::Builder::new().set_cache_size(4 << 20).create_with_backend(memory)?;
    let sound = database.check_integrity()?;
    let _ = database.begin_read();
    Ok((entries_of(&database), sound))
}

fn every_boundary_replays(mode: Mode) {
    for seed in seeds() {
        let (cuts, file) = record(mode, seed);
        let mut image = Vec::new();
        let (mut opened, mut commits) = (0, 0);
        for (index, cut) in cuts.iter().enumerate() {
            apply(&mut image, &shipped(&cut.ops)).unwrap();
            // The very first sync of a new file comes before its magic number.
            if index == 0 {
                continue;
            }
            let (found, sound) = contents(&image)
                .unwrap_or_else(|error| panic!("seed {seed}, {mode:?}: boundary {index} does not open: {error}"));
            assert!(sound, "seed {seed}, {mode:?}: boundary {index} fails the integrity check");
            let as_expected = found == cut.durable || cut.committing.as_ref() == Some(&found);
            assert!(as_expected, "seed {seed}, {mode:?}: boundary {index} shows a state that never was");
            opened += 1;
            commits += usize::from(cut.is_commit);
        }
        assert!(commits > 10 && opened >= commits, "seed {seed}: too little was replayed ({commits} of {opened})");
        assert!(image == file, "seed {seed}, {mode:?}: the rebuilt file is not the live file, byte for byte");
    }
}

#[test]
fn every_sync_boundary_replays_with_one_phase_commits() {
    every_boundary_replays(Mode::OnePhase);
}

/// seed: 003-20
#[test]
fn every_sync_boundary_replays_with_two_phase_commits() {
    every_boundary_replays(Mode::TwoPhase);
}

#[test]
fn every_sync_boundary_replays_with_quick_repair() {
    every_boundary_replays(Mode::QuickRepair);
}

#[test]
fn every_sync_boundary_replays_with_modes_mixed() {
    every_boundary_replays(Mode::Mixed);
}

#[test]
fn the_recorder_keeps_redbs_lock() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("locked.redb");
    let file = std::fs::File::options().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
    let (recorder, _tape) = Recorder::new(redb::backends::FileBackend::new(file).unwrap());
    let database = redb::Builder::new().create_with_backend(recorder).unwrap();
    let second = redb::Database::open(&path);
    assert!(
        matches!(second, Err(redb::DatabaseError::DatabaseAlreadyOpen)),
        "a second writer opened the live file: {second:?}"
    );
    drop(database);
    redb::Database::open(&path).unwrap();
}
