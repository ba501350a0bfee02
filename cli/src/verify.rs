//! `verify`.

use keyfleet_crds::convert;
use keyfleet_crds::values::{BlsSignature, PublicKey};
use keyfleet_threshold::curve::G1;
use keyfleet_threshold::purpose::{Purpose, verifies};
use serde::Serialize;

use crate::args::{KubeArgs, VerifyArgs};
use crate::connect;
use crate::exit::{CommandError, Exit};
use crate::output::print;
use crate::sign::{Signature, read_message};

/// Outcome of verifying a signature.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    verified: bool,
    public_key: PublicKey,
    key_name: String,
}

/// Verifies a signature. Asks no node.
///
/// # Errors
/// When the signature is malformed or another's, or a file fails.
pub(crate) async fn run(kube: &KubeArgs, args: &VerifyArgs) -> Result<Exit, CommandError> {
    let signature = read_signature(&args.signature)?;
    let message = read_message(&args.message)?;
    let public_key = connect::public_key(kube, &args.key).await?;
    let point = Purpose::signature(&args.key_name, &message).point();
    let outcome = Outcome {
        verified: verifies(&public_key, &point, &signature),
        public_key: convert::public_key(&public_key),
        key_name: args.key_name.clone(),
    };
    let word = if outcome.verified { "verified" } else { "NOT verified" };
    print(&mut anstream::stdout(), args.output, &outcome, |out| {
        writeln!(out, "{word}: key {} of {}…", outcome.key_name, outcome.public_key.fingerprint())
    })?;
    if outcome.verified {
        return Ok(Exit::Done);
    }
    Err(CommandError::new(
        Exit::NotVerified,
        format!(
            "the signature is not of this message under key name {} and public key {}…; check all three",
            outcome.key_name,
            outcome.public_key.fingerprint()
        ),
    ))
}

/// Reads a signature: digits, or a file with digits, JSON or YAML.
fn read_signature(given: &str) -> Result<G1, CommandError> {
    let hex = match given.parse::<BlsSignature>() {
        Ok(signature) => signature,
        Err(not_hex) => {
            let text = std::fs::read_to_string(given).map_err(|error| {
                CommandError::usage(format!("--signature {given}: {not_hex}, and no file can be read there: {error}"))
            })?;
            parse_signature(&text).ok_or_else(|| {
                CommandError::usage(format!(
                    "{given} holds neither a signature of 96 hexadecimal digits nor what `sign` writes"
                ))
            })?
        }
    };
    G1::decode(&hex.0)
        .map_err(|_| CommandError::new(Exit::NotVerified, "the signature is not a point of BLS12-381's G1"))
}

/// Reads digits, YAML or JSON, which YAML includes.
fn parse_signature(text: &str) -> Option<BlsSignature> {
    text.trim().parse().ok().or_else(|| Some(serde_yaml::from_str::<Signature>(text).ok()?.signature))
}
