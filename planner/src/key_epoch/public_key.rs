//! The public key of an active epoch, from its record alone.

use std::collections::BTreeSet;

use keyfleet_crds::values::PublicKey;
use keyfleet_crds::{KeyEpochSpec, KeyEpochStatus};
use keyfleet_threshold::curve::G2;
use keyfleet_threshold::identifiers::NodeIndex;
use keyfleet_threshold::polynomial::lagrange_at_zero;

use keyfleet_crds::convert;

/// The key that the holders' public shares lie on, if the epoch's certificate verifies under it. At genesis no plan names
/// the key, so this is where it is first known; a record that somebody bent gives none.
#[must_use]
pub fn public_key_of(spec: &KeyEpochSpec, status: &KeyEpochStatus) -> Option<PublicKey> {
    let shares: Vec<(NodeIndex, G2)> = status
        .holders
        .as_ref()?
        .iter()
        .take(spec.threshold as usize)
        .map(|holder| Some((NodeIndex::new(holder.index)?, convert::point(&holder.public_share).ok()?)))
        .collect::<Option<_>>()?;
    if shares.len() < spec.threshold as usize {
        return None;
    }
    let indexes: Vec<NodeIndex> = shares.iter().map(|(index, _)| *index).collect();
    if indexes.iter().collect::<BTreeSet<_>>().len() < indexes.len() {
        return None;
    }
    let points: Vec<G2> = shares.iter().map(|(_, share)| *share).collect();
    let key = G2::sum_of_products(&points, &lagrange_at_zero(&indexes));
    let plan = convert::plan_of(spec).ok()?;
    let certificate = convert::certificate_of(&plan, status).ok()??;
    certificate.verify(&key).then(|| convert::public_key(&key))
}
