//! Random lives of random fleets: everything goes wrong by itself, and the user does what users do.

use std::collections::BTreeMap;

use keyfleet_adversary::Behaviour;
use keyfleet_threshold::identifiers::{EpochNumber, NodeIndex};

use crate::history::{self, is_lost, reach_a_newer_epoch, unbroken};
use crate::node::living_holders;
use crate::settings::Settings;
use crate::world::Fleet;

/// Changes in a long life. Most lives have one to three, and few nodes: what goes wrong takes little of either.
const LONG_CHANGES: u64 = 12;
/// Result of one life.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// The seed that replays it.
    pub seed: u64,
    /// Nodes at the beginning.
    pub nodes: u32,
    /// The threshold at the beginning.
    pub threshold: u32,
    /// Events that happened.
    pub events: u64,
    /// Rounds, failed ones included.
    pub rounds: u64,
    /// Counts of what happened and was decided, by kind.
    pub kinds: BTreeMap<&'static str, u64>,
    /// First line of what broke; `None` when all held.
    pub broken: Option<String>,
}

/// Makes the fleet of a seed, in a rough world: one in thirty-two has 7 to 16 nodes, the others have 3 to 6.
#[must_use]
pub fn fleet(seed: u64) -> Fleet {
    let nodes = if is_large(seed) { 7 + (seed / 32) % 10 } else { 3 + (seed + seed / 32) % 4 };
    let nodes = u32::try_from(nodes).expect("small");
    let threshold = u16::try_from((2 * nodes).div_ceil(3)).expect("small");
    Fleet::new(seed, Settings::ROUGH, nodes, threshold, threshold)
}

fn is_large(seed: u64) -> bool {
    seed.is_multiple_of(32)
}

/// One small life in thirty-two is long, and so is one large life in sixteen.
fn is_long(seed: u64) -> bool {
    if is_large(seed) { (seed / 32).is_multiple_of(16) } else { seed % 32 == 16 }
}

/// Lives one life to its end. The fleet keeps its log, also when something breaks.
pub fn live(fleet: &mut Fleet) -> Outcome {
    let spec = &fleet.api.now.cluster.spec;
    let (nodes, threshold) = (spec.nodes, spec.effective_threshold());
    let broken = unbroken(|| life(fleet)).err().map(|text| text.lines().next().unwrap_or_default().to_owned());
    let rounds = fleet.api.now.cluster.status.next_number.unwrap_or(1) - 1;
    let kinds = fleet.kinds().clone();
    Outcome { seed: fleet.seed, nodes, threshold, events: fleet.events(), rounds, kinds, broken }
}

fn life(fleet: &mut Fleet) {
    // A genesis needs every node at once, so nothing is promised of it in a rough world.
    let rough = std::mem::replace(&mut fleet.settings, Settings::CALM);
    fleet.next_active(None, 1_000);
    fleet.settings = rough;
    let changes = if is_long(fleet.seed) { LONG_CHANGES } else { 1 + fleet.random(3) };
    for _ in 0..changes {
        fleet.end_lies();
        change(fleet);
        let blocks = 1 + fleet.random(20);
        fleet.run_blocks(blocks);
    }
    fleet.calm_down();
    reach_a_newer_epoch(fleet);
}

