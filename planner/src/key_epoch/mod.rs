//! A `KeyEpoch` as the operator moves it on: one type per phase, each transition consumes the old one.
//!
//! ```text
//!  Dealing ──freeze──▶ Verifying ──freeze──▶ Preparing ──certify──▶ Certifying ──activate──▶ Active ──▶ Confirmed ──▶ Retired
//!     └───────────────────┴─────────────────────┴──────────────────────┴──fail──▶ Failed
//! ```
//!
//! - [`public_key`]: the public key of an active epoch
//!
//! When a phase closes and what is then written is decided by [`keyfleet_threshold::coordination::closing`], the code that
//! the simulation runs too; here its answers become statuses.

pub mod public_key;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use keyfleet_crds::conditions::Reason;
use keyfleet_crds::convert;
use keyfleet_crds::epoch::Phase;
use keyfleet_crds::epoch::status::{Certificate, Culprit, Failure, Fault, Holder, Timings};
use keyfleet_crds::values::{BlsSignature, PublicKey};
use keyfleet_crds::{KeyEpochSpec, KeyEpochStatus};
use keyfleet_threshold::coordination::{Decision, FailReason};
use keyfleet_threshold::round::{self as core, DealingError, Offence};

/// A round in the phase that its record names.
#[derive(Clone, PartialEq, Debug)]
pub enum Round {
    /// Made, nothing written yet, or dealers are dealing.
    Dealing(Dealing),
    /// Receivers check the frozen bundles.
    Verifying(Verifying),
    /// Receivers store their shares.
    Preparing(Preparing),
    /// Holders sign.
    Certifying(Certifying),
    /// The epoch serves.
    Active(Active),
    /// Nothing moves it on but retirement, if it ever served.
    Ended(Ended),
}

macro_rules! phases {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        $(
            $(#[$doc])*
            #[derive(Clone, PartialEq, Debug)]
            pub struct $name(KeyEpochStatus);
        )+
    };
}

phases! {
    /// Dealers send bundles, receivers say which they have.
    Dealing,
    /// The dealers are frozen.
    Verifying,
    /// Responses and qualified dealers are frozen.
    Preparing,
    /// Enough receivers hold their share.
    Certifying,
    /// The certificate is there.
    Active,
    /// Failed, Confirmed or Retired.
    Ended,
}

/// When and at which block something is written.
#[derive(Clone, PartialEq, Debug)]
pub struct Moment {
    /// The block: the next phase's deadline counts from it.
    pub block: u64,
    /// The wall clock, for people and for the cap on a phase.
    pub time: Time,
}

/// A decision that does not belong to the round's phase: the record moved on since it was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the decision was made for another phase than the record's: read the record again")]
pub struct WrongPhase;

impl Round {
    /// The round of a record. A record without status is one whose round has just been made.
    #[must_use]
    pub fn of(spec: &KeyEpochSpec, status: Option<&KeyEpochStatus>) -> Self {
        let status = status.cloned().unwrap_or_default();
        let _ = spec;
        match status.phase {
            None | Some(Phase::Dealing) => Self::Dealing(Dealing(status)),
            Some(Phase::Verifying) => Self::Verifying(Verifying(status)),
            Some(Phase::Preparing) => Self::Preparing(Preparing(status)),
            Some(Phase::Certifying) => Self::Certifying(Certifying(status)),
            Some(Phase::Active) => Self::Active(Active(status)),
            Some(Phase::Failed | Phase::Confirmed | Phase::Retired) => Self::Ended(Ended(status)),
        }
    }

    /// Carries out a decision. Phases that it does not fit refuse it.
    ///
    /// # Errors
    /// When the decision is for another phase.
    pub fn carry_out(self, decision: &Decision, now: &Moment) -> Result<Self, WrongPhase> {
        Ok(match (self, decision) {
            (Self::Dealing(round), Decision::FreezeDealers(dealers)) => {
                Self::Verifying(round.freeze(convert::frozen_dealers(dealers), now))
            }
            (Self::Verifying(round), Decision::FreezeResponses { responses, qualified }) => {
                let qualified = qualified.iter().map(|index| index.value()).collect();
                Self::Preparing(round.freeze(convert::frozen_responses(responses), qualified, now))
            }
            (Self::Preparing(round), Decision::Certify) => Self::Certifying(round.certify(now)),
            (Self::Certifying(round), Decision::Activate { certificate, holders, .. }) => {
                let holder = |(index, share): (&keyfleet_threshold::identifiers::NodeIndex, &_)| Holder {
                    index: index.value(),
                    public_share: convert::public_key(share),
                };
                let holders: Vec<Holder> = holders.iter().map(holder).collect();
                Self::Active(round.activate(certificate, holders, now))
            }
            (Self::Active(round), Decision::Confirm) => Self::Ended(round.confirm(now)),
            (Self::Dealing(Dealing(status)), Decision::Fail(reason))
            | (Self::Verifying(Verifying(status)), Decision::Fail(reason))
            | (Self::Preparing(Preparing(status)), Decision::Fail(reason))
            | (Self::Certifying(Certifying(status)), Decision::Fail(reason)) => Self::Ended(fail(status, reason, now)),
            _ => return Err(WrongPhase),
        })
    }

