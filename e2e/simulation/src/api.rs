//! The API server as far as rounds see it: plans and records that everyone reads and only the operator writes.

use std::collections::BTreeMap;

use keyfleet_threshold::curve::G2;
use keyfleet_threshold::identifiers::{Block, EpochNumber, NodeIndex, PrekeySetNumber};
use keyfleet_threshold::identity::IdentityPublicKey;
use keyfleet_threshold::plan::ValidPlan;
use keyfleet_threshold::prekey::SignedPrekeySet;
use keyfleet_threshold::round::{Culprit, Phase, RoundRecord};

/// All objects.
#[derive(Default)]
pub struct Api {
    /// The `KeyEpoch`s.
    pub epochs: BTreeMap<EpochNumber, Epoch>,
    /// The identity pinned to each index.
    pub pins: BTreeMap<NodeIndex, IdentityPublicKey>,
    /// What each node last put on offer in its own status; it outlives the node's absence.
    pub offers: BTreeMap<NodeIndex, Vec<SignedPrekeySet>>,
    /// The highest prekey set of each node that any plan named.
    pub named: BTreeMap<NodeIndex, PrekeySetNumber>,
    /// The cluster's public key, written once.
    pub public_key: Option<G2>,
    /// The number of the next attempt.
    pub next_number: u64,
    /// The last boundary that was processed.
    pub last_boundary: Option<Block>,
}

/// One `KeyEpoch`.
pub struct Epoch {
    /// Its spec.
    pub plan: ValidPlan,
    /// Its status, as nodes read it.
    pub record: RoundRecord,
    /// The block at which the present phase was opened.
    pub opened: Block,
    /// Why it failed, for people.
    pub reason: String,
    /// Whom it names as culprits.
    pub culprits: Vec<Culprit>,
}

impl Api {
    /// The round under way, if there is one.
    #[must_use]
    pub fn open_round(&self) -> Option<EpochNumber> {
        self.epochs.iter().find(|(_, epoch)| epoch.record.phase < Phase::Active).map(|(number, _)| *number)
    }

    /// The newest active epoch.
    #[must_use]
    pub fn active(&self) -> Option<EpochNumber> {
        self.served().next_back()
    }

    /// Epochs that became active and are not retired, ascending.
    pub fn served(&self) -> impl DoubleEndedIterator<Item = EpochNumber> {
        let served = |epoch: &Epoch| matches!(epoch.record.phase, Phase::Active | Phase::Confirmed);
        self.epochs.iter().filter(move |(_, epoch)| served(epoch)).map(|(number, _)| *number)
    }

    /// Writes a record. Panics when a write-once field would change: the real server refuses that, so the operator that
    /// tries it is broken.
    ///
    /// # Panics
    /// See above.
    pub fn write(&mut self, number: EpochNumber, now: Block, change: impl FnOnce(&mut RoundRecord)) {
        let epoch = self.epochs.get_mut(&number).expect("the operator writes to epochs that exist");
        let before = epoch.record.clone();
        change(&mut epoch.record);
        let after = &epoch.record;
        let kept = |same: bool, field: &str| assert!(same, "epoch {number}: the operator changed the frozen {field}");
        kept(before.dealers.is_none() || before.dealers == after.dealers, "dealers");
        kept(before.responses.is_none() || before.responses == after.responses, "responses");
        kept(before.qualified.is_none() || before.qualified == after.qualified, "qualified");
        kept(before.certificate.is_none() || before.certificate == after.certificate, "certificate");
        kept(before.phase != Phase::Failed || after.phase == Phase::Failed, "failure");
        if before.phase != after.phase {
            epoch.opened = now;
        }
    }
}
