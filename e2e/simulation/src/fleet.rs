//! Acts of the user, misfortune that comes by itself, and the loop that lets one event happen after the other.

use keyfleet_adversary::Behaviour;
use keyfleet_crds::KmsClusterSpec;
use keyfleet_crds::cluster::RemoveNode;
use keyfleet_crds::epoch::Phase;
use keyfleet_threshold::identifiers::{Block, EpochNumber, NodeIndex};

use crate::node::Disk;
use crate::operator::Operator;
use crate::settings::Settings;
use crate::world::{BLOCK_MS, Event, Fleet, POLL_MS};

impl Fleet {
    /// Edits, as the user, the `KmsCluster`.
    pub fn edit(&mut self, edit: impl FnOnce(&mut KmsClusterSpec)) {
        self.api.edit(edit);
        let spec = &self.api.now.cluster.spec;
        let removed: Vec<u32> = spec.remove_nodes.iter().map(|remove| remove.index).collect();
        let line = format!(
            "the user wants {} nodes without {removed:?}, threshold {}, minHolders {}, paused {}",
            spec.nodes,
            spec.effective_threshold(),
            spec.effective_min_holders(),
            spec.paused
        );
        self.log(line);
        // Whoever waits for a change is woken by it.
        self.schedule(1, Event::Reconcile(0));
    }

    /// Replaces a node, as the user: it is removed, and another takes its place under a new index.
    pub fn replace(&mut self, index: u32, lost: bool) {
        self.edit(|spec| {
            spec.remove_nodes.retain(|remove| remove.index != index);
            spec.remove_nodes.push(RemoveNode { index, lost });
        });
    }

    /// Deletes a `KeyEpoch`, as somebody who tidies up. Returns false where its finalizer holds it.
    pub fn delete_epoch(&mut self, number: EpochNumber) -> bool {
        let goes = self.api.delete_epoch(number.0);
        self.log(format!("somebody deletes KeyEpoch {number}: {}", if goes { "it is gone" } else { "it is held" }));
        goes
    }

    /// Starts or stops the operator.
    pub fn set_operator(&mut self, up: bool) {
        self.operators[0] = Operator::new(up);
    }

    /// Lets nothing go wrong from now on: everyone who is not lost for good is there.
    pub fn calm_down(&mut self) {
        self.settings = Settings::CALM;
        self.log("the world calms down");
        self.end_lies();
        self.api_up = true;
        if self.api.now.cluster.spec.paused {
            self.edit(|spec| spec.paused = false);
        }
        let all: Vec<_> = self.nodes.keys().copied().collect();
        all.into_iter().for_each(|index| self.restart(index));
    }

    /// Writes, as whoever may write the record, that an epoch is retired, and strikes it from the list of the kept.
    pub fn call_retired(&mut self, number: EpochNumber) {
        self.log(format!("somebody writes that epoch {number} is retired"));
        self.api.write_record(number.0, |status| status.phase = Some(Phase::Retired));
        let newest = self.active().filter(|newest| *newest > number);
        self.api.write_record(newest.unwrap_or(number).0, |status| {
            status.kept.iter_mut().for_each(|kept| kept.retain(|kept| *kept != number.0));
        });
    }

    /// Sets how a node behaves from now on.
    pub fn behave(&mut self, index: u32, behaviour: Behaviour) {
        self.log(format!("node {index} is now {behaviour:?}"));
        self.node(index).behave(behaviour);
    }

    /// Makes every node honest again.
    pub fn end_lies(&mut self) {
        let liars =
            self.nodes.values().filter(|node| node.behaviour != Behaviour::Honest).map(|node| node.index.value());
        for liar in liars.collect::<Vec<_>>() {
            self.behave(liar, Behaviour::Honest);
        }
    }

    /// Stops a node until [`Fleet::bring_up`]; its disk stays.
    pub fn take_down(&mut self, index: u32) {
        self.log(format!("node {index} goes away"));
        self.node(index).crash();
        let index = NodeIndex::new(index);
        self.unschedule(|event| matches!(event, Event::Restart(i) if Some(*i) == index));
    }

    /// Starts a stopped node from its disk.
    pub fn bring_up(&mut self, index: u32) {
        let index = NodeIndex::new(index).expect("indices start at one");
        self.restart(index);
    }

    /// Loses a node's volume; it comes back from its replica, without the file of bundles.
    pub fn wipe(&mut self, index: u32) {
        self.log(format!("node {index} loses its volume and comes back from its replica"));
        self.node(index).lose_volume();
        self.bring_up(index);
    }

    /// Loses a node for good: process, volume and seal.
    pub fn lose(&mut self, index: u32) {
        self.take_down(index);
        self.log(format!("node {index} is lost for good"));
        let node = self.node(index);
        node.disk = Disk::default();
        node.lost = true;
    }

    /// Runs until `reached`, or panics with the log's end when `blocks` pass without it.
    ///
    /// # Panics
    /// When the condition is not reached, or an invariant breaks.
    pub fn run_until(&mut self, what: &str, blocks: u64, reached: impl Fn(&Self) -> bool) {
        assert!(self.comes_to(blocks, reached), "{}", self.report(&format!("not within {blocks} blocks: {what}")));
    }

    /// Runs until `reached` or until `blocks` have passed, and tells which.
    pub fn comes_to(&mut self, blocks: u64, reached: impl Fn(&Self) -> bool) -> bool {
        let limit = self.block.0 + blocks;
        while !reached(self) {
            if self.block.0 >= limit {
                return false;
            }
            self.step();
        }
        true
    }

