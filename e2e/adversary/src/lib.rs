//! Nodes that lie: what they say is bent on its way out, signed with their real keys.

use keyfleet_threshold::curve::{G1, HashDomain, SecretScalar};
use keyfleet_threshold::identifiers::{Digest, NodeIndex};
use keyfleet_threshold::identity::IdentitySecretKey;
use keyfleet_threshold::prekey::PrekeySecret;
use keyfleet_threshold::round::{
    Body, Complaint, DealerSeed, Dealing, Participant, Response, SecretName, SignedMessage, Transcript,
};

/// Behaviour of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Behaviour {
    /// As it should.
    Honest,
    /// Never deals, and does everything else.
    MuteDealer,
    /// Seals a share of another polynomial to the victim.
    LyingDealer {
        /// Whom it cheats.
        victim: NodeIndex,
    },
    /// Deals something else than its share of the source.
    ForeignConstant,
    /// Signs two bundles.
    Equivocator,
    /// Complains about a dealer whose share was good, revealing its real key.
    FalseComplainer {
        /// Whom it accuses.
        accused: NodeIndex,
    },
    /// Claims to have prepared another vector and signs the certificate with nonsense.
    Saboteur,
    /// Says nothing at all.
    Silent,
}

impl Behaviour {
    /// Returns the messages that leave the node instead of `message`: none, one, or several.
    #[must_use]
    pub fn bend(
        self,
        message: &SignedMessage,
        process: &Participant,
        key: &IdentitySecretKey,
    ) -> Option<Vec<SignedMessage>> {
        let say = |body| SignedMessage::sign(message.plan, message.sender, body, key);
        let bent = match (self, &message.body) {
            (Self::Silent, _) | (Self::MuteDealer, Body::Dealing(_)) => return None,
            (Self::LyingDealer { victim }, Body::Dealing(honest)) => {
                let (transcript, other) = other_dealing(process, message, false)?;
                let mut lie = honest.clone();
                for (position, receiver) in transcript.plan().receivers.iter().enumerate() {
                    if receiver.index == victim {
                        lie.shares[position] = other.shares[position];
                    }
                }
                vec![say(Body::Dealing(lie))]
            }
            (Self::ForeignConstant, Body::Dealing(_)) => {
                let (_, other) = other_dealing(process, message, true)?;
                vec![say(Body::Dealing(other))]
            }
            (Self::Equivocator, Body::Dealing(_)) => {
                let (_, other) = other_dealing(process, message, false)?;
                vec![message.clone(), say(Body::Dealing(other))]
            }
            (Self::FalseComplainer { accused }, Body::Response(response)) => {
                vec![say(Body::Response(accuse(process, message, response, accused)?))]
            }
            (Self::Saboteur, Body::Prepared { frozen, .. }) => {
                vec![say(Body::Prepared { vector: Digest([0xee; 32]), frozen: *frozen })]
            }
            (Self::Saboteur, Body::Partial(_)) => {
                vec![say(Body::Partial(G1::hash(b"nonsense", HashDomain::Signature)))]
            }
            _ => vec![message.clone()],
        };
        Some(bent)
    }
}

/// A second, well-formed dealing of the same dealer in the same plan.
fn other_dealing<'a>(
    process: &'a Participant,
    message: &SignedMessage,
    foreign: bool,
) -> Option<(&'a Transcript, Dealing)> {
    let (number, _) = process.state().attempts.iter().find(|(_, attempt)| attempt.plan.digest() == message.plan)?;
    let transcript = process.transcript(*number)?;
    if !transcript.missing_prekeys().is_empty() || transcript.lacks_source() {
        return None;
    }
    let source = transcript.plan().source().and_then(|source| process.share(source.number));
    let nonsense = SecretScalar::decode(&[7; 32]).ok()?;
    let constant = if foreign { Some(&nonsense) } else { source };
    let seed = DealerSeed::restore(&[0x5a; 32]);
    let dealing = Dealing::deal(transcript.plan(), message.sender, constant, transcript.prekeys(), &seed);
    Some((transcript, dealing))
}

fn accuse(process: &Participant, message: &SignedMessage, response: &Response, accused: NodeIndex) -> Option<Response> {
    let state = process.state();
    let attempt = state.attempts.values().find(|attempt| attempt.plan.digest() == message.plan)?;
    let receiver = attempt.plan.receiver(message.sender)?;
    let seed = process.expose(SecretName::Prekeys(receiver.prekey_set))?;
    let keys = PrekeySecret::restore(state.cluster, state.index, receiver.prekey_set, false, &seed);
    let slot = attempt.plan.slot_of(accused)?;
    let complaint = Complaint { dealer: accused, key: keys.slot_key(slot).reveal() };
    Some(Response { dealers: response.dealers, complaints: vec![complaint] })
}
