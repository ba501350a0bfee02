//! `decrypt`.

use keyfleet_client::sealed::Sealed;

use crate::args::{DecryptArgs, KubeArgs};
use crate::connect;
use crate::exit::{CommandError, Exit, warn_of_culprits};
use crate::files::{Input, Output, Privacy, Progress};

/// Decrypts, with a key that the nodes derive together.
///
/// # Errors
/// When the nodes do not derive the key, the data was changed, or a file fails.
pub(crate) async fn run(kube: &KubeArgs, args: &DecryptArgs) -> Result<Exit, CommandError> {
    let input = Input::open(&args.input)?;
    let length = input.length;
    let sealed = Sealed::read(input)?;
    let client = connect::client(kube, &args.fleet, &args.nodes).await?;
    if *sealed.public_key() != client.fleet().public_key {
        return Err(CommandError::new(
            Exit::NotVerified,
            "the data was encrypted to another fleet's public key; name that fleet with --cluster or --record",
        ));
    }
    // Opened first: nodes are not asked for a key that could not be used.
    let mut output = Output::open(&args.to, Privacy::Private, false)?;
    let derived = client.derive(sealed.identity()).await?;
    warn_of_culprits(&derived.culprits);
    let progress = Progress::new("Decrypting", length);
    sealed.open(&derived.value, &mut output, &mut |bytes| progress.at(bytes))?;
    output.finish()?;
    Ok(Exit::Done)
}
