//! Plans and records as the round's facts: all plans oldest first, then all records oldest first. A list that was read
//! anew is fed whole; what was seen before does no harm.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use keyfleet_api::convert::{plan_of, record_of};
use keyfleet_crds::conditions::Reason;
use keyfleet_crds::node::report::ProblemAbout;
use keyfleet_threshold::identifiers::{Block, Digest, EpochNumber};
use keyfleet_threshold::plan::{Origin, ValidPlan};
use keyfleet_threshold::round::{Blob, Phase, RoundRecord};
use tokio::sync::{mpsc, watch};

use super::status::Problems;
use super::watching::Listed;
use crate::name_mark::{NameMark, NameMarkError};
use crate::round::{Input, Published};

/// What is held back, or not yet done, is tried again so often.
const AGAIN: Duration = Duration::from_secs(2);

/// Feeds the facts of rounds.
pub struct Rounds {
    /// Where they go.
    pub facts: mpsc::Sender<Input>,
    /// What the node remembers of rounds.
    pub published: watch::Receiver<Arc<Published>>,
    /// The bucket's mark of the cluster's name; `None` where nothing is replicated.
    pub name_mark: Option<NameMark>,
    /// The file that says that the state came from its replica: the node abstains in the plans that it may have forgotten.
    pub restored: Option<PathBuf>,
    /// What a person should hear of.
    pub problems: Problems,
}

/// The driver is gone: the node stops.
struct Stopped;

#[derive(Default)]
struct Fed {
    lists: u64,
    plans: BTreeSet<u64>,
    /// Prekey sets, each with the plan that names it.
    sets: BTreeSet<(u64, Digest)>,
    records: BTreeMap<u64, RoundRecord>,
}

impl Rounds {
    /// Feeds what is listed, for as long as the node runs.
    pub async fn feed(mut self, mut listed: watch::Receiver<Arc<Listed>>) {
        let mut fed = Fed::default();
        loop {
            let now = listed.borrow_and_update().clone();
            let waits = match self.pass(&now, &mut fed).await {
                Ok(waits) => waits,
                Err(Stopped) => return,
            };
            tokio::select! {
                changed = listed.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(AGAIN), if waits => {}
            }
        }
    }

    /// Feeds what was not fed yet. Answers whether something has to be tried again.
    async fn pass(&mut self, listed: &Listed, fed: &mut Fed) -> Result<bool, Stopped> {
        if listed.lists == 0 {
            return Ok(false);
        }
        if fed.lists != listed.lists {
            *fed = Fed { lists: listed.lists, ..Fed::default() };
        }
        let plans = listed.epochs.iter().filter_map(|(number, epoch)| match plan_of(&epoch.spec) {
            Ok(plan) => Some((*number, plan)),
            Err(fault) => {
                tracing::warn!(number, %fault, "the plan of a KeyEpoch is refused");
                None
            }
        });
        let plans: BTreeMap<u64, ValidPlan> = plans.collect();
        if let Some(mark) = self.restored.take() {
            let newest = plans.values().map(|plan| plan.block).max().unwrap_or(Block(0));
            self.send(Input::Abstain(newest)).await?;
            let abstains = |published: &Arc<Published>| {
                published.state.as_ref().is_some_and(|state| state.abstain_through >= Some(newest))
            };
            self.published.wait_for(abstains).await.map_err(|_| Stopped)?;
            if let Err(error) = std::fs::remove_file(&mark) {
                tracing::warn!(%error, "the mark of a restored state file stays; the next start abstains once more");
            }
        }
        let mut waits = false;
        let mut refused = None;
        for (number, plan) in &plans {
            if fed.plans.contains(number) {
                continue;
            }
            if !self.is_known(plan) && !may_need_everyone(plan, &plans, listed.allow_downtime == Some(true)) {
                // The KmsCluster may not have been read yet, or change.
                (refused, waits) = (Some(*number), true);
                continue;
            }
            if matches!(plan.origin, Origin::Genesis) && !self.may_begin(plan).await {
                waits = true;
                continue;
            }
            self.send(Input::Plan((**plan).clone())).await?;
            fed.plans.insert(*number);
        }
        match refused.filter(|_| listed.allow_downtime.is_some()) {
            None => self.problems.clear_reasons(ProblemAbout::Peers, &[Reason::SpecInvalid]),
            Some(number) => {
                let message = format!(
                    "plan {number} needs every one of its nodes, so that one away would stop the fleet: this node takes no \
                     part. Add a node, lower spec.threshold, or set spec.allowDowntime"
                );
                self.problems.set(ProblemAbout::Peers, Reason::SpecInvalid, &message);
            }
        }
        for (number, plan) in plans.iter().filter(|(number, _)| fed.plans.contains(number)) {
            // Dealers seal to every receiver, absent ones included.
            for digest in plan.receivers.iter().map(|receiver| receiver.prekey_digest) {
                if let Some(set) = listed.sets.get(&digest).filter(|_| !fed.sets.contains(&(*number, digest))) {
                    self.send(Input::Blob(Blob::Prekeys(set.clone()))).await?;
                    fed.sets.insert((*number, digest));
                }
            }
            let status = listed.epochs.get(number).and_then(|epoch| epoch.status.as_ref());
            let record = match record_of(plan, status) {
                Ok(record) => record,
                Err(fault) => {
                    tracing::warn!(number, %fault, "the record of a KeyEpoch is refused");
                    continue;
                }
            };
            let retired = record.phase == Phase::Retired;
            if fed.records.get(number) != Some(&record) {
                self.send(Input::Record(EpochNumber(*number), record.clone())).await?;
                fed.records.insert(*number, record);
            }
            // The newer epoch may not be proven yet, so this is said until it is done.
            if retired && self.still_holds(*number) {
                self.send(Input::Retire(EpochNumber(*number))).await?;
                waits = true;
            }
        }
        Ok(waits)
    }

