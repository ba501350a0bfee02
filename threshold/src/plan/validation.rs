//! Checks of every node on every plan, whoever wrote it: the shape that the promises of a round rest on.
//!
//! The checks here need the plan alone. Those that need a node's memory (numbers that only rise, pins, the source that it
//! keeps, prekeys that it accepted) are made by [`crate::round::Participant`] when it accepts the plan. A plan carries neither the
//! user's `allowDowntime` nor the interval: what these bound is for the rules of the `KmsCluster`.

use std::ops::Deref;

use super::{MEMBERS_MAX, Origin, Plan};
use crate::identifiers::{Digest, EpochNumber, NodeIndex, Threshold};

/// A plan that every check of this module passed, with its digest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ValidPlan {
    plan: Plan,
    digest: Digest,
}

impl Deref for ValidPlan {
    type Target = Plan;
    fn deref(&self) -> &Plan {
        &self.plan
    }
}

impl ValidPlan {
    /// The plan's digest, computed once.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

/// Defect of a plan, for which anyone who reads it refuses it. The operator is at fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// Fewer than three receivers cannot lose one and keep a key that two must open.
    #[error("{nodes} receivers: a cluster needs at least 3")]
    TooFewNodes {
        /// Number of receivers in the plan.
        nodes: usize,
    },
    /// Half of the nodes could open the key without the other half.
    #[error("threshold {threshold} of {nodes}: 2·threshold must exceed the number of nodes")]
    ThresholdTooLow {
        /// The threshold.
        threshold: Threshold,
        /// Number of receivers in the plan.
        nodes: usize,
    },
    /// More shares are needed than there are.
    #[error("threshold {threshold} exceeds the {nodes} nodes")]
    ThresholdTooHigh {
        /// The threshold.
        threshold: Threshold,
        /// Number of receivers in the plan.
        nodes: usize,
    },
    /// `minHolders` lies outside threshold ..= nodes.
    #[error("minHolders {min_holders} must lie between threshold {threshold} and {nodes} nodes")]
    MinHolders {
        /// The value.
        min_holders: u16,
        /// The threshold.
        threshold: Threshold,
        /// Number of receivers in the plan.
        nodes: usize,
    },
    /// A list that must ascend without repetition does not.
    #[error("{list} must ascend by index without repetition")]
    NotAscending {
        /// Name of the list.
        list: &'static str,
    },
    /// Two members share an identity key, or one has two.
    #[error("the identity keys of {one} and {other} contradict each other")]
    IdentityConflict {
        /// One index.
        one: NodeIndex,
        /// The other; the same index when it has two keys.
        other: NodeIndex,
    },
    /// Fewer dealers than must qualify.
    #[error("{dealers} dealers: at least {needed} must qualify")]
    TooFewDealers {
        /// Number of dealers in the plan.
        dealers: usize,
        /// Number of dealers that must qualify.
        needed: usize,
    },
    /// At genesis dealers, receivers and expected are the same nodes.
    #[error("at genesis every node deals, receives and is expected")]
    GenesisRoles,
    /// Someone is expected who has no part in the round.
    #[error("{0} is expected but neither deals nor receives")]
    ExpectsStranger(NodeIndex),
    /// The source is not older than the plan.
    #[error("the source {source_number} is not below the plan's number {number}")]
    SourceNotOlder {
        /// The source's number.
        source_number: EpochNumber,
        /// The plan's number.
        number: EpochNumber,
    },
    /// More members than a fleet has.
    #[error("{list} names {found} nodes, {max} is the most", max = MEMBERS_MAX)]
    TooManyNodes {
        /// Name of the list.
        list: &'static str,
        /// Length of the list.
        found: usize,
    },
    /// The receiver did not sign the prekey that the plan names for it.
    #[error("{0} did not sign the prekey that the plan names for it")]
    Prekey(NodeIndex),
    /// Too few receivers can be sealed to: at genesis all, otherwise `minHolders`.
    #[error("{found} receivers have a prekey, {needed} are needed")]
    TooFewPrekeys {
        /// Receivers that have one.
        found: usize,
        /// Receivers that must have one.
        needed: usize,
    },
    /// A phase without time.
    #[error("each phase needs at least one block")]
    ZeroDeadline,
    /// The source's threshold is below two.
    #[error("the source's threshold {0} is below 2")]
    SourceThreshold(Threshold),
}

