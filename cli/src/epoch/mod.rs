//! `epoch verify`: what a finished round's object proves, to someone who trusts nothing but the fleet's public key.
//!
//! From the object alone: the plan has the digest that it says. The holders' public shares lie on one polynomial of degree
//! t−1 whose constant term is the public key; its commitments have the digest that was certified; and the certificate is the
//! fleet's own signature over exactly that plan, vector and number. With [`transcript`], the whole round again from what
//! its nodes signed.

pub mod transcript;

use std::path::Path;
use std::sync::Arc;

use keyfleet_crds::convert;
use keyfleet_crds::epoch::Phase;
use keyfleet_crds::epoch::status::Holder;
use keyfleet_crds::values::{Digest, PublicKey};
use keyfleet_crds::{KeyEpoch, names};
use keyfleet_threshold::curve::G2;
use keyfleet_threshold::identifiers::NodeIndex;
use keyfleet_threshold::polynomial::interpolate_vector;
use keyfleet_threshold::round::audit::{RecordedEpoch, audit_record};
use kube::Api;
use serde::Serialize;

use crate::arguments::{Kubernetes, VerifyEpoch};
use crate::cluster::{Cluster, explained};
use crate::exit::{Exit, Failure};
use crate::output::{columns, print};
use crate::reach;

/// Checks that were made, and their outcomes.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Findings {
    /// The epoch's number.
    pub number: u64,
    /// The public key that it was checked under.
    pub public_key: PublicKey,
    /// The plan's digest, computed.
    pub plan_digest: Digest,
    /// True when every check holds.
    pub verified: bool,
    /// One by one.
    pub checks: Vec<Check>,
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
pub struct Check {
    /// Statement that should hold.
    pub promise: &'static str,
    /// True when the statement holds.
    pub holds: bool,
    /// Observation, for people.
    pub found: String,
}

/// Checks an epoch.
///
/// # Errors
/// When it does not verify, or is not there.
pub async fn verify(kubernetes: &Kubernetes, arguments: &VerifyEpoch) -> Result<Exit, Failure> {
    let (epoch, known) = match &arguments.file {
        Some(path) => (read(path)?, None),
        None => {
            let cluster = Cluster::connect(kubernetes).await?;
            let name = cluster.name(&arguments.which).await?;
            (fetch(&cluster, &name, arguments.number).await?, Some((cluster, name)))
        }
    };
    let public_key = match (&arguments.public_key, &arguments.which.record, known) {
        (Some(public_key), ..) => *public_key,
        (None, Some(path), _) => PublicKey(reach::read_record(path)?.public_key.0),
        (None, None, Some((cluster, name))) => PublicKey(cluster.record(&name).await?.public_key.0),
        (None, None, None) => return Err(Failure::usage("say which public key, with --public-key or --record")),
    };
    let mut findings = check(&epoch, public_key)?;
    if arguments.transcript {
        findings.add(replayed(kubernetes, arguments, &epoch, public_key).await?);
    }
    print(&mut anstream::stdout(), arguments.output, &findings, |out| {
        let rows = findings.checks.iter().map(|check| {
            vec![if check.holds { "ok" } else { "WRONG" }.to_owned(), check.promise.to_owned(), check.found.clone()]
        });
        columns(out, &rows.collect::<Vec<_>>())
    })?;
    if findings.verified {
        return Ok(Exit::Done);
    }
    Err(Failure::new(Exit::NotVerified, format!("epoch {} does not verify", findings.number)))
}

