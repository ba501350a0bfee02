//! The operator: gathers what nodes say, asks the pure decisions what to write, and writes it.
//!
//! It keeps nothing that it cannot gather again, so it may be restarted at any event.

use std::collections::{BTreeMap, BTreeSet};

use keyfleet_threshold::coordination::planning::{choose_source, genesis, reshare};
use keyfleet_threshold::coordination::retention::{ActivatedEpoch, kept};
use keyfleet_threshold::coordination::{
    Decision, FleetView, KeptEpoch, NodeView, Offer, PlanningError, RoundView, boundary, closing, decide,
};
use keyfleet_threshold::identifiers::{Block, EpochNumber, NodeIndex};
use keyfleet_threshold::plan::ValidPlan;
use keyfleet_threshold::round::{Blob, Phase, RoundRecord, Transcript};

use crate::api::{Api, Epoch};
use crate::fleet::{Fleet, Spec};

/// The operator's memory.
#[derive(Default)]
pub struct Operator {
    transcripts: BTreeMap<EpochNumber, Transcript>,
    retry_at: Option<Block>,
    starved_since: Option<Block>,
}

/// Confirmed epochs that are kept beside the active one and the one before.
const RETENTION: usize = 2;

/// How many blocks an immediate round waits after a failure.
const BACK_OFF_BLOCKS: u64 = 2;

impl Operator {
    /// Looks at the world once and writes what is due.
    pub fn reconcile(&mut self, fleet: &mut Fleet) {
        self.gather(fleet);
        match fleet.api.open_round() {
            Some(number) => self.drive(fleet, number),
            None => self.start(fleet),
        }
        self.confirm_and_retire(fleet);
    }

    /// Reads the streams of all nodes that answer into the transcripts of all rounds that still matter.
    fn gather(&mut self, fleet: &mut Fleet) {
        let alive: Vec<_> = fleet
            .api
            .epochs
            .iter()
            .filter(|(_, epoch)| !matches!(epoch.record.phase, Phase::Failed | Phase::Retired))
            .map(|(number, epoch)| (*number, epoch.plan.clone()))
            .collect();
        self.transcripts.retain(|number, _| alive.iter().any(|(n, _)| n == number));
        for (number, plan) in alive {
            let transcript = self.transcripts.entry(number).or_insert_with(|| Transcript::new(plan.clone(), None));
            for index in fleet.answering() {
                let node = &fleet.nodes[&index];
                let Some(process) = &node.process else { continue };
                if let (true, Some(source)) = (transcript.lacks_source(), plan.source())
                    && let Some(vector) = process.vector(&source.vector)
                {
                    transcript.learn_source(vector.clone());
                }
            }
            for offers in fleet.api.offers.values() {
                for offer in offers {
                    let _ = transcript.learn_prekeys(offer);
                }
            }
            let record = &fleet.api.epochs[&number].record;
            let lists = record.dealers.iter().chain(&record.responses);
            let named: Vec<_> = lists.flat_map(|list| list.iter().map(|(_, digest)| digest)).collect();
            transcript.want(named.iter().copied());
            for digest in named {
                let known = transcript.bundle(&digest).is_some() || transcript.response(&digest).is_some();
                if let (false, Some(blob)) = (known, fleet.fetch_for_operator(&digest))
                    && let Blob::Message(message) = &*blob
                {
                    let _ = transcript.hear(message);
                }
            }
            for index in fleet.answering() {
                if fleet.loses() {
                    continue;
                }
                for ((of, ..), (_, message)) in &fleet.nodes[&index].published {
                    if *of == number {
                        // Faults are remembered as culprits where they are provable.
                        let _ = transcript.hear(message);
                    }
                }
            }
        }
    }

    /// Moves the open round on.
    fn drive(&mut self, fleet: &mut Fleet, number: EpochNumber) {
        let epoch = &fleet.api.epochs[&number];
        let transcript = &self.transcripts[&number];
        let (record, opened, now) = (&epoch.record, epoch.opened, fleet.block);
        let view = RoundView { transcript, record, opened, now, overdue: false };
        let Some(decision) = decide(&view) else { return };
        let culprits = closing::culprits(&view);
        fleet.log(format!("operator: epoch {number}: {decision:?}"));
        if let Decision::Fail(reason) = &decision {
            let epoch = fleet.api.epochs.get_mut(&number).expect("the open round exists");
            epoch.reason = reason.to_string();
            self.retry_at = Some(Block(now.0 + BACK_OFF_BLOCKS));
        }
        fleet.api.epochs.get_mut(&number).expect("the open round exists").culprits = culprits;
        if let Decision::Activate { .. } = decision {
            let holders = self.transcripts[&number].prepared().len();
            fleet.log(format!("epoch {number} active with {holders} prepared"));
            self.starved_since = None;
        }
        apply(&mut fleet.api, number, now, &decision);
    }

    /// Starts a round if one is due: genesis, a changed spec, or a boundary.
    fn start(&mut self, fleet: &mut Fleet) {
        let now = fleet.block;
        if self.retry_at.is_some_and(|at| now < at) {
            return;
        }
        let spec = fleet.spec.clone();
        let active = fleet.api.active();
        let due = boundary::due(spec.interval_blocks, now, fleet.api.last_boundary);
        let changed = active.is_none_or(|active| !carries_out(&fleet.api.epochs[&active].plan, &spec));
        let Some(block) = (if changed { Some(now) } else { due }) else { return };
        match self.plan(fleet, &spec, block) {
            Ok(plan) => {
                if let (Some(due), false) = (due, changed) {
                    fleet.api.last_boundary = Some(due);
                }
                open(fleet, plan);
            }
            Err(fault) => {
                if matches!(fault, PlanningError::NoSource { .. }) {
                    self.starved_since.get_or_insert(now);
                }
                self.retry_at = Some(Block(now.0 + 1));
                fleet.log(format!("operator: no round: {fault}"));
            }
        }
    }

