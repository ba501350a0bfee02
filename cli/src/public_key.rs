//! `public-key`.

use keyfleet_api::wire::{FleetRecord, record::FORMAT};
use serde::Serialize;

use crate::arguments::{Kubernetes, ShowPublicKey};
use crate::exit::{Exit, Failure};
use crate::output::print;
use crate::reach;

/// The record with its format's version: what `--record` takes.
#[derive(Serialize)]
struct Versioned<'a> {
    format: u32,
    #[serde(flatten)]
    record: &'a FleetRecord,
}

/// Prints a fleet's public facts.
///
/// # Errors
/// When there are none.
pub async fn run(kubernetes: &Kubernetes, arguments: &ShowPublicKey) -> Result<Exit, Failure> {
    let record = reach::record(kubernetes, &arguments.which).await?;
    let versioned = Versioned { format: FORMAT, record: &record };
    print(&mut anstream::stdout(), arguments.output, &versioned, |out| writeln!(out, "{}", record.public_key))?;
    Ok(Exit::Done)
}
