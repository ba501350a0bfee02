//! `sign`.

use std::path::Path;

use keyfleet_api::limits::SIGNED_MESSAGE_BYTES_MAX;
use keyfleet_crds::convert;
use keyfleet_crds::values::{BlsSignature, ClusterId, PublicKey};
use serde::{Deserialize, Serialize};

use crate::args::{KubeArgs, SignArgs};
use crate::connect;
use crate::exit::{CommandError, Exit, warn_of_culprits};
use crate::files::{Input, Output, Privacy};
use crate::output::print;

/// A signature, as `sign -o json` writes it.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Signature {
    pub(crate) cluster_id: ClusterId,
    /// The key that it verifies under.
    pub(crate) public_key: PublicKey,
    pub(crate) key_name: String,
    /// The epoch whose shares made it. The signature is the same in every epoch.
    pub(crate) epoch: u64,
    pub(crate) signature: BlsSignature,
}

/// Signs, with the nodes.
///
/// # Errors
/// When too few nodes sign, or a file fails.
pub(crate) async fn run(kube: &KubeArgs, args: &SignArgs) -> Result<Exit, CommandError> {
    let message = read_message(&args.message)?;
    let client = connect::client(kube, &args.fleet, &args.nodes).await?;
    let mut output = Output::open(&args.to, Privacy::Public, false)?;
    let signed = client.sign(&args.key_name, &message).await?;
    warn_of_culprits(&signed.culprits);
    let signature = Signature {
        cluster_id: ClusterId(client.fleet().cluster.0),
        public_key: convert::public_key(&client.fleet().public_key),
        key_name: args.key_name.clone(),
        epoch: signed.epoch.0,
        signature: BlsSignature(signed.value.encode()),
    };
    print(&mut output, args.output, &signature, |out| writeln!(out, "{}", signature.signature))?;
    output.finish()?;
    Ok(Exit::Done)
}

/// Reads a message, or refuses one that nodes would not sign.
pub(crate) fn read_message(path: &Path) -> Result<Vec<u8>, CommandError> {
    let message = Input::open(path)?.read_all(SIGNED_MESSAGE_BYTES_MAX)?;
    if message.len() > SIGNED_MESSAGE_BYTES_MAX {
        return Err(CommandError::usage(format!(
            "the message has more than {SIGNED_MESSAGE_BYTES_MAX} bytes: sign its digest, \
            `sha256sum FILE | keyfleet sign …`, and verify it the same way"
        )));
    }
    Ok(message)
}
