//! A fleet in one process, for tests: real stores and key stores, and an operator that runs the coordination functions.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use keyfleet_threshold::coordination::{Decision, FleetView, KeptEpoch, NodeView, RoundView, decide, planning};
use keyfleet_threshold::feed::{self, Answer};
use keyfleet_threshold::identifiers::{Block, ClusterId, Digest, EpochNumber, NodeIndex, Threshold};
use keyfleet_threshold::identity::IdentityPublicKey;
use keyfleet_threshold::plan::{Deadlines, ValidPlan};
use keyfleet_threshold::polynomial::VerificationVector;
use keyfleet_threshold::possession::{Asked, Claimed, Claims, Holdings, Turn};
use keyfleet_threshold::prekey::SignedPrekey;
use keyfleet_threshold::purpose::Purpose;
use keyfleet_threshold::round::{Blob, Body, MessageKind, Phase, Retirement, RoundRecord, SignedMessage, Transcript};
use keyfleet_threshold::serving::signature;
use tempfile::TempDir;

use keyfleet_node::boot::recover::{Parts, StartError, start};
use keyfleet_node::keystores::secret::{SealClient, SecretStore};
use keyfleet_node::keystores::volume::VolumeStore;
use keyfleet_node::keystores::{Entries, KeyStoreError, decision::StoreKind};
use keyfleet_node::round::Input;
use keyfleet_node::round::Started;
use keyfleet_node::round::driver::{DriveError, Driver};
use keyfleet_node::round::persist::{PersistError, Step};
use keyfleet_node::seal::{KeyEncryptionKey, KeyName, KeyRing};
use keyfleet_node::store::Backing;
use keyfleet_node::store::bundles::BundleFile;

pub const CLUSTER: ClusterId = ClusterId(*b"a cluster's name");

pub fn index(index: u32) -> NodeIndex {
    NodeIndex::new(index).unwrap()
}

/// A folder in memory where there is one: the tests sync thousands of times, and are about order, not about disks.
fn scratch() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// A Secret in memory that answers as the API server does.
#[derive(Default)]
pub struct MemorySecret {
    pub data: Mutex<(u64, Entries)>,
    pub down: Mutex<bool>,
}

/// Reads and writes a [`MemorySecret`].
struct Reader(Arc<MemorySecret>);

#[async_trait]
impl SealClient for Reader {
    async fn get(&self) -> Result<(String, Entries), KeyStoreError> {
        if *self.0.down.lock().unwrap() {
            return Err(KeyStoreError::new(StoreKind::Secret, "no answer".to_owned()));
        }
        let data = self.0.data.lock().unwrap();
        Ok((data.0.to_string(), data.1.clone()))
    }

    async fn put(&self, version: &str, entries: Entries) -> Result<bool, KeyStoreError> {
        if *self.0.down.lock().unwrap() {
            return Err(KeyStoreError::new(StoreKind::Secret, "no answer".to_owned()));
        }
        let mut data = self.0.data.lock().unwrap();
        if data.0.to_string() != version {
            return Ok(false);
        }
        *data = (data.0 + 1, entries);
        Ok(true)
    }
}

/// State of a node on disk and in the API server.
pub struct TestNode {
    pub index: NodeIndex,
    pub folder: TempDir,
    pub secret: Arc<MemorySecret>,
    pub driver: Option<Driver>,
    /// Digests of everything that it ever let others read, by what a node may say only once.
    pub said: BTreeMap<(Digest, MessageKind, Option<NodeIndex>), Digest>,
    heard: BTreeSet<Digest>,
    /// Steps until the process dies; counted down over restarts.
    pub dies_after: Arc<Mutex<Option<u32>>>,
    pub died_at: Vec<Step>,
}

pub fn parts(node: NodeIndex, folder: &Path, secret: &Arc<MemorySecret>) -> Parts {
    let key = KeyEncryptionKey::new("test", [7; 32]).unwrap();
    Parts {
        backing: Backing::local(&folder.join("state.redb")).unwrap(),
        bundles: BundleFile::open(&folder.join("bundles.redb")).unwrap(),
        volume: Arc::new(VolumeStore::open(folder.join("seal")).unwrap()),
        secret: Arc::new(SecretStore::new(Reader(secret.clone()))),
        ring: KeyRing::new(CLUSTER, node, vec![key]).unwrap(),
    }
}