    /// Runs for a number of blocks.
    pub fn run_blocks(&mut self, blocks: u64) {
        let end = self.block.0 + blocks;
        while self.block.0 < end {
            self.step();
        }
    }

    /// Runs until an epoch above `after` is active, and gives its number.
    pub fn next_active(&mut self, after: Option<EpochNumber>, blocks: u64) -> EpochNumber {
        self.run_until("a newer active epoch", blocks, |fleet| fleet.active() > after);
        self.active().expect("it was just seen")
    }

    /// Lets one event happen, and checks the invariants.
    pub fn step(&mut self) {
        let event = self.next_event();
        let touched = self.happen(event);
        // What changes nothing of a node breaks nothing: most of its polls.
        let touched = touched.filter(|index| std::mem::take(&mut self.node(index.value()).changed));
        let mut invariants = std::mem::take(&mut self.invariants);
        let broken = invariants.check(&self.nodes, touched);
        self.invariants = invariants;
        if let Some(broken) = broken {
            self.fail(&broken);
        }
    }

    /// Returns the node that the event touched.
    fn happen(&mut self, event: Event) -> Option<NodeIndex> {
        match event {
            Event::Block => {
                self.stalls = self.stalls.saturating_sub(1);
                if self.stalls == 0 {
                    self.block = Block(self.block.0 + 1);
                }
                self.schedule(BLOCK_MS, Event::Block);
                self.misfortune();
                self.start_pods();
                None
            }
            Event::Reconcile(who) => {
                self.reconcile_once(who);
                None
            }
            Event::Write(who) => {
                self.write(who);
                None
            }
            Event::OperatorReads { who, index, life, .. } => {
                self.operator_reads(who, index, life);
                None
            }
            Event::Poll(index) => {
                self.poll(index);
                let jitter = self.random(POLL_MS / 4);
                self.schedule(POLL_MS + jitter, Event::Poll(index));
                Some(index)
            }
            Event::Read { to, from, life, upto } => {
                self.read(to, from, life, upto);
                Some(to)
            }
            Event::Fetch { to, from, life, digests } => {
                self.fetch(to, from, life, &digests);
                Some(to)
            }
            Event::Prove { to, from, life, asked_ms } => {
                self.prove(to, from, life, asked_ms);
                Some(to)
            }
            Event::OperatorHears { who, index, life, asked_ms } => {
                self.operator_hears(who, index, life, asked_ms);
                None
            }
            Event::Restart(index) => {
                self.restart(index);
                Some(index)
            }
            Event::SecondOperatorEnds => {
                self.operators[1] = Operator::default();
                self.log("operator 1 ends");
                None
            }
            Event::ApiServerReturns => {
                self.api_up = true;
                self.log("the API server is back");
                None
            }
        }
    }

    /// Lets an operator look once, however often it was woken.
    fn reconcile_once(&mut self, who: usize) {
        self.unschedule(|event| *event == Event::Reconcile(who));
        self.reconcile(who);
    }

    /// Lets go wrong what goes wrong by itself with a block.
    fn misfortune(&mut self) {
        let settings = self.settings;
        if self.stalls == 0 && self.chance(settings.stall_permille, 1_000) {
            self.stalls = 1 + self.random(5);
            self.count("fault: the chain stands still");
            self.log(format!("the chain stands still for {} block times", self.stalls));
        }
        if self.api_up && self.chance(settings.api_outage_permille, 1_000) {
            self.api_up = false;
            self.count("fault: the API server is away");
            self.log("the API server is away");
            let away = self.random(2 * BLOCK_MS);
            self.schedule(away, Event::ApiServerReturns);
        }
        if !self.operators[1].up && self.chance(settings.second_operator_permille, 1_000) {
            self.operators[1].up = true;
            self.count("fault: a second operator runs");
            self.log("a second operator begins");
            self.schedule(1, Event::Reconcile(1));
            let ends = self.random(10 * BLOCK_MS);
            self.schedule(ends, Event::SecondOperatorEnds);
        }
        self.outage();
    }

    /// Sends a random node away for a while, if the fleet can bear it.
    fn outage(&mut self) {
        if !self.chance(self.settings.outage_permille, 1_000) || self.active().is_none() {
            return;
        }
        let receivers: Vec<_> = self.receivers().into_iter().filter_map(NodeIndex::new).collect();
        let threshold = self.api.now.served().next_back().map_or(0, |(_, epoch)| epoch.spec.threshold as usize);
        let away = receivers.iter().filter(|index| !self.nodes[index].is_up()).count();
        let at = usize::try_from(self.random(receivers.len() as u64)).expect("small");
        let index = receivers[at];
        if self.nodes[&index].is_up() && away + threshold < receivers.len() {
            self.count("fault: a node goes away");
            self.take_down(index.value());
            let away_ms = self.random(30 * BLOCK_MS);
            self.schedule(away_ms, Event::Restart(index));
        }
    }
}

/// Returns the seeds to run: `count` fixed ones, as many as `KEYFLEET_SIM_SEEDS` says, or the single one that
/// `KEYFLEET_SIM_SEED` names.
///
/// # Panics
/// When a variable is not a number.
#[must_use]
pub fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("KEYFLEET_SIM_SEED") {
        Ok(seed) => vec![seed.parse().expect("KEYFLEET_SIM_SEED is a number")],
        Err(_) => {
            let count = std::env::var("KEYFLEET_SIM_SEEDS")
                .map_or(count, |count| count.parse().expect("KEYFLEET_SIM_SEEDS is a number"));
            (1..=count).collect()
        }
    }
}
