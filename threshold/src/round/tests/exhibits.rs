//! Exhibits: every message that proves somebody guilty is kept, so that whoever reads the record can fetch and check it.

use std::collections::BTreeSet;

use super::{Table, index, say};
use crate::curve::G1;
use crate::identifiers::Digest;
use crate::round::*;

/// Whatever convicts a node is handed out for good: the messages that the evidence names, two of each culprit.
#[test]
fn what_convicts_a_node_is_kept() {
    let mut table = Table::new();
    table.genesis();
    let plan = table.reshare_plan(2, 1);
    table.accept(&plan);
    let honest = table.nodes[&index(1)].transcript(plan.number).unwrap().bundle_of(index(1)).unwrap().digest();
    let prepared = |byte: u8| Body::Prepared { vector: Digest([byte; 32]), frozen: Digest([0; 32]) };
    let have = |byte: u8| Body::Have { dealer: index(1), bundle: Digest([byte; 32]) };
    let slander = Complaint { dealer: index(1), bundle: honest, key: G1::generator() };
    let stranger = Complaint { dealer: index(77), ..slander };
    let verifying = {
        let transcript = table.nodes[&index(1)].transcript(plan.number).unwrap();
        let dealers = transcript.bundles().map(|bundle| (bundle.dealer(), bundle.digest())).collect();
        RoundRecord {
            phase: Phase::Verifying,
            dealers: Some(crate::plan::FrozenDigests::of(dealers)),
            ..RoundRecord::opened()
        }
    };
    for (name, bodies) in [
        ("two words about what is prepared", vec![prepared(1), prepared(2)]),
        ("two words about one bundle", vec![have(1), have(2)]),
        ("a stranger among the accused", vec![Body::Late(vec![stranger])]),
        ("slander after the freeze", vec![Body::Late(vec![slander])]),
    ] {
        let node = &table.nodes[&index(1)];
        let stored = node.state.live_secrets().into_iter().map(|name| (name, node.expose(name).unwrap()));
        let (mut node, _) = Participant::restore(super::identity(1), &node.state.encode(), stored).unwrap();
        let bundles = table.nodes[&index(1)].state.attempts[&plan.number].outbox.clone();
        bundles.iter().for_each(|message| drop(node.learn(&Blob::Message(message.clone()), &mut table.rng)));
        let mut kept = BTreeSet::new();
        let mut take = |outputs: Outputs| kept.extend(outputs.keep.iter().map(Blob::digest));
        for body in bodies {
            if let Ok(outputs) = node.learn(&Blob::Message(say(&plan, 4, body)), &mut table.rng) {
                take(outputs);
            }
        }
        take(node.observe(plan.number, &verifying, &mut table.rng).unwrap());
        let culprits: Vec<_> = node.transcript(plan.number).unwrap().culprits().cloned().collect();
        let [culprit] = &culprits[..] else { panic!("{name}: {culprits:?}") };
        assert_eq!(culprit.index, index(4), "{name}");
        let of_others = |digest: &&Digest| **digest != honest;
        let lost: Vec<_> = culprit.evidence.iter().filter(of_others).filter(|digest| !kept.contains(*digest)).collect();
        assert!(lost.is_empty(), "{name}: {} of the messages that prove it are lost", lost.len());
    }
}
