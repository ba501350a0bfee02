//! `status.node` of this node's `KmsNode`: written by server-side apply, and only when it says something new. An idle fleet
//! costs no writes; a position in the replica alone is worth one every ten minutes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use keyfleet_api::v1;
use keyfleet_crds::conditions::Reason;
use keyfleet_crds::convert;
use keyfleet_crds::labels::NODE_FIELD_MANAGER;
use keyfleet_crds::node::report::{
    HeldEpoch, IdentityOffer, NodeReport, Problem, ProblemAbout, ReplicationPosition, Signed,
};
use keyfleet_crds::values::{Digest, IdentitySignature, PinnedKey};
use keyfleet_crds::{GROUP, KmsNodeStatus, VERSION};
use keyfleet_threshold::identifiers::{ClusterId, NodeIndex};
use keyfleet_threshold::identity::{IdentitySecretKey, Signature};
use keyfleet_threshold::plan::PlanVersion;
use keyfleet_threshold::purpose::Certificate;
use keyfleet_threshold::round::PersistentState;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tokio::sync::watch;

use super::ApiServer;
use crate::grpc;
use crate::round::{Epochs, Published};
use crate::store::Backing;

/// Interval of writes when nothing but the position moved.
const LAG: Duration = Duration::from_secs(600);
/// The pause after a write that failed; doubled up to the last.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Timeout of one request.
const PATIENCE: Duration = Duration::from_secs(10);
/// As the kind's schema limits them.
const EPOCHS_MAX: usize = 32;
const IDS_MAX: usize = 16;
const MESSAGE_CHARS_MAX: usize = 1024;
const PAYLOAD_BYTES_MAX: usize = 49_152;

/// Problems of the node, by the thing that they are about. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Problems(watch::Sender<HashMap<ProblemAbout, Problem>>);

impl Problems {
    /// Notes a problem, in the place of the one about the same before.
    pub(crate) fn set(&self, about: ProblemAbout, reason: Reason, message: &str) {
        let message = message.chars().take(MESSAGE_CHARS_MAX).collect();
        let problem = Problem { about, reason: reason.as_str().to_owned(), message };
        self.0.send_if_modified(|all| all.insert(about, problem.clone()) != Some(problem));
    }

    /// Clears the problem.
    pub(crate) fn clear(&self, about: ProblemAbout) {
        self.0.send_if_modified(|all| all.remove(&about).is_some());
    }

    /// Clears the problem, if it has one of these reasons.
    pub(crate) fn clear_reasons(&self, about: ProblemAbout, reasons: &[Reason]) {
        self.0.send_if_modified(|all| {
            let named = all.get(&about).is_some_and(|problem| reasons.iter().any(|one| one.as_str() == problem.reason));
            named && all.remove(&about).is_some()
        });
    }

    /// All of them.
    #[must_use]
    pub(crate) fn all(&self) -> Vec<Problem> {
        let mut all: Vec<_> = self.0.borrow().values().cloned().collect();
        all.sort_by_key(|problem| format!("{:?}", problem.about));
        all
    }
}

/// A running node, as its status tells of it.
#[derive(Clone)]
pub(crate) struct Speaker {
    /// Signs the offer and the report.
    pub(crate) identity: Arc<IdentitySecretKey>,
    pub(crate) owner: (ClusterId, NodeIndex),
    pub(crate) published: watch::Receiver<Arc<Published>>,
    pub(crate) served: watch::Receiver<Arc<Epochs>>,
    pub(crate) backing: Backing,
}

/// Writes the status.
#[derive(Clone)]
pub(crate) struct StatusWriter {
    /// Where.
    pub(crate) server: ApiServer,
    /// The id of the key-encryption key in use.
    pub(crate) key_encryption_id: String,
    pub(crate) problems: Problems,
    /// The running node; `None` while something keeps it from starting.
    pub(crate) speaker: watch::Receiver<Option<Speaker>>,
    /// This node's `KmsNode`'s status as it was seen last; `None` while it was not.
    pub(crate) seen: watch::Receiver<Option<Arc<KmsNodeStatus>>>,
}

