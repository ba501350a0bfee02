//! Acts of the operators: the product's own decisions, on the product's own view of what nodes say, carried out one write at a
//! time.

use std::collections::BTreeMap;

use keyfleet_crds::epoch::Phase;
use keyfleet_crds::values::PinnedKey;
use keyfleet_planner::model::{Objects, RefusalError, invariants};
use keyfleet_planner::state::ms;
use keyfleet_planner::view::{ReportedPrekey, Watched};
use keyfleet_planner::{Action, decide};
use keyfleet_threshold::feed::{Report, Showing, says_itself};
use keyfleet_threshold::identifiers::NodeIndex;
use keyfleet_threshold::identity::IdentityPublicKey;
use keyfleet_threshold::possession::{Asked, Challenge};
use keyfleet_threshold::round::Blob;

use crate::invariants::invariant_live_nodes_hold_what_is_confirmed_or_stands_in;
use crate::operator::{Operator, Reported, Stream};
use crate::world::{Event, Fleet};

/// Pause between two reconciles in a round, and at rest.
const BUSY_MS: u64 = 1_000;
const IDLE_MS: u64 = 3_000;
/// Longest time between two writes of one reconcile.
const WRITE_MS_MAX: u64 = 50;

impl Fleet {
    /// Lets one operator look at the world once, and decide.
    pub(crate) fn reconcile(&mut self, who: usize) {
        self.schedule(IDLE_MS, Event::Reconcile(who));
        if !self.operators[who].up || !self.api_up || !self.operators[who].queue.is_empty() {
            return;
        }
        if self.chance(self.settings.operator_restart_permille, 1_000) {
            self.restart_operator(who);
        }
        self.follow(who);
        self.ask(who);
        let operator = &mut self.operators[who];
        let objects = &self.api.now;
        operator.last_block = operator.last_block.max(self.block.0);
        let key = objects.cluster.status.public_key;
        let watched = watched(objects, operator.last_block, now(self.now_ms));
        let view = operator.transcripts.view(key, &watched);
        let state =
            objects.state(view, Ok(self.block.0), operator.last_block, operator.starved_since, now(self.now_ms));
        let decisions = decide(&state);
        operator.starved_since = decisions.starved_since;
        let busy = !decisions.actions.is_empty() || decisions.busy;
        let (waiting, asks) = (decisions.waiting.clone(), decisions.asks);
        if let Err(broken) =
            invariant_live_nodes_hold_what_is_confirmed_or_stands_in(objects, &self.nodes, &decisions.actions)
        {
            self.fail(&broken);
        }
        let operator = &mut self.operators[who];
        operator.queue = decisions.actions.into();
        if asks {
            self.operator_asks(who);
        }
        if let Some(waiting) = waiting {
            self.log_once(format!("operator {who}: rounds wait: {waiting}"));
        }
        if !self.operators[who].queue.is_empty() {
            self.schedule(1, Event::Write(who));
        } else if busy {
            self.schedule(BUSY_MS, Event::Reconcile(who));
        }
    }

    /// Carries out one write of an operator. The first that is refused ends the run: everything is read again.
    pub(crate) fn write(&mut self, who: usize) {
        if !self.api_up || !self.operators[who].up {
            self.operators[who].queue.clear();
            return;
        }
        if self.chance(self.settings.operator_restart_permille, 1_000) {
            self.restart_operator(who);
        }
        let Some(action) = self.operators[who].queue.pop_front() else { return };
        let before = self.api.now.clone();
        let (line, kind) = (format!("operator {who}: {}", brief(&action)), kind(&action, &before));
        match self.api.execute(action, keyfleet_crds::values::ClusterId(self.cluster.0)) {
            Ok(()) => {
                self.invariants.note_plans(&self.api.now);
                self.count(kind);
                self.log(line);
            }
            Err(RefusalError::Invalid(rule)) => self.fail(&format!("{line}: a rule of the kind refuses it: {rule}")),
            Err(refusal) => {
                self.count("fault: a write is refused");
                self.log(format!("{line}: {refusal}"));
                self.operators[who].queue.clear();
            }
        }
        let holds = invariants::check(&before, &self.api.now).map_err(|broken| broken.to_string());
        let holds = holds.and_then(|()| self.invariants.invariant_certificates_verify(&self.api.now));
        if let Err(broken) =
            holds.and_then(|()| self.invariants.invariant_only_liars_are_convicted(&self.nodes, &self.api.now))
        {
            self.fail(&broken);
        }
        self.start_pods();
        if self.operators[who].queue.is_empty() {
            self.schedule(BUSY_MS / 4, Event::Reconcile(who));
        } else {
            let delay = 1 + self.random(WRITE_MS_MAX);
            self.schedule(delay, Event::Write(who));
        }
    }

    pub(crate) fn restart_operator(&mut self, who: usize) {
        self.operators[who] = Operator::new(true);
        self.count("fault: an operator is restarted");
        self.log(format!("operator {who} starts again"));
    }

