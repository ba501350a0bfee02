//! Prekeys of a participant: which one is shown, which are still needed, and when they die.

use rand_core::CryptoRng;

use super::outputs::Outputs;
use super::participant::Participant;
use super::state::{Attempt, SecretName, Verdict};
use crate::identifiers::PrekeyNumber;
use crate::plan::ValidPlan;
use crate::prekey::{PrekeySecret, SignedPrekey};

impl Participant {
    /// Makes a new prekey where the shown one is not to be named again, destroys those that nothing needs any more, and says what
    /// is erased by that.
    ///
    /// A new one is made once a share is held that was sealed under the shown one, when that reaches a retired epoch, and when a
    /// plan names one at or above it whose secret is gone. A removed node makes none.
    pub(super) fn tend_prekeys(&mut self, rng: &mut impl CryptoRng, out: &mut Outputs) {
        let is_removed = self.state.is_removed();
        if !is_removed && self.state.shown_prekey().is_none_or(|shown| self.is_spent(shown)) {
            self.make_prekey(rng, out);
        }
        let needed = self.needed_prekeys();
        let shown = self.state.shown_prekey().filter(|_| !is_removed).map(|prekey| prekey.number);
        let dead = self.state.prekeys.keys().filter(|number| Some(**number) != shown && !needed.contains(number));
        for number in dead.copied().collect::<Vec<_>>() {
            self.secrets.prekeys.remove(&number);
            self.state.prekeys.remove(&number);
            self.state.prekey_reach.remove(&number);
            out.destroy.push(SecretName::Prekey(number));
            out.commit = true;
        }
        self.say_erased(out);
    }

    /// Tells whether a share is held that was sealed under a prekey, or the prekey alone keeps a retired epoch from being erased.
    fn is_spent(&self, prekey: &SignedPrekey) -> bool {
        let reach = self.state.prekey_reach.get(&prekey.number);
        self.state.attempts.iter().any(|(number, attempt)| {
            let is_held = attempt.holds_share && self.names(attempt, prekey);
            let is_owed = attempt.retired && !attempt.erased;
            is_held || is_owed && reach.is_some_and(|reach| reach <= number)
        })
    }

    /// Makes a prekey above the one that a plan names for this node, if the secret of that one is gone: lost with a volume that
    /// came back from its replica.
    pub(super) fn replace_lost_prekey(&mut self, plan: &ValidPlan, rng: &mut impl CryptoRng, out: &mut Outputs) {
        let Some(named) = plan.receiver(self.state.index).and_then(|receiver| receiver.prekey) else { return };
        let is_newest = self.state.shown_prekey().is_none_or(|shown| named.number >= shown.number);
        if is_newest && self.own_secret(&named).is_none() {
            self.state.next_prekey = self.state.next_prekey.max(PrekeyNumber(named.number.0.saturating_add(1)));
            self.make_prekey(rng, out);
        }
    }

    /// Returns the prekeys with which this node still has to open a share, and the one that the newest plan names: the next plan
    /// may be written before the operator has read of a newer one.
    fn needed_prekeys(&self) -> Vec<PrekeyNumber> {
        let newest = self.state.attempts.values().next_back().filter(|attempt| !attempt.retired);
        let unopened = self.state.attempts.values().filter(|attempt| awaits_share(attempt));
        let plans = unopened.chain(newest).map(|attempt| &attempt.plan);
        plans.filter_map(|plan| Some(plan.receiver(self.state.index)?.prekey?.number)).collect()
    }

    /// Returns the secret of the prekey that a plan names for this node, if it is alive.
    pub(super) fn own_prekey(&self, plan: &ValidPlan) -> Option<&PrekeySecret> {
        self.own_secret(&plan.receiver(self.state.index)?.prekey?)
    }

    fn own_secret(&self, prekey: &SignedPrekey) -> Option<&PrekeySecret> {
        self.secrets.prekeys.get(&prekey.number).map(Box::as_ref).filter(|secret| secret.public() == prekey.key)
    }

    fn names(&self, attempt: &Attempt, prekey: &SignedPrekey) -> bool {
        let named = attempt.plan.receiver(self.state.index).and_then(|receiver| receiver.prekey);
        named.is_some_and(|named| named.key == prekey.key)
    }

    fn make_prekey(&mut self, rng: &mut impl CryptoRng, out: &mut Outputs) {
        let number = self.state.next_prekey;
        assert!(self.state.prekeys.keys().all(|known| *known < number), "prekey numbers rise");
        self.state.next_prekey = PrekeyNumber(number.0.saturating_add(1));
        let secret = PrekeySecret::generate(number, rng);
        self.state.prekeys.insert(number, secret.offer(self.state.cluster, self.state.index, &self.identity));
        self.secrets.prekeys.insert(number, Box::new(secret));
        out.create.push(SecretName::Prekey(number));
        out.commit = true;
    }
}

/// Tells whether a node may still open its share of an attempt. Of a bundle that seals a bad one its dealer may have signed another.
fn awaits_share(attempt: &Attempt) -> bool {
    attempt.verdict != Some(Verdict::Failed) && !attempt.retired && !attempt.holds_share
}
