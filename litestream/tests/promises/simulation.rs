//! A seeded simulation of writers, zombies, owners on new machines, retention and S3 faults, on the same pure
//! core that runs in production, against a model of what was acknowledged.
//!
//! `KEYFLEET_SEED=<n>` replays one history, `KEYFLEET_SIMULATIONS=<n>` runs more of them.

use std::collections::{BTreeMap, BTreeSet};

use keyfleet_litestream::chain::{Walk, check_floor};
use keyfleet_litestream::format::header::{Header, Kind};
use keyfleet_litestream::format::payload::apply;
use keyfleet_litestream::format::{Commit, Op};
use keyfleet_litestream::keys::KeyRing;
use keyfleet_litestream::keyspace;
use keyfleet_litestream::position::{CommitNo, Digest, Position, Seq, Term};
use keyfleet_litestream::retention::plan;
use keyfleet_litestream::start::{Allow, Decision, Intent, Local, Meta, Noted, Replica, decide};
use keyfleet_litestream::tenure::{Answer, Event, Head, Request, Settings, Tenure};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha20Rng;

use crate::support::{keys, name};

const IDLE_GRACE_MS: u64 = 1_000;
const RETENTION_GRACE_MS: u64 = 5_000;

/// The bucket: atomic, and stamped by its own clock.
#[derive(Clone, Debug, Default)]
struct Bucket {
    objects: BTreeMap<String, (Vec<u8>, u64)>,
    boundary: Option<(Seq, u64)>,
}

impl Bucket {
    fn create(&mut self, key: &str, bytes: &[u8], now_ms: u64) -> bool {
        if self.objects.contains_key(key) {
            return false;
        }
        self.objects.insert(key.to_owned(), (bytes.to_vec(), now_ms));
        true
    }

    fn get(&self, key: &str) -> Option<&[u8]> {
        self.objects.get(key).map(|(bytes, _)| &bytes[..])
    }

    fn head(&self) -> Option<Head> {
        let listed = self.objects.keys().filter_map(|key| keyspace::parse_sequence(key)).max();
        let seq = listed.max(self.boundary.map(|(boundary, _)| boundary))?;
        let object = self.get(&keyspace::sequence(seq)).expect("nothing at or above the boundary is deleted");
        let (header, _) = Header::decode(object).unwrap();
        Some(Head {
            position: Position { term: header.term, seq, hash: Digest::of(object) },
            is_opening: header.kind == Kind::Opening,
            nonce: header.nonce,
            last_commit: header.last_commit,
            time_ms: header.time_ms,
        })
    }

    fn snapshots(&self) -> Vec<(Seq, Digest)> {
        self.objects.keys().filter_map(|key| keyspace::parse_snapshot(key)).collect()
    }

    /// The state at `head`, as a restore rebuilds it; none where nothing was ever stored.
    fn restore(&self, ring: &KeyRing, head: Head) -> Result<Option<Restored>, String> {
        let mut first = None;
        for at in self.snapshots().into_iter().rev().filter(|(seq, _)| *seq <= head.position.seq) {
            match self.follow(ring, at, head) {
                Ok(restored) => return Ok(Some(restored)),
                Err(error) => {
                    first.get_or_insert(error);
                }
            }
        }
        match first {
            Some(error) => Err(error),
            None if head.position.seq.0 == head.position.term.0 => Ok(None),
            None => Err("no snapshot".into()),
        }
    }

    fn follow(&self, ring: &KeyRing, at: (Seq, Digest), head: Head) -> Result<Restored, String> {
        let object = self.get(&keyspace::snapshot(at.0, at.1)).expect("listed");
        let (mut walk, frame) = Walk::begin(&name(), ring, at, object).map_err(|error| error.to_string())?;
        if at.0 == head.position.seq && at.1 != head.position.hash {
            return Err("a snapshot of another history".into());
        }
        let mut image = zstd::bulk::decompress(&frame, 1 << 20).unwrap();
        while walk.link().0 < head.position.seq {
            let object = self.get(&keyspace::sequence(walk.next_seq())).ok_or("missing")?;
            for commit in walk.step(object).map_err(|error| error.to_string())? {
                apply(&mut image, &commit.ops).unwrap();
            }
        }
        Ok(Restored { image, position: walk.state(), commit: walk.last_commit(), time_ms: walk.time_ms() })
    }
}

#[derive(Clone, Debug)]
struct Restored {
    image: Vec<u8>,
    position: Position,
    commit: CommitNo,
    time_ms: u64,
}

