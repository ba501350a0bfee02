//! A node's side of every round: a synchronous machine, fed with plans, records and what peers say.
//!
//! # How to drive it
//! - inputs: [`Participant::accept`] a plan, [`Participant::observe`] its record, [`Participant::learn`] what peers sent,
//!   [`Participant::show`] what they keep, [`Participant::retire`] an epoch. Any order, any repetition: inputs are facts, not commands.
//! - outputs: each input answers with [`Outputs`], to be carried out in the order of its fields. Nothing in `say` may leave
//!   before everything above it is durable.
//! - [`Participant::wants`] lists what has to be fetched before the machine can go on: first from the node's own files, then
//!   from peers.
//! - after a restart: [`Participant::restore`], serve the outboxes again, and feed the same facts.
//!
//! How a node begins and what it accepts stands here; what it takes from peers is in `learning` and `kept`, what it does once it
//! knows enough in `steps`, what it gives up in `retirement`.

use std::collections::BTreeMap;

use rand_core::CryptoRng;
use zeroize::Zeroizing;

use crate::curve::{G2, SecretScalar};
use crate::identifiers::{ClusterId, EpochNumber, NodeIndex, PrekeyNumber};
use crate::identity::IdentitySecretKey;
use crate::plan::{Origin, Plan, ValidPlan, frozen};
use crate::polynomial::VerificationVector;
use crate::prekey::PrekeySecret;
use crate::purpose::Certificate;

use super::dealing::DealerSeed;
use super::early::Early;
use super::outputs::{Contradiction, Notice, Outputs, Refusal, RestoreError};
use super::proposals::ShownEpochs;
use super::record::{Phase, RoundRecord};
use super::state::{Attempt, PersistentState, SecretName, Verdict};
use super::transcript::Transcript;

/// A node's part in its cluster's rounds. It holds secrets, so it cannot be printed:
///
/// ```compile_fail
/// fn log(participant: &keyfleet_threshold::round::Participant) {
///     println!("{participant:?}");
/// }
/// ```
pub struct Participant {
    pub(super) identity: IdentitySecretKey,
    pub(super) state: PersistentState,
    pub(super) secrets: Secrets,
    pub(super) transcripts: BTreeMap<EpochNumber, Transcript>,
    pub(super) records: BTreeMap<EpochNumber, RoundRecord>,
    pub(super) early: Early,
    pub(super) shown: ShownEpochs,
}

/// The secrets of a participant, each wiped when dropped. Each has its own place in memory: a map that moves its values about leaves copies
/// that nothing wipes.
#[derive(Default)]
pub(super) struct Secrets {
    pub(super) prekeys: BTreeMap<PrekeyNumber, Box<PrekeySecret>>,
    pub(super) seeds: BTreeMap<EpochNumber, Box<DealerSeed>>,
    pub(super) shares: BTreeMap<EpochNumber, Box<SecretScalar>>,
}

impl Participant {
    /// A node that has never taken part. Carry out the outputs: they make its first prekey.
    pub fn new(
        cluster: ClusterId,
        index: NodeIndex,
        identity: IdentitySecretKey,
        rng: &mut impl CryptoRng,
    ) -> (Self, Outputs) {
        let mut participant = Self {
            identity,
            state: PersistentState::new(cluster, index),
            secrets: Secrets::default(),
            transcripts: BTreeMap::new(),
            records: BTreeMap::new(),
            early: Early::default(),
            shown: ShownEpochs::default(),
        };
        let mut out = Outputs::default();
        participant.tend_prekeys(rng, &mut out);
        (participant, out)
    }