impl TestNode {
    pub fn new(number: u32) -> Self {
        Self {
            index: index(number),
            folder: scratch(),
            secret: Arc::default(),
            driver: None,
            said: BTreeMap::new(),
            heard: BTreeSet::new(),
            dies_after: Arc::default(),
            died_at: Vec::new(),
        }
    }

    pub async fn try_start(&self) -> Result<Started, StartError> {
        start(parts(self.index, self.folder.path(), &self.secret)).await
    }

    /// Starts the process, as often as it dies on the way.
    pub async fn start(&mut self) {
        loop {
            self.driver = None;
            self.heard.clear();
            let started =
                self.try_start().await.unwrap_or_else(|error| panic!("{} does not start: {error}", self.index));
            let mut driver = Driver::new(started);
            let countdown = self.dies_after.clone();
            let published = driver.persister().published();
            let readable = move || published.borrow().messages.iter().map(|said| said.digest()).collect::<Vec<_>>();
            let mut before = readable();
            driver.danger_set_barrier(Box::new(move |step, _, _| {
                match step {
                    Step::KeyStores | Step::Published | Step::Destroyed => before = readable(),
                    // Neither before its commit nor before the replica and the floor.
                    Step::Bundles | Step::Commit | Step::Acknowledged | Step::Floor => {
                        assert_eq!(readable(), before, "something is said at {step:?}, before its time");
                    }
                }
                let mut left = countdown.lock().unwrap();
                *left = left.map(|left| left.wrapping_sub(1));
                *left == Some(0)
            }));
            match driver.settle().await {
                Ok(()) => {
                    self.driver = Some(driver);
                    return;
                }
                Err(PersistError::Stopped(step)) => self.died_at.push(step),
                Err(error) => panic!("{}: {error}", self.index),
            }
        }
    }

    /// Feeds a fact; a process that dies of it is started again and fed it again.
    pub async fn feed(&mut self, input: &Input) -> Result<(), DriveError> {
        loop {
            let fed = self.driver.as_mut().unwrap().feed(input).await;
            match fed {
                Err(DriveError::Carry(PersistError::Stopped(step))) => {
                    self.died_at.push(step);
                    // What was readable at the moment of death was said.
                    self.note_what_was_said();
                    self.start().await;
                }
                other => return other,
            }
        }
    }

    /// Messages and prekey that others may read.
    pub fn readable(&self) -> (Vec<Arc<SignedMessage>>, Option<SignedPrekey>) {
        let published = self.driver.as_ref().unwrap().persister().published().borrow().clone();
        (published.messages.clone(), published.prekey().copied())
    }

    /// Returns what a peer would get for a digest.
    fn find(&self, digest: &Digest) -> Option<Blob> {
        let persister = self.driver.as_ref()?.persister();
        let published = persister.published().borrow().clone();
        let state = published.state.as_ref()?;
        match feed::answer(&BTreeSet::from([*digest]), state, &published.messages).remove(digest)? {
            Answer::Said(message) => Some(Blob::Message(message.as_ref().clone())),
            Answer::Vector(vector) => Some(Blob::Vector(vector)),
            Answer::Kept => {
                let bytes = persister.bundles().bytes(digest).unwrap()?;
                let is_handed_out = feed::is_handed_out(&bytes, digest, state.index);
                is_handed_out.then(|| Blob::Message(SignedMessage::decode(&bytes).unwrap()))
            }
        }
    }

    /// Checks that a node never says two things where it may say one.
    pub fn note_what_was_said(&mut self) {
        for message in self.readable().0 {
            let about = match &message.body {
                Body::Have { dealer, .. } => Some(*dealer),
                Body::Heard { receiver, .. } => Some(*receiver),
                _ => None,
            };
            let key = (message.plan, message.body.kind(), about);
            let digest = *self.said.entry(key).or_insert(message.digest());
            assert_eq!(digest, message.digest(), "{} said two things of kind {:?}", self.index, message.body.kind());
        }
    }