impl StatusWriter {
    /// Writes whatever is new, for as long as the process lives.
    pub(crate) async fn run(mut self) {
        let mut problems = self.problems.0.subscribe();
        let (mut pause, mut written) = (PAUSE, None);
        let mut lag = tokio::time::interval(LAG);
        let mut lagged = true;
        let mut speaker = self.speaker.borrow_and_update().clone();
        loop {
            let failed = self.write_if_new(&mut written, lagged).await.is_err();
            lagged = false;
            let wait = pause;
            pause = if failed { (pause * 2).min(PAUSE_MAX) } else { PAUSE };
            tokio::select! {
                () = tokio::time::sleep(wait), if failed => {}
                _ = lag.tick() => lagged = true,
                Ok(()) = self.speaker.changed() => speaker = self.speaker.borrow_and_update().clone(),
                Ok(()) = self.seen.changed() => {}
                Ok(()) = problems.changed() => {}
                () = said(&mut speaker) => {}
            }
        }
    }

    /// Writes the status once, if it says something new.
    ///
    /// # Errors
    /// When the API server does not take it.
    pub(crate) async fn write_once(&self) -> Result<(), kube::Error> {
        self.write_if_new(&mut None, true).await
    }

    /// The last words of a process that ends: how far its replica is, and whether that is all there was to send. A node that
    /// never ran has nothing to say.
    ///
    /// # Errors
    /// When the API server does not take it.
    pub(crate) async fn say_goodbye(&self, flushed: bool) -> Result<(), kube::Error> {
        let Some(seen) = self.server.own_status().await? else { return Ok(()) };
        let mut now = self.report(&seen.node.unwrap_or_default());
        if let Some(at) = &mut now.replication {
            at.flushed = flushed;
        }
        self.server.apply_report(&now).await
    }

    async fn write_if_new(&self, written: &mut Option<NodeReport>, lagged: bool) -> Result<(), kube::Error> {
        let watched = self.seen.borrow().clone().filter(|_| !self.is_misread());
        let seen = match watched {
            Some(seen) => Some(seen),
            // Not watched yet: what is there must be known, or a node that lacks its key would take its own offer back. And a
            // plan that names an old prekey may be younger than what the watch last saw.
            None => self.server.own_status().await?.map(Arc::new),
        };
        let Some(seen) = seen else { return Ok(()) };
        let present = seen.node.clone().unwrap_or_default();
        let now = self.report(&present);
        let same = |before: &NodeReport| {
            telling(before) == telling(&now) && (!lagged || before.replication == now.replication)
        };
        // What was seen may be older than what was written; the next change of it comes by here again.
        if same(&present) || written.as_ref().is_some_and(|written| same(written) && *written == present) {
            return Ok(());
        }
        self.server.apply_report(&now).await?;
        *written = Some(now);
        Ok(())
    }

    /// Tells whether the newest plan was made from another status than the present one.
    fn is_misread(&self) -> bool {
        let speaker = self.speaker.borrow();
        let state = speaker.as_ref().and_then(|speaker| speaker.published.borrow().state.clone());
        state.is_some_and(|state| names_another_prekey(&state))
    }

