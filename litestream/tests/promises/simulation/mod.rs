//! Seeded simulation of writers, zombies, owners on new machines, retention and S3 faults, on the same pure core that
//! runs in production, against a model of the acknowledged writes.
//!
//! Here are the world and its random histories; `bucket` is the bucket that processes share, `retention` deletes in it,
//! `traces` are the known histories.
//!
//! `KEYFLEET_SEED=<n>` replays one history, `KEYFLEET_SIMULATIONS=<n>` runs more of them.

mod bucket;
mod retention;
mod traces;

use std::collections::{BTreeMap, BTreeSet};

use keyfleet_litestream::chain::check_floor;
use keyfleet_litestream::format::header::Header;
use keyfleet_litestream::format::payload::apply;
use keyfleet_litestream::format::{Commit, Op};
use keyfleet_litestream::layout;
use keyfleet_litestream::position::{CommitNo, Digest, Head, Position, Seq, Term};
use keyfleet_litestream::start::{Acknowledged, Decision, Intent, Local, Meta, Permissions, Replica, decide};
use keyfleet_litestream::term::{Answer, Event, Request, Settings, TermState};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha20Rng;

use crate::support::{keys, name};
use bucket::{Bucket, Restored};

const IDLE_GRACE_MS: u64 = 1_000;
const RETENTION_GRACE_MS: u64 = 5_000;

/// Disk: the state that survives a crash.
#[derive(Clone, Debug, Default)]
struct Volume {
    /// Entries of eight bytes, one per write.
    image: Vec<u8>,
    meta: Meta,
    acknowledged: Option<Acknowledged>,
    intent: Option<Intent>,
    exists: bool,
}

/// Activity of a process.
enum Doing {
    Looking,
    Fetching(Head, u64),
    Opening(Box<TermState>),
    Running(Box<TermState>),
    /// Local work without the replica.
    Alone,
}

struct Process {
    machine: usize,
    /// Difference of its clock from the bucket's, in milliseconds.
    skew_ms: u64,
    doing: Doing,
}

