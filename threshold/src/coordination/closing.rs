//! Closing phases: what the operator writes into a round's record next.
//!
//! A phase closes when all expected nodes have answered, at the latest at its deadline. Expected are the nodes that the plan
//! names, and in later phases those that answered in the one before: a dead node costs nothing, a mute one a single deadline.

use std::collections::{BTreeMap, BTreeSet};

use crate::curve::G2;
use crate::identifiers::{Block, Digest, EpochNumber, NodeIndex};
use crate::plan::FrozenDigests;
use crate::purpose::Certificate;
use crate::round::{CombineError, Combined, Culprit, Judgement, MessageKind, Offence, Phase, RoundRecord, Transcript};
use crate::serving::signature;

/// Facts that a decision rests on.
#[derive(Clone, Copy)]
pub struct RoundView<'a> {
    /// Everything heard in the round.
    pub transcript: &'a Transcript,
    /// The present record.
    pub record: &'a RoundRecord,
    /// The block at which the present phase was opened.
    pub opened: Block,
    /// The present block.
    pub now: Block,
    /// True if the phase outlasted its wall-clock cap: a chain can stand still.
    pub overdue: bool,
}

/// Next step of a round, to be written into its record.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(clippy::large_enum_variant, reason = "one decision exists at a time, for as long as it is carried out")]
pub enum Decision {
    /// Freeze the dealers and go on to Verifying.
    FreezeDealers(FrozenDigests),
    /// Freeze responses and qualified dealers and go on to Preparing.
    FreezeResponses {
        /// Receivers that answered, with the digests of their answers.
        responses: FrozenDigests,
        /// Dealers that qualified.
        qualified: Vec<NodeIndex>,
    },
    /// Go on to Certifying.
    Certify,
    /// The epoch is active.
    Activate {
        /// Certificate of the epoch, verified.
        certificate: Certificate,
        /// The key that it verifies under: at genesis the new one.
        public_key: G2,
        /// Receivers that had prepared their share, with their public shares.
        holders: BTreeMap<NodeIndex, G2>,
    },
    /// The attempt failed.
    Fail(FailReason),
    /// Enough receivers hold the epoch.
    Confirm,
}

/// Reason why an attempt failed; the record shows it to a person.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FailReason {
    /// Too few dealers dealt a bundle that enough receivers have.
    #[error(
        "the bundles of {dealt} dealers arrived in time, {needed} are needed: check that the nodes run and reach each other"
    )]
    TooFewDealers {
        /// Number of such dealers.
        dealt: usize,
        /// Number needed.
        needed: usize,
    },
    /// The frozen fields give no sharing.
    #[error(transparent)]
    NoSharing(#[from] CombineError),
    /// A bundle or response that a frozen field needs could not be had by the deadline.
    #[error("a signed message that the record needs could not be fetched by the deadline")]
    EvidenceMissing,
    /// Too few receivers stored their share.
    #[error("{prepared} receivers stored their share by the deadline, {needed} are needed")]
    TooFewHolders {
        /// Number of such receivers.
        prepared: usize,
        /// Number needed.
        needed: usize,
    },
    /// Too few partial signatures for the certificate.
    #[error("{valid} valid partial signatures by the deadline, {needed} are needed")]
    TooFewPartials {
        /// Number of valid ones.
        valid: usize,
        /// Number needed.
        needed: usize,
    },
    /// The round can no longer be the next epoch.
    #[error("given up for attempt {}, which was reserved by a newer spec", by.0)]
    Superseded {
        /// Number of the newer attempt.
        by: EpochNumber,
    },
}

/// Decides what to write next, or `None` for nothing yet. Pure: the same view always gives the same answer.
#[must_use]
pub fn decide(view: &RoundView<'_>) -> Option<Decision> {
    match view.record.phase {
        Phase::Dealing => close_dealing(view),
        Phase::Verifying => close_verifying(view),
        Phase::Preparing => close_preparing(view),
        Phase::Certifying => close_certifying(view),
        Phase::Active => confirm(view),
        Phase::Confirmed | Phase::Retired | Phase::Failed => None,
    }
}

