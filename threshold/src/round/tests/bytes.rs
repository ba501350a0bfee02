//! Messages as bytes: what is signed and does not decode is its sender's fault, for everyone, and stays what it was.

use super::*;
use crate::identifiers::Digest;

const SENDER: u32 = 3;

/// A message of node 3 with these bytes after the sender, signed as they are.
fn signed(plan: &ValidPlan, kind: u8, fields: &[u8], signer: u32) -> Vec<u8> {
    let content = [&plan.digest().0[..], &SENDER.to_be_bytes(), &[kind], fields].concat();
    let signature = identity(signer).sign(&Digest::of("KEYFLEET-V1-MESSAGE", &[&content]));
    [&content[..], &signature.0].concat()
}

/// The fields of a message that its sender may say.
fn fields(body: Body) -> Vec<u8> {
    let bytes = SignedMessage::sign(Digest([0; 32]), index(SENDER), body, &identity(SENDER)).encode();
    bytes[37..bytes.len() - 64].to_vec()
}

/// Fields that are no message of a round, each with its kind and what is wrong with it.
fn malformed(plan: &ValidPlan) -> Vec<(&'static str, u8, Vec<u8>)> {
    let answer = fields(Body::Response(Response { dealers: Digest([1; 32]), unopened: false, complaints: Vec::new() }));
    let have = fields(Body::Have { dealer: index(3), bundle: Digest([1; 32]) });
    let bundle = fields(Body::Dealing(deal(plan, SENDER)));
    let changed = |of: &[u8], at: usize, to: u8| {
        let mut bytes = of.to_vec();
        bytes[at] = to;
        bytes
    };
    let commitments = 2 + 96 * usize::from(plan.threshold.0);
    vec![
        ("no kind", 0, answer.clone()),
        ("a kind of the first version", 9, answer.clone()),
        ("a kind that nobody knows", 255, Vec::new()),
        ("the fields of another kind", 4, have.clone()),
        ("bytes after the end", 3, [&answer[..], &[0]].concat()),
        ("an end too soon", 3, answer[..answer.len() - 1].to_vec()),
        ("a flag that is neither 0 nor 1", 3, changed(&answer, 32, 2)),
        ("more complaints than nodes", 3, changed(&answer, 33, 0xff)),
        ("no dealer", 2, changed(&have, 3, 0)),
        ("a bundle with bytes after its end", 1, [&bundle[..], &[0]].concat()),
        ("another encoding of a commitment", 1, changed(&bundle, 2, bundle[2] & 0x7f)),
        ("a proof that is neither there nor absent", 1, changed(&bundle, commitments, 2)),
        ("a share above the group order", 1, {
            let at = bundle.len() - 48 - 32;
            [&bundle[..at], &[0xff; 32], &bundle[at + 32..]].concat()
        }),
    ]
}

/// Signature and digest are of the bytes as they came. Whoever signed what does not decode is guilty, and the bytes are the exhibit.
#[test]
fn signed_bytes_that_do_not_decode_convict_their_sender() {
    let (plan, _) = genesis_plan();
    for (what, kind, fields) in malformed(&plan) {
        let bytes = signed(&plan, kind, &fields, SENDER);
        let message = SignedMessage::decode(&bytes).unwrap();
        assert!(matches!(message.body, Body::Malformed(_)), "{what}: it was read as {:?}", message.body.kind());
        assert_eq!(message.encode(), bytes, "{what}: others get other bytes");
        let mut transcript = Transcript::new(plan.clone(), None);
        assert_eq!(transcript.hear(&message), Err(MessageError::Malformed(index(SENDER))), "{what}");
        let guilty: Vec<_> = transcript.culprits().cloned().collect();
        let (offence, evidence) = (Offence::Malformed, vec![message.digest()]);
        assert_eq!(guilty, [Culprit { index: index(SENDER), offence, evidence }], "{what}");
        let record = RoundRecord::opened();
        let named = crate::coordination::closing::culprits(&view(&transcript, &record, 0));
        assert_eq!(named, guilty, "{what}: the operator judges otherwise");
        let mut again = Transcript::new(plan.clone(), None);
        let verified = message.verify(&identity(SENDER).public()).expect("it is signed");
        assert_eq!(again.hear_verified(&verified), Err(MessageError::Malformed(index(SENDER))), "{what}");
        assert_eq!(again.culprits().cloned().collect::<Vec<_>>(), guilty, "{what}: an observer judges otherwise");
        let forged = SignedMessage::decode(&signed(&plan, kind, &fields, 2)).unwrap();
        let mut transcript = Transcript::new(plan.clone(), None);
        assert_eq!(transcript.hear(&forged), Err(MessageError::Forged(index(SENDER))), "{what}");
        assert_eq!(transcript.culprits().count(), 0, "{what}: anyone could have made it up");
    }
}

/// One exhibit of each sender is kept for others, as it came, and a thousand more cost nothing.
#[test]
fn one_malformed_message_of_a_sender_is_kept() {
    let mut table = Table::new();
    table.genesis();
    let plan = table.reshare_plan(2, 1);
    table.begin(&plan);
    let node = table.nodes.get_mut(&index(1)).unwrap();
    let mut kept = Vec::new();
    for byte in 0..50 {
        let message = SignedMessage::decode(&signed(&plan, 200, &[byte], SENDER)).unwrap();
        kept.extend(node.learn(&Blob::Message(message), &mut table.rng).map_or(Vec::new(), |outputs| outputs.keep));
    }
    let first = SignedMessage::decode(&signed(&plan, 200, &[0], SENDER)).unwrap();
    assert_eq!(kept, [Blob::Message(first.clone())]);
    let transcript = node.transcript(plan.number).unwrap();
    let evidence: Vec<_> = transcript.culprits().map(|culprit| culprit.evidence.clone()).collect();
    assert_eq!(evidence, [vec![first.digest()]]);
}
