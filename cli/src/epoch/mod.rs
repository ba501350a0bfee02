//! `epoch verify`: checks a finished round for somebody who trusts the fleet's public key alone.
//!
//! From the object: the plan has the digest that the status says. The holders' public shares lie on one polynomial of degree
//! t−1 whose constant term is the public key; its commitments have the digest that was certified; and the certificate is the
//! fleet's own signature over exactly that plan, vector and number. With `--transcript`, the whole round again
//! from the messages that its nodes signed.

mod transcript;

use std::path::Path;
use std::sync::Arc;

use keyfleet_crds::KeyEpoch;
use keyfleet_crds::convert;
use keyfleet_crds::epoch::Phase;
use keyfleet_crds::epoch::status::Holder;
use keyfleet_crds::values::{Digest, PublicKey};
use keyfleet_threshold::curve::G2;
use keyfleet_threshold::identifiers::{self, NodeIndex};
use keyfleet_threshold::round::audit::{RecordedEpoch, audit_record};
use serde::Serialize;

use crate::args::{KubeArgs, VerifyEpochArgs};
use crate::connect;
use crate::exit::{CommandError, Exit};
use crate::kube_client::KubeClient;
use crate::output::{columns, print};

/// Checks that were made, and their outcomes.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Findings {
    /// The epoch's number.
    pub(crate) number: u64,
    /// The public key that it was checked under.
    pub(crate) public_key: PublicKey,
    /// The plan's digest, computed.
    pub(crate) plan_digest: Digest,
    /// True when every check holds.
    pub(crate) verified: bool,
    /// One by one.
    pub(crate) checks: Vec<Check>,
}

impl Findings {
    fn add(&mut self, check: Check) {
        self.verified &= check.holds;
        self.checks.push(check);
    }
}

/// One check.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Check {
    /// Statement that should hold.
    pub(crate) promise: &'static str,
    /// True when the statement holds.
    pub(crate) holds: bool,
    /// Observation, for people.
    pub(crate) found: String,
}

/// Verifies an epoch and prints the checks.
///
/// # Errors
/// When the epoch does not verify, or does not exist.
pub(crate) async fn verify(kube: &KubeArgs, args: &VerifyEpochArgs) -> Result<Exit, CommandError> {
    let (epoch, fleet) = match &args.file {
        Some(path) => (read(path)?, None),
        None => {
            let client = KubeClient::connect(kube).await?;
            let name = client.fleet_name(&args.fleet).await?;
            (client.key_epoch(&name, args.number).await?, Some((client, name)))
        }
    };
    let public_key = match (&args.public_key, &args.fleet.record, fleet) {
        (Some(public_key), ..) => *public_key,
        (None, Some(path), _) => PublicKey(connect::read_record(path)?.public_key.0),
        (None, None, Some((client, name))) => PublicKey(client.record(&name).await?.public_key.0),
        (None, None, None) => {
            return Err(CommandError::usage("--file needs the fleet's public key: give --public-key or --record"));
        }
    };
    let mut findings = check(&epoch, public_key)?;
    if args.transcript {
        findings.add(check_transcript(kube, args, &epoch, public_key).await?);
    }
    print(&mut anstream::stdout(), args.output, &findings, |out| {
        let rows = findings.checks.iter().map(|check| {
            vec![if check.holds { "ok" } else { "WRONG" }.to_owned(), check.promise.to_owned(), check.found.clone()]
        });
        columns(out, &rows.collect::<Vec<_>>())
    })?;
    if findings.verified {
        return Ok(Exit::Done);
    }
    Err(CommandError::new(
        Exit::NotVerified,
        format!(
            "epoch {} does not verify: see the checks marked WRONG; do not trust its public shares",
            findings.number
        ),
    ))
}

fn read(path: &Path) -> Result<KeyEpoch, CommandError> {
    let text = std::fs::read_to_string(path).map_err(|error| CommandError::of_file(path, &error))?;
    serde_yaml::from_str(&text).map_err(|error| CommandError::of_file(path, &error))
}

