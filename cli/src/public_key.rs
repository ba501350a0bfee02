//! `public-key`.

use keyfleet_api::wire::{FleetRecord, record::FORMAT};
use serde::Serialize;

use crate::args::{KubeArgs, ShowPublicKeyArgs};
use crate::connect;
use crate::exit::{CommandError, Exit};
use crate::output::print;

/// The record with its format's version: what `--record` takes.
#[derive(Serialize)]
struct Versioned<'a> {
    format: u32,
    #[serde(flatten)]
    record: &'a FleetRecord,
}

/// Prints a fleet's record.
///
/// # Errors
/// When the fleet has no record yet, or it cannot be read.
pub(crate) async fn run(kube: &KubeArgs, args: &ShowPublicKeyArgs) -> Result<Exit, CommandError> {
    let record = connect::record(kube, &args.fleet).await?;
    let versioned = Versioned { format: FORMAT, record: &record };
    print(&mut anstream::stdout(), args.output, &versioned, |out| writeln!(out, "{}", record.public_key))?;
    Ok(Exit::Done)
}