    fn plan(&self, fleet: &Fleet, spec: &Spec, block: Block) -> Result<ValidPlan, PlanningError> {
        let api = &fleet.api;
        let node_view = |index: &NodeIndex| NodeView {
            index: *index,
            identity: api.pins[index],
            offers: api
                .offers
                .get(index)
                .map_or(Vec::new(), |offers| offers.iter().filter_map(|o| offer(o, api, *index)).collect()),
            named: api.named.get(index).copied(),
        };
        let connected = fleet.answering();
        let last = api.epochs.values().next_back();
        let mut avoid: BTreeSet<_> = last.iter().flat_map(|epoch| epoch.culprits.iter().map(|c| c.index)).collect();
        let cheating_the_unable = self.transcripts.values().flat_map(|t| t.unable().values().flatten().copied());
        avoid.extend(cheating_the_unable);
        let view = FleetView {
            cluster: fleet.cluster,
            number: EpochNumber(api.next_number),
            block,
            threshold: spec.threshold,
            min_holders: spec.min_holders,
            deadlines: spec.deadlines,
            receivers: spec.receivers.iter().map(node_view).collect(),
            connected: connected.clone(),
            avoid: avoid.clone(),
        };
        if api.active().is_none() {
            return genesis(&view);
        }
        let sources: Vec<_> = api.served().filter_map(|number| self.kept_epoch(api, number)).collect();
        let starved = self.starved_since.is_some_and(|since| fleet.block.0 >= since.0 + spec.interval_blocks.get());
        let source = choose_source(&sources, &connected, &avoid, starved)
            .or_else(|_| choose_source(&sources, &connected, &BTreeSet::new(), starved))?;
        reshare(&view, source)
    }

    fn kept_epoch(&self, api: &Api, number: EpochNumber) -> Option<KeptEpoch> {
        let epoch = &api.epochs[&number];
        let certificate = epoch.record.certificate?;
        let holds = self.transcripts.get(&number)?.holds();
        Some(KeptEpoch {
            number,
            plan: epoch.plan.clone(),
            vector: certificate.vector,
            public_key: api.public_key?,
            holders: holds.iter().filter(|(_, v)| **v == certificate.vector).map(|(i, _)| *i).collect(),
        })
    }

    fn confirm_and_retire(&mut self, fleet: &mut Fleet) {
        let now = fleet.block;
        for number in fleet.api.served().collect::<Vec<_>>() {
            let epoch = &fleet.api.epochs[&number];
            let transcript = &self.transcripts[&number];
            let (record, opened) = (&epoch.record, epoch.opened);
            let view = RoundView { transcript, record, opened, now, overdue: false };
            if decide(&view) == Some(Decision::Confirm) {
                apply(&mut fleet.api, number, now, &Decision::Confirm);
                fleet.log(format!("operator: epoch {number} confirmed"));
            }
        }
        let activated: Vec<_> = fleet
            .api
            .served()
            .map(|number| {
                let epoch = &fleet.api.epochs[&number];
                let confirmed = epoch.record.phase == Phase::Confirmed;
                ActivatedEpoch { number, confirmed, source: epoch.plan.source().map(|source| source.number) }
            })
            .collect();
        let under_way = fleet.api.open_round().and_then(|number| fleet.api.epochs[&number].plan.source());
        let kept = kept(&activated, RETENTION, under_way.map(|source| source.number));
        for number in activated.iter().map(|epoch| epoch.number).filter(|number| !kept.contains(number)) {
            fleet.api.write(number, now, |record| record.retire().expect("an activated epoch retires once"));
        }
    }
}

fn carries_out(plan: &ValidPlan, spec: &Spec) -> bool {
    plan.threshold == spec.threshold
        && plan.min_holders == spec.min_holders
        && plan.receivers.iter().map(|receiver| receiver.index).eq(spec.receivers.iter().copied())
}

fn offer(signed: &keyfleet_threshold::prekey::SignedPrekeySet, api: &Api, index: NodeIndex) -> Option<Offer> {
    let set = signed.verify(&api.pins[&index])?;
    Some(Offer { number: set.number, digest: signed.digest(), last_resort: set.last_resort, slots: set.slots.len() })
}

fn open(fleet: &mut Fleet, plan: ValidPlan) {
    let number = plan.number;
    let dealers: Vec<_> = plan.dealers.iter().map(|dealer| dealer.index.value()).collect();
    let receivers: Vec<_> = plan.receivers.iter().map(|receiver| receiver.index.value()).collect();
    fleet.log(format!(
        "operator: epoch {number}: opened at block {}: {dealers:?} deal to {receivers:?}, threshold {}",
        plan.block, plan.threshold
    ));
    for receiver in &plan.receivers {
        fleet.api.named.insert(receiver.index, receiver.prekey_set);
    }
    fleet.api.next_number = number.0 + 1;
    let epoch =
        Epoch { plan, record: RoundRecord::opened(), opened: fleet.block, reason: String::new(), culprits: Vec::new() };
    fleet.api.epochs.insert(number, epoch);
}

fn apply(api: &mut Api, number: EpochNumber, now: Block, decision: &Decision) {
    if let Decision::Activate { certificate, public_key, .. } = decision {
        assert!(certificate.verify(public_key), "the certificate verifies under the key that it comes with");
        let known = *api.public_key.get_or_insert(*public_key);
        assert!(known == *public_key, "epoch {number} would change the public key");
    }
    api.write(number, now, |record| record.apply(decision).expect("a decision fits the record that it rests on"));
}