/// Lists everyone who is provably at fault by now, with evidence: the record's culprits.
#[must_use]
pub fn culprits(view: &RoundView<'_>) -> Vec<Culprit> {
    let mut all: BTreeMap<NodeIndex, Culprit> =
        view.transcript.culprits().map(|culprit| (culprit.index, culprit.clone())).collect();
    if let Some(judgement) = judgement(view) {
        for culprit in &judgement.culprits {
            all.entry(culprit.index).or_insert_with(|| culprit.clone());
        }
        if let Ok(combined) = judgement.combine(view.transcript) {
            let agreed = agreed(view.transcript, &judgement, &combined);
            for (index, named) in view.transcript.prepared() {
                if *named != agreed {
                    let evidence = view.transcript.said(*index, MessageKind::Prepared).into_iter().collect();
                    all.entry(*index).or_insert(Culprit { index: *index, offence: Offence::ForeignVector, evidence });
                }
            }
            let point = view.transcript.certificate_purpose(&agreed.0).point();
            for index in signature::culprits(&point, &combined.vector, view.transcript.partials()) {
                let evidence = view.transcript.said(index, MessageKind::Partial).into_iter().collect();
                all.entry(index).or_insert(Culprit { index, offence: Offence::BadPartial, evidence });
            }
        }
    }
    all.into_values().collect()
}

fn close_dealing(view: &RoundView<'_>) -> Option<Decision> {
    let (transcript, plan) = (view.transcript, view.transcript.plan());
    let equivocal: BTreeSet<_> = transcript.culprits().map(|culprit| culprit.index).collect();
    let mut copies: BTreeMap<(NodeIndex, Digest), BTreeSet<NodeIndex>> = BTreeMap::new();
    for (receiver, dealer, digest) in transcript.haves() {
        copies.entry((dealer, digest)).or_default().insert(receiver);
    }
    let reached: Vec<_> = copies
        .iter()
        .filter(|((dealer, digest), holders)| {
            let known = transcript.bundle(digest).is_some();
            known && holders.len() >= plan.copies_needed() && !equivocal.contains(dealer)
        })
        .map(|(dealt, _)| *dealt)
        .collect();
    let expected: BTreeSet<_> = plan.expected.iter().copied().collect();
    let witnesses: BTreeSet<_> = expected.iter().copied().filter(|index| plan.receiver(*index).is_some()).collect();
    // What a dealer has of its own bundle nobody waits for: one that lies may have another.
    let everywhere = |dealt: &(NodeIndex, Digest)| {
        witnesses.iter().all(|witness| *witness == dealt.0 || copies[dealt].contains(witness))
    };
    let complete = expected
        .iter()
        .filter(|dealer| plan.slot_of(**dealer).is_some() && !equivocal.contains(dealer))
        .all(|dealer| reached.iter().any(|dealt| dealt.0 == *dealer && everywhere(dealt)));
    let needed = plan.dealers_needed();
    if reached.len() < needed {
        let reason = FailReason::TooFewDealers { dealt: reached.len(), needed };
        return is_over(view, plan.deadlines.dealing_blocks).then_some(Decision::Fail(reason));
    }
    if !complete && !is_over(view, plan.deadlines.dealing_blocks) {
        return None;
    }
    // Two digests of one dealer cannot both be here: that is an equivocation, and left out above.
    FrozenDigests::new(reached).ok().map(Decision::FreezeDealers)
}

fn close_verifying(view: &RoundView<'_>) -> Option<Decision> {
    let transcript = view.transcript;
    let dealers = view.record.dealers.as_ref()?;
    let spoke: BTreeSet<_> = transcript.haves().map(|(receiver, ..)| receiver).collect();
    let mut answers: BTreeMap<NodeIndex, Digest> = BTreeMap::new();
    let mut twice = BTreeSet::new();
    for (receiver, digest, _) in transcript.responses() {
        if answers.insert(receiver, digest).is_some() {
            twice.insert(receiver);
        }
    }
    answers.retain(|receiver, _| !twice.contains(receiver));
    let answered = |index: &NodeIndex| {
        answers.contains_key(index) || twice.contains(index) || transcript.unable().contains_key(index)
    };
    let over = is_over(view, transcript.plan().deadlines.verifying_blocks);
    if !spoke.iter().all(answered) && !over {
        return None;
    }
    let responses = FrozenDigests::new(answers.into_iter().collect()).ok()?;
    match transcript.judge(dealers, &responses) {
        Err(_) => over.then_some(Decision::Fail(FailReason::EvidenceMissing)),
        Ok(judgement) => Some(match judgement.combine(transcript) {
            Ok(_) => Decision::FreezeResponses { responses, qualified: judgement.frozen.qualified },
            Err(fault) => Decision::Fail(FailReason::NoSharing(fault)),
        }),
    }
}