struct World {
    rng: ChaCha20Rng,
    seed: u64,
    now_ms: u64,
    bucket: Bucket,
    volumes: Vec<Volume>,
    processes: Vec<Process>,
    /// Creates that the network still carries.
    late: Vec<(String, Vec<u8>)>,
    next_entry: u64,
    /// Entries that callers were told are safe.
    acknowledged: BTreeSet<u64>,
    /// Position acknowledged under each number.
    numbers: BTreeMap<Seq, Position>,
    floor: Option<Position>,
    trace: Vec<String>,
    acknowledgements: u64,
    fenced: u64,
    collected: u64,
    steps: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            rng: ChaCha20Rng::seed_from_u64(seed),
            seed,
            now_ms: 1_000_000,
            bucket: Bucket::default(),
            volumes: vec![Volume::default(); 3],
            processes: Vec::new(),
            late: Vec::new(),
            next_entry: 1,
            acknowledged: BTreeSet::new(),
            numbers: BTreeMap::new(),
            floor: None,
            trace: Vec::new(),
            acknowledgements: 0,
            fenced: 0,
            collected: 0,
            steps: 0,
        }
    }

    fn say(&mut self, what: impl std::fmt::Display) {
        self.trace.push(format!("{:>9} {what}", self.now_ms));
    }

    fn fail(&self, what: &str) -> ! {
        let from = self.trace.len().saturating_sub(60);
        panic!("seed {}: {what}\nlast events:\n{}", self.seed, self.trace[from..].join("\n"));
    }

    /// Makes one random event.
    fn step(&mut self) {
        match self.rng.random_range(0..100) {
            0..3 => self.now_ms += self.rng.random_range(0..10_000),
            3..7 => {
                let machine = self.rng.random_range(0..self.volumes.len());
                self.begin(machine);
            }
            7..9 if !self.processes.is_empty() => {
                let index = self.rng.random_range(0..self.processes.len());
                let gone = self.processes.remove(index);
                self.say(format_args!("machine {}: killed", gone.machine));
            }
            9 => {
                let machine = self.rng.random_range(0..self.volumes.len());
                if !self.processes.iter().any(|process| process.machine == machine) {
                    self.volumes[machine] = Volume::default();
                    self.say(format_args!("machine {machine}: volume lost"));
                }
            }
            10 => {
                // A volume is put back to an older copy: the same as a copy that another machine kept.
                let (from, to) = (self.rng.random_range(0..3), self.rng.random_range(0..3));
                if !self.processes.iter().any(|process| process.machine == to) {
                    self.volumes[to] = self.volumes[from].clone();
                    self.say(format_args!("machine {to}: volume replaced by a copy of machine {from}'s"));
                }
            }
            11..14 => self.collect(),
            14..18 if !self.late.is_empty() => {
                let index = self.rng.random_range(0..self.late.len());
                let (key, bytes) = self.late.remove(index);
                let made = self.bucket.create(&key, &bytes, self.now_ms);
                self.say(format_args!("a late PUT of {key} arrives: {made}"));
            }
            14..18 => {}
            _ if !self.processes.is_empty() => {
                let index = self.rng.random_range(0..self.processes.len());
                self.advance(index);
            }
            _ => {}
        }
        self.now_ms += self.rng.random_range(0..40);
        // What is lost stays lost: looking now and then finds it, and the seed finds the step.
        self.steps += 1;
        if self.steps.is_multiple_of(12) {
            self.invariant_nothing_acknowledged_is_lost();
        }
    }

    fn begin(&mut self, machine: usize) {
        if self.processes.iter().any(|process| process.machine == machine) {
            return;
        }
        let skew_ms = self.rng.random_range(0..500_000);
        self.processes.push(Process { machine, skew_ms, doing: Doing::Looking });
        self.say(format_args!("machine {machine}: starts"));
    }

    fn advance(&mut self, index: usize) {
        let mut process = self.processes.remove(index);
        let now_ms = self.now_ms + process.skew_ms;
        let machine = process.machine;
        process.doing = match process.doing {
            Doing::Looking => match self.look(machine) {
                Some(doing) => doing,
                None => return,
            },
            Doing::Fetching(head, seen_ms) => match self.fetch(machine, head, seen_ms) {
                Some(doing) => doing,
                None => Doing::Looking,
            },
            Doing::Opening(mut term) => match self.exchange(&mut term) {
                Some(Event::Opened(position)) => {
                    self.say(format_args!("machine {machine}: opened term {} at seq {}", position.term, position.seq));
                    let volume = &mut self.volumes[machine];
                    let commit = volume.meta.commit.next();
                    volume.meta = Meta {
                        database: term.database(),
                        term: position.term,
                        commit,
                        linked: commit,
                        time_ms: now_ms,
                    };
                    volume.exists = true;
                    let (image, meta) = (volume.image.clone(), volume.meta);
                    let frame = zstd::bulk::compress(&image, 1).unwrap();
                    term.base(frame, image.len() as u64, meta.commit, meta.time_ms, &mut self.rng);
                    self.commit(machine, Some(&mut term), false, now_ms);
                    Doing::Running(term)
                }
                Some(Event::Lost) => {
                    self.say(format_args!("machine {machine}: lost the race for a term"));
                    Doing::Looking
                }
                _ => Doing::Opening(term),
            },
            Doing::Running(mut term) => {
                if self.rng.random_ratio(1, 3) {
                    self.commit(machine, Some(&mut term), true, now_ms);
                }
                match self.exchange(&mut term) {
                    Some(Event::Durable { position, commit, .. }) => self.acknowledge(machine, position, commit),
                    Some(Event::Fenced { seq }) => {
                        self.fenced += 1;
                        self.say(format_args!("machine {machine}: fenced at seq {seq}"));
                        return;
                    }
                    _ => {}
                }
                if self.rng.random_ratio(1, 30)
                    && let Some((position, commit)) = term.durable()
                    && term.is_idle()
                {
                    let volume = &self.volumes[machine];
                    let frame = zstd::bulk::compress(&volume.image, 1).unwrap();
                    let len = volume.image.len() as u64;
                    let sealed = term.sealer().snapshot(frame, len, position, commit, term.time_ms(), &mut self.rng);
                    let key = layout::snapshot(position.seq, position.hash);
                    self.bucket.create(&key, &sealed.bytes, self.now_ms);
                    self.say(format_args!("machine {machine}: snapshot at seq {}", position.seq));
                }
                Doing::Running(term)
            }
            Doing::Alone => {
                self.commit(machine, None, true, now_ms);
                if self.rng.random_ratio(1, 4) { Doing::Looking } else { Doing::Alone }
            }
        };
        self.processes.push(process);
    }

    fn look(&mut self, machine: usize) -> Option<Doing> {
        let now_ms = self.now_ms;
        let volume = &self.volumes[machine];
        let local = volume.exists.then_some(Local {
            meta: Some(volume.meta),
            acknowledged: volume.acknowledged,
            intent: volume.intent,
            adopts_over: None,
            is_damaged: false,
        });
        let silent = self.rng.random_ratio(1, 10);
        let head = self.bucket.head();
        let replica = if silent { Replica::Silent } else { head.map_or(Replica::Absent, Replica::Present) };
        let permissions = Permissions { unproven: true, ..Permissions::default() };
        let decision = decide(local, replica, self.floor, permissions);
        self.say(format_args!("machine {machine}: {decision:?}"));
        match decision {
            Decision::Create | Decision::Keep | Decision::Adopt => Some(self.open(machine, head, now_ms)),
            Decision::Restore | Decision::SetAside(_) => Some(Doing::Fetching(head.expect("present"), now_ms)),
            Decision::KeepUnproven => Some(Doing::Alone),
            Decision::Refuse(_) | Decision::KeepContradicted(_) => None,
        }
    }

    fn fetch(&mut self, machine: usize, head: Head, seen_ms: u64) -> Option<Doing> {
        match self.bucket.restore(&keys(), head) {
            Ok(Some(restored)) => {
                if let Some(floor) = self.floor {
                    let seen = self.bucket.get(&layout::sequence(floor.seq)).map(Digest::of);
                    if check_floor(restored.position, floor, seen).is_err() {
                        // The look was older than the floor: look again.
                        return None;
                    }
                }
                let Restored { image, position, commit, time_ms } = restored;
                let database = head.database;
                self.say(format_args!("machine {machine}: restored {}:{}", position.term, position.seq));
                self.volumes[machine] = Volume {
                    image,
                    meta: Meta { database, term: position.term, commit, linked: commit, time_ms },
                    acknowledged: Some(Acknowledged { position, commit }),
                    intent: None,
                    exists: true,
                };
            }
            Ok(None) if self.floor.is_none() && !self.volumes[machine].exists => {}
            // A base that is not there yet, or was collected meanwhile: look again.
            Ok(None) | Err(_) => return None,
        }
        Some(self.open(machine, Some(head), seen_ms))
    }

    fn open(&mut self, machine: usize, head: Option<Head>, seen_ms: u64) -> Doing {
        let settings = Settings { replica: name(), idle_grace_ms: IDLE_GRACE_MS, segment_bytes: 200 };
        let term = TermState::open(settings, head, &keys(), seen_ms, b"", &mut self.rng).unwrap();
        let (seq, nonce) = term.intent().expect("an opening");
        let (after_term, after_commit) = head.map_or((Term(0), CommitNo(0)), |h| (h.position.term, h.last_commit));
        let volume = &mut self.volumes[machine];
        volume.intent = Some(Intent { seq, nonce, after_term, after_commit });
        // Numbers never repeat.
        volume.meta.commit = volume.meta.commit.max(after_commit);
        Doing::Opening(Box::new(term))
    }

    /// Commits a local transaction: durable on the volume, then offered to the term.
    fn commit(&mut self, machine: usize, term: Option<&mut TermState>, with_entry: bool, now_ms: u64) {
        let volume = &mut self.volumes[machine];
        let number = volume.meta.commit.next();
        let mut ops = Vec::new();
        if with_entry {
            ops.push(Op::Write(volume.image.len() as u64, self.next_entry.to_be_bytes().to_vec()));
            self.next_entry += 1;
        }
        apply(&mut volume.image, &ops).unwrap();
        volume.meta.commit = number;
        volume.meta.time_ms = now_ms;
        volume.exists = true;
        if let Some(term) = term {
            volume.meta.linked = number;
            term.offer(Commit { number, time_ms: volume.meta.time_ms, ops });
        }
    }

    /// Makes one request, with what the network does to it. The time is the bucket's, before the request as it was heard last;
    /// what this machine's clock says may be anything.
    fn exchange(&mut self, term: &mut TermState) -> Option<Event> {
        let heard_ms = self.now_ms - self.rng.random_range(0..600);
        let request = term.request(heard_ms, &mut self.rng)?;
        let fault = self.rng.random_range(0..20);
        let answer = match request {
            _ if fault == 0 => Answer::Unknown,
            Request::Create { key, bytes } if fault == 1 => {
                self.say(format_args!("PUT {key} is late"));
                self.late.push((key, bytes.to_vec()));
                Answer::Unknown
            }
            Request::Create { key, bytes } => {
                let made = self.bucket.create(&key, &bytes, self.now_ms);
                match (fault, made) {
                    (2 | 3, _) => Answer::Unknown,
                    (_, true) => Answer::Created,
                    (_, false) => Answer::Exists,
                }
            }
            Request::ReadBack { key } => Answer::Object(self.bucket.get(&key).map(<[u8]>::to_vec)),
            Request::ReadLowestNeeded => {
                Answer::LowestNeeded(self.bucket.lowest_needed.map(|(lowest_needed, _)| lowest_needed))
            }
        };
        self.now_ms += self.rng.random_range(0..40);
        term.answer(answer, self.now_ms)
    }

    fn acknowledge(&mut self, machine: usize, position: Position, commit: CommitNo) {
        self.acknowledgements += 1;
        self.say(format_args!("machine {machine}: acknowledged {}:{} (commit {commit})", position.term, position.seq));
        if let Some(other) = self.numbers.insert(position.seq, position)
            && other != position
        {
            self.fail(&format!("seq {} was acknowledged twice: as {other} and as {position}", position.seq));
        }
        let object = self.bucket.get(&layout::sequence(position.seq)).expect("just acknowledged");
        if Header::decode(object).unwrap().0.time_ms > self.now_ms + 2_000 {
            self.fail(&format!("{position} claims a time that has not come"));
        }
        if self.floor.is_none_or(|floor| position.seq > floor.seq) {
            self.floor = Some(position);
        }
        self.volumes[machine].acknowledged = Some(Acknowledged { position, commit });
        // Entries up to this commit: those made later are still in the term's queue, at the end of the image.
        let object = self.bucket.get(&layout::sequence(position.seq)).expect("just acknowledged");
        let len = Header::decode(object).unwrap().0.file_len as usize;
        let entries = self.volumes[machine].image[..len].chunks(8).map(|e| u64::from_be_bytes(e.try_into().unwrap()));
        self.acknowledged.extend(entries.collect::<Vec<_>>());
    }

    fn invariant_nothing_acknowledged_is_lost(&self) {
        if self.acknowledged.is_empty() {
            return;
        }
        let Some(head) = self.bucket.head() else { self.fail("everything is gone") };
        let restored = match self.bucket.restore(&keys(), head) {
            Ok(Some(restored)) => restored,
            Ok(None) => self.fail("nothing to restore, although something was acknowledged"),
            Err(error) => self.fail(&format!("the replica cannot be restored: {error}")),
        };
        let entries: BTreeSet<u64> =
            restored.image.chunks(8).map(|entry| u64::from_be_bytes(entry.try_into().unwrap())).collect();
        if let Some(lost) = self.acknowledged.difference(&entries).next() {
            self.fail(&format!("entry {lost} was acknowledged and is not in the replica ({})", restored.position));
        }
        let floor = self.floor.expect("raised with every acknowledgement");
        let seen = self.bucket.get(&layout::sequence(floor.seq)).map(Digest::of);
        if let Err(error) = check_floor(restored.position, floor, seen) {
            self.fail(&format!("the newest state is refused: {error}"));
        }
    }
}

