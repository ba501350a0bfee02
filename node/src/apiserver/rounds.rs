//! Plans and records from the API server into the node's rounds. [`Feed`] decides what is fed; here it is carried out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use keyfleet_crds::KeyEpochSpec;
use keyfleet_crds::conditions::Reason;
use keyfleet_crds::convert::{ConvertError, plan_of, record_of};
use keyfleet_crds::node::report::ProblemAbout;
use keyfleet_threshold::feed::{Feed, HeldBack, Input, ListedEpoch, Listing};
use keyfleet_threshold::identifiers::EpochNumber;
use keyfleet_threshold::plan::ValidPlan;
use tokio::sync::{mpsc, watch};

use super::status::Problems;
use super::watching::{Listed, Wishes};
use crate::name_mark::{NameMark, NameMarkError};
use crate::round::Published;
use crate::runtime::PeerProofs;

/// Pause before something that is held back, or not yet done, is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// Feeds the facts of rounds.
pub(crate) struct Rounds {
    /// Where they go.
    pub(crate) facts: mpsc::Sender<Input>,
    /// Peers' proofs of what they hold.
    pub(crate) proofs: Arc<PeerProofs>,
    /// The node's state, as it was committed last.
    pub(crate) published: watch::Receiver<Arc<Published>>,
    /// The bucket's mark of the cluster's name; `None` where nothing is replicated.
    pub(crate) name_mark: Option<NameMark>,
    /// The file that says that the state came from its replica: the node abstains in the plans that it may have forgotten.
    pub(crate) restored: Option<PathBuf>,
    /// Problems that the node shows in its `KmsNode`.
    pub(crate) problems: Problems,
    /// Plans that were validated.
    pub(crate) plans: Plans,
}

/// The driver is gone: the node stops.
struct Stopped;

/// Result of feeding a list.
struct Passed {
    listing: Listing,
    /// The epochs to be retired once peers prove enough.
    retire: BTreeSet<EpochNumber>,
    /// True when something has to be tried again.
    again: bool,
}

impl Rounds {
    /// Feeds what is listed, for as long as the node runs.
    pub(crate) async fn feed(mut self, mut listed: watch::Receiver<Arc<Listed>>) {
        let mut feed = Feed::default();
        loop {
            let now = listed.borrow_and_update().clone();
            let Ok(Passed { listing, retire, again }) = self.pass(&now, &mut feed).await else { return };
            tokio::select! {
                changed = listed.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(AGAIN), if again => {}
                proofs = self.proofs.collect(&retire) => {
                    for number in &retire {
                        let Ok(()) = self.send(listing.retirement(*number, proofs.clone())).await else { return };
                    }
                }
            }
        }
    }

    /// Feeds what was not fed yet. Tells what has to be retired, and whether something has to be tried again.
    async fn pass(&mut self, listed: &Listed, feed: &mut Feed) -> Result<Passed, Stopped> {
        let listing = self.plans.listing(listed);
        if listed.lists == 0 {
            return Ok(Passed { listing, retire: BTreeSet::new(), again: false });
        }
        if let Some(mark) = self.restored.take() {
            self.abstain(&listing, mark).await?;
        }
        let state = self.published.borrow().state.clone();
        let is_marked = !feed.awaits_name_mark(&listing, state.as_deref()) || self.mark_name().await;
        let next = feed.next(&listing, state.as_deref(), is_marked);
        for input in next.inputs {
            self.send(input).await?;
        }
        if let Some(contradiction) = next.contradiction {
            tracing::warn!(%contradiction, "no epoch is retired");
        }
        self.show(&next.held_back);
        Ok(Passed { listing, retire: next.retire, again: next.again })
    }

    /// Abstains in the plans that a state from a replica may have forgotten, and drops the mark once that is durable.
    async fn abstain(&mut self, listing: &Listing, mark: PathBuf) -> Result<(), Stopped> {
        let newest = listing.newest_block();
        self.send(Input::Abstain(newest)).await?;
        let abstains = self
            .published
            .wait_for(|published| published.state.as_ref().is_some_and(|state| state.abstain_through >= Some(newest)));
        abstains.await.map_err(|_| Stopped)?;
        if let Err(error) = std::fs::remove_file(&mark) {
            tracing::warn!(%error, "the mark of a restored state file stays; the next start abstains once more");
        }
        Ok(())
    }

    /// Makes the bucket say that this cluster's name is this cluster's: durably, before a genesis begins.
    async fn mark_name(&self) -> bool {
        let Some(name_mark) = &self.name_mark else { return true };
        match name_mark.ensure().await {
            Ok(()) => {
                self.problems.clear_reasons(ProblemAbout::Replication, &NAME_MARK_REASONS);
                true
            }
            Err(error) => {
                tracing::warn!(%error, "genesis is held back");
                self.problems.set(ProblemAbout::Replication, name_mark_reason(&error), &error.to_string());
                false
            }
        }
    }

    /// Shows the user the newest plan that only the user can release.
    fn show(&self, held_back: &BTreeMap<EpochNumber, HeldBack>) {
        let refused = held_back.iter().rev().find(|(_, reason)| **reason == HeldBack::NeedsEveryNode);
        let Some((number, _)) = refused else {
            return self.problems.clear_reasons(ProblemAbout::Peers, &[Reason::SpecInvalid]);
        };
        let message = format!(
            "plan {} needs every one of its nodes, so that one away would stop the fleet: this node takes no part. Add a \
             node, lower spec.threshold, or set spec.allowDowntime",
            number.0
        );
        self.problems.set(ProblemAbout::Peers, Reason::SpecInvalid, &message);
    }

