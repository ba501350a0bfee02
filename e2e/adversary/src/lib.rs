//! Nodes that lie: what they say is bent on its way out, signed with their real keys.

use std::collections::BTreeMap;

use hkdf::Hkdf;
use keyfleet_threshold::curve::{G1, HashDomain, Scalar, SecretScalar};
use keyfleet_threshold::identifiers::{Digest, EpochNumber, NodeIndex};
use keyfleet_threshold::identity::IdentitySecretKey;
use keyfleet_threshold::plan::FrozenDigests;
use keyfleet_threshold::round::{
    Attempt, Blob, Body, Complaint, DealerSeed, Dealing, Participant, Response, SecretName, ShownEpoch, SignedMessage,
};
use sha2::Sha256;

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
    /// Complains about a dealer whose share was good, with the value that it really shares with it.
    FalseComplainer {
        /// Whom it accuses.
        accused: NodeIndex,
    },
    /// Claims to have prepared another vector and signs the certificate with nonsense.
    Saboteur,
    /// Shows kept epochs with false lists of their bundles, and hands bundles out under bad signatures.
    FalseKeeper,
    /// Never says that it erased anything.
    Hoarder,
    /// Signs the certificate and keeps that to itself.
    Withholder,
    /// Signs an answer with a byte too many.
    Babbler,
    /// Says nothing at all.
    Silent,
    /// Shows its response to the operator alone: an honest one, or one that accuses somebody falsely.
    Whisperer {
        /// Whom it accuses.
        accused: Option<NodeIndex>,
    },
    /// Says everything many times over, each time a little differently.
    Flooder,
    /// Lies about what it has and what it has heard, and accuses every dealer late.
    Gossip,
}

/// Variants of each message that a flooder adds.
const FLOOD: u8 = 12;

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
            (Self::Silent, _)
            | (Self::MuteDealer, Body::Dealing(_))
            | (Self::Hoarder, Body::Erased)
            | (Self::Withholder, Body::Partial(_)) => return None,
            (Self::LyingDealer { victim }, Body::Dealing(honest)) => {
                vec![say(Body::Dealing(cheat(process, message, honest, victim)?))]
            }
            (Self::ForeignConstant, Body::Dealing(_)) => {
                vec![say(Body::Dealing(other_dealing(process, message, true)?))]
            }
            (Self::Equivocator, Body::Dealing(_)) => {
                vec![message.clone(), say(Body::Dealing(other_dealing(process, message, false)?))]
            }
            (
                Self::FalseComplainer { accused } | Self::Whisperer { accused: Some(accused) },
                Body::Response(response),
            ) => {
                vec![say(Body::Response(accuse(process, message, response, accused)?))]
            }
            (Self::Saboteur, Body::Prepared { frozen, .. }) => {
                vec![say(Body::Prepared { vector: Digest([0xee; 32]), frozen: *frozen })]
            }
            (Self::Saboteur, Body::Partial(_)) => {
                vec![say(Body::Partial(G1::hash(b"nonsense", HashDomain::Signature)))]
            }
            (Self::Babbler, Body::Response(_)) => vec![too_long(message, key)?],
            _ => vec![message.clone()],
        };
        Some(bent)
    }

    /// Returns what the node shows of an epoch that it keeps: as a false keeper a dealer less, or a bundle that is nobody's; as a
    /// withholder nothing.
    #[must_use]
    pub fn bend_shown(self, shown: ShownEpoch) -> Option<ShownEpoch> {
        match self {
            Self::FalseKeeper => {}
            Self::Withholder => return None,
            _ => return Some(shown),
        }
        let mut listed: BTreeMap<_, _> = shown.qualified.iter().collect();
        match listed.first_entry() {
            Some(first) if shown.certificate.number.0.is_multiple_of(2) => drop(first.remove()),
            Some(mut first) => drop(first.insert(Digest([0xee; 32]))),
            None => {}
        }
        Some(ShownEpoch { qualified: FrozenDigests::of(listed), ..shown })
    }

    /// Changes what the node hands out under a digest, which does not cover the signature.
    pub fn bend_found(self, found: &mut Blob) {
        if let (Self::FalseKeeper, Blob::Message(message)) = (self, found) {
            let nobody = IdentitySecretKey::from_seed(&[0; 32]);
            *message = SignedMessage::sign(message.plan, message.sender, message.body.clone(), &nobody);
        }
    }
}

/// Returns a message that ends with a byte too many, signed as it is.
fn too_long(message: &SignedMessage, key: &IdentitySecretKey) -> Option<SignedMessage> {
    let honest = message.encode();
    let signed = [honest.get(..honest.len() - 64)?, &[0]].concat();
    let signature = key.sign(&Digest::of("KEYFLEET-V1-MESSAGE", &[&signed]));
    SignedMessage::decode(&[&signed[..], &signature.0].concat()).ok()
}

impl Behaviour {
    /// Returns what the node says beside `message`, for everyone to read.
    #[must_use]
    pub fn adds(self, message: &SignedMessage, process: &Participant, key: &IdentitySecretKey) -> Vec<SignedMessage> {
        let bodies = match self {
            Self::Flooder => (0..FLOOD).filter_map(|i| variant(&message.body, i)).collect(),
            Self::Gossip => gossip(message, process).unwrap_or_default(),
            _ => Vec::new(),
        };
        bodies.into_iter().map(|body| SignedMessage::sign(message.plan, message.sender, body, key)).collect()
    }

