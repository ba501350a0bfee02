//! Closing phases: what the operator writes into a round's record next.
//!
//! A phase closes when all expected nodes have answered, at the latest at its deadline. Expected are the nodes that the plan
//! expects and nothing proves guilty, and in later phases those of them that answered in the one before: a dead node costs nothing, a
//! mute one a single deadline. Whoever is not expected counts all the same if it comes in time.

use std::collections::{BTreeMap, BTreeSet};

use crate::curve::G2;
use crate::identifiers::{Block, Digest, EpochNumber, NodeIndex};
use crate::plan::FrozenDigests;
use crate::purpose::Certificate;
use crate::round::{CombineError, Combined, Culprit, Judgement, Offence, Phase, RoundRecord, Transcript};
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
    }
    all.into_values().collect()
}

/// Freezes every dealer of which exactly one bundle is known, sound, and in the hands of enough receivers. What a receiver says it
/// has counts only for the dealer that signed it: a digest under another's name is nothing.
fn close_dealing(view: &RoundView<'_>) -> Option<Decision> {
    let (transcript, plan) = (view.transcript, view.transcript.plan());
    let over = is_over(view, plan.deadlines.dealing_blocks);
    let candidates = single_bundles(transcript);
    let mut copies: BTreeMap<NodeIndex, BTreeSet<NodeIndex>> = BTreeMap::new();
    for (receiver, dealer, digest) in transcript.haves() {
        if candidates.get(&dealer) == Some(&digest) {
            copies.entry(dealer).or_default().insert(receiver);
        }
    }
    let has = |dealer: NodeIndex, receiver: NodeIndex| copies.get(&dealer).is_some_and(|all| all.contains(&receiver));
    let reached = |dealer: &NodeIndex| copies.get(dealer).is_some_and(|all| all.len() >= plan.copies_needed());
    let dealers: BTreeMap<_, _> = candidates.into_iter().filter(|(dealer, _)| reached(dealer)).collect();
    let needed = plan.dealers_needed();
    if dealers.len() < needed {
        return over.then_some(Decision::Fail(FailReason::TooFewDealers { dealt: dealers.len(), needed }));
    }
    // What a dealer has of its own bundle nobody waits for: one that lies may have another.
    let witnesses = || awaited(view).filter(|index| plan.receiver(*index).is_some());
    let everywhere = |dealer: NodeIndex| witnesses().all(|witness| witness == dealer || has(dealer, witness));
    let mut awaited = awaited(view).filter(|index| plan.dealer(*index).is_some());
    let complete = awaited.all(|dealer| dealers.contains_key(&dealer) && everywhere(dealer));
    (complete || over).then(|| Decision::FreezeDealers(FrozenDigests::of(dealers)))
}

/// Returns the bundle of each dealer of which exactly one is known and sound: whoever signed two has none.
fn single_bundles(transcript: &Transcript) -> BTreeMap<NodeIndex, Digest> {
    let mut bundles = BTreeMap::new();
    let mut twice = BTreeSet::new();
    for bundle in transcript.bundles() {
        if bundles.insert(bundle.dealer(), bundle.digest()).is_some() {
            twice.insert(bundle.dealer());
        }
    }
    let equivocated = |dealer: &NodeIndex| {
        twice.contains(dealer)
            || transcript.culprits().any(|culprit| culprit.index == *dealer && culprit.offence == Offence::Equivocation)
    };
    bundles.retain(|dealer, digest| transcript.is_sound(digest) && !equivocated(dealer));
    bundles
}

/// Freezes the responses that everyone can judge: those without complaints, which follow from what everyone knows, and those with
/// complaints that enough receivers say they have. Whoever shows its complaints to the operator alone would otherwise stop each round
/// in which nobody can fetch them; so it costs one deadline, after which what too few have counts as not said.
fn close_verifying(view: &RoundView<'_>) -> Option<Decision> {
    let transcript = view.transcript;
    let dealers = view.record.dealers.as_ref()?;
    let spoke: BTreeSet<_> = transcript.haves().map(|(receiver, ..)| receiver).collect();
    let answered: BTreeSet<_> = transcript.responses().map(|(receiver, ..)| receiver).collect();
    let single = transcript.single_responses(dealers);
    let can_be_had = |receiver: NodeIndex| {
        let Some((digest, response)) = single.get(&receiver) else { return true };
        response.complaints.is_empty() || has_enough_copies(transcript, receiver, digest)
    };
    let over = is_over(view, transcript.plan().deadlines.verifying_blocks);
    let complete = awaited(view).filter(|index| spoke.contains(index)).all(|index| {
        // Of a receiver that gave two responses, or one to other dealers, nothing is to come.
        answered.contains(&index) && can_be_had(index)
    });
    if !complete && !over {
        return None;
    }
    let known = single.iter().filter(|(receiver, _)| can_be_had(**receiver));
    let responses = FrozenDigests::of(known.map(|(receiver, (digest, _))| (*receiver, *digest)).collect());
    match transcript.judge(dealers, &responses) {
        Err(_) => over.then_some(Decision::Fail(FailReason::EvidenceMissing)),
        Ok(judgement) => Some(match judgement.combine(transcript) {
            Ok(_) => Decision::FreezeResponses { responses, qualified: judgement.frozen.qualified },
            Err(error) => Decision::Fail(FailReason::NoSharing(error)),
        }),
    }
}

/// Tells whether enough receivers say that they have a response for one of them to be honest, and hand it on.
fn has_enough_copies(transcript: &Transcript, receiver: NodeIndex, response: &Digest) -> bool {
    let copies = transcript.heards().filter(|(_, of, digest)| *of == receiver && digest == response).count();
    copies >= transcript.plan().copies_needed()
}

/// Iterates over the nodes that a round waits for: those that the plan expects, but for whoever is proven guilty by now.
fn awaited<'a>(view: &RoundView<'a>) -> impl Iterator<Item = NodeIndex> + use<'a> {
    let transcript = view.transcript;
    let is_guilty = move |index: &NodeIndex| transcript.culprits().any(|culprit| culprit.index == *index);
    transcript.plan().expected.iter().copied().filter(move |index| !is_guilty(index))
}

fn close_preparing(view: &RoundView<'_>) -> Option<Decision> {
    let (transcript, plan) = (view.transcript, view.transcript.plan());
    let over = is_over(view, plan.deadlines.preparing_blocks);
    let Some(prepared) = prepared(view) else {
        return over.then_some(Decision::Fail(FailReason::EvidenceMissing));
    };
    let (dealers, responses) = (view.record.dealers.as_ref()?, view.record.responses.as_ref()?);
    // Whoever could not open its shares prepares nothing, and nobody waits for it.
    let opened = |index: &NodeIndex| {
        let response = responses.get(*index).and_then(|digest| transcript.known_response(*index, &digest, dealers));
        response.is_some_and(|response| !response.unopened)
    };
    let all_spoke = awaited(view).filter(opened).all(|index| transcript.prepared().contains_key(&index));
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
    let holders = || prepared.iter().map(|i| (*i, combined.vector.public_share(*i))).collect();
    let public_key = combined.vector.constant();
    // Whoever withheld its signature from the operator may have made the certificate, and nodes follow it.
    if let Some(certificate) = transcript.shown_certificate(&combined.vector) {
        return Some(Decision::Activate { certificate, public_key, holders: holders() });
    }
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
                return Some(Decision::Activate { certificate, public_key, holders: holders() });
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
