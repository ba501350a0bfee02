//! A node's report, signed and checked: Ed25519 over SHA-256(`KEYFLEET-V1-REPORT`, a zero byte, the protobuf bytes).

use keyfleet_threshold::identifiers::Digest;
use keyfleet_threshold::identity::{IdentityPublicKey, IdentitySecretKey, Signature};
use prost::Message as _;

use crate::v1;

/// Signs a report.
#[must_use]
pub fn sign(report: &v1::Report, identity: &IdentitySecretKey) -> v1::SignedReport {
    let payload = report.encode_to_vec();
    let signature = identity.sign(&payload_digest(&payload)).0.to_vec();
    v1::SignedReport { payload, signature }
}

/// Reads a report that `identity` signed; `None` when it did not.
#[must_use]
pub fn verified(signed: &v1::SignedReport, identity: &IdentityPublicKey) -> Option<v1::Report> {
    let signature = Signature(signed.signature.as_slice().try_into().ok()?);
    identity.verifies(&payload_digest(&signed.payload), &signature).then_some(())?;
    v1::Report::decode(signed.payload.as_slice()).ok()
}

fn payload_digest(payload: &[u8]) -> Digest {
    Digest::of("KEYFLEET-V1-REPORT", &[payload])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_verifies_under_the_pinned_key_alone() {
        let identity = IdentitySecretKey::from_seed(&[3; 32]);
        let report = v1::Report { node_index: 3, highest_number: 1, ..v1::Report::default() };
        let mut signed = sign(&report, &identity);
        assert_eq!(verified(&signed, &identity.public()), Some(report));
        let other = IdentitySecretKey::from_seed(&[2; 32]).public();
        assert_eq!(verified(&signed, &other), None, "another node's key");
        signed.payload[1] ^= 1;
        assert_eq!(verified(&signed, &identity.public()), None, "a changed report");
    }
}
