//! `encrypt`.

use keyfleet_client::sealed::seal;

use crate::args::{EncryptArgs, KubeArgs};
use crate::connect;
use crate::exit::{CommandError, Exit};
use crate::files::{Input, Output, Privacy, Progress};

/// Encrypts. Asks no node.
///
/// # Errors
/// When the public key is missing, or a file fails.
pub(crate) async fn run(kube: &KubeArgs, args: &EncryptArgs) -> Result<Exit, CommandError> {
    let public_key = connect::public_key(kube, &args.key).await?;
    let mut input = Input::open(&args.input)?;
    let mut output = Output::open(&args.to, Privacy::Public, true)?;
    let progress = Progress::new("Encrypting", input.length);
    seal(&public_key, &args.identity, &mut input, &mut output, &mut |bytes| progress.at(bytes))?;
    output.finish()?;
    Ok(Exit::Done)
}
