//! Writes the inputs that fuzzing begins from: one honest value for each decoder, and short programs for rounds.
//!
//! Run it after a change of formats: `cargo run -p keyfleet-fuzz --example seeds`. Inputs that were found stay.

use std::fs;
use std::path::Path;

use keyfleet_api::{messages, v1};
use keyfleet_crds::convert::spec_of;
use keyfleet_crds::record::RECORD_KEY;
use keyfleet_fuzz::rounds::{HonestRound, honest_round};
use keyfleet_litestream::format::payload::{Commit, Op, encode_commits};
use keyfleet_litestream::position::CommitNo;
use keyfleet_threshold::serving::derivation::{EncryptedKey, TransportKey};
use keyfleet_threshold::serving::ibe::{Encapsulation, Identity};
use prost::Message as _;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

fn main() {
    let round = honest_round();
    threshold(&round);
    api(&round);
    kinds(&round);
    let commit = Commit { number: CommitNo(1), time_ms: 2, ops: vec![Op::SetLen(8), Op::Write(4, vec![1, 2, 3, 4])] };
    write("replica-object", "segment", &encode_commits(&[commit]));
    for (name, program) in [
        ("honest", &[1, 4, 0, 0, 1, 4, 0, 0, 1, 4, 0, 0, 1, 4, 0, 0, 1][..]),
        ("restarts", &[0, 1, 2, 6, 0, 1, 6, 1, 4, 1, 1, 6, 2, 1]),
        ("lies", &[2, 3, 1, 1, 2, 9, 2, 2, 5, 3, 7, 4, 1, 1, 4, 1, 1, 7, 2, 7, 3, 1]),
        ("false-record", &[1, 5, 3, 2, 1, 0, 0, 5, 1, 2, 3, 4, 1, 1, 4, 0, 1]),
        ("changed", &[1, 3, 4, 0, 40, 1, 0, 3, 9, 1, 9, 2, 1, 1]),
    ] {
        write("rounds", name, program);
    }
}

fn threshold(round: &HonestRound) {
    let mut rng = ChaCha20Rng::seed_from_u64(3);
    write("plan", "genesis", &round.plan.encode());
    for message in &round.said {
        write(
            "message",
            &format!("{:?}-{}", message.body.kind(), message.sender.value()).to_lowercase(),
            &message.encode(),
        );
    }
    write("state", "active", &round.state.encode());
    let vector = round.state.vectors().next().expect("the vector of an active epoch");
    write("vector", "active", &vector.encode());
    write("certificate", "active", &round.state.newest_certified().expect("a certificate").encode());
    write("prekey", "shown", &round.state.shown_prekey().expect("a prekey").encode());
    let identity = Identity(b"payroll/2026");
    let public_key = vector.constant();
    let seal = Encapsulation::<16>::seal(&[1; 16], &identity.point(), &public_key, &mut rng);
    write("ciphertext", "sixteen", &seal.encode());
    let seal = Encapsulation::<32>::seal(&[1; 32], &identity.point(), &public_key, &mut rng);
    write("ciphertext", "thirty-two", &seal.encode());
    let transport = TransportKey::random(&mut rng).public();
    let share = keyfleet_threshold::curve::SecretScalar::random(&mut rng);
    write("encrypted-key", "answer", &EncryptedKey::derive(identity, &transport, &share, &mut rng).encode());
}

fn api(round: &HonestRound) {
    let certificate = round.state.newest_certified().expect("a certificate");
    let held = v1::HeldEpoch {
        number: certificate.number.0,
        plan_digest: certificate.plan.0.to_vec(),
        vector_digest: certificate.vector.0.to_vec(),
        possession: vec![0; 48],
    };
    let report = v1::Report {
        cluster_id: vec![1; 16],
        node_index: 1,
        lineage: vec![2; 16],
        held: vec![held],
        plan_versions: vec![2],
        ..v1::Report::default()
    };
    write("report", "holds", &report.encode_to_vec());
    for (position, message) in round.said.iter().take(4).enumerate() {
        let said = Some(v1::outbox_row::Said::Message(messages::message(message)));
        let row = v1::OutboxRow { position: position as u64 + 1, number: 1, said };
        let item = v1::FollowItem { item: Some(v1::follow_item::Item::Row(row)) };
        write("follow-item", &format!("row-{position}"), &item.encode_to_vec());
    }
}

fn kinds(round: &HonestRound) {
    let spec = spec_of(&round.plan);
    let status = serde_json::json!({ "phase": "Dealing", "planDigest": hex(&round.plan.digest().0) });
    let pair = serde_json::json!([spec, status]);
    write("key-epoch", "opened", pair.to_string().as_bytes());
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/../../crds/fixtures/record-v2.json");
    let record = fs::read_to_string(fixture).expect("the fixture of the record");
    write("record", "fixture", serde_json::json!({ RECORD_KEY: record }).to_string().as_bytes());
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn write(target: &str, name: &str, bytes: &[u8]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpora").join(target);
    fs::create_dir_all(&folder).expect("a folder for the target");
    fs::write(folder.join(name), bytes).expect("a file in it");
}
