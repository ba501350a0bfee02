//! Names given for silence: of expected nodes that were not there when something was frozen.

use keyfleet_crds::epoch::status::{Culprit, Fault};

use super::steady;
use crate::key_epoch::with_the_silent;

/// An expected node without a bundle, and one without a response, are named without evidence, so that the next round does not wait
/// for them again. Whoever is proven guilty is named for that alone, and whoever nobody expected for nothing.
#[test]
fn the_mute_are_named_and_nobody_waits_for_them_again() {
    let (_, state) = steady();
    let epoch = state.epochs.values().next_back().expect("an epoch is active");
    let (mut spec, mut status) = (epoch.spec.clone(), epoch.status.clone().expect("it has a record"));
    spec.expected = vec![1, 2, 3];
    status.dealers.as_mut().expect("dealers are frozen").retain(|dealer| ![2, 4].contains(&dealer.index));
    status.responses.as_mut().expect("responses are frozen").retain(|response| response.index == 2);
    let proven = Culprit { index: 3, fault: Fault::FalseComplaint, evidence_digests: Vec::new() };
    let named = with_the_silent(vec![proven], &spec, &status);
    let named: Vec<_> = named.iter().map(|culprit| (culprit.index, culprit.fault)).collect();
    let expected = [(1, Fault::NoResponse), (2, Fault::NoDealing), (3, Fault::FalseComplaint)];
    assert_eq!(named, expected);
}