impl Plan {
    /// Checks the plan's shape.
    ///
    /// # Errors
    /// The first [`PlanError`] found, in the order of the fields.
    pub fn validate(self) -> Result<ValidPlan, PlanError> {
        check_sizes(&self)?;
        check_order(&self)?;
        check_identities(&self)?;
        check_roles(&self)?;
        check_prekeys(&self)?;
        let deadlines = &self.deadlines;
        let phases = [
            deadlines.dealing_blocks,
            deadlines.verifying_blocks,
            deadlines.preparing_blocks,
            deadlines.certifying_blocks,
        ];
        if phases.contains(&0) {
            return Err(PlanError::ZeroDeadline);
        }
        Ok(ValidPlan { digest: self.digest(), plan: self })
    }
}

fn check_sizes(plan: &Plan) -> Result<(), PlanError> {
    for (list, found) in [("dealers", plan.dealers.len()), ("receivers", plan.receivers.len())] {
        if found > MEMBERS_MAX {
            return Err(PlanError::TooManyNodes { list, found });
        }
    }
    let (nodes, threshold, min_holders) = (plan.receivers.len(), plan.threshold, plan.min_holders);
    if nodes < 3 {
        return Err(PlanError::TooFewNodes { nodes });
    }
    if 2 * threshold.count() <= nodes {
        return Err(PlanError::ThresholdTooLow { threshold, nodes });
    }
    if threshold.count() > nodes {
        return Err(PlanError::ThresholdTooHigh { threshold, nodes });
    }
    if min_holders < threshold.0 || usize::from(min_holders) > nodes {
        return Err(PlanError::MinHolders { min_holders, threshold, nodes });
    }
    Ok(())
}

fn check_order(plan: &Plan) -> Result<(), PlanError> {
    let ascending = |indices: &mut dyn Iterator<Item = NodeIndex>| indices.is_sorted_by(|a, b| a < b);
    let lists = [
        ("dealers", ascending(&mut plan.dealers.iter().map(|dealer| dealer.index))),
        ("receivers", ascending(&mut plan.receivers.iter().map(|receiver| receiver.index))),
        ("expected", ascending(&mut plan.expected.iter().copied())),
    ];
    match lists.into_iter().find(|(_, ascending)| !ascending) {
        Some((list, _)) => Err(PlanError::NotAscending { list }),
        None => Ok(()),
    }
}

fn check_identities(plan: &Plan) -> Result<(), PlanError> {
    let dealers = plan.dealers.iter().map(|dealer| (dealer.identity, dealer.index));
    let mut all: Vec<_> = dealers.chain(plan.receivers.iter().map(|r| (r.identity, r.index))).collect();
    // Ordered by key: a key of two indices. Ordered by index: an index of two keys.
    all.sort_unstable();
    all.dedup();
    if let Some(pair) = all.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(PlanError::IdentityConflict { one: pair[0].1, other: pair[1].1 });
    }
    all.sort_unstable_by_key(|(_, index)| *index);
    match all.windows(2).find(|pair| pair[0].1 == pair[1].1) {
        Some(pair) => Err(PlanError::IdentityConflict { one: pair[0].1, other: pair[1].1 }),
        None => Ok(()),
    }
}