fn change(fleet: &mut Fleet) {
    let receivers = fleet.receivers();
    let at = usize::try_from(fleet.random(receivers.len() as u64)).expect("small");
    let victim = receivers[at];
    let spec = &fleet.api.now.cluster.spec;
    let (nodes, paused) = (spec.nodes, spec.paused);
    match fleet.random(11) {
        0 if may_be_destroyed(fleet, victim) => {
            fleet.count("act: a node is destroyed and replaced");
            fleet.lose(victim);
            fleet.run_blocks(1);
            fleet.replace(victim, true);
        }
        1 if !is_lost(fleet, victim) => {
            fleet.count("act: a volume is lost");
            fleet.wipe(victim);
        }
        2 => {
            fleet.count("act: the fleet grows");
            fleet.edit(|spec| spec.nodes = (nodes + 1).min(16));
        }
        3 => {
            fleet.count("act: the fleet shrinks");
            fleet.edit(|spec| spec.nodes = (nodes - 1).max(3));
        }
        4 => {
            let lowest = nodes / 2 + 1;
            let threshold = lowest + u32::try_from(fleet.random(u64::from(nodes - lowest))).expect("small");
            fleet.count("act: another threshold");
            fleet.edit(|spec| (spec.threshold, spec.min_holders) = (Some(threshold), None));
        }
        5 => {
            fleet.count("act: a node is replaced");
            fleet.replace(victim, false);
        }
        6 => {
            fleet.count("act: the cluster is paused or goes on");
            fleet.edit(|spec| spec.paused = !paused);
        }
        7 => {
            let word = fleet.random(u64::MAX).to_string();
            fleet.count("act: a reshare is asked for");
            fleet.api.request_reshare(&word);
            fleet.log("the user asks for a reshare");
        }
        8 if !is_lost(fleet, victim) => {
            let behaviour = lie(fleet, &receivers);
            fleet.count("fault: a node lies");
            fleet.behave(victim, behaviour);
        }
        9 => {
            fleet.count("act: somebody deletes a KeyEpoch");
            let ended: Vec<_> =
                fleet.epochs().filter(|epoch| !epoch.is_open()).map(|epoch| epoch.spec.number).collect();
            let at = usize::try_from(fleet.random(ended.len() as u64)).expect("small");
            fleet.delete_epoch(EpochNumber(ended[at]));
        }
        _ => {}
    }
    // What the user wrote before fits the new size, or the API server would refuse it.
    let spec = &fleet.api.now.cluster.spec;
    let fits = spec.threshold.is_none_or(|threshold| 2 * threshold > spec.nodes && threshold < spec.nodes);
    let removes = spec.remove_nodes.len() < spec.nodes as usize;
    if !fits || spec.min_holders.is_some() || !removes {
        fleet.edit(|spec| {
            (spec.threshold, spec.min_holders) = (spec.threshold.filter(|_| fits), None);
            spec.remove_nodes.retain(|_| removes);
        });
    }
}

/// Draws a lie, about another receiver where it is about somebody.
fn lie(fleet: &mut Fleet, receivers: &[u32]) -> Behaviour {
    let at = usize::try_from(fleet.random(receivers.len() as u64)).expect("small");
    let other = NodeIndex::new(receivers[at]).expect("indices start at one");
    match fleet.random(12) {
        0 => Behaviour::MuteDealer,
        1 => Behaviour::LyingDealer { victim: other },
        2 => Behaviour::ForeignConstant,
        3 => Behaviour::Equivocator,
        4 => Behaviour::FalseComplainer { accused: other },
        5 => Behaviour::Saboteur,
        6 => Behaviour::FalseKeeper,
        7 => Behaviour::Whisperer { accused: None },
        8 => Behaviour::Whisperer { accused: Some(other) },
        9 => Behaviour::Flooder,
        10 => Behaviour::Gossip,
        _ => Behaviour::Silent,
    }
}

/// No more than n−t receivers of any epoch that is kept are ever destroyed: that much is promised. Whoever was cheated while it was
/// away counts among these until it holds the newest epoch, so once somebody has lied a threshold of living holders must remain.
fn may_be_destroyed(fleet: &Fleet, victim: u32) -> bool {
    let has_lied = fleet.nodes.values().any(|node| node.lied);
    let remain = |number: u64| {
        let holders = living_holders(&fleet.nodes, EpochNumber(number));
        holders.iter().filter(|holder| holder.value() != victim).count()
    };
    let served = || fleet.api.now.served();
    if has_lied && served().any(|(number, epoch)| remain(number) < epoch.spec.threshold as usize) {
        return false;
    }
    history::may_be_destroyed(fleet, victim)
}