    /// A node that starts again, from its committed state and the secrets found in its key stores.
    ///
    /// The outputs destroy secrets that the state does not name. A secret that it names and that is gone costs what it
    /// opened: a share counts as not held, a prekey is no longer shown.
    ///
    /// # Errors
    /// When state or secrets are malformed: nothing is taken up.
    pub fn restore(
        identity: IdentitySecretKey,
        state: &[u8],
        stored: impl IntoIterator<Item = (SecretName, Zeroizing<[u8; 32]>)>,
    ) -> Result<(Self, Outputs), RestoreError> {
        let stored_state = PersistentState::decode(state)?;
        if !stored_state.is_sound() {
            return Err(RestoreError::Contradiction);
        }
        let mut state = stored_state.clone();
        let live = state.live_secrets();
        let (mut secrets, mut out) = (Secrets::default(), Outputs::default());
        for (name, bytes) in stored {
            if !live.contains(&name) {
                out.destroy.push(name);
                continue;
            }
            match name {
                SecretName::Prekey(number) => {
                    let secret = PrekeySecret::restore(number, &bytes).map_err(|_| RestoreError::Secret(name))?;
                    if state.prekeys.get(&number).is_none_or(|shown| shown.key != secret.public()) {
                        return Err(RestoreError::Secret(name));
                    }
                    secrets.prekeys.insert(number, Box::new(secret));
                }
                SecretName::DealerSeed(number) => {
                    secrets.seeds.insert(number, Box::new(DealerSeed::restore(&bytes)));
                }
                SecretName::Share(number) => {
                    let share = SecretScalar::decode(&bytes).map_err(|_| RestoreError::Secret(name))?;
                    let vector = state.attempts.get(&number).and_then(|attempt| attempt.vector.as_ref());
                    if !vector.is_some_and(|vector| vector.matches(state.index, &share)) {
                        return Err(RestoreError::Secret(name));
                    }
                    secrets.shares.insert(number, Box::new(share));
                }
            }
        }
        state.prekeys.retain(|number, _| secrets.prekeys.contains_key(number));
        state.prekey_reach.retain(|number, _| secrets.prekeys.contains_key(number));
        for (number, attempt) in &mut state.attempts {
            attempt.holds_share &= secrets.shares.contains_key(number);
        }
        let (transcripts, records) = (BTreeMap::new(), BTreeMap::new());
        let (early, shown) = (Early::default(), ShownEpochs::default());
        let mut participant = Self { identity, state, secrets, transcripts, records, early, shown };
        for number in participant.state.attempts.keys().copied().collect::<Vec<_>>() {
            participant.open_transcript(number);
        }
        out.commit = participant.state != stored_state;
        Ok((participant, out))
    }

    /// Marks a node that was restored from a replica: it says nothing new in plans up to this block, nor in rounds that were open when
    /// the replica was written.
    pub fn abstain_through(&mut self, block: crate::identifiers::Block) -> Outputs {
        self.state.abstain_through = self.state.abstain_through.max(Some(block));
        for attempt in self.state.attempts.values_mut().filter(|attempt| attempt.is_open()) {
            attempt.abstain = true;
        }
        Outputs { commit: true, ..Outputs::default() }
    }

    /// Returns the state that has to survive.
    #[must_use]
    pub fn state(&self) -> &PersistentState {
        &self.state
    }

    /// The bytes of a secret that [`Outputs::create`] names: for sealing, and for nothing else.
    #[must_use]
    pub fn expose(&self, name: SecretName) -> Option<Zeroizing<[u8; 32]>> {
        match name {
            SecretName::Prekey(number) => self.secrets.prekeys.get(&number).map(|secret| secret.expose()),
            SecretName::DealerSeed(number) => self.secrets.seeds.get(&number).map(|s| Zeroizing::new(*s.expose())),
            SecretName::Share(number) => self.secrets.shares.get(&number).map(|share| share.expose()),
        }
    }

    /// The share of an epoch, for serving.
    #[must_use]
    pub fn share(&self, number: EpochNumber) -> Option<&SecretScalar> {
        self.secrets.shares.get(&number).map(Box::as_ref)
    }

    /// Returns a round's transcript, for status and for peers that ask.
    #[must_use]
    pub fn transcript(&self, number: EpochNumber) -> Option<&Transcript> {
        self.transcripts.get(&number)
    }

