//! The plan of one round: everything that its parties must agree on before the first of them speaks.
//!
//! A `KeyEpoch`'s spec is one of these. Its digest is bound into every message of the round, so two nodes that read
//! different plans cannot finish a round together.
//!
//! - [`encoding`](self): the canonical bytes, versioned by [`PlanVersion`] (byte by byte in `docs/formats.md`)
//! - [`validation`]: what every node checks before it accepts a plan
//! - [`frozen`]: what the record fixes while the round runs

mod encoding;
pub mod frozen;
pub mod validation;

use crate::curve::G2;
use crate::identifiers::{Block, ClusterId, Digest, EpochNumber, NodeIndex, Threshold};
use crate::identity::IdentityPublicKey;
use crate::prekey::SignedPrekey;

pub use frozen::{Frozen, FrozenDigests};
pub use validation::{PlanError, ValidPlan};

/// The most dealers, and the most receivers, of a plan.
pub const MEMBERS_MAX: usize = 100;

/// Version of a plan: the fields that its encoding holds. Nodes refuse a version they do not know.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum PlanVersion {
    /// The second and only one. The first sealed shares so that a complaint could reveal them, and is refused.
    V2,
}

impl PlanVersion {
    /// The version that this release writes.
    pub const NEWEST: Self = Self::V2;

    /// The version's number as it is encoded.
    #[must_use]
    pub fn number(self) -> u16 {
        match self {
            Self::V2 => 2,
        }
    }
}

/// One attempt at a round.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// Names the encoded fields.
    pub version: PlanVersion,
    /// The cluster.
    pub cluster: ClusterId,
    /// The attempt's number, above every number before it.
    pub number: EpochNumber,
    /// Origin of the key.
    pub origin: Origin,
    /// The block for which the round was started: a boundary, or the current block of an immediate round.
    pub block: Block,
    /// Number of receivers' shares that open the key.
    pub threshold: Threshold,
    /// Number of receivers that must have stored their share before the epoch may become active (genesis: all of them).
    pub min_holders: u16,
    /// Nodes that may deal, ascending by index: at a reshare all receivers of the source, whoever of them is still there.
    pub dealers: Vec<Member>,
    /// Nodes that get a share, ascending by index.
    pub receivers: Vec<Receiver>,
    /// Nodes that the phases wait for, ascending: at genesis all, otherwise the connected ones.
    pub expected: Vec<NodeIndex>,
    /// Longest duration of each phase.
    pub deadlines: Deadlines,
    /// Kept in the encoding for a digest of who may be a member. Nobody sets it.
    pub roster: Option<Digest>,
}

/// Origin of a round's key.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(clippy::large_enum_variant, reason = "plans are few and live long; a box would buy nothing")]
pub enum Origin {
    /// A new key.
    Genesis,
    /// The key of an earlier epoch, shared anew.
    Reshare {
        /// The epoch whose shares are dealt on.
        source: Source,
        /// The public key, which the round must not change.
        public_key: G2,
    },
}

/// The epoch whose shares a reshare deals on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Source {
    /// Number of the epoch.
    pub number: EpochNumber,
    /// Digest of its plan.
    pub plan: Digest,
    /// The digest of its verification vector.
    pub vector: Digest,
    /// Threshold of the epoch: the number of qualified dealers that this round needs.
    pub threshold: Threshold,
}

/// A node with its pinned identity.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Member {
    /// Index of the node.
    pub index: NodeIndex,
    /// Identity key pinned to the index.
    pub identity: IdentityPublicKey,
}

/// A member that gets a share, and the prekey under which it is sealed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Receiver {
    /// Index of the node.
    pub index: NodeIndex,
    /// Identity key pinned to the index.
    pub identity: IdentityPublicKey,
    /// Prekey of the node, signed by it. A receiver without one gets nothing sealed, and holds no share of this epoch.
    pub prekey: Option<SignedPrekey>,
}