fn check_roles(plan: &Plan) -> Result<(), PlanError> {
    if let Some(stranger) = plan.expected.iter().find(|index| plan.identity_of(**index).is_none()) {
        return Err(PlanError::ExpectsStranger(*stranger));
    }
    match &plan.origin {
        Origin::Genesis => {
            let dealers = plan.dealers.iter().map(|dealer| dealer.index);
            let everyone = || plan.receivers.iter().map(|receiver| receiver.index);
            if !dealers.eq(everyone()) || !plan.expected.iter().copied().eq(everyone()) {
                return Err(PlanError::GenesisRoles);
            }
        }
        Origin::Reshare { source, .. } => {
            if source.number >= plan.number {
                return Err(PlanError::SourceNotOlder { source_number: source.number, number: plan.number });
            }
            if source.threshold.0 < 2 {
                return Err(PlanError::SourceThreshold(source.threshold));
            }
            if plan.dealers.len() < plan.dealers_needed() {
                return Err(PlanError::TooFewDealers { dealers: plan.dealers.len(), needed: plan.dealers_needed() });
            }
        }
    }
    Ok(())
}

fn check_prekeys(plan: &Plan) -> Result<(), PlanError> {
    let prekeys = plan.receivers.iter().filter_map(|receiver| Some((receiver, receiver.prekey.as_ref()?)));
    let mut found = 0;
    for (receiver, prekey) in prekeys {
        if !prekey.is_of(plan.cluster, receiver.index, &receiver.identity) {
            return Err(PlanError::Prekey(receiver.index));
        }
        found += 1;
    }
    let needed = plan.holders_needed();
    if found < needed { Err(PlanError::TooFewPrekeys { found, needed }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::example;

    fn fault(change: impl FnOnce(&mut Plan)) -> PlanError {
        let mut plan = example();
        change(&mut plan);
        plan.validate().expect_err("the changed plan must be refused")
    }

    #[test]
    fn the_example_plan_is_valid() {
        example().validate().expect("the example is what the refusals below start from");
    }

    #[test]
    fn plans_on_which_a_key_could_be_lost_or_taken_are_refused() {
        assert_eq!(fault(|p| p.receivers.truncate(2)), PlanError::TooFewNodes { nodes: 2 });
        assert!(matches!(fault(|p| p.threshold = Threshold(2)), PlanError::ThresholdTooLow { .. }));
        assert!(matches!(fault(|p| p.threshold = Threshold(5)), PlanError::ThresholdTooHigh { .. }));
        assert!(matches!(fault(|p| p.min_holders = 2), PlanError::MinHolders { .. }));
        assert!(matches!(fault(|p| p.min_holders = 5), PlanError::MinHolders { .. }));
        assert_eq!(fault(|p| p.dealers.swap(0, 1)), PlanError::NotAscending { list: "dealers" });
        assert_eq!(fault(|p| p.receivers[1] = p.receivers[0]), PlanError::NotAscending { list: "receivers" });
        assert_eq!(fault(|p| p.expected.reverse()), PlanError::NotAscending { list: "expected" });
        assert!(matches!(
            fault(|p| p.receivers[0].identity = p.dealers[2].identity),
            PlanError::IdentityConflict { .. }
        ));
        assert!(matches!(fault(|p| p.dealers.truncate(2)), PlanError::TooFewDealers { dealers: 2, needed: 3 }));
        assert!(matches!(fault(|p| p.expected.push(NodeIndex::new(99).unwrap())), PlanError::ExpectsStranger(_)));
        assert!(matches!(fault(|p| p.number = EpochNumber(7)), PlanError::SourceNotOlder { .. }));
        assert_eq!(fault(|p| p.deadlines.preparing_blocks = 0), PlanError::ZeroDeadline);
        assert!(matches!(fault(|p| p.receivers[1].prekey = p.receivers[0].prekey), PlanError::Prekey(_)));
        assert_eq!(fault(|p| p.receivers[1].prekey = None), PlanError::TooFewPrekeys { found: 2, needed: 3 });
        assert_eq!(
            fault(|p| {
                p.origin = Origin::Genesis;
                p.dealers.pop();
                p.expected.pop();
            }),
            PlanError::GenesisRoles
        );
    }
}