    /// Follows exactly the pinned nodes: new streams begin, dead ones end, and every open one is read on.
    fn follow(&mut self, who: usize) {
        let objects = self.api.now.clone();
        let targets: BTreeMap<u32, PinnedKey> =
            objects.nodes.iter().filter_map(|(index, node)| Some((*index, node.spec.identity_key?))).collect();
        let operator = &mut self.operators[who];
        operator.streams.retain(|index, stream| {
            let stays = targets.get(index) == Some(&stream.identity);
            if !stays {
                operator.transcripts.disconnect(*index);
                operator.transcripts.forget(*index);
            }
            stays
        });
        for (index, identity) in targets {
            let node = NodeIndex::new(index).and_then(|index| self.nodes.get(&index));
            let life = node.filter(|node| node.answers()).and_then(|node| node.process.as_ref()).map(|it| it.life);
            let lineage = node.map_or(0, |node| node.disk.outbox.lineage);
            let breaks = self.settings.loss_permille > 0 && self.chance(self.settings.loss_permille, 10_000);
            let mut asked = Asked { challenge: Challenge::default(), at_ms: ms(now(self.now_ms)) };
            let operator = &mut self.operators[who];
            let stream = operator.streams.entry(index).or_insert_with(|| Stream {
                identity,
                life: None,
                asked,
                position: 0,
                lineage,
                reading: false,
                reported: None,
                showing: Showing::default(),
            });
            if stream.life.is_some() && (breaks || stream.life != life || stream.lineage != lineage) {
                operator.transcripts.disconnect(index);
                (stream.life, stream.reading) = (None, false);
            }
            let Some(life) = life else { continue };
            if stream.life.is_none() {
                rand_core::Rng::fill_bytes(&mut self.rng, &mut asked.challenge);
                if stream.lineage != lineage {
                    (stream.position, stream.lineage) = (0, lineage);
                }
                (stream.life, stream.asked, stream.reported) = (Some(life), asked, None);
                stream.showing = Showing::default();
            }
            if !stream.reading && !self.loses() {
                if let Some(stream) = self.operators[who].streams.get_mut(&index) {
                    stream.reading = true;
                }
                let delay = 1 + self.random(self.settings.delay_max_ms);
                self.schedule(delay, Event::OperatorReads { who, index, life });
            }
        }
    }

    /// Takes in what a node's stream brought: its report where it changed, rows, and that this was all.
    pub(crate) fn operator_reads(&mut self, who: usize, index: u32, life: u64) {
        let Some(index_) = NodeIndex::new(index) else { return };
        let node = &self.nodes[&index_];
        let operator = &mut self.operators[who];
        let Some(stream) = operator.streams.get_mut(&index).filter(|stream| stream.life == Some(life)) else { return };
        stream.reading = false;
        let Some(process) = node.process.as_ref().filter(|process| process.life == life && node.answers()) else {
            return;
        };
        let cluster = self.cluster;
        let report = Report::of(process.participant.state());
        let held: Vec<_> = report.held.iter().map(|certificate| (certificate.number.0, certificate.vector)).collect();
        let prekeys = report.prekeys.iter().filter_map(|(receiver, prekey)| {
            let reported = ReportedPrekey::of(prekey.number.0, &prekey.key.encode(), &prekey.signature.0);
            Some((receiver.value(), reported?))
        });
        operator.transcripts.report_prekeys(index, prekeys);
        let reported = Reported { highest: report.highest.0, held };
        if stream.reported.as_ref() != Some(&reported) {
            let Some(claims) = node.claims(cluster, stream.asked) else { return };
            operator.transcripts.report(index, reported.highest, claims);
            stream.reported = Some(reported);
        }
        for shown in stream.showing.next(process.participant.state()) {
            if let Some(shown) = node.behaviour.bend_shown(shown) {
                operator.transcripts.show(index, &shown);
            }
        }
        let pin = IdentityPublicKey(stream.identity.0);
        for (position, row) in node.disk.outbox.rows.range(stream.position + 1..) {
            stream.position = *position;
            for blob in row.faces.iter().filter(|blob| says_itself(blob, index_)) {
                match blob.as_ref() {
                    Blob::Message(message) => {
                        if let Some(verified) = message.clone().verify(&pin) {
                            operator.transcripts.say(index, row.number.0, verified);
                        }
                    }
                    Blob::Vector(_) => {}
                }
            }
        }
        operator.transcripts.caught_up(index, ms(now(self.now_ms)));
    }

    /// Asks the nodes whose streams are open for what rounds need by digest.
    fn ask(&mut self, who: usize) {
        let objects = self.api.now.clone();
        let watched = watched(&objects, self.operators[who].last_block, now(self.now_ms));
        let mut wanted = self.operators[who].transcripts.wanted(&watched);
        let open = |(index, stream): (&u32, &Stream)| stream.life.and(NodeIndex::new(*index));
        let peers: Vec<_> = self.operators[who].streams.iter().filter_map(open).collect();
        for peer in peers {
            if wanted.is_empty() {
                return;
            }
            if self.loses() || !self.nodes[&peer].answers() {
                continue;
            }
            for (digest, blob) in self.nodes[&peer].hand_out(&wanted, true) {
                wanted.remove(&digest);
                self.operators[who].transcripts.fetched(&blob);
            }
        }
    }
}

