//! Memory of what was sealed and of what was said to be gone: longer than any node's or object's.

use std::collections::{BTreeMap, BTreeSet};

use keyfleet_planner::model::Objects;
use keyfleet_threshold::identifiers::{EpochNumber, NodeIndex, PrekeyNumber};
use keyfleet_threshold::round::{Body, SecretName};

use crate::node::Node;

/// All plans, the rounds in which somebody dealt, and every `Erased`.
#[derive(Default)]
pub(crate) struct Erasures {
    plans: BTreeMap<u64, Sealed>,
    dealt: BTreeSet<u64>,
    erased: BTreeMap<NodeIndex, BTreeSet<u64>>,
}

/// The part of a plan that says who opens what is dealt in its round.
struct Sealed {
    source: Option<u64>,
    prekeys: BTreeMap<u32, u64>,
}

impl Erasures {
    pub(crate) fn note_plans(&mut self, objects: &Objects) {
        for (number, epoch) in &objects.epochs {
            self.plans.entry(*number).or_insert_with(|| {
                let named = epoch.spec.receivers.iter();
                let named = named.filter_map(|receiver| Some((receiver.index, receiver.prekey.as_ref()?.number)));
                Sealed { source: epoch.spec.source.as_ref().map(|source| source.number), prekeys: named.collect() }
            });
        }
    }

    /// After `Erased` of an epoch no living secret of that node opens a bundle of it, or of an attempt that was dealt on it: neither
    /// in its memory nor on its disk.
    pub(crate) fn invariant_erased_is_closed(&mut self, node: &Node) -> Result<(), String> {
        for (number, message) in node.said() {
            match &message.body {
                Body::Dealing(_) => self.dealt.insert(number.0),
                Body::Erased => self.erased.entry(node.index).or_default().insert(number.0),
                _ => false,
            };
        }
        let Some(erased) = self.erased.get(&node.index) else { return Ok(()) };
        for (number, plan) in self.plans.iter().filter(|(number, _)| self.dealt.contains(number)) {
            let of_erased = |number: &u64| erased.contains(number);
            if !of_erased(number) && !plan.source.as_ref().is_some_and(of_erased) {
                continue;
            }
            let epoch = EpochNumber(*number);
            let prekey = plan.prekeys.get(&node.index.value()).map(|prekey| SecretName::Prekey(PrekeyNumber(*prekey)));
            let share = Some(SecretName::Share(epoch)).filter(|_| of_erased(number));
            for secret in prekey.into_iter().chain(share).chain([SecretName::DealerSeed(epoch)]) {
                let in_memory = node.process.as_ref().is_some_and(|it| it.participant.expose(secret).is_some());
                if in_memory || node.disk.secrets.contains_key(&secret) {
                    return Err(format!(
                        "node {} keeps {secret:?} of round {number}, on {:?}, after it said Erased of {erased:?}",
                        node.index, plan.source
                    ));
                }
            }
        }
        Ok(())
    }
}
