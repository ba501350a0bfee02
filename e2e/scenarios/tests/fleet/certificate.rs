//! Certificates checked by code that is not ours: blst, after `docs/formats.md`.

use anyhow::{Context, Result, ensure};
use blst::BLST_ERROR;
use blst::min_sig::{PublicKey, Signature};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

const TAG: &[u8] = b"BLS_SIG_BLS12381G1_XMD:SHA-256_SSWU_RO_NUL_";

/// Checks the certificate of a `KeyEpoch` under a fleet's public key.
pub(crate) fn verify(epoch: &Value, public_key: &str) -> Result<()> {
    let (spec, status) = (&epoch["spec"], &epoch["status"]);
    let mut message = b"KEYFLEET-V1\x02".to_vec();
    for field in [&spec["clusterId"], &status["planDigest"], &status["vectorDigest"]] {
        let bytes = hex::decode(field.as_str().context("a digest is missing")?)?;
        message.extend(u32::try_from(bytes.len())?.to_be_bytes());
        message.extend(bytes);
    }
    message.extend(8_u32.to_be_bytes());
    message.extend(spec["number"].as_u64().context("an epoch has a number")?.to_be_bytes());

    let signature = status["certificate"]["signature"].as_str().context("the epoch has no certificate")?;
    let signature = Signature::from_bytes(&hex::decode(signature)?);
    let signature = signature.map_err(|error| anyhow::anyhow!("the certificate is not a valid point: {error:?}"))?;
    let key = PublicKey::from_bytes(&hex::decode(public_key)?);
    let key = key.map_err(|error| anyhow::anyhow!("the public key is not a valid point: {error:?}"))?;
    let verified = signature.verify(true, &Sha256::digest(&message), TAG, &[], &key, true);
    ensure!(
        verified == BLST_ERROR::BLST_SUCCESS,
        "the certificate of epoch {} does not verify: {verified:?}",
        spec["number"]
    );
    Ok(())
}