    /// Tells whether the node shows `message` to the operator and to no peer.
    #[must_use]
    pub fn hides_from_peers(self, message: &SignedMessage) -> bool {
        matches!((self, &message.body), (Self::Whisperer { .. }, Body::Response(_)))
    }
}

/// Returns another message of the same kind, where there are many.
fn variant(body: &Body, i: u8) -> Option<Body> {
    let digest = Digest([i; 32]);
    Some(match body {
        Body::Have { dealer, .. } => Body::Have { dealer: *dealer, bundle: digest },
        Body::Response(response) => Body::Response(Response { dealers: digest, ..response.clone() }),
        Body::Prepared { frozen, .. } => Body::Prepared { vector: digest, frozen: *frozen },
        Body::Partial(_) => Body::Partial(G1::hash(&[i], HashDomain::Signature)),
        Body::Holds { .. } => Body::Holds { vector: digest },
        _ => return None,
    })
}

/// Lies beside the response: bundles and responses that nobody sent, and late complaints about everyone, each with the value that the
/// node really shares with the dealer.
fn gossip(message: &SignedMessage, process: &Participant) -> Option<Vec<Body>> {
    let (number, attempt) = attempt_of(process, message)?;
    if !matches!(message.body, Body::Response(_)) {
        return None;
    }
    let transcript = process.transcript(number)?;
    let prekey = attempt.plan.receiver(message.sender)?.prekey?;
    let secret = SecretScalar::decode(&*process.expose(SecretName::Prekey(prekey.number))?).ok()?;
    let complaint = |dealer: NodeIndex| {
        let bundle = transcript.bundle_of(dealer)?;
        let key = bundle.ephemeral().g1.times_secret(&secret);
        Some(Complaint { dealer, bundle: bundle.digest(), key })
    };
    let dealers = || attempt.plan.dealers.iter().map(|dealer| dealer.index);
    let mut lies = vec![Body::Late(dealers().filter_map(complaint).collect())];
    lies.extend(dealers().map(|dealer| Body::Have { dealer, bundle: Digest([0xaa; 32]) }));
    let receivers = attempt.plan.receivers.iter().map(|receiver| receiver.index);
    lies.extend(receivers.map(|receiver| Body::Heard { receiver, response: Digest([0xbb; 32]) }));
    Some(lies)
}

/// Returns the attempt that a message belongs to.
fn attempt_of<'a>(process: &'a Participant, message: &SignedMessage) -> Option<(EpochNumber, &'a Attempt)> {
    let attempts = process.state().attempts.iter();
    attempts.map(|(number, attempt)| (*number, attempt)).find(|(_, attempt)| attempt.plan.digest() == message.plan)
}

/// Returns a second, well-formed dealing of the same dealer in the same plan.
fn other_dealing(process: &Participant, message: &SignedMessage, foreign: bool) -> Option<Dealing> {
    let (_, attempt) = attempt_of(process, message)?;
    let source = attempt.plan.source().and_then(|source| process.share(source.number));
    let nonsense = SecretScalar::decode(&[7; 32]).ok()?;
    let constant = if foreign { Some(&nonsense) } else { source };
    Some(Dealing::deal(&attempt.plan, message.sender, constant, &DealerSeed::restore(&[0x5a; 32])))
}

/// Shifts the share of the victim, and proves possession over the changed bundle with the dealer's own secrets. Written from
/// `docs/protocol.md`, as a stranger's dealer would be.
fn cheat(process: &Participant, message: &SignedMessage, honest: &Dealing, victim: NodeIndex) -> Option<Dealing> {
    let (number, attempt) = attempt_of(process, message)?;
    let at = attempt.plan.receivers.iter().position(|receiver| receiver.index == victim)?;
    let seed = process.expose(SecretName::DealerSeed(number))?;
    let named = [message.plan.0.as_slice(), &message.sender.value().to_be_bytes()].concat();
    let mut wide = [0; 64];
    Hkdf::<Sha256>::from_prk(seed.as_ref())
        .ok()?
        .expand(&[b"KEYFLEET-V2-EPHEMERAL", &named[..]].concat(), &mut wide)
        .ok()?;
    let ephemeral = SecretScalar::from_wide(&zeroize::Zeroizing::new(wide));
    let mut lie = honest.clone();
    lie.shares[at] = lie.shares[at].map(|share| share + Scalar::one());
    // Everything that is signed but the kind, up to the proof itself and the signature.
    let bytes = SignedMessage::sign(
        message.plan,
        message.sender,
        Body::Dealing(lie.clone()),
        &IdentitySecretKey::from_seed(&[0; 32]),
    )
    .encode();
    let claims = &bytes[named.len() + 1..bytes.len() - 64 - G1::BYTES];
    let statement = G1::hash(&[&named[..], claims].concat(), HashDomain::Seal);
    lie.possession = statement.times_secret(&ephemeral);
    Some(lie)
}

/// Accuses a dealer of a bad share. A dealer that really cheated is left alone, so that the complaint is a false one.
fn accuse(process: &Participant, message: &SignedMessage, response: &Response, accused: NodeIndex) -> Option<Response> {
    let (number, attempt) = attempt_of(process, message)?;
    let transcript = process.transcript(number)?;
    let bundle = transcript.bundle_of(accused)?;
    let prekey = attempt.plan.receiver(message.sender)?.prekey?;
    let secret = SecretScalar::decode(&*process.expose(SecretName::Prekey(prekey.number))?).ok()?;
    let key = bundle.ephemeral().g1.times_secret(&secret);
    let complaint = Complaint { dealer: accused, bundle: bundle.digest(), key };
    Some(Response { dealers: response.dealers, unopened: false, complaints: vec![complaint] })
}