/// Checks the transcript of an epoch's round, from the nodes' signed messages.
async fn check_transcript(
    kube: &KubeArgs,
    args: &VerifyEpochArgs,
    epoch: &KeyEpoch,
    public_key: PublicKey,
) -> Result<Check, CommandError> {
    let number = epoch.spec.number;
    if epoch.status.as_ref().and_then(|status| status.phase) == Some(Phase::Retired) {
        return Err(CommandError::other(format!(
            "epoch {number} is retired: nodes have deleted its messages. Verify it without --transcript"
        )));
    }
    let plan = convert::plan_of(&epoch.spec).map_err(|error| malformed(number, &error))?;
    let record = convert::record_of(&plan, epoch.status.as_ref()).map_err(|error| malformed(number, &error))?;
    let record = record.ok_or_else(|| {
        CommandError::other(format!("KeyEpoch {number} has no status: the operator has not opened the round yet"))
    })?;
    let observer = Arc::new(connect::observer(kube, &args.fleet, &args.nodes).await?);
    let gathered = transcript::gather(observer, plan, &record).await?;
    let key = convert::point(&public_key).map_err(|error| malformed(number, &error))?;
    Ok(transcript::check(&gathered, &record, &key))
}

fn malformed(number: u64, error: &convert::ConvertError) -> CommandError {
    CommandError::new(Exit::NotVerified, format!("KeyEpoch {number} is malformed: {error}"))
}

/// Checks an epoch's object under a public key. Pure.
///
/// # Errors
/// When the object is malformed, or the round has not become an epoch.
pub(crate) fn check(epoch: &KeyEpoch, public_key: PublicKey) -> Result<Findings, CommandError> {
    let number = epoch.spec.number;
    let status = epoch.status.clone().unwrap_or_default();
    let plan = convert::plan_of(&epoch.spec).map_err(|error| malformed(number, &error))?;
    let certificate = convert::certificate_of(&plan, &status).map_err(|error| malformed(number, &error))?;
    let (Some(certificate), Some(holders)) = (certificate, &status.holders) else {
        let phase = status.phase.map_or_else(|| "no phase".to_owned(), |phase| format!("phase {phase:?}"));
        return Err(CommandError::new(
            Exit::NotVerified,
            format!(
                "epoch {number} has no certificate ({phase}): its round has not ended well, so there is nothing to verify"
            ),
        ));
    };
    let key = convert::point(&public_key).map_err(|error| malformed(number, &error))?;
    let shares = public_shares(holders).map_err(|error| malformed(number, &error))?;
    let recorded = RecordedEpoch {
        plan: &plan,
        plan_digest: status.plan_digest.map(|digest| identifiers::Digest(digest.0)),
        holders: &shares,
        vector_digest: status.vector_digest.map(|digest| identifiers::Digest(digest.0)),
        certificate: &certificate,
    };
    let found = audit_record(&recorded, &key);
    let digest = convert::digest(&plan.digest());
    let vector = found.vector.as_ref().map(|vector| convert::digest(&vector.digest()));
    let signers = status.certificate.as_ref().map_or(0, |certificate| certificate.signers.len());
    let checks = vec![
        Check {
            promise: "the plan is the one that was agreed on",
            holds: found.plan_is_the_agreed_one,
            found: format!("digest {digest}"),
        },
        Check {
            promise: "enough receivers held their share",
            holds: found.holders_are_enough,
            found: format!("{} of {}, {} demanded", shares.len(), plan.receivers.len(), plan.min_holders),
        },
        Check {
            promise: "the holders' shares are shares of the fleet's key",
            holds: found.shares_are_of_the_key,
            found: format!("{}…", public_key.fingerprint()),
        },
        Check {
            promise: "they lie on the polynomial that was recorded",
            holds: found.vector_is_the_recorded_one,
            found: vector.map_or_else(|| "the public shares lie on no polynomial".to_owned(), |v| v.to_string()),
        },
        Check {
            promise: "the fleet's key certified plan, polynomial and number",
            holds: found.is_certified,
            found: format!("{signers} signers"),
        },
    ];
    let verified = checks.iter().all(|check| check.holds);
    Ok(Findings { number, public_key, plan_digest: digest, verified, checks })
}

fn public_shares(holders: &[Holder]) -> Result<Vec<(NodeIndex, G2)>, convert::ConvertError> {
    let shares = holders.iter();
    shares.map(|holder| Ok((convert::index(holder.index)?, convert::point(&holder.public_share)?))).collect()
}
