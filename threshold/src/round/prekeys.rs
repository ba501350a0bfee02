//! Prekeys of a participant: which sets are on offer, which are still needed, and when they die.

use rand_core::CryptoRng;

use super::message::MessageKind;
use super::outputs::Outputs;
use super::participant::{Participant, SETS_ON_OFFER};
use super::state::{Attempt, SecretName, Verdict};
use crate::identifiers::{EpochNumber, PrekeySetNumber};
use crate::prekey::{PrekeySecret, SignedPrekeySet, slots_for};

impl Participant {
    /// Destroys the prekeys of an epoch whose share is held, and all older ones, with two exceptions.
    ///
    /// Sets with which this node still has to open a share of another epoch stay: a node that returns would otherwise open
    /// the oldest epoch sealed to its last resort and burn the key to the newest. And a last resort stays until a plan named
    /// a newer set: the next plan may be written before the operator has read the new offers, and names it once more.
    pub(super) fn drop_prekeys_through(&mut self, number: EpochNumber, out: &mut Outputs) {
        let Some(held) = self.state.attempts.get(&number).and_then(|attempt| self.own_set(attempt)) else { return };
        let needed = self.needed_prekeys();
        let superseded =
            |set: PrekeySetNumber, secret: &PrekeySecret| set < held || (set == held && !secret.is_last_resort());
        self.drop_prekeys(|set, secret| superseded(set, secret) && !needed.contains(&set), out);
    }

    /// Returns the sets with which this node still has to open a share.
    pub(super) fn needed_prekeys(&self) -> Vec<PrekeySetNumber> {
        let awaits_share = |attempt: &&Attempt| {
            attempt.verdict != Some(Verdict::Failed)
                && !attempt.erased
                && !attempt.holds_share
                && !attempt.has_said(MessageKind::Unable)
        };
        let attempts = self.state.attempts.values().filter(awaits_share);
        attempts.filter_map(|attempt| self.own_set(attempt)).collect()
    }

    /// Returns the set that the plan names for this node.
    pub(super) fn own_set(&self, attempt: &Attempt) -> Option<PrekeySetNumber> {
        attempt.plan.receiver(self.state.index).map(|receiver| receiver.prekey_set)
    }

    pub(super) fn drop_prekeys(&mut self, dead: impl Fn(PrekeySetNumber, &PrekeySecret) -> bool, out: &mut Outputs) {
        let dead: Vec<_> =
            self.secrets.prekeys.iter().filter(|(n, secret)| dead(**n, secret)).map(|(n, _)| *n).collect();
        for number in dead {
            self.secrets.prekeys.remove(&number);
            self.state.offers.remove(&number);
            out.destroy.push(SecretName::Prekeys(number));
            out.commit = true;
        }
    }

    /// Keeps three one-time sets on offer, and above them one last resort.
    pub(super) fn top_up(&mut self, nodes: usize, rng: &mut impl CryptoRng, out: &mut Outputs) {
        let fresh: Vec<_> = self.offers().map(SignedPrekeySet::digest).collect();
        let used = self.state.accepted_sets.get(&self.state.index).copied();
        let unused = |number: &PrekeySetNumber| used.is_none_or(|used| *number > used);
        let one_time = self.secrets.prekeys.iter().filter(|(n, secret)| unused(n) && !secret.is_last_resort()).count();
        let last_resort = self.secrets.prekeys.iter().any(|(n, secret)| unused(n) && secret.is_last_resort());
        let missing = SETS_ON_OFFER.saturating_sub(one_time);
        if missing == 0 && last_resort && !fresh.is_empty() {
            return;
        }
        // The last resort must be the newest: a set below it could no longer be named once it was used.
        for last_resort in (0..missing).map(|_| false).chain([true]) {
            let number = self.state.next_set;
            assert!(self.state.offers.keys().all(|offered| *offered < number), "prekey set numbers rise");
            self.state.next_set = PrekeySetNumber(number.0 + 1);
            let secret = PrekeySecret::generate(self.state.cluster, self.state.index, number, last_resort, rng);
            self.state.offers.insert(number, secret.offer(slots_for(nodes), &self.identity));
            self.secrets.prekeys.insert(number, secret);
            out.create.push(SecretName::Prekeys(number));
        }
        out.commit = true;
    }

    /// Returns the secret half of the set that the plan names for this node, if it is still alive.
    pub(super) fn own_prekeys(&self, attempt: &Attempt) -> Option<&PrekeySecret> {
        let receiver = attempt.plan.receiver(self.state.index)?;
        let offered = self.state.offers.get(&receiver.prekey_set)?;
        let keys = self.secrets.prekeys.get(&receiver.prekey_set)?;
        (offered.digest() == receiver.prekey_digest).then_some(keys)
    }
}