fn close_preparing(view: &RoundView<'_>) -> Option<Decision> {
    let (transcript, plan) = (view.transcript, view.transcript.plan());
    let over = is_over(view, plan.deadlines.preparing_blocks);
    let Some(prepared) = prepared(view) else {
        return over.then_some(Decision::Fail(FailReason::EvidenceMissing));
    };
    let expected = view.record.responses.as_ref()?.iter().map(|(receiver, _)| receiver);
    let all_spoke = expected
        .into_iter()
        .all(|index| transcript.prepared().contains_key(&index) || transcript.unable().contains_key(&index));
    let needed = plan.holders_needed();
    if prepared.len() >= needed && (all_spoke || over) {
        return Some(Decision::Certify);
    }
    over.then_some(Decision::Fail(FailReason::TooFewHolders { prepared: prepared.len(), needed }))
}

fn close_certifying(view: &RoundView<'_>) -> Option<Decision> {
    let (transcript, plan) = (view.transcript, view.transcript.plan());
    let over = is_over(view, plan.deadlines.certifying_blocks);
    let combined = judgement(view).and_then(|judgement| judgement.combine(transcript).ok());
    let (Some(combined), Some(prepared)) = (combined, prepared(view)) else {
        return over.then_some(Decision::Fail(FailReason::EvidenceMissing));
    };
    let partials: BTreeMap<_, _> = transcript
        .partials()
        .iter()
        .filter(|(index, _)| prepared.contains(index))
        .map(|(index, partial)| (*index, *partial))
        .collect();
    let needed = combined.vector.threshold().count();
    let vector = combined.vector.digest();
    let point = transcript.certificate_purpose(&vector).point();
    let valid = if partials.len() < needed {
        partials.len()
    } else {
        match signature::combine(&point, &combined.vector, &partials) {
            Ok(signed) => {
                let certificate = Certificate {
                    cluster: plan.cluster,
                    number: plan.number,
                    plan: *transcript.plan_digest(),
                    vector,
                    signature: signed.signature,
                };
                let holders = prepared.iter().map(|i| (*i, combined.vector.public_share(*i))).collect();
                let public_key = combined.vector.constant();
                return Some(Decision::Activate { certificate, public_key, holders });
            }
            Err(fault) => fault.valid,
        }
    };
    over.then_some(Decision::Fail(FailReason::TooFewPartials { valid, needed }))
}

fn confirm(view: &RoundView<'_>) -> Option<Decision> {
    let vector = view.record.certificate.as_ref()?.vector;
    let holders = view.transcript.holds().values().filter(|held| **held == vector).count();
    (holders >= view.transcript.plan().holders_to_confirm()).then_some(Decision::Confirm)
}

/// Returns the receivers prepared with exactly the agreed vector and frozen fields; `None` while they cannot be computed.
fn prepared(view: &RoundView<'_>) -> Option<BTreeSet<NodeIndex>> {
    let judgement = judgement(view)?;
    let combined = judgement.combine(view.transcript).ok()?;
    let agreed = agreed(view.transcript, &judgement, &combined);
    let named = view.transcript.prepared().iter();
    Some(named.filter(|(_, named)| **named == agreed).map(|(index, _)| *index).collect())
}

fn judgement(view: &RoundView<'_>) -> Option<Judgement> {
    let (dealers, responses) = (view.record.dealers.as_ref()?, view.record.responses.as_ref()?);
    view.transcript.judge(dealers, responses).ok()
}

fn agreed(transcript: &Transcript, judgement: &Judgement, combined: &Combined) -> (Digest, Digest) {
    (combined.vector.digest(), judgement.frozen.digest(transcript.plan_digest()))
}

fn is_over(view: &RoundView<'_>, blocks: u32) -> bool {
    view.overdue || view.now.0 >= view.opened.0.saturating_add(u64::from(blocks))
}
