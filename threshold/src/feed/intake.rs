//! From an input to the participant, with what the node's own file adds.

use std::collections::BTreeSet;

use rand_core::CryptoRng;

use super::input::{Input, InputError};
use crate::identifiers::{Digest, EpochNumber};
use crate::round::{Blob, Contradiction, Outputs, Participant, RoundRecord, SignedMessage};

/// Gives `input` to the participant. `now_ms` is the wall clock in milliseconds since the Unix epoch.
///
/// # Errors
/// Why it was not taken up.
pub fn take(
    input: &Input,
    participant: &mut Participant,
    now_ms: u64,
    rng: &mut impl CryptoRng,
) -> Result<Outputs, InputError> {
    Ok(match input {
        Input::Plan(plan) => participant.accept(plan.clone(), rng)?,
        Input::Record(number, record) => observe(*number, record, participant, rng)?,
        Input::Blob(blob) => participant.learn(blob, rng)?,
        Input::Shown(from, shown) => participant.show(*from, shown, rng)?,
        Input::Retire(retirement) => participant.retire(retirement, now_ms, rng)?,
        Input::Abstain(block) => participant.abstain_through(*block),
    })
}

/// Gives a record to the participant. What it proves against the API server is remembered also where the rest of it is refused.
fn observe(
    number: EpochNumber,
    record: &RoundRecord,
    participant: &mut Participant,
    rng: &mut impl CryptoRng,
) -> Result<Outputs, Contradiction> {
    let mut heard = record.certificate.map_or_else(Outputs::default, |it| participant.hear_certificate(&it));
    match participant.observe(number, record, rng) {
        Ok(outputs) => heard.extend(outputs),
        Err(contradiction) if !heard.commit => return Err(contradiction),
        Err(_) => {}
    }
    Ok(heard)
}

/// Gives inputs that came together to the participant, in their order; messages that follow each other, at once.
///
/// Adds the outputs to `out`. Returns the places of those that were not taken up, and why.
pub fn take_all(
    inputs: &[Input],
    participant: &mut Participant,
    now_ms: u64,
    rng: &mut impl CryptoRng,
    out: &mut Option<Outputs>,
) -> Vec<(usize, InputError)> {
    let (mut place, mut errors) = (0, Vec::new());
    for together in inputs.chunk_by(|a, b| message(a).is_some() && message(b).is_some()) {
        let messages: Vec<_> = together.iter().filter_map(message).collect();
        if messages.len() > 1 {
            let heard = participant.learn_all(&messages, rng, out.get_or_insert_default());
            let refused =
                heard.into_iter().enumerate().filter_map(|(at, heard)| Some((place + at, heard.err()?.into())));
            errors.extend(refused);
        } else {
            match take(&together[0], participant, now_ms, rng) {
                Ok(outputs) => out.get_or_insert_default().extend(outputs),
                Err(error) => errors.push((place, error)),
            }
        }
        place += together.len();
    }
    errors
}

fn message(input: &Input) -> Option<&SignedMessage> {
    match input {
        Input::Blob(Blob::Message(message)) => Some(message),
        _ => None,
    }
}

/// Gives the participant what it wants and the node has `kept` in its own file.
///
/// Adds the outputs to `out`, also where an error ends it; `out` stays `None` where nothing was found.
///
/// # Errors
/// The first error of `kept`.
pub fn recall<E>(
    participant: &mut Participant,
    mut kept: impl FnMut(&Digest) -> Result<Option<Blob>, E>,
    rng: &mut impl CryptoRng,
    out: &mut Option<Outputs>,
) -> Result<(), E> {
    let mut tried = BTreeSet::new();
    loop {
        let next = participant.wants().into_iter().map(|want| want.digest).find(|want| !tried.contains(want));
        let Some(digest) = next else { return Ok(()) };
        tried.insert(digest);
        // What does not fit any more was kept for another round.
        let Some(Ok(mut outputs)) = kept(&digest)?.map(|blob| participant.learn(&blob, rng)) else { continue };
        outputs.keep.retain(|blob| blob.digest() != digest);
        out.get_or_insert_default().extend(outputs);
    }
}