    async fn send(&self, input: Input) -> Result<(), Stopped> {
        self.facts.send(input).await.map_err(|_| Stopped)
    }
}

/// Plans by number, each with the spec that it was validated from: a plan of a hundred nodes has a hundred signatures and
/// points to check, and every change of any object brings all plans again.
#[derive(Default)]
pub(crate) struct Plans(BTreeMap<u64, (KeyEpochSpec, Option<ValidPlan>)>);

impl Plans {
    /// Decodes the objects. Refuses those whose plan or record cannot be one.
    fn listing(&mut self, listed: &Listed) -> Listing {
        let mut epochs = BTreeMap::new();
        for (number, plan) in self.validated(listed, plan_of) {
            let status = listed.epochs.get(&number).and_then(|epoch| epoch.status.as_ref());
            let record = record_of(&plan, status);
            let record =
                record.inspect_err(|error| tracing::warn!(number, %error, "the record of a KeyEpoch is refused"));
            epochs.insert(EpochNumber(number), ListedEpoch { plan, record: record.ok().flatten() });
        }
        let Wishes { allow_downtime, confirm_after_seconds, retention } = listed.wishes;
        Listing { generation: listed.lists, epochs, allow_downtime, confirm_after_seconds, retention }
    }

    /// Returns the plans that are listed and valid. `validate` is called once for each spec.
    fn validated(
        &mut self,
        listed: &Listed,
        mut validate: impl FnMut(&KeyEpochSpec) -> Result<ValidPlan, ConvertError>,
    ) -> Vec<(u64, ValidPlan)> {
        self.0.retain(|number, (spec, _)| listed.epochs.get(number).is_some_and(|epoch| epoch.spec == *spec));
        for (number, epoch) in &listed.epochs {
            self.0.entry(*number).or_insert_with(|| {
                let plan = validate(&epoch.spec);
                let plan =
                    plan.inspect_err(|error| tracing::warn!(number, %error, "the plan of a KeyEpoch is refused"));
                (epoch.spec.clone(), plan.ok())
            });
        }
        self.0.iter().filter_map(|(number, (_, plan))| Some((*number, plan.clone()?))).collect()
    }
}

const NAME_MARK_REASONS: [Reason; 4] =
    [Reason::NameTaken, Reason::BucketMissing, Reason::ReplicaUnavailable, Reason::CredentialsRefused];

fn name_mark_reason(error: &NameMarkError) -> Reason {
    match error {
        NameMarkError::Other { .. } => Reason::NameTaken,
        NameMarkError::Bucket(error) => crate::store::replica::bucket_reason(error.kind),
    }
}

#[cfg(test)]
mod tests {
    use keyfleet_crds::KeyEpoch;
    use keyfleet_crds::convert::spec_of;
    use keyfleet_crds::epoch::{KeyEpochStatus, Phase};
    use keyfleet_threshold::plan::Plan;

    use super::*;

    /// A round of the frozen plans, without a status.
    fn listed() -> (u64, Listed) {
        let fixtures: serde_json::Value =
            serde_json::from_str(include_str!("../../../threshold/fixtures/plan-v2.json")).unwrap();
        let bytes = hex::decode(fixtures["genesis"]["encoding"].as_str().unwrap()).unwrap();
        let plan = Plan { roster: None, ..Plan::decode(&bytes).unwrap() }.validate().unwrap();
        let epoch = KeyEpoch::new("keys-1", spec_of(&plan));
        let epochs = BTreeMap::from([(plan.number.0, epoch)]);
        (plan.number.0, Listed { lists: 1, epochs, wishes: Wishes::default() })
    }

    /// After objects are put back without their status nodes would deal in rounds that ended.
    #[test]
    fn a_key_epoch_without_a_phase_is_no_record_to_deal_on() {
        let (number, mut listed) = listed();
        let record = |listed: &Listed| {
            let mut listing = Plans::default().listing(listed);
            listing.epochs.remove(&EpochNumber(number)).expect("the plan is listed").record
        };
        assert_eq!(record(&listed), None, "no status");
        listed.epochs.get_mut(&number).unwrap().status = Some(KeyEpochStatus::default());
        assert_eq!(record(&listed), None, "no phase");
        let opened = KeyEpochStatus { phase: Some(Phase::Dealing), ..KeyEpochStatus::default() };
        listed.epochs.get_mut(&number).unwrap().status = Some(opened);
        assert!(record(&listed).is_some(), "the operator's first write opens it");
    }

    #[test]
    fn a_plan_is_validated_once_for_all_changes_of_its_status() {
        let (number, mut listed) = listed();
        let (mut plans, mut validations) = (Plans::default(), 0);
        let mut pass = |listed: &Listed| {
            let validated = plans.validated(listed, |spec| {
                validations += 1;
                plan_of(spec)
            });
            (validated.len(), validations)
        };
        assert_eq!(pass(&listed), (1, 1));
        listed.epochs.get_mut(&number).unwrap().status = Some(KeyEpochStatus::default());
        assert_eq!(pass(&listed), (1, 1), "a change of the status validates the plan again");
        listed.epochs.get_mut(&number).unwrap().spec.plan_version = 99;
        assert_eq!(pass(&listed), (0, 2), "another spec under the number is taken for the one before");
        assert_eq!(pass(&listed), (0, 2), "a refused plan is validated again");
        listed.epochs.clear();
        assert_eq!((pass(&listed), plans.0.len()), ((0, 2), 0), "a plan that is listed no more is kept");
    }
}