fn watched(objects: &Objects, block: u64, now: jiff::Timestamp) -> Vec<Watched> {
    let cap = objects.cluster.spec.schedule.phase_timeout_seconds;
    let epochs = objects.epochs.values();
    epochs.map(|epoch| Watched::new(epoch.spec.clone(), epoch.status.clone(), block, now, cap)).collect()
}

pub(crate) fn now(now_ms: u64) -> jiff::Timestamp {
    const BEGIN_MS: i64 = 1_000_000_000_000;
    let ms = BEGIN_MS + i64::try_from(now_ms).expect("a simulated time is small");
    jiff::Timestamp::from_millisecond(ms).expect("a simulated time is a time")
}

/// Kind of a decision.
fn kind(action: &Action, before: &Objects) -> &'static str {
    match action {
        Action::SetClusterFinalizer { .. } => "decision: the cluster's finalizer",
        Action::MintClusterId { .. } => "decision: a cluster id",
        Action::UpdateCluster { status, .. } if status.reservation != before.cluster.status.reservation => {
            "decision: a number is reserved"
        }
        Action::UpdateCluster { .. } => "decision: the cluster's status",
        Action::CreateEpoch(spec) if spec.source.is_none() => "decision: a genesis begins",
        Action::CreateEpoch(_) => "decision: a reshare begins",
        Action::UpdateEpoch { number, status, .. } => {
            let phase = before.epochs.get(number).and_then(|epoch| epoch.status.as_ref()?.phase);
            match status.phase {
                phase_now if phase_now == phase => "decision: an epoch's status",
                None => "decision: an epoch's status",
                Some(Phase::Dealing) => "decision: dealing is opened",
                Some(Phase::Verifying) => "decision: dealers are frozen",
                Some(Phase::Preparing) => "decision: responses are frozen",
                Some(Phase::Certifying) => "decision: certifying is opened",
                Some(Phase::Active) => "decision: an epoch is activated",
                Some(Phase::Failed) => "decision: an attempt fails",
                Some(Phase::Confirmed) => "decision: an epoch is confirmed",
                Some(Phase::Retired) => "decision: an epoch is retired",
            }
        }
        Action::SetEpochFinalizer { present: true, .. } => "decision: an epoch's finalizer is set",
        Action::SetEpochFinalizer { present: false, .. } => "decision: an epoch's finalizer is removed",
        Action::DeleteEpoch { .. } => "decision: an epoch is deleted",
        Action::CreateNode(_) => "decision: a node is made",
        Action::UpdateNode { spec, .. } if spec.removed => "decision: a node is removed",
        Action::UpdateNode { .. } => "decision: a node is pinned",
        Action::NoteErasure { .. } => "decision: an erasure is noted",
        Action::ReleaseNode { .. } => "decision: a deleted node is released",
        Action::DeleteNode { .. } => "decision: a node is deleted",
        Action::Evict { .. } => "decision: an outdated pod is evicted",
        Action::WriteRecord { .. } => "decision: the record is written",
        Action::DeleteRecord => "decision: the record is deleted",
    }
}

fn brief(action: &Action) -> String {
    match action {
        Action::CreateEpoch(spec) => {
            let dealers: Vec<_> = spec.dealers.iter().map(|dealer| dealer.index).collect();
            let receivers: Vec<_> = spec.receivers.iter().map(|receiver| receiver.index).collect();
            let source = spec.source.as_ref().map(|source| source.number);
            format!(
                "epoch {} for block {} from {source:?}: {dealers:?} deal to {receivers:?}, threshold {}",
                spec.number, spec.block, spec.threshold
            )
        }
        Action::UpdateEpoch { number, status, .. } => {
            let culprits: Vec<_> = status.culprits.iter().map(|culprit| (culprit.index, culprit.fault)).collect();
            let failure = status.failure.as_ref().map(|failure| failure.message.as_str());
            let phase = status.phase.map_or_else(|| "made".to_owned(), |phase| format!("{phase:?}"));
            let kept = &status.kept;
            format!(
                "epoch {number}: {phase}, kept {kept:?}, held {:?}, culprits {culprits:?} {}",
                status.held,
                failure.unwrap_or("")
            )
        }
        Action::UpdateCluster { status, .. } => format!(
            "cluster: {:?}, reservation {:?}, active {:?}: {}",
            status.phase,
            status.reservation.map(|reservation| reservation.number),
            status.active_epoch,
            status.reason.as_deref().unwrap_or("")
        ),
        Action::CreateNode(spec) => format!("node {} is made", spec.index),
        Action::UpdateNode { spec, .. } => {
            format!("node {}: pinned {}, removed {}", spec.index, spec.identity_key.is_some(), spec.removed)
        }
        Action::NoteErasure { index, erased_through, last_epoch, .. } => {
            format!("node {index}: erased through {erased_through:?} of {last_epoch:?}")
        }
        Action::WriteRecord { .. } => "the record is written".into(),
        other => format!("{other:?}").chars().take(80).collect(),
    }
}