    /// The report. What is not known before a start stays as it is in `present`.
    fn report(&self, present: &NodeReport) -> NodeReport {
        let mut now = NodeReport {
            problems: self.problems.all(),
            key_encryption_id: Some(self.key_encryption_id.clone()),
            plan_versions: vec![PlanVersion::NEWEST.number()],
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            ..present.clone()
        };
        let Some(speaker) = self.speaker.borrow().clone() else { return now };
        let (cluster, index) = speaker.owner;
        now.offer = Some(IdentityOffer {
            key: PinnedKey(speaker.identity.public().0),
            proof: IdentitySignature(speaker.identity.offer(cluster, index).0),
        });
        let (published, served) = (speaker.published.borrow().clone(), speaker.served.borrow().clone());
        now.active_epoch = served.newest().map(|(number, _)| number.0);
        // Before the first commit of this process nothing is published: what was said before holds.
        let Some(state) = &published.state else { return now };
        now.problems.extend(state.contradicted.as_ref().map(contradicted));
        now.needed_key_encryption_ids = published.needed_key_encryption_ids.iter().take(IDS_MAX).cloned().collect();
        now.prekey = published.prekey().map(convert::prekey);
        let held = state.attempts.iter().rev().filter_map(|(number, attempt)| {
            let (certificate, true) = (attempt.certificate()?, attempt.holds_share) else { return None };
            Some(HeldEpoch {
                number: number.0,
                plan_digest: Digest(certificate.plan.0),
                vector_digest: Digest(certificate.vector.0),
            })
        });
        now.epochs = held.take(EPOCHS_MAX).collect();
        now.epochs.sort_by_key(|epoch| epoch.number);
        // The kind lets it rise only: a node that forgot says so elsewhere.
        now.highest_number = present.highest_number.max(Some(state.highest.0).filter(|highest| *highest > 0));
        if let Some(lag) = speaker.backing.lag() {
            let position = lag.position.map(|position| ReplicationPosition {
                term: position.term.0,
                sequence: position.seq.0,
                hash: Digest(position.hash.0),
                lag_commits: lag.lag_commits,
                lag_seconds: lag.lag_ms / 1000,
                flushed: false,
            });
            // Before this process has a term of its own, what was acknowledged before still is.
            now.replication = position.or(now.replication).map(|at| ReplicationPosition { flushed: false, ..at });
        }
        let sequence = crate::clock::now_ms();
        let report = grpc::report::report(&published, &speaker.identity.public());
        // What the API server keeps goes back in time with it: there the prekeys of others help nobody.
        let report = report.map(|report| v1::Report { prekeys: Vec::new(), ..report });
        let signed = report.map(|report| grpc::report::sign(report, sequence, &speaker.identity));
        let signed = signed.filter(|signed| signed.payload.len() <= PAYLOAD_BYTES_MAX).and_then(|signed| {
            let signature = IdentitySignature(signed.signature.as_slice().try_into().ok()?);
            Some(Signed { payload: ByteString(signed.payload), signature })
        });
        now.signed_report = signed.or(now.signed_report);
        now
    }
}

impl ApiServer {
    /// Shows the node's last word, in the place of everything that a living node offers.
    ///
    /// # Errors
    /// When the API server does not take it.
    pub(crate) async fn say_erased(&self, statement: Signature) -> Result<(), kube::Error> {
        let present = self.own_status().await?.and_then(|status| status.node).unwrap_or_default();
        let erased = Some(IdentitySignature(statement.0));
        let report = NodeReport {
            erased,
            prekey: None,
            epochs: Vec::new(),
            active_epoch: None,
            problems: Vec::new(),
            signed_report: None,
            ..present
        };
        self.apply_report(&report).await
    }

    async fn own_status(&self) -> Result<Option<KmsNodeStatus>, kube::Error> {
        let (nodes, name) = (self.nodes(), self.node_name());
        let got = tokio::time::timeout(PATIENCE, nodes.get_opt(&name)).await;
        let node = got.map_err(|_| no_answer())??;
        Ok(node.filter(|node| self.is_of_this_cluster(node)).map(|node| node.status.unwrap_or_default()))
    }

    async fn apply_report(&self, report: &NodeReport) -> Result<(), kube::Error> {
        let name = self.node_name();
        let patch = json!({
            "apiVersion": format!("{GROUP}/{VERSION}"),
            "kind": "KmsNode",
            "metadata": { "name": name },
            "status": { "node": report },
        });
        let nodes = self.nodes();
        let parameters = PatchParams::apply(NODE_FIELD_MANAGER).force();
        let patch = Patch::Apply(&patch);
        let patched = nodes.patch_status(&name, &parameters, &patch);
        let patched = tokio::time::timeout(PATIENCE, patched).await.unwrap_or_else(|_| Err(no_answer()));
        match patched {
            Ok(_) => Ok(()),
            Err(error) => {
                tracing::warn!(%error, "this node's KmsNode's status was not written");
                Err(error)
            }
        }
    }
}