/// A disk: what survives a crash.
#[derive(Clone, Debug, Default)]
struct Volume {
    /// Entries of eight bytes, one per write.
    image: Vec<u8>,
    meta: Meta,
    noted: Option<Noted>,
    intent: Option<Intent>,
    exists: bool,
}

/// What a process is doing.
enum Doing {
    Looking,
    Fetching(Head, u64),
    Opening(Box<Tenure>),
    Running(Box<Tenure>),
    /// Local work without the replica.
    Alone,
}

struct Process {
    machine: usize,
    /// How far its clock is off.
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
    /// Every entry that a caller was told is safe.
    acknowledged: BTreeSet<u64>,
    /// Which object was acknowledged under each number.
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

    /// One random event.
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
            Doing::Looking => match self.look(machine, now_ms) {
                Some(doing) => doing,
                None => return,
            },
            Doing::Fetching(head, seen_ms) => match self.fetch(machine, head, seen_ms) {
                Some(doing) => doing,
                None => Doing::Looking,
            },
            Doing::Opening(mut tenure) => match self.exchange(&mut tenure, now_ms) {
                Some(Event::Opened(position)) => {
                    self.say(format_args!("machine {machine}: opened term {} at seq {}", position.term, position.seq));
                    let volume = &mut self.volumes[machine];
                    let commit = volume.meta.commit.next();
                    let time_ms = now_ms.max(volume.meta.time_ms);
                    volume.meta = Meta { term: position.term, commit, linked: commit, time_ms };
                    volume.exists = true;
                    let (image, meta) = (volume.image.clone(), volume.meta);
                    let frame = zstd::bulk::compress(&image, 1).unwrap();
                    tenure.base(frame, image.len() as u64, meta.commit, meta.time_ms, &mut self.rng);
                    self.commit(machine, Some(&mut tenure), false, now_ms);
                    Doing::Running(tenure)
                }
                Some(Event::Lost) => {
                    self.say(format_args!("machine {machine}: lost the race for a term"));
                    Doing::Looking
                }
                _ => Doing::Opening(tenure),
            },
            Doing::Running(mut tenure) => {
                if self.rng.random_ratio(1, 3) {
                    self.commit(machine, Some(&mut tenure), true, now_ms);
                }
                match self.exchange(&mut tenure, now_ms) {
                    Some(Event::Durable { position, commit, .. }) => self.acknowledge(machine, position, commit),
                    Some(Event::Fenced { seq }) => {
                        self.fenced += 1;
                        self.say(format_args!("machine {machine}: fenced at seq {seq}"));
                        return;
                    }
                    _ => {}
                }
                if self.rng.random_ratio(1, 30)
                    && let Some((position, commit)) = tenure.durable()
                    && tenure.is_idle()
                {
                    let volume = &self.volumes[machine];
                    let frame = zstd::bulk::compress(&volume.image, 1).unwrap();
                    let len = volume.image.len() as u64;
                    let sealed = tenure.sealer().snapshot(frame, len, position, commit, now_ms, &mut self.rng);
                    let key = keyspace::snapshot(position.seq, position.hash);
                    self.bucket.create(&key, &sealed.bytes, self.now_ms);
                    self.say(format_args!("machine {machine}: snapshot at seq {}", position.seq));
                }
                Doing::Running(tenure)
            }
            Doing::Alone => {
                self.commit(machine, None, true, now_ms);
                if self.rng.random_ratio(1, 4) { Doing::Looking } else { Doing::Alone }
            }
        };
        self.processes.push(process);
    }

    fn look(&mut self, machine: usize, now_ms: u64) -> Option<Doing> {
        let volume = &self.volumes[machine];
        let local =
            volume.exists.then_some(Local { meta: Some(volume.meta), noted: volume.noted, intent: volume.intent });
        let silent = self.rng.random_ratio(1, 10);
        let head = self.bucket.head();
        let replica = if silent { Replica::Silent } else { head.map_or(Replica::Absent, Replica::Present) };
        let allow = Allow { unproven: true, ..Allow::default() };
        let decision = decide(local, replica, self.floor, allow);
        self.say(format_args!("machine {machine}: {decision:?}"));
        match decision {
            Decision::Create | Decision::Keep => Some(self.open(machine, head, now_ms)),
            Decision::Restore | Decision::SetAside(_) => Some(Doing::Fetching(head.expect("present"), now_ms)),
            Decision::KeepUnproven => Some(Doing::Alone),
            Decision::Refuse(_) | Decision::KeepContradicted(_) => None,
        }
    }

    fn fetch(&mut self, machine: usize, head: Head, seen_ms: u64) -> Option<Doing> {
        match self.bucket.restore(&keys(), head) {
            Ok(Some(restored)) => {
                if let Some(floor) = self.floor {
                    let seen = self.bucket.get(&keyspace::sequence(floor.seq)).map(Digest::of);
                    if check_floor(restored.position, floor, seen).is_err() {
                        // The look was older than the floor: look again.
                        return None;
                    }
                }
                let Restored { image, position, commit, time_ms } = restored;
                self.say(format_args!("machine {machine}: restored {}:{}", position.term, position.seq));
                self.volumes[machine] = Volume {
                    image,
                    meta: Meta { term: position.term, commit, linked: commit, time_ms },
                    noted: Some(Noted { position, commit }),
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
        let tenure = Tenure::open(settings, head, &keys(), seen_ms, b"", &mut self.rng).unwrap();
        let (seq, nonce) = tenure.intent().expect("an opening");
        let (after_term, after_commit) = head.map_or((Term(0), CommitNo(0)), |h| (h.position.term, h.last_commit));
        let volume = &mut self.volumes[machine];
        volume.intent = Some(Intent { seq, nonce, after_term, after_commit });
        // Numbers never repeat.
        volume.meta.commit = volume.meta.commit.max(after_commit);
        Doing::Opening(Box::new(tenure))
    }

    /// A local transaction: durable on the volume, then offered.
    fn commit(&mut self, machine: usize, tenure: Option<&mut Tenure>, with_entry: bool, now_ms: u64) {
        let volume = &mut self.volumes[machine];
        let number = volume.meta.commit.next();
        let mut ops = Vec::new();
        if with_entry {
            ops.push(Op::Write(volume.image.len() as u64, self.next_entry.to_be_bytes().to_vec()));
            self.next_entry += 1;
        }
        apply(&mut volume.image, &ops).unwrap();
        volume.meta.commit = number;
        volume.meta.time_ms = now_ms.max(volume.meta.time_ms);
        volume.exists = true;
        if let Some(tenure) = tenure {
            volume.meta.linked = number;
            tenure.offer(Commit { number, time_ms: volume.meta.time_ms, ops });
        }
    }

    /// One request and what the network makes of it.
    fn exchange(&mut self, tenure: &mut Tenure, now_ms: u64) -> Option<Event> {
        let request = tenure.request(now_ms, &mut self.rng)?;
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
            Request::ReadBoundary => Answer::Boundary(self.bucket.boundary.map(|(boundary, _)| boundary)),
        };
        tenure.answer(answer, now_ms)
    }

    fn acknowledge(&mut self, machine: usize, position: Position, commit: CommitNo) {
        self.acknowledgements += 1;
        self.say(format_args!("machine {machine}: acknowledged {}:{} (commit {commit})", position.term, position.seq));
        if let Some(other) = self.numbers.insert(position.seq, position)
            && other != position
        {
            self.fail(&format!("seq {} was acknowledged twice: as {other} and as {position}", position.seq));
        }
        if self.floor.is_none_or(|floor| position.seq > floor.seq) {
            self.floor = Some(position);
        }
        self.volumes[machine].noted = Some(Noted { position, commit });
        // Entries up to this commit: those made later are still in the tenure's queue, at the end of the image.
        let object = self.bucket.get(&keyspace::sequence(position.seq)).expect("just acknowledged");
        let len = Header::decode(object).unwrap().0.file_len as usize;
        let entries = self.volumes[machine].image[..len].chunks(8).map(|e| u64::from_be_bytes(e.try_into().unwrap()));
        self.acknowledged.extend(entries.collect::<Vec<_>>());
    }

    /// Retention, as the run does it: decide, raise, and delete what lay below the boundary before.
    fn collect(&mut self) {
        let snapshots: Vec<plan::Snapshot> = self
            .bucket
            .snapshots()
            .into_iter()
            .filter_map(|(seq, hash)| {
                let object = self.bucket.get(&keyspace::sequence(seq));
                if object.is_some_and(|object| Digest::of(object) != hash) {
                    return None;
                }
                let (header, _) = Header::decode(self.bucket.get(&keyspace::snapshot(seq, hash))?).ok()?;
                Some(plan::Snapshot { seq, time_ms: header.time_ms, anchored: object.is_some() })
            })
            .collect();
        let rules = plan::Rules {
            window_ms: 0,
            levels: Vec::new(),
            keep_at_least: 1,
            grace_ms: RETENTION_GRACE_MS,
            pin_expiry_ms: 0,
        };
        let old = self.bucket.boundary;
        // Skewed clocks of writers make some snapshots look as if they came from the future.
        let decision = plan::decide(&snapshots, old.map(|(boundary, _)| boundary), self.now_ms + 500_000, &rules);
        plan::invariant_keeps_what_is_needed(&snapshots, &decision, self.now_ms + 500_000, &rules);
        if decision.boundary > old.map(|(boundary, _)| boundary) {
            self.bucket.boundary = decision.boundary.map(|boundary| (boundary, self.now_ms));
        }
        let Some((limit, _)) = old.filter(|(_, raised_ms)| self.now_ms - raised_ms >= RETENTION_GRACE_MS) else {
            return;
        };
        let (now_ms, before) = (self.now_ms, self.bucket.objects.len());
        self.bucket.objects.retain(|key, (_, stored_ms)| {
            let seq = keyspace::parse_sequence(key);
            let snapshot = keyspace::parse_snapshot(key).map(|(seq, _)| seq).filter(|s| !decision.kept.contains(s));
            let below = seq.or(snapshot).is_some_and(|seq| seq < limit);
            !below || now_ms - *stored_ms < RETENTION_GRACE_MS
        });
        let gone = before - self.bucket.objects.len();
        self.collected += gone as u64;
        if gone > 0 {
            self.say(format_args!("retention: {gone} objects below {limit} deleted"));
        }
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
        let seen = self.bucket.get(&keyspace::sequence(floor.seq)).map(Digest::of);
        if let Err(error) = check_floor(restored.position, floor, seen) {
            self.fail(&format!("the newest state is refused: {error}"));
        }
    }
}

#[test]
fn no_history_of_writers_zombies_owners_and_retention_loses_or_doubles_an_acknowledgement() {
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

/// A process that has opened a term and acknowledged its first segment.
fn settled(world: &mut World, machine: usize) -> Process {
    for _ in 0..200 {
        // It ends where the bucket was silent; then it starts again.
        world.begin(machine);
        let at = |world: &World| world.processes.iter().position(|process| process.machine == machine);
        let index = at(world).expect("just started");
        world.advance(index);
        let Some(index) = at(world) else { continue };
        if let Doing::Running(tenure) = &world.processes[index].doing
            && tenure.durable().is_some()
        {
            return world.processes.remove(index);
        }
    }
    world.fail("a process never settled")
}

/// Runs one process until it says something of interest.
fn until_event(world: &mut World, process: &mut Process, entry: bool) -> Event {
    let now_ms = world.now_ms + process.skew_ms;
    let Doing::Running(tenure) = &mut process.doing else { panic!("not running") };
    if entry {
        world.commit(process.machine, Some(tenure), true, now_ms);
    }
    for _ in 0..200 {
        if let Some(event) = world.exchange(tenure, now_ms) {
            if let Event::Durable { position, commit, .. } = event {
                world.acknowledge(process.machine, position, commit);
            }
            return event;
        }
    }
    world.fail("nothing happened")
}

#[test]
fn trace_the_old_pod_ships_after_the_new_one_restored() {
    for seed in 0..40 {
        let mut world = World::new(seed);
        let mut old = settled(&mut world, 0);
        let mut new = settled(&mut world, 1);
        let event = until_event(&mut world, &mut old, true);
        assert!(matches!(event, Event::Fenced { .. }), "seed {seed}: the old pod was answered {event:?}");
        assert!(matches!(until_event(&mut world, &mut new, true), Event::Durable { .. }));
        world.invariant_nothing_acknowledged_is_lost();
    }
}

#[test]
fn trace_a_fenced_volume_with_a_longer_local_fork_comes_back() {
    for seed in 0..40 {
        let mut world = World::new(seed);
        let mut old = settled(&mut world, 0);
        let mut new = settled(&mut world, 1);
        for _ in 0..20 {
            let now_ms = world.now_ms + old.skew_ms;
            let Doing::Running(tenure) = &mut old.doing else { unreachable!() };
            world.commit(0, Some(tenure), true, now_ms);
        }
        assert!(matches!(until_event(&mut world, &mut new, true), Event::Durable { .. }));
        assert!(world.volumes[0].meta.commit > world.volumes[1].meta.commit, "the fork is not longer");
        drop(old);
        drop(new);
        let back = settled(&mut world, 0);
        world.invariant_nothing_acknowledged_is_lost();
        assert_eq!(back.machine, 0);
    }
}

#[test]
fn trace_two_puts_across_a_change_of_owner() {
    for seed in 0..40 {
        let mut world = World::new(seed);
        let mut old = settled(&mut world, 0);
        // Its PUT is on the wire, unanswered, while another opens the next number, or just does not.
        let now_ms = world.now_ms + old.skew_ms;
        let Doing::Running(tenure) = &mut old.doing else { unreachable!() };
        world.commit(0, Some(tenure), true, now_ms);
        let Some(Request::Create { key, bytes }) = tenure.request(now_ms, &mut world.rng) else { unreachable!() };
        tenure.answer(Answer::Unknown, now_ms);
        let first = seed % 2 == 0;
        if first {
            world.bucket.create(&key, &bytes, world.now_ms);
        }
        let mut new = settled(&mut world, 1);
        if !first {
            assert!(!world.bucket.create(&key, &bytes, world.now_ms), "a late PUT took a number that was gone");
        }
        // Where its object was first, it is part of the history: telling so is no lie, and the next is refused.
        let mut event = until_event(&mut world, &mut old, false);
        assert_eq!(matches!(event, Event::Durable { .. }), first, "seed {seed}: {event:?}");
        if first {
            event = until_event(&mut world, &mut old, true);
        }
        assert!(matches!(event, Event::Fenced { .. }), "seed {seed}: {event:?}");
        assert!(matches!(until_event(&mut world, &mut new, true), Event::Durable { .. }));
        world.invariant_nothing_acknowledged_is_lost();
    }
}

#[test]
fn trace_an_idle_zombie_wakes_after_its_next_number_was_collected() {
    for seed in 0..40 {
        let mut world = World::new(seed);
        let mut zombie = settled(&mut world, 0);
        let mut successor = settled(&mut world, 1);
        for _ in 0..5 {
            until_event(&mut world, &mut successor, true);
        }
        let volume = world.volumes[1].clone();
        let Doing::Running(tenure) = &successor.doing else { unreachable!() };
        let (position, commit) = tenure.durable().unwrap();
        let frame = zstd::bulk::compress(&volume.image, 1).unwrap();
        let len = volume.image.len() as u64;
        let sealed = tenure.sealer().snapshot(frame, len, position, commit, world.now_ms, &mut world.rng);
        let key = keyspace::snapshot(position.seq, position.hash);
        world.bucket.create(&key, &sealed.bytes, world.now_ms);
        for _ in 0..3 {
            world.now_ms += 2 * RETENTION_GRACE_MS;
            world.collect();
        }
        let Doing::Running(tenure) = &zombie.doing else { unreachable!() };
        let next = tenure.durable().unwrap().0.seq.next();
        assert!(world.bucket.get(&keyspace::sequence(next)).is_none(), "the trace needs the number to be free");
        let event = until_event(&mut world, &mut zombie, true);
        assert!(matches!(event, Event::Fenced { .. }), "seed {seed}: a zombie was answered {event:?}");
        assert!(matches!(until_event(&mut world, &mut successor, true), Event::Durable { .. }));
        world.invariant_nothing_acknowledged_is_lost();
    }
}

#[test]
fn trace_a_new_owner_that_looked_before_the_base_arrived() {
    // The old owner opened its term; the new one looks, and restores the state before; then the base arrives.
    let mut world = World::new(1);
    let mut first = settled(&mut world, 0);
    until_event(&mut world, &mut first, true);
    drop(first);
    world.begin(1);
    while !matches!(world.processes[0].doing, Doing::Running(_)) {
        world.advance(0);
    }
    let mut old = world.processes.remove(0);
    // A newcomer that looked now, at a bare opening, restores what was before it.
    let head = world.bucket.head().unwrap();
    assert!(head.is_opening);
    assert!(world.fetch(2, head, world.now_ms).is_some());
    let now_ms = world.now_ms + old.skew_ms;
    let Doing::Running(tenure) = &mut old.doing else { unreachable!() };
    world.commit(1, Some(tenure), true, now_ms);
    loop {
        match world.exchange(tenure, now_ms) {
            Some(Event::Based { .. }) => break,
            Some(other) => panic!("{other:?} before the base"),
            None => {}
        }
    }
    assert!(tenure.durable().is_none(), "acknowledged by a base that nobody has to look at");
    let doing = world.open(2, Some(head), world.now_ms);
    let Doing::Opening(mut newcomer) = doing else { unreachable!() };
    while world.exchange(&mut newcomer, now_ms).is_none() {}
    let event = until_event(&mut world, &mut old, false);
    assert!(matches!(event, Event::Fenced { .. }), "the old owner was answered {event:?}");
    world.invariant_nothing_acknowledged_is_lost();
}