    /// Returns the status to write.
    #[must_use]
    pub fn into_status(self) -> KeyEpochStatus {
        match self {
            Self::Dealing(Dealing(status))
            | Self::Verifying(Verifying(status))
            | Self::Preparing(Preparing(status))
            | Self::Certifying(Certifying(status))
            | Self::Active(Active(status))
            | Self::Ended(Ended(status)) => status,
        }
    }
}

impl Dealing {
    /// The record of a round whose plan was just made.
    #[must_use]
    pub fn open(plan_digest: keyfleet_crds::values::Digest, now: &Moment) -> Self {
        let status = KeyEpochStatus { plan_digest: Some(plan_digest), ..KeyEpochStatus::default() };
        Self(enter(status, Phase::Dealing, now))
    }

    fn freeze(self, dealers: Vec<keyfleet_crds::epoch::status::FrozenDealer>, now: &Moment) -> Verifying {
        Verifying(enter(KeyEpochStatus { dealers: Some(dealers), ..self.0 }, Phase::Verifying, now))
    }
}

impl Verifying {
    fn freeze(
        self,
        responses: Vec<keyfleet_crds::epoch::status::FrozenResponse>,
        qualified: Vec<u32>,
        now: &Moment,
    ) -> Preparing {
        let status = KeyEpochStatus { responses: Some(responses), qualified: Some(qualified), ..self.0 };
        Preparing(enter(status, Phase::Preparing, now))
    }
}

impl Preparing {
    fn certify(self, now: &Moment) -> Certifying {
        Certifying(enter(self.0, Phase::Certifying, now))
    }
}

impl Certifying {
    fn activate(
        self,
        certificate: &keyfleet_threshold::purpose::Certificate,
        holders: Vec<Holder>,
        now: &Moment,
    ) -> Active {
        let signers = holders.iter().map(|holder| holder.index).collect();
        let possessors = holders.iter().map(|holder| holder.index).collect();
        let status = KeyEpochStatus {
            holders: Some(holders),
            possessors,
            vector_digest: Some(convert::digest(&certificate.vector)),
            certificate: Some(Certificate { signature: BlsSignature(certificate.signature.encode()), signers }),
            ..self.0
        };
        Active(enter(status, Phase::Active, now))
    }
}

impl Active {
    /// Enough receivers hold the epoch, or it has been held long enough by those that answer.
    #[must_use]
    pub fn confirm(self, now: &Moment) -> Ended {
        Ended(enter(self.0, Phase::Confirmed, now))
    }

    /// Retires an epoch that was never confirmed: newer ones have taken its place, and nodes destroy its secrets.
    #[must_use]
    pub fn retire(self, now: &Moment) -> Ended {
        Ended(enter(self.0, Phase::Retired, now))
    }
}

impl Ended {
    /// Retires the epoch: nodes destroy its secrets.
    ///
    /// # Errors
    /// When the round failed or is retired already: there is nothing to destroy.
    pub fn retire(self, now: &Moment) -> Result<Self, WrongPhase> {
        if self.0.phase != Some(Phase::Confirmed) {
            return Err(WrongPhase);
        }
        Ok(Self(enter(self.0, Phase::Retired, now)))
    }
}

/// Gives up a round that can no longer be the next epoch.
#[must_use]
pub fn supersede(status: KeyEpochStatus, by: u64, now: &Moment) -> KeyEpochStatus {
    let message = format!("given up for attempt {by}, which was reserved by a newer spec; nothing needs to be done");
    failed(status, Reason::Superseded, message, now)
}

fn fail(status: KeyEpochStatus, reason: &FailReason, now: &Moment) -> Ended {
    let word = match reason {
        FailReason::TooFewDealers { .. } | FailReason::NoSharing(_) => Reason::TooFewDealers,
        FailReason::TooFewHolders { .. } => Reason::TooFewHolders,
        FailReason::TooFewPartials { .. } => Reason::CertificateMissing,
        _ => Reason::NodesDown,
    };
    let message = format!("{reason}; the epoch before serves on, and the next attempt is made by itself");
    Ended(failed(status, word, message, now))
}