    /// Accepts a plan. Accepting it again has no effect.
    ///
    /// A node that returns accepts every plan of the record, oldest first, before it observes any: only then does it know
    /// for which epochs it still needs which prekey.
    ///
    /// # Errors
    /// A [`Refusal`]. Nothing has changed then.
    pub fn accept(&mut self, plan: Plan, rng: &mut impl CryptoRng) -> Result<Outputs, Refusal> {
        let number = plan.number;
        // A plan that is known needs no second validation, which checks a signature and a point for each receiver.
        if self.state.attempts.get(&number).is_some_and(|known| *known.plan == plan) {
            return Ok(Outputs::default());
        }
        let plan = plan.validate()?;
        if self.state.attempts.contains_key(&number) {
            return Err(Refusal::OtherPlan(number));
        }
        self.check_against_memory(&plan)?;
        let mut out = Outputs { commit: true, ..Outputs::default() };
        assert!(number > self.state.highest, "attempt numbers rise");
        let missed = number.0 - self.state.highest.0 > 1;
        self.state.highest = number;
        for (index, identity) in members(&plan) {
            self.state.pins.insert(index, identity);
        }
        for receiver in &plan.receivers {
            if let Some(prekey) = receiver.prekey {
                self.state.accepted_prekeys.insert(receiver.index, prekey);
            }
        }
        let abstain = self.state.abstain_through.is_some_and(|through| plan.block <= through);
        self.note_reach(&plan, missed);
        self.replace_lost_prekey(&plan, rng, &mut out);
        self.state.attempts.insert(number, Attempt::new(plan, abstain));
        self.open_transcript(number);
        self.tend_prekeys(rng, &mut out);
        self.advance(number, rng, &mut out);
        self.hear_early(number, rng, &mut out);
        self.take_waiting(rng, &mut out);
        self.invariant_state_is_sound();
        Ok(out)
    }

    fn check_against_memory(&self, plan: &ValidPlan) -> Result<(), Refusal> {
        if plan.cluster != self.state.cluster {
            return Err(Refusal::OtherCluster(plan.cluster));
        }
        if plan.number <= self.state.highest {
            return Err(Refusal::NumberNotAbove { number: plan.number, highest: self.state.highest });
        }
        match (&plan.origin, self.state.public_key) {
            (Origin::Genesis, Some(_)) => return Err(Refusal::GenesisRefused),
            (Origin::Reshare { public_key, .. }, Some(known)) if *public_key != known => {
                return Err(Refusal::PublicKey);
            }
            _ => {}
        }
        let source = plan.source().map(|source| source.number);
        let retired = source.filter(|source| self.state.attempts.get(source).is_some_and(|attempt| attempt.retired));
        if let Some(retired) = retired {
            return Err(Refusal::SourceRetired(retired));
        }
        let me = (self.state.index, self.identity.public());
        for (index, identity) in members(plan) {
            let pinned = if index == me.0 { Some(&me.1) } else { self.state.pins.get(&index) };
            if pinned.is_some_and(|pinned| *pinned != identity) {
                return Err(Refusal::Identity(index));
            }
        }
        for receiver in &plan.receivers {
            let Some(prekey) = receiver.prekey else { continue };
            let accepted = self.state.accepted_prekeys.get(&receiver.index);
            if let Some(accepted) = accepted.filter(|accepted| prekey.number < accepted.number) {
                let (receiver, named, accepted) = (receiver.index, prekey.number, Box::new(*accepted));
                return Err(Refusal::Prekey { receiver, named, accepted });
            }
        }
        Ok(())
    }

    /// Takes in the record of a round, as read from the API server; of several rounds the oldest first, since an active epoch
    /// makes every attempt below it that is still open a failed one.
    ///
    /// # Errors
    /// When it contradicts what this node has seen or done; the node does not act on it.
    pub fn observe(
        &mut self,
        number: EpochNumber,
        record: &RoundRecord,
        rng: &mut impl CryptoRng,
    ) -> Result<Outputs, Contradiction> {
        let attempt = self.state.attempts.get(&number).ok_or(Contradiction::Unknown(number))?;
        let mut out = Outputs::default();
        match (&attempt.verdict, record.phase) {
            (Some(Verdict::Failed), Phase::Active | Phase::Confirmed | Phase::Retired)
            | (Some(Verdict::Active(_)), Phase::Failed) => return Err(Contradiction::Verdict(number)),
            (Some(Verdict::Failed), _) => return Ok(out),
            _ => {}
        }
        if let Err(contradiction) = self.take_frozen(number, record, &mut out) {
            // A certificate says by itself what the epoch is, whatever else the record says.
            if !self.is_certified(number, record) {
                return Err(contradiction);
            }
            out.notices.push(Notice::Contradicted(contradiction));
        }
        if record.phase == Phase::Failed {
            self.fail(number, &mut out);
            self.forget_old_failed();
            self.tend_prekeys(rng, &mut out);
            self.invariant_state_is_sound();
            return Ok(out);
        }
        self.records.insert(number, record.clone());
        self.open_wants(number);
        self.advance(number, rng, &mut out);
        self.invariant_state_is_sound();
        Ok(out)
    }

