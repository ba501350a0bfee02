//! A kept epoch between its value and protobuf, which carries it in a stream.

use keyfleet_threshold::curve::G1;
use keyfleet_threshold::identifiers::{ClusterId, EpochNumber, NodeIndex};
use keyfleet_threshold::plan::{FrozenDigests, MEMBERS_MAX, Plan};
use keyfleet_threshold::purpose::Certificate;
use keyfleet_threshold::round::ShownEpoch;

use crate::messages::digest;
use crate::v1;

/// A kept epoch as it travels.
#[must_use]
pub fn kept_epoch(shown: &ShownEpoch) -> v1::KeptEpoch {
    let qualified = shown.qualified.iter();
    let qualified =
        qualified.map(|(dealer, bundle)| v1::QualifiedBundle { dealer: dealer.value(), digest: bundle.0.to_vec() });
    v1::KeptEpoch {
        number: shown.certificate.number.0,
        plan: shown.plan.clone(),
        vector_digest: shown.certificate.vector.0.to_vec(),
        signature: shown.certificate.signature.encode().to_vec(),
        qualified: qualified.collect(),
    }
}

/// Reads an epoch that a node of `cluster` shows; `None` when it is malformed. Neither certificate nor plan is checked.
#[must_use]
pub fn read(cluster: ClusterId, shown: v1::KeptEpoch) -> Option<ShownEpoch> {
    if shown.qualified.len() > MEMBERS_MAX {
        return None;
    }
    let bundle = |listed: &v1::QualifiedBundle| Some((NodeIndex::new(listed.dealer)?, digest(&listed.digest)?));
    let qualified: Vec<_> = shown.qualified.iter().map(bundle).collect::<Option<_>>()?;
    let certificate = Certificate {
        cluster,
        number: EpochNumber(shown.number),
        plan: Plan::digest_of(&shown.plan),
        vector: digest(&shown.vector_digest)?,
        signature: G1::decode(shown.signature.as_slice().try_into().ok()?).ok()?,
    };
    Some(ShownEpoch { plan: shown.plan, certificate, qualified: FrozenDigests::new(qualified).ok()? })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use keyfleet_threshold::coordination::{FleetView, KeptEpoch, NodeView, planning};
    use keyfleet_threshold::curve::G2;
    use keyfleet_threshold::identifiers::{Block, Digest, PrekeyNumber, Threshold};
    use keyfleet_threshold::identity::IdentitySecretKey;
    use keyfleet_threshold::plan::{Deadlines, ValidPlan};
    use keyfleet_threshold::prekey::PrekeySecret;
    use prost::Message as _;

    use super::*;
    use crate::limits::ITEM_BYTES_MAX;

    const CLUSTER: ClusterId = ClusterId([7; 16]);

    fn index(i: u32) -> NodeIndex {
        NodeIndex::new(i).unwrap()
    }

    fn view(number: u64, threshold: u16) -> FleetView {
        let node = |i: u32| {
            let (index, identity) = (index(i), IdentitySecretKey::from_seed(&[u8::try_from(i).unwrap(); 32]));
            let secret = PrekeySecret::restore(PrekeyNumber(u64::MAX), &[u8::try_from(i).unwrap(); 32]).unwrap();
            let prekey = Some(secret.offer(CLUSTER, index, &identity));
            NodeView { index, identity: identity.public(), prekey }
        };
        FleetView {
            cluster: CLUSTER,
            number: EpochNumber(number),
            block: Block(u64::MAX),
            threshold: Threshold(threshold),
            min_holders: threshold,
            deadlines: Deadlines { dealing_blocks: 2, verifying_blocks: 2, preparing_blocks: 2, certifying_blocks: 2 },
            receivers: (1..=100).map(node).collect(),
            connected: (1..=100).map(index).collect(),
            unawaited: [].into(),
        }
    }

    /// A reshare of a hundred nodes among themselves.
    fn largest_plan(threshold: u16) -> ValidPlan {
        let kept = KeptEpoch {
            number: EpochNumber(1),
            plan: planning::genesis(&view(1, threshold)).unwrap(),
            vector: Digest([5; 32]),
            public_key: G2::generator(),
            holders: (1..=100).map(index).collect(),
        };
        planning::reshare(&view(2, threshold), &kept).unwrap()
    }

    fn shown(plan: &ValidPlan) -> ShownEpoch {
        let signature = G1::generator();
        let certificate = Certificate {
            cluster: CLUSTER,
            number: plan.number,
            plan: plan.digest(),
            vector: Digest([6; 32]),
            signature,
        };
        let qualified: BTreeMap<_, _> = plan.dealers.iter().map(|dealer| (dealer.index, Digest([9; 32]))).collect();
        ShownEpoch { plan: plan.encode(), certificate, qualified: FrozenDigests::of(qualified) }
    }

    /// A hundred nodes that all deal and all receive, with thresholds of two thirds and of all but one.
    #[test]
    fn the_largest_kept_epoch_fits_an_item() {
        for threshold in [67, 99] {
            let shown = shown(&largest_plan(threshold));
            let item = v1::follow_item::Item::KeptEpoch(kept_epoch(&shown));
            let bytes = v1::FollowItem { item: Some(item) }.encoded_len();
            assert!(bytes <= ITEM_BYTES_MAX, "threshold {threshold}: {bytes} bytes are more than an item may have");
            assert!(
                bytes > ITEM_BYTES_MAX / 4,
                "threshold {threshold}: {bytes} bytes are not those of the largest fleet"
            );
        }
    }

    #[test]
    fn a_kept_epoch_is_read_as_it_is_written() {
        let honest = shown(&largest_plan(67));
        let written = kept_epoch(&honest);
        assert_eq!(read(CLUSTER, written.clone()), Some(honest));
        let malformed = |change: &dyn Fn(&mut v1::KeptEpoch)| {
            let mut changed = written.clone();
            change(&mut changed);
            read(CLUSTER, changed)
        };
        assert_eq!(malformed(&|it| it.qualified.swap(0, 1)), None, "dealers that do not ascend");
        assert_eq!(malformed(&|it| it.qualified[1] = it.qualified[0].clone()), None, "a dealer that is listed twice");
        let one_more = v1::QualifiedBundle { dealer: 101, digest: vec![1; 32] };
        assert_eq!(malformed(&|it| it.qualified.push(one_more.clone())), None, "more dealers than a plan may have");
        assert_eq!(malformed(&|it| it.qualified[0].digest.truncate(31)), None, "a digest that is too short");
        assert_eq!(malformed(&|it| it.vector_digest.clear()), None, "no vector");
        assert_eq!(malformed(&|it| it.signature = vec![0xff; 48]), None, "a signature that is not a valid point");
    }
}