/// Longest duration of each phase, in blocks from the block at which it was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Deadlines {
    /// Dealing, freezing included.
    pub dealing_blocks: u32,
    /// Verifying.
    pub verifying_blocks: u32,
    /// Preparing.
    pub preparing_blocks: u32,
    /// Certifying.
    pub certifying_blocks: u32,
}

impl Deadlines {
    /// The sum of all phases: an interval must be longer.
    #[must_use]
    pub fn total_blocks(&self) -> u64 {
        [self.dealing_blocks, self.verifying_blocks, self.preparing_blocks, self.certifying_blocks]
            .into_iter()
            .map(u64::from)
            .sum()
    }
}

impl Plan {
    /// The digest of the canonical encoding: bound into every message of the round.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Self::digest_of(&self.encode())
    }

    /// Returns the digest of the plan with these canonical bytes, without reading them.
    #[must_use]
    pub fn digest_of(bytes: &[u8]) -> Digest {
        Digest::of("KEYFLEET-V1-PLAN", &[bytes])
    }

    /// Returns how many dealers must qualify: t at genesis (one of them is honest), t of the source on reshare.
    #[must_use]
    pub fn dealers_needed(&self) -> usize {
        match &self.origin {
            Origin::Genesis => self.threshold.count(),
            Origin::Reshare { source, .. } => source.threshold.count(),
        }
    }

    /// Returns how many receivers must have a dealer's bundle before it is frozen: n−t+1, so that one of them is honest and serves it.
    #[must_use]
    pub fn copies_needed(&self) -> usize {
        (self.receivers.len() + 1).saturating_sub(self.threshold.count())
    }

    /// Returns how many receivers must be prepared: all at genesis, `min_holders` otherwise.
    #[must_use]
    pub fn holders_needed(&self) -> usize {
        match self.origin {
            Origin::Genesis => self.receivers.len(),
            Origin::Reshare { .. } => usize::from(self.min_holders),
        }
    }

    /// Returns how many receivers' possession confirms the epoch: t + max(1, ⌈(n−t)/2⌉), at most n.
    #[must_use]
    pub fn holders_to_confirm(&self) -> usize {
        let (n, t) = (self.receivers.len(), self.threshold.count());
        n.min(t + n.saturating_sub(t).div_ceil(2).max(1))
    }

    /// The source of a reshare.
    #[must_use]
    pub fn source(&self) -> Option<&Source> {
        match &self.origin {
            Origin::Genesis => None,
            Origin::Reshare { source, .. } => Some(source),
        }
    }

    /// The public key that the round must keep; none at genesis.
    #[must_use]
    pub fn expected_public_key(&self) -> Option<G2> {
        match self.origin {
            Origin::Genesis => None,
            Origin::Reshare { public_key, .. } => Some(public_key),
        }
    }

    /// Returns the dealer at `index`.
    #[must_use]
    pub fn dealer(&self, index: NodeIndex) -> Option<&Member> {
        self.dealers.binary_search_by_key(&index, |member| member.index).ok().map(|at| &self.dealers[at])
    }

    /// The receiver at `index`.
    #[must_use]
    pub fn receiver(&self, index: NodeIndex) -> Option<&Receiver> {
        self.receivers.binary_search_by_key(&index, |receiver| receiver.index).ok().map(|at| &self.receivers[at])
    }

    /// The pinned identity of anyone who takes part.
    #[must_use]
    pub fn identity_of(&self, index: NodeIndex) -> Option<IdentityPublicKey> {
        let dealer = || self.dealer(index).map(|dealer| dealer.identity);
        self.receiver(index).map(|receiver| receiver.identity).or_else(dealer)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::curve::Scalar;
    use crate::identifiers::PrekeyNumber;
    use crate::identity::IdentitySecretKey;
    use crate::prekey::PrekeySecret;

    fn example_identity(i: u32) -> IdentitySecretKey {
        IdentitySecretKey::from_seed(&[u8::try_from(i).unwrap(); 32])
    }

    /// A reshare of four nodes into four, threshold three.
    pub(crate) fn example() -> Plan {
        let index = |i| NodeIndex::new(i).unwrap();
        let identity = |i: u32| example_identity(i).public();
        let cluster = ClusterId(*b"0123456789abcdef");
        let prekey = |i: u32| {
            let secret =
                PrekeySecret::restore(PrekeyNumber(u64::from(i) + 10), &[u8::try_from(i).unwrap(); 32]).unwrap();
            secret.offer(cluster, index(i), &example_identity(i))
        };
        Plan {
            version: PlanVersion::V2,
            cluster,
            number: EpochNumber(8),
            origin: Origin::Reshare {
                source: Source {
                    number: EpochNumber(7),
                    plan: Digest([0x70; 32]),
                    vector: Digest([0x71; 32]),
                    threshold: Threshold(3),
                },
                public_key: G2::generator().times(&Scalar::from_u64(42)),
            },
            block: Block(1_050),
            threshold: Threshold(3),
            min_holders: 3,
            dealers: (1..5).map(|i| Member { index: index(i), identity: identity(i) }).collect(),
            receivers: (2..6)
                .map(|i| Receiver {
                    index: index(i),
                    identity: identity(i),
                    // The last one has shown none.
                    prekey: (i < 5).then(|| prekey(i)),
                })
                .collect(),
            expected: vec![index(1), index(2), index(4), index(5)],
            deadlines: Deadlines { dealing_blocks: 2, verifying_blocks: 3, preparing_blocks: 4, certifying_blocks: 5 },
            roster: Some(Digest([0x72; 32])),
        }
    }

    /// The example as a genesis of its four receivers.
    pub(crate) fn genesis_example() -> Plan {
        let mut plan = example();
        plan.number = EpochNumber(1);
        plan.origin = Origin::Genesis;
        plan.roster = None;
        plan.receivers.iter_mut().for_each(|receiver| {
            let byte = u8::try_from(receiver.index.value()).unwrap();
            let secret = PrekeySecret::restore(PrekeyNumber(1), &[byte; 32]).unwrap();
            let prekey = secret.offer(plan.cluster, receiver.index, &example_identity(receiver.index.value()));
            receiver.prekey = Some(prekey);
        });
        plan.dealers = plan.receivers.iter().map(|r| Member { index: r.index, identity: r.identity }).collect();
        plan.expected = plan.receivers.iter().map(|r| r.index).collect();
        plan
    }

    /// Frozen bytes: a change here is a new plan version, not a new fixture.
    /// seed: 003-15
    #[test]
    fn plans_encode_as_the_fixtures_say() {
        let fixtures: serde_json::Value = serde_json::from_str(include_str!("../../fixtures/plan-v2.json")).unwrap();
        for (name, plan) in [("reshare", example()), ("genesis", genesis_example())] {
            let fixture = &fixtures[name];
            assert_eq!(hex::encode(plan.encode()), fixture["encoding"].as_str().unwrap(), "{name}: encoding");
            assert_eq!(plan.digest().to_string(), fixture["digest"].as_str().unwrap(), "{name}: plan digest");
            let bytes = hex::decode(fixture["encoding"].as_str().unwrap()).unwrap();
            assert_eq!(Plan::decode(&bytes).unwrap(), plan, "{name}: decoding the fixture");
            plan.validate().unwrap_or_else(|fault| panic!("{name} must be valid: {fault}"));
        }
    }

    #[test]
    fn every_bit_of_a_plan_counts() {
        let plan = example();
        let (bytes, digest) = (plan.encode(), plan.digest());
        for position in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[position] ^= 1;
            if let Ok(other) = Plan::decode(&changed) {
                assert_ne!(other.digest(), digest, "byte {position} does not reach the digest");
                assert_eq!(other.encode(), changed, "byte {position} decodes to a plan with another encoding");
            }
            assert!(Plan::decode(&bytes[..position]).is_err(), "a plan cut at byte {position} must not decode");
        }
    }
}