/// Checks the transcript of an epoch's round.
async fn replayed(
    kubernetes: &Kubernetes,
    arguments: &VerifyEpoch,
    epoch: &KeyEpoch,
    public_key: PublicKey,
) -> Result<Check, Failure> {
    let malformed = |error: convert::ConvertError| Failure::new(Exit::NotVerified, error);
    let number = epoch.spec.number;
    if epoch.status.as_ref().and_then(|status| status.phase) == Some(Phase::Retired) {
        return Err(Failure::other(format!("epoch {number} is retired: nodes keep what they said until then")));
    }
    let plan = convert::plan_of(&epoch.spec).map_err(malformed)?;
    let record = convert::record_of(&plan, epoch.status.as_ref()).map_err(malformed)?;
    let source = match &epoch.spec.source {
        None => None,
        Some(source) => {
            let cluster = Cluster::connect(kubernetes).await?;
            let name = cluster.name(&arguments.which).await?;
            let object = fetch(&cluster, &name, Some(source.number)).await?;
            let status = object.status.unwrap_or_default();
            let shares = public_shares(status.holders.as_deref().unwrap_or_default()).map_err(malformed)?;
            let vector = plan.source().and_then(|source| interpolate_vector(&shares, source.threshold));
            let lacking =
                || format!("KeyEpoch {} lacks the public shares that epoch {number} began with", source.number);
            Some(vector.ok_or_else(|| Failure::new(Exit::NotVerified, lacking()))?)
        }
    };
    let observer = Arc::new(reach::observer(kubernetes, &arguments.which, &arguments.reach).await?);
    let heard = transcript::gather(observer, plan, source, &record).await?;
    let key = convert::point(&public_key).map_err(malformed)?;
    Ok(transcript::check(&heard, &record, &key))
}

fn read(path: &Path) -> Result<KeyEpoch, Failure> {
    let refuse = |error: &dyn std::fmt::Display| Failure::other(format!("{}: {error}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| refuse(&error))?;
    serde_yaml::from_str(&text).map_err(|error| refuse(&error))
}

async fn fetch(cluster: &Cluster, name: &str, number: Option<u64>) -> Result<KeyEpoch, Failure> {
    let refuse = |what: &str, error: &kube::Error| Failure::other(format!("{what}: {}", explained(error)));
    let number = match number {
        Some(number) => number,
        None => {
            let clusters = Api::<keyfleet_crds::KmsCluster>::namespaced(cluster.client.clone(), &cluster.namespace);
            let found = clusters.get(name).await.map_err(|error| refuse(name, &error))?;
            let active = found.status.and_then(|status| status.active_epoch);
            active.ok_or_else(|| Failure::other(format!("the fleet {name} has no active epoch yet")))?
        }
    };
    let epoch = names::epoch(name, number);
    let epochs = Api::<KeyEpoch>::namespaced(cluster.client.clone(), &cluster.namespace);
    epochs.get(&epoch).await.map_err(|error| refuse(&format!("KeyEpoch {epoch}"), &error))
}

/// Checks an epoch's object under a public key. Pure.
///
/// # Errors
/// When the object is malformed, or the round has not become an epoch.
pub fn check(epoch: &KeyEpoch, public_key: PublicKey) -> Result<Findings, Failure> {
    let malformed = |error: convert::ConvertError| Failure::new(Exit::NotVerified, error);
    let status = epoch.status.clone().unwrap_or_default();
    let plan = convert::plan_of(&epoch.spec).map_err(malformed)?;
    let certificate = convert::certificate_of(&plan, &status).map_err(malformed)?;
    let (Some(certificate), Some(holders)) = (certificate, &status.holders) else {
        let phase = status.phase.map_or_else(|| "no phase".to_owned(), |phase| format!("phase {phase:?}"));
        return Err(Failure::new(
            Exit::NotVerified,
            format!("epoch {} has no certificate ({phase}): the round has not become active", epoch.spec.number),
        ));
    };
    let key = convert::point(&public_key).map_err(malformed)?;
    let shares = public_shares(holders).map_err(malformed)?;
    let recorded = RecordedEpoch {
        plan: &plan,
        plan_digest: status.plan_digest.map(|digest| keyfleet_threshold::identifiers::Digest(digest.0)),
        holders: &shares,
        vector_digest: status.vector_digest.map(|digest| keyfleet_threshold::identifiers::Digest(digest.0)),
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
    Ok(Findings { number: epoch.spec.number, public_key, plan_digest: digest, verified, checks })
}

fn public_shares(holders: &[Holder]) -> Result<Vec<(NodeIndex, G2)>, convert::ConvertError> {
    let share = |holder: &Holder| Ok((convert::index(holder.index)?, convert::point(&holder.public_share)?));
    holders.iter().map(share).collect()
}
