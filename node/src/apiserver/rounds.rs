//! Plans and records from the API server into the node's rounds. [`Feed`] decides what is fed; here it is carried out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use keyfleet_crds::conditions::Reason;
use keyfleet_crds::convert::{plan_of, record_of};
use keyfleet_crds::node::report::ProblemAbout;
use keyfleet_threshold::feed::{Feed, HeldBack, Input, ListedEpoch, Listing};
use keyfleet_threshold::identifiers::EpochNumber;
use tokio::sync::{mpsc, watch};

use super::status::Problems;
use super::watching::Listed;
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
        let listing = listing(listed);
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

/// Decodes the objects. Refuses those whose plan or record cannot be one.
fn listing(listed: &Listed) -> Listing {
    let mut epochs = BTreeMap::new();
    for (number, epoch) in &listed.epochs {
        let plan = match plan_of(&epoch.spec) {
            Ok(plan) => plan,
            Err(error) => {
                tracing::warn!(number, %error, "the plan of a KeyEpoch is refused");
                continue;
            }
        };
        let record = record_of(&plan, epoch.status.as_ref());
        let record = record.inspect_err(|error| tracing::warn!(number, %error, "the record of a KeyEpoch is refused"));
        epochs.insert(EpochNumber(*number), ListedEpoch { plan, record: record.ok() });
    }
    let Wishes { allow_downtime, confirm_after_seconds, retention } = listed.wishes;
    Listing { generation: listed.lists, epochs, allow_downtime, confirm_after_seconds, retention }
}

const NAME_MARK_REASONS: [Reason; 4] =
    [Reason::NameTaken, Reason::BucketMissing, Reason::ReplicaUnavailable, Reason::CredentialsRefused];

fn name_mark_reason(error: &NameMarkError) -> Reason {
    match error {
        NameMarkError::Other { .. } => Reason::NameTaken,
        NameMarkError::Bucket(error) => crate::store::replica::bucket_reason(error.kind),
    }
}