    /// Takes up the frozen fields of a record, each once. A list that its own bundles prove wrong is given up again as soon as they
    /// are here, so that a corrected record is followed.
    fn take_frozen(
        &mut self,
        number: EpochNumber,
        record: &RoundRecord,
        out: &mut Outputs,
    ) -> Result<(), Contradiction> {
        let attempt = self.state.attempts.get_mut(&number).ok_or(Contradiction::Unknown(number))?;
        let Some(dealers) = &record.dealers else { return Ok(()) };
        let fits = frozen::dealers_fit(&attempt.plan, dealers);
        if !fits || attempt.dealers.as_ref().is_some_and(|known| known != dealers) {
            return Err(Contradiction::Frozen(number, "dealers"));
        }
        let full = match (&record.responses, &record.qualified) {
            (Some(responses), Some(qualified)) => {
                let (dealers, responses) = (dealers.clone(), responses.clone());
                let full = frozen::Frozen { dealers, responses, qualified: qualified.clone() };
                let fits = frozen::responses_fit(&attempt.plan, &full.responses);
                if !fits || attempt.frozen.as_ref().is_some_and(|known| *known != full) {
                    return Err(Contradiction::Frozen(number, "responses"));
                }
                Some(full)
            }
            _ => None,
        };
        out.commit |= attempt.dealers.is_none() || (attempt.frozen.is_none() && full.is_some());
        attempt.dealers = Some(dealers.clone());
        attempt.frozen = full.or(attempt.frozen.take());
        Ok(())
    }

    /// Tells whether an open round's record carries a certificate of that round.
    fn is_certified(&self, number: EpochNumber, record: &RoundRecord) -> bool {
        let attempt = self.state.attempts.get(&number).filter(|attempt| attempt.is_open());
        let certificate = record.certificate.as_ref();
        attempt.zip(certificate).is_some_and(|(attempt, certificate)| self.key_of(attempt, certificate).is_some())
    }

    /// Returns the public key under which a certificate certifies an attempt, if it does: the cluster's, or at its genesis the one of
    /// the vector that this node computed.
    pub(super) fn key_of(&self, attempt: &Attempt, certificate: &Certificate) -> Option<G2> {
        let vector = attempt.vector.as_ref();
        let expected = self.state.public_key.or(attempt.plan.expected_public_key());
        let public_key = expected.or(vector.map(VerificationVector::constant))?;
        let names_this_round = certificate.cluster == self.state.cluster
            && certificate.number == attempt.plan.number
            && certificate.plan == attempt.plan.digest()
            && vector.is_none_or(|vector| certificate.vector == vector.digest());
        (names_this_round && certificate.verify(&public_key)).then_some(public_key)
    }

    /// Checks, before the state is committed, what [`Participant::restore`] demands of it after a load, and that no secret is
    /// in hand that the state does not name: what a round leaves behind dies with it.
    pub(super) fn invariant_state_is_sound(&self) {
        assert!(self.state.is_sound(), "the state contradicts itself");
        let live = self.state.live_secrets();
        let prekeys = self.secrets.prekeys.keys().copied().map(SecretName::Prekey);
        let seeds = self.secrets.seeds.keys().copied().map(SecretName::DealerSeed);
        let shares = self.secrets.shares.keys().copied().map(SecretName::Share);
        for name in prekeys.chain(seeds).chain(shares) {
            assert!(live.contains(&name), "{name:?} outlived what it was for");
        }
    }
}

pub(super) fn members(plan: &Plan) -> impl Iterator<Item = (NodeIndex, crate::identity::IdentityPublicKey)> {
    let dealers = plan.dealers.iter().map(|dealer| (dealer.index, dealer.identity));
    dealers.chain(plan.receivers.iter().map(|receiver| (receiver.index, receiver.identity)))
}