/// Histories of writers, zombies, new owners, retention and faults of S3.
#[test]
fn no_history_loses_or_doubles_an_acknowledgement() {
    let seeds: Vec<u64> = match std::env::var("KEYFLEET_SEED") {
        Ok(seed) => vec![seed.parse().expect("KEYFLEET_SEED is a number")],
        Err(_) => {
            let count = std::env::var("KEYFLEET_SIMULATIONS").map_or(80, |count| count.parse().expect("a number"));
            (0..count).collect()
        }
    };
    let (mut acknowledgements, mut fenced, mut collected, mut refused) = (0, 0, 0, 0);
    for seed in &seeds {
        let mut world = World::new(*seed);
        let mut images: Vec<Bucket> = Vec::new();
        for step in 0..900 {
            world.step();
            if step % 150 == 0 {
                images.push(world.bucket.clone());
            }
        }
        // The bucket is put back to each older state: valid, and refused.
        if let Some(floor) = world.floor {
            for old in images.iter().filter(|old| old.head().is_some_and(|head| head.position.seq < floor.seq)) {
                if let Ok(Some(restored)) = old.restore(&keys(), old.head().expect("filtered")) {
                    if check_floor(restored.position, floor, None).is_ok() {
                        world.fail("an older state was accepted above the floor");
                    }
                    refused += 1;
                }
            }
        }
        acknowledgements += world.acknowledgements;
        fenced += world.fenced;
        collected += world.collected;
    }
    if seeds.len() > 20 {
        assert!(
            acknowledgements > 1000 && fenced > 50 && collected > 200 && refused > 20,
            "the simulation exercises too little: {acknowledgements} acknowledged, {fenced} fenced, {collected} \
             collected, {refused} rollbacks refused"
        );
    }
}