/// Shows both certificates of a number: anyone can verify them under the public key.
fn contradicted(certificates: &[Certificate; 2]) -> Problem {
    let [first, second] = certificates.map(|certificate| {
        let signature = hex::encode(certificate.signature.encode());
        format!("plan {} vector {} signature {signature}", certificate.plan, certificate.vector)
    });
    let message = format!(
        "epoch {} has two valid certificates: {first}; and {second}. The API server showed two records, and this node retires \
         nothing any more. Find out who could write to it, then replace this node: docs/runbooks/record-contradicted.md",
        certificates[0].number
    );
    Problem { about: ProblemAbout::Record, reason: Reason::RecordContradicted.as_str().to_owned(), message }
}

/// Returns the part that is worth a write by itself. A running process takes back the last word of the one before.
fn telling(report: &NodeReport) -> (NodeReport, bool) {
    let ended = report.replication.as_ref().is_some_and(|at| at.flushed);
    (NodeReport { replication: None, signed_report: None, ..report.clone() }, ended)
}

/// Tells whether the newest plan names another prekey of this node than the one that it shows.
fn names_another_prekey(state: &PersistentState) -> bool {
    let newest = state.attempts.values().next_back();
    let named = newest.and_then(|attempt| attempt.plan.receiver(state.index)?.prekey);
    named.is_some_and(|named| Some(named.number) != state.shown_prekey().map(|shown| shown.number))
}

/// Ends when a running node has something new to tell since it did last.
async fn said(speaker: &mut Option<Speaker>) {
    let Some(speaker) = speaker else { return std::future::pending().await };
    tokio::select! {
        Ok(()) = speaker.published.changed() => {}
        Ok(()) = speaker.served.changed() => {}
        else => std::future::pending().await,
    }
}

fn no_answer() -> kube::Error {
    kube::Error::Service("the API server does not answer".into())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use keyfleet_threshold::coordination::planning::{FleetView, NodeView, genesis};
    use keyfleet_threshold::identifiers::{Block, EpochNumber, PrekeyNumber, Threshold};
    use keyfleet_threshold::plan::Deadlines;
    use keyfleet_threshold::prekey::SignedPrekey;
    use keyfleet_threshold::round::Participant;

    use super::*;
    use crate::secret_rng::secret_rng;

    const CLUSTER: ClusterId = ClusterId([1; 16]);

    fn participant(i: u8) -> (Participant, NodeView) {
        let (index, identity) = (NodeIndex::new(i.into()).unwrap(), IdentitySecretKey::from_seed(&[i; 32]));
        let public = identity.public();
        let (participant, _) = Participant::new(CLUSTER, index, identity, &mut secret_rng());
        let prekey = participant.state().shown_prekey().copied();
        (participant, NodeView { index, identity: public, prekey })
    }

    /// A plan that names another prekey than the shown one was made from another status: the node reads its own again.
    #[test]
    fn a_plan_with_another_prekey_is_noticed() {
        let mut nodes: Vec<_> = (1..=3).map(participant).collect();
        let receivers: Vec<_> = nodes.iter().map(|(_, view)| view.clone()).collect();
        let plan = genesis(&FleetView {
            cluster: CLUSTER,
            number: EpochNumber(1),
            block: Block(1),
            threshold: Threshold(2),
            min_holders: 2,
            deadlines: Deadlines { dealing_blocks: 2, verifying_blocks: 2, preparing_blocks: 2, certifying_blocks: 2 },
            connected: receivers.iter().map(|node| node.index).collect(),
            receivers,
            unawaited: BTreeSet::new(),
        });
        let participant = &mut nodes[0].0;
        assert!(!names_another_prekey(participant.state()), "no plan names anything yet");
        let _ = participant.accept((*plan.unwrap()).clone(), &mut secret_rng()).unwrap();
        let mut state = participant.state().clone();
        assert!(!names_another_prekey(&state), "the plan names the prekey that is shown");
        let shown = *state.shown_prekey().unwrap();
        let newer = SignedPrekey { number: PrekeyNumber(shown.number.0 + 1), ..shown };
        state.prekeys.insert(newer.number, newer);
        assert!(names_another_prekey(&state), "the plan names the prekey before");
    }
}
