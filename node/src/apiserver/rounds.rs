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
use crate::claim::{ClaimFault, NameClaim};
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
    pub claim: Option<NameClaim>,
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
        for (number, plan) in &plans {
            if fed.plans.contains(number) {
                continue;
            }
            if matches!(plan.origin, Origin::Genesis) && !self.may_begin(plan).await {
                waits = true;
                continue;
            }
            self.send(Input::Plan((**plan).clone())).await?;
            fed.plans.insert(*number);
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

    /// Whether a genesis may begin: not before the bucket durably says that this cluster's name is this cluster's.
    async fn may_begin(&self, plan: &ValidPlan) -> bool {
        let published = self.published.borrow().clone();
        let known = published.state.as_ref().is_some_and(|state| state.attempts.contains_key(&plan.number));
        let Some(claim) = self.claim.as_ref().filter(|_| !known) else { return true };
        match claim.ensure().await {
            Ok(()) => {
                self.problems.clear_reasons(ProblemAbout::Replication, &CLAIM_REASONS);
                true
            }
            Err(fault) => {
                tracing::warn!(%fault, "genesis is held back");
                self.problems.set(ProblemAbout::Replication, claim_reason(&fault), &fault.to_string());
                false
            }
        }
    }

    async fn send(&self, input: Input) -> Result<(), Stopped> {
        self.facts.send(input).await.map_err(|_| Stopped)
    }
}

const CLAIM_REASONS: [Reason; 4] =
    [Reason::NameTaken, Reason::BucketMissing, Reason::ReplicaUnavailable, Reason::CredentialsRefused];

fn claim_reason(fault: &ClaimFault) -> Reason {
    match fault {
        ClaimFault::Other { .. } => Reason::NameTaken,
        ClaimFault::Bucket(error) => crate::startup::bucket_reason(error.kind),
    }
}