    fn still_holds(&self, number: u64) -> bool {
        let published = self.published.borrow();
        let attempt = published.state.as_ref().and_then(|state| state.attempts.get(&EpochNumber(number)));
        attempt.is_some_and(|attempt| attempt.holds_share && !attempt.erased)
    }

    fn is_known(&self, plan: &ValidPlan) -> bool {
        let published = self.published.borrow();
        published.state.as_ref().is_some_and(|state| state.attempts.contains_key(&plan.number))
    }

    /// Whether a genesis may begin: not before the bucket durably says that this cluster's name is this cluster's.
    async fn may_begin(&self, plan: &ValidPlan) -> bool {
        let known = self.is_known(plan);
        let Some(name_mark) = self.name_mark.as_ref().filter(|_| !known) else { return true };
        match name_mark.ensure().await {
            Ok(()) => {
                self.problems.clear_reasons(ProblemAbout::Replication, &NAME_MARK_REASONS);
                true
            }
            Err(fault) => {
                tracing::warn!(%fault, "genesis is held back");
                self.problems.set(ProblemAbout::Replication, name_mark_reason(&fault), &fault.to_string());
                false
            }
        }
    }

    async fn send(&self, input: Input) -> Result<(), Stopped> {
        self.facts.send(input).await.map_err(|_| Stopped)
    }
}

/// Whether a plan's receivers may all be needed: only by the user's word, or as in the epoch that it hands on. That word is
/// no part of a plan, so each node reads it itself.
fn may_need_everyone(plan: &ValidPlan, plans: &BTreeMap<u64, ValidPlan>, allow_downtime: bool) -> bool {
    let needs = |plan: &ValidPlan| plan.threshold.count() >= plan.receivers.len();
    let members = |plan: &ValidPlan| plan.receivers.iter().map(|receiver| receiver.index).collect::<Vec<_>>();
    let source = plan.source().and_then(|source| plans.get(&source.number.0));
    let as_before = source.is_some_and(|source| needs(source) && members(source) == members(plan));
    !needs(plan) || allow_downtime || as_before
}

const NAME_MARK_REASONS: [Reason; 4] =
    [Reason::NameTaken, Reason::BucketMissing, Reason::ReplicaUnavailable, Reason::CredentialsRefused];

fn name_mark_reason(fault: &NameMarkError) -> Reason {
    match fault {
        NameMarkError::Other { .. } => Reason::NameTaken,
        NameMarkError::Bucket(error) => crate::startup::bucket_reason(error.kind),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyfleet_threshold::coordination::{FleetView, KeptEpoch, NodeView, Offer, planning};
    use keyfleet_threshold::curve::G2;
    use keyfleet_threshold::identifiers::{ClusterId, NodeIndex, PrekeySetNumber, Threshold};
    use keyfleet_threshold::identity::IdentitySecretKey;
    use keyfleet_threshold::plan::Deadlines;

    fn view(number: u64, nodes: u8, threshold: u16) -> FleetView {
        let index = |i: u8| NodeIndex::new(i.into()).unwrap();
        let node = |i: u8| NodeView {
            index: index(i),
            identity: IdentitySecretKey::from_seed(&[i; 32]).public(),
            offers: vec![Offer {
                number: PrekeySetNumber(number),
                digest: Digest([9; 32]),
                last_resort: false,
                slots: 8,
            }],
            named: None,
        };
        FleetView {
            cluster: ClusterId([7; 16]),
            number: EpochNumber(number),
            block: Block(100),
            threshold: Threshold(threshold),
            min_holders: threshold,
            deadlines: Deadlines { dealing_blocks: 2, verifying_blocks: 2, preparing_blocks: 2, certifying_blocks: 2 },
            roster: None,
            receivers: (1..=nodes).map(node).collect(),
            connected: (1..=nodes).map(index).collect(),
            avoid: BTreeSet::new(),
        }
    }

    /// seed: 001-33
    #[test]
    fn a_plan_that_needs_every_node_is_refused_unless_the_user_allows_it() {
        let none = BTreeMap::new();
        let (spare, tight) = (planning::genesis(&view(1, 4, 3)).unwrap(), planning::genesis(&view(1, 3, 3)).unwrap());
        assert!(may_need_everyone(&spare, &none, false), "one may be away");
        assert!(!may_need_everyone(&tight, &none, false), "nobody may be away, and nobody allowed that");
        assert!(may_need_everyone(&tight, &none, true));
        // Handed on as it is while a newcomer starts: the user's word was given then.
        let kept = KeptEpoch {
            number: EpochNumber(1),
            plan: tight.clone(),
            vector: Digest([5; 32]),
            public_key: G2::generator(),
            holders: (1..=3).map(|i| NodeIndex::new(i).unwrap()).collect(),
        };
        let plans = BTreeMap::from([(1, tight)]);
        let same = planning::reshare(&view(2, 3, 3), &kept).unwrap();
        assert!(may_need_everyone(&same, &plans, false), "a reshare among the same nodes changes nothing");
        let grown = planning::reshare(&view(2, 4, 4), &kept).unwrap();
        assert!(!may_need_everyone(&grown, &plans, false), "other nodes are another agreement");
    }
}