    /// Invariant: key stores, inventory and rows name the same secrets, and those are the ones that the protocol calls alive.
    pub fn invariant_only_live_secrets_remain(&self) {
        let driver = self.driver.as_ref().unwrap();
        let live: BTreeSet<KeyName> =
            driver.participant().state().live_secrets().into_iter().map(KeyName::from).collect();
        let expected: BTreeSet<_> = live.iter().copied().chain([KeyName::Identity, KeyName::Node]).collect();
        let held: BTreeSet<_> = driver.persister().key_stores().names().collect();
        assert_eq!(held, expected, "{}: the process holds other keys than live ones", self.index);
        let names =
            |entries: Vec<String>| entries.iter().filter_map(|name| name.parse().ok()).collect::<BTreeSet<KeyName>>();
        let secret = self.secret.data.lock().unwrap().1.keys().cloned().collect();
        assert_eq!(names(secret), expected, "{}: the Secret holds other keys than live ones", self.index);
        let files = std::fs::read_dir(self.folder.path().join("seal")).unwrap();
        let files = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        assert_eq!(names(files), expected, "{}: the volume holds other keys than live ones", self.index);
        let rows =
            driver.persister().store().share_epochs().unwrap().into_iter().map(KeyName::Data).collect::<BTreeSet<_>>();
        let shares = live.into_iter().filter(|name| matches!(name, KeyName::Data(_))).collect();
        assert_eq!(rows, shares, "{}: the state file has rows of other epochs than live ones", self.index);
    }
}

/// Asks the other nodes what they hold, and makes of their proofs the fact that an epoch is retired for node `at`.
pub fn retirement(nodes: &[TestNode], at: usize, number: EpochNumber) -> Input {
    let mut holdings = Holdings::default();
    let asked = Asked { challenge: [7; 32], at_ms: now_ms() };
    let state = nodes[at].driver.as_ref().unwrap().participant().state();
    let others = || nodes.iter().filter(|node| node.index != nodes[at].index);
    others().for_each(|node| holdings.connect(node.index));
    let of = BTreeSet::from([number]);
    assert_eq!(holdings.next(&of, asked.at_ms), Turn::Ask);
    for node in others() {
        let participant = node.driver.as_ref().unwrap().participant();
        let claimed = participant.state().attempts.iter().filter_map(|(number, attempt)| {
            let (vector, share) = (attempt.certificate()?.vector, participant.share(*number)?);
            let purpose = Purpose::possession(CLUSTER, *number, node.index, &vector, &asked.challenge);
            let possession = signature::sign(&purpose, share).encode().to_vec();
            Some(Claimed { number: *number, vector: Some(vector), possession })
        });
        let mut claims = Claims::of(CLUSTER, node.index, claimed, &asked.challenge, asked);
        claims.judge(|number, prover| state.certified_share(number, prover));
        holdings.answer(&claims);
    }
    let Turn::Use(proofs) = holdings.next(&of, asked.at_ms) else { panic!("all have answered") };
    Input::Retire(Retirement { number, proofs, confirm_after_ms: None })
}

