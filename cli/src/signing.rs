//! `sign` and `verify`.

use std::path::Path;

use keyfleet_api::limits::SIGNED_MESSAGE_BYTES_MAX;
use keyfleet_crds::convert;
use keyfleet_crds::values::{BlsSignature, ClusterId, PublicKey};
use keyfleet_threshold::curve::G1;
use keyfleet_threshold::purpose::{Purpose, verifies};
use serde::{Deserialize, Serialize};

use crate::arguments::{Kubernetes, Sign, Verify};
use crate::exit::{Exit, Failure};
use crate::files::{Input, Output, Privacy};
use crate::output::print;
use crate::{reach, sealing};

/// A signature, as programs read it.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Signature {
    /// The fleet.
    pub cluster_id: ClusterId,
    /// The key that it verifies under.
    pub public_key: PublicKey,
    /// The key's name.
    pub key_name: String,
    /// The epoch whose shares made it. The signature is the same in every epoch.
    pub epoch: u64,
    /// The signature.
    pub signature: BlsSignature,
}

/// Outcome of verifying a signature.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
struct Verified {
    verified: bool,
    public_key: PublicKey,
    key_name: String,
}

/// Signs, with the nodes.
///
/// # Errors
/// When too few nodes sign, or a file fails.
pub async fn sign(kubernetes: &Kubernetes, arguments: &Sign) -> Result<Exit, Failure> {
    let message = read_message(&arguments.message)?;
    let client = reach::client(kubernetes, &arguments.which, &arguments.reach).await?;
    let mut output = Output::open(&arguments.to, Privacy::Public, false)?;
    let signed = client.sign(&arguments.key_name, &message).await?;
    sealing::warn_of(&signed.culprits);
    let signature = Signature {
        cluster_id: ClusterId(client.fleet().cluster.0),
        public_key: convert::public_key(&client.fleet().public_key),
        key_name: arguments.key_name.clone(),
        epoch: signed.epoch.0,
        signature: BlsSignature(signed.value.encode()),
    };
    print(&mut output, arguments.output, &signature, |out| writeln!(out, "{}", signature.signature))?;
    output.finish()?;
    Ok(Exit::Done)
}

/// Verifies, without the nodes.
///
/// # Errors
/// When the signature is malformed, or a file fails.
pub async fn verify(kubernetes: &Kubernetes, arguments: &Verify) -> Result<Exit, Failure> {
    let signature = read_signature(&arguments.signature)?;
    let message = read_message(&arguments.message)?;
    let public_key = reach::public_key(kubernetes, &arguments.key).await?;
    let point = Purpose::signature(&arguments.key_name, &message).point();
    let verified = Verified {
        verified: verifies(&public_key, &point, &signature),
        public_key: convert::public_key(&public_key),
        key_name: arguments.key_name.clone(),
    };
    let said = if verified.verified { "verified" } else { "NOT verified" };
    print(&mut anstream::stdout(), arguments.output, &verified, |out| {
        writeln!(out, "{said}: key {} of {}…", verified.key_name, verified.public_key.fingerprint())
    })?;
    if verified.verified {
        return Ok(Exit::Done);
    }
    Err(Failure::new(Exit::NotVerified, "the signature is not that of this message under this key name and public key"))
}

fn read_message(path: &Path) -> Result<Vec<u8>, Failure> {
    let message = Input::open(path)?.read_all(SIGNED_MESSAGE_BYTES_MAX)?;
    if message.len() > SIGNED_MESSAGE_BYTES_MAX {
        return Err(Failure::usage(format!(
            "the message has more than {SIGNED_MESSAGE_BYTES_MAX} bytes: sign its digest, \
            `sha256sum FILE | keyfleet sign …`, and verify it the same way"
        )));
    }
    Ok(message)
}

/// Reads a signature: digits, or a file with digits, JSON or YAML.
fn read_signature(given: &str) -> Result<G1, Failure> {
    let hex = match given.parse::<BlsSignature>() {
        Ok(signature) => signature,
        Err(not_hex) => {
            let text = std::fs::read_to_string(given)
                .map_err(|error| Failure::usage(format!("--signature: {not_hex}, and no file: {error}")))?;
            // YAML is a superset of JSON.
            let structured = || serde_yaml::from_str::<Signature>(&text).ok().map(|read| read.signature);
            text.trim().parse().ok().or_else(structured).ok_or_else(|| {
                Failure::usage(format!(
                    "{given} holds no signature: neither 96 hexadecimal digits nor what `sign` writes"
                ))
            })?
        }
    };
    G1::decode(&hex.0).map_err(|_| Failure::new(Exit::NotVerified, "the signature is no point of BLS12-381's G1"))
}
