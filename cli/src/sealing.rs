//! `encrypt` and `decrypt`.

use keyfleet_client::sealed::{Sealed, seal};

use crate::arguments::{Decrypt, Encrypt, Kubernetes};
use crate::exit::{Exit, Failure};
use crate::files::{Input, Output, Privacy, Progress};
use crate::reach;

/// Encrypts. The nodes are not asked.
///
/// # Errors
/// When there is no public key, or a file fails.
pub async fn encrypt(kubernetes: &Kubernetes, arguments: &Encrypt) -> Result<Exit, Failure> {
    let public_key = reach::public_key(kubernetes, &arguments.key).await?;
    let mut input = Input::open(&arguments.input)?;
    let mut output = Output::open(&arguments.to, Privacy::Public, true)?;
    let progress = Progress::new("Encrypting", input.length);
    seal(&public_key, &arguments.identity, &mut input, &mut output, &mut |bytes| progress.at(bytes))?;
    output.finish()?;
    Ok(Exit::Done)
}

/// Decrypts, with a key that the nodes make together.
///
/// # Errors
/// When the nodes do not make the key, the data is not what was encrypted, or a file fails.
pub async fn decrypt(kubernetes: &Kubernetes, arguments: &Decrypt) -> Result<Exit, Failure> {
    let input = Input::open(&arguments.input)?;
    let length = input.length;
    let sealed = Sealed::read(input)?;
    let client = reach::client(kubernetes, &arguments.which, &arguments.reach).await?;
    if *sealed.public_key() != client.fleet().public_key {
        return Err(Failure::new(
            Exit::NotVerified,
            "the data was encrypted to another fleet's public key; say which fleet with --cluster or --record",
        ));
    }
    // Before anyone is asked for a key that could not be used.
    let mut output = Output::open(&arguments.to, Privacy::Private, false)?;
    let derived = client.derive(sealed.identity()).await?;
    warn_of(&derived.culprits);
    let progress = Progress::new("Decrypting", length);
    sealed.open(&derived.value, &mut output, &mut |bytes| progress.at(bytes))?;
    output.finish()?;
    Ok(Exit::Done)
}

/// Says which nodes lied: the answer is good without them, but somebody should look.
pub(crate) fn warn_of(culprits: &[keyfleet_threshold::identifiers::NodeIndex]) {
    for node in culprits {
        let yellow = anstyle::AnsiColor::Yellow.on_default().bold();
        anstream::eprintln!("{yellow}warning:{yellow:#} node {node} answered wrongly and was left out: look at it");
    }
}