fn now_ms() -> u64 {
    u64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// An operator without Kubernetes.
#[derive(Default)]
pub struct Operator {
    pub epochs: Vec<KeptEpoch>,
    pub vectors: BTreeMap<EpochNumber, VerificationVector>,
    pub number: u64,
}

/// A round under way, as the operator sees it.
pub struct Round {
    pub number: EpochNumber,
    pub plan: ValidPlan,
    pub record: RoundRecord,
    pub transcript: Transcript,
}

impl Operator {
    /// Plans the next round among `members`: their identity and prekey.
    pub fn plan(&mut self, members: &[(NodeIndex, IdentityPublicKey, Option<SignedPrekey>)]) -> Round {
        self.plan_among(members, |_| true)
    }

    /// Plans the next round among `members`, of whom one is `away` and not waited for.
    pub fn plan_without(
        &mut self,
        members: &[(NodeIndex, IdentityPublicKey, Option<SignedPrekey>)],
        away: NodeIndex,
    ) -> Round {
        self.plan_among(members, |index| index != away)
    }

    fn plan_among(
        &mut self,
        members: &[(NodeIndex, IdentityPublicKey, Option<SignedPrekey>)],
        is_there: impl Fn(NodeIndex) -> bool,
    ) -> Round {
        self.number += 1;
        let receivers: Vec<_> = members
            .iter()
            .map(|(index, identity, prekey)| NodeView { index: *index, identity: *identity, prekey: *prekey })
            .collect();
        let n = u16::try_from(receivers.len()).unwrap();
        let threshold = (2 * n).div_ceil(3);
        let view = FleetView {
            cluster: CLUSTER,
            number: EpochNumber(self.number),
            block: Block(self.number * 50),
            threshold: Threshold(threshold),
            min_holders: threshold,
            deadlines: Deadlines { dealing_blocks: 2, verifying_blocks: 2, preparing_blocks: 2, certifying_blocks: 2 },
            connected: receivers.iter().map(|node| node.index).filter(|index| is_there(*index)).collect(),
            unawaited: BTreeSet::new(),
            receivers,
        };
        let plan = match self.epochs.last() {
            None => planning::genesis(&view),
            Some(source) => planning::reshare(&view, source),
        };
        let plan = plan.expect("the fleet can make a round");
        let source = plan.source().map(|source| self.vectors[&source.number].clone());
        let transcript = Transcript::new(plan.clone(), source);
        Round { number: EpochNumber(self.number), plan, record: RoundRecord::opened(), transcript }
    }

    /// One look at a round: writes into the record what follows from what was heard.
    pub fn look(&mut self, round: &mut Round, overdue: bool) {
        let block = round.plan.block;
        let view =
            RoundView { transcript: &round.transcript, record: &round.record, opened: block, now: block, overdue };
        let Some(decision) = decide(&view) else { return };
        if let Decision::Fail(reason) = decision {
            panic!("the round failed: {reason}");
        }
        round.record.apply(&decision).expect("a decision fits the record that it rests on");
        if let Decision::Activate { certificate, public_key, holders } = decision {
            let judgement = round
                .transcript
                .judge(round.record.dealers.as_ref().unwrap(), round.record.responses.as_ref().unwrap())
                .expect("all evidence is there");
            let vector = judgement.combine(&round.transcript).unwrap().vector;
            self.vectors.insert(round.number, vector);
            self.epochs.push(KeptEpoch {
                number: round.number,
                plan: round.plan.clone(),
                vector: certificate.vector,
                public_key,
                holders: holders.keys().copied().collect(),
            });
        }
    }

    /// Runs a round to Confirmed over nodes that call each other's functions.
    pub async fn run(&mut self, nodes: &mut [TestNode]) -> Round {
        let members =
            nodes.iter().map(|node| (node.index, node.driver.as_ref().unwrap().identity(), node.readable().1));
        let members: Vec<_> = members.collect();
        let round = self.plan(&members);
        self.finish(nodes, round).await
    }

    /// Runs a planned round to its end.
    pub async fn finish(&mut self, nodes: &mut [TestNode], mut round: Round) -> Round {
        for turn in 0..400 {
            for node in nodes.iter_mut() {
                // Plans and records are read again and again, as a watch delivers them.
                let _ = node.feed(&Input::Plan((*round.plan).clone())).await;
                let _ = node.feed(&Input::Record(round.number, round.record.clone())).await;
            }
            gossip(nodes, &mut round).await;
            if round.record.phase == Phase::Confirmed && nodes.iter().all(|node| holds(node, round.number)) {
                return round;
            }
            // Whoever has something to say says it in two turns: after ten nobody more is waited for.
            self.look(&mut round, turn % 10 == 9);
        }
        panic!("the round does not end: phase {:?}", round.record.phase)
    }
}

fn holds(node: &TestNode, number: EpochNumber) -> bool {
    node.driver.as_ref().unwrap().participant().state().active == Some(number)
}

async fn gossip(nodes: &mut [TestNode], round: &mut Round) {
    let mut all = Vec::new();
    for node in nodes.iter_mut() {
        node.note_what_was_said();
        all.extend(node.readable().0);
    }
    for message in &all {
        let _ = round.transcript.hear(message);
    }
    for node in nodes.iter_mut() {
        for message in &all {
            if message.sender != node.index && !node.heard.contains(&message.digest()) {
                let _ = node.feed(&Input::Blob(Blob::Message(message.as_ref().clone()))).await;
                node.heard.insert(message.digest());
            }
        }
    }
    for at in 0..nodes.len() {
        for want in nodes[at].driver.as_ref().unwrap().wants() {
            if let Some(blob) = nodes.iter().find_map(|node| node.find(&want.digest)) {
                let _ = nodes[at].feed(&Input::Blob(blob)).await;
            }
        }
    }
}