/// A round that failed because too few nodes could make durable what they had to say: the bucket is to blame, and not they.
#[must_use]
pub fn fails_for_want_of_the_bucket(status: KeyEpochStatus, why: &str) -> KeyEpochStatus {
    let Some(failure) = status.failure.clone().filter(|_| status.phase == Some(Phase::Failed)) else { return status };
    let message = format!("{} ({why})", failure.message);
    KeyEpochStatus { failure: Some(Failure { reason: Reason::ReplicaUnavailable.to_string(), message }), ..status }
}

fn failed(status: KeyEpochStatus, reason: Reason, message: String, now: &Moment) -> KeyEpochStatus {
    let failure = Some(Failure { reason: reason.to_string(), message });
    enter(KeyEpochStatus { failure, ..status }, Phase::Failed, now)
}

fn enter(mut status: KeyEpochStatus, phase: Phase, now: &Moment) -> KeyEpochStatus {
    status.phase = Some(phase);
    // A block source may have gone back; deadlines never do.
    status.phase_block = Some(status.phase_block.map_or(now.block, |before| before.max(now.block)));
    let timings = status.timings.get_or_insert_with(Timings::default);
    let entry = match phase {
        Phase::Dealing => &mut timings.dealing,
        Phase::Verifying => &mut timings.verifying,
        Phase::Preparing => &mut timings.preparing,
        Phase::Certifying => &mut timings.certifying,
        Phase::Failed | Phase::Active => &mut timings.ended,
        Phase::Confirmed => &mut timings.confirmed,
        Phase::Retired => &mut timings.retired,
    };
    *entry = Some(now.time.clone());
    status
}

/// Culprits as the record names them, with the digests that prove it.
#[must_use]
pub fn culprits(found: &[core::Culprit]) -> Vec<Culprit> {
    let fault = |offence: Offence| match offence {
        Offence::Equivocation => Fault::Equivocation,
        Offence::BadShare(_) => Fault::InvalidShare,
        Offence::FalseComplaint(_) => Fault::FalseComplaint,
        Offence::ForeignVector | Offence::ForeignResponse => Fault::WrongVector,
        Offence::BadPartial => Fault::InvalidPartial,
        Offence::BadBundle(DealingError::NotItsShare) => Fault::WrongSource,
        _ => Fault::InvalidDealing,
    };
    found
        .iter()
        .map(|culprit| Culprit {
            index: culprit.index.value(),
            fault: fault(culprit.offence),
            evidence_digests: culprit.evidence.iter().take(4).map(convert::digest).collect(),
        })
        .collect()
}

/// Culprits with those whose bundle was expected and is not among the frozen ones. Silence leaves no evidence.
#[must_use]
pub fn with_the_silent(mut proven: Vec<Culprit>, spec: &KeyEpochSpec, status: &KeyEpochStatus) -> Vec<Culprit> {
    let Some(frozen) = &status.dealers else { return proven };
    let silent = spec.dealers.iter().map(|dealer| dealer.index).filter(|index| {
        spec.expected.contains(index)
            && !frozen.iter().any(|dealer| dealer.index == *index)
            && !proven.iter().any(|culprit| culprit.index == *index)
    });
    let silent = silent.map(|index| Culprit { index, fault: Fault::NoDealing, evidence_digests: Vec::new() });
    let silent: Vec<_> = silent.collect();
    proven.extend(silent);
    proven.sort_by_key(|culprit| culprit.index);
    proven
}

/// When the present phase was entered, if the record says so.
#[must_use]
pub fn entered(status: &KeyEpochStatus) -> Option<&Time> {
    let timings = status.timings.as_ref()?;
    match status.phase? {
        Phase::Dealing => timings.dealing.as_ref(),
        Phase::Verifying => timings.verifying.as_ref(),
        Phase::Preparing => timings.preparing.as_ref(),
        Phase::Certifying => timings.certifying.as_ref(),
        Phase::Failed | Phase::Active => timings.ended.as_ref(),
        Phase::Confirmed => timings.confirmed.as_ref(),
        Phase::Retired => timings.retired.as_ref(),
    }
}

/// Returns true while the round can still end either way.
#[must_use]
pub fn is_open(status: Option<&KeyEpochStatus>) -> bool {
    let phase = status.and_then(|status| status.phase);
    matches!(phase, None | Some(Phase::Dealing | Phase::Verifying | Phase::Preparing | Phase::Certifying))
}

/// Returns true when the epoch serves, or is kept beside the one that does.
#[must_use]
pub fn serves(status: Option<&KeyEpochStatus>) -> bool {
    matches!(status.and_then(|status| status.phase), Some(Phase::Active | Phase::Confirmed))
}

/// The public key that a decision activates.
#[must_use]
pub fn activated_key(decision: &Decision) -> Option<PublicKey> {
    match decision {
        Decision::Activate { public_key, .. } => Some(convert::public_key(public_key)),
        _ => None,
    }
}
