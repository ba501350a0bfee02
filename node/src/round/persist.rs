//! The order of durability, one way only.
//!
//! | step | what |
//! |---|---|
//! | [`Step::KeyStores`] | new key material is in both key stores |
//! | [`Step::Bundles`] | what peers may ask for again is in the second file |
//! | [`Step::Commit`] | state, inventory and shares are in the state file |
//! | [`Step::Acknowledged`] | and in the bucket, where there is one |
//! | [`Step::Floor`] | both key stores name that position: nothing older is ever taken up again |
//! | [`Step::Published`] | peers and operator may read it; callers are served from it |
//! | [`Step::Destroyed`] | what must be gone is gone from both key stores |
//!
//! In a retirement the commit takes rows and inventory entries away first, then the keys go, and a start repeats that half; what
//! says that they are gone is published last of all. Every step may be done again, so a process that dies anywhere does them again after it restarts, and
//! one whose key store or bucket does not answer tries the same outputs later.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use keyfleet_litestream::Position;
use keyfleet_threshold::identifiers::Digest;
use keyfleet_threshold::identity::IdentitySecretKey;
use keyfleet_threshold::round::{Body, Outputs, Participant, SecretName};
use tokio::sync::watch;

use crate::keystores::decision::Finding;
use crate::keystores::inventory::KeyInventory;
use crate::keystores::{KeyStores, KeyStoresError};
use crate::seal::{Fingerprint, KeyMaterial, KeyName};
use crate::secret_rng::secret_rng;
use crate::store::bundles::BundleFile;
use crate::store::{Outbox, RoundCommit, Store, StoreError};

use super::published::{Epochs, Messages, Published, messages_of, next_outbox};

/// A step of the order, once it is done.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Step {
    /// Key material is in both key stores.
    KeyStores,
    /// Blobs are kept.
    Bundles,
    /// The transaction is on the local disk.
    Commit,
    /// The bucket has it.
    Acknowledged,
    /// Both key stores name the position.
    Floor,
    /// Others may read it.
    Published,
    /// Dead secrets are gone.
    Destroyed,
}

impl Step {
    /// Checks that the steps of one application come in their order. Where nothing is committed, nothing is published, and
    /// what is dead goes right after the bundles; where it is said to be gone, it goes before that is published.
    ///
    /// # Panics
    /// When a step comes before the one that it rests on.
    fn invariant_follows(self, before: Option<Self>) {
        let allowed: &[Option<Self>] = match self {
            Self::KeyStores => &[None],
            Self::Bundles => &[Some(Self::KeyStores)],
            Self::Commit => &[Some(Self::Bundles)],
            Self::Acknowledged => &[Some(Self::Commit)],
            Self::Floor => &[Some(Self::Acknowledged)],
            Self::Published => &[Some(Self::Floor), Some(Self::Destroyed)],
            Self::Destroyed => &[Some(Self::Published), Some(Self::Bundles), Some(Self::Floor)],
        };
        assert!(allowed.contains(&before), "the step {self:?} came after {before:?}");
    }
}

/// Why outputs were not carried out to the end. They are owed: carry them out again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PersistError {
    /// A key store does not answer, or holds what it must not.
    #[error(transparent)]
    KeyStores(#[from] KeyStoresError),
    /// The state file or its replica.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A test stopped the process here.
    #[error("stopped after {0:?}")]
    Stopped(Step),
}

/// Everything that a node remembers, and the only hands that write it.
pub struct Persister {
    key_stores: KeyStores,
    store: Store,
    bundles: BundleFile,
    inventory: KeyInventory,
    outbox: Outbox,
    node_key: KeyMaterial,
    published: watch::Sender<Arc<Published>>,
    served: watch::Sender<Arc<Epochs>>,
    floor_is_due: bool,
    /// The highest position that this process wrote into both key stores.
    floor: Option<Position>,
    /// The last step that was done for the present outputs.
    reached: Option<Step>,
    #[cfg(any(test, feature = "danger-faults"))]
    barrier: Option<Barrier>,
    #[cfg(any(test, feature = "danger-faults"))]
    byzantine: Option<ByzantineHook>,
}

/// Decides after every step whether the process dies there.
#[cfg(any(test, feature = "danger-faults"))]
pub type Barrier = Box<dyn FnMut(Step, &Outputs, &Participant) -> bool + Send>;

/// Turns the messages that the protocol wants into those that a Byzantine node sends.
#[cfg(any(test, feature = "danger-faults"))]
pub type ByzantineHook = Box<dyn FnMut(Messages, &Participant) -> Messages + Send>;

impl Persister {
    pub(crate) fn new(
        key_stores: KeyStores,
        store: Store,
        bundles: BundleFile,
        inventory: Option<KeyInventory>,
        outbox: Outbox,
        node_key: KeyMaterial,
    ) -> Self {
        Self {
            key_stores,
            store,
            bundles,
            inventory: inventory.unwrap_or_default(),
            outbox,
            node_key,
            published: watch::Sender::new(Arc::default()),
            served: watch::Sender::new(Arc::default()),
            // After a start nothing is published before the floor has been raised.
            floor_is_due: true,
            floor: None,
            reached: None,
            #[cfg(any(test, feature = "danger-faults"))]
            barrier: None,
            #[cfg(any(test, feature = "danger-faults"))]
            byzantine: None,
        }
    }

    /// Returns the data that others may read, as it changes.
    #[must_use]
    pub fn published(&self) -> watch::Receiver<Arc<Published>> {
        self.published.subscribe()
    }

    /// The shares to serve with, as they change.
    #[must_use]
    pub fn served(&self) -> watch::Receiver<Arc<Epochs>> {
        self.served.subscribe()
    }

    /// The state file.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The key stores.
    #[must_use]
    pub fn key_stores(&self) -> &KeyStores {
        &self.key_stores
    }

    /// The second file.
    #[must_use]
    pub fn bundles(&self) -> &BundleFile {
        &self.bundles
    }

    /// The node's identity key, for TLS and reports.
    #[must_use]
    pub fn identity_key(&self) -> Option<IdentitySecretKey> {
        self.key_stores.key(KeyName::Identity).map(|seed| IdentitySecretKey::from_seed(seed.expose()))
    }

    /// The data key of the node's own rows.
    #[must_use]
    pub fn node_key(&self) -> &KeyMaterial {
        &self.node_key
    }

    /// Serves from what a start found, before anything is written: in an outage a node serves on.
    pub(crate) fn serve(&self, participant: &Participant) {
        self.served.send_replace(Arc::new(Epochs::of(participant)));
    }

    /// Carries outputs out, from top to bottom. `participant` is the one that gave them, and has been given nothing since.
    ///
    /// # Errors
    /// Where it stopped. Everything above is done, nothing below; the outputs are owed.
    pub async fn apply(&mut self, participant: &Participant, outputs: &Outputs) -> Result<(), PersistError> {
        self.reached = None;
        if !self.key_stores.is_united() || self.key_stores.take_conflicted() {
            self.compare().await?;
        }
        let keys = self.new_keys(participant, outputs);
        self.key_stores.create(keys).await?;
        self.done(Step::KeyStores, participant, outputs)?;
        self.bundles.keep(&outputs.keep).await?;
        self.done(Step::Bundles, participant, outputs)?;
        if outputs.commit || self.floor_is_due {
            let messages = self.messages(participant);
            self.commit(participant, outputs, &messages).await?;
            self.serve(participant);
            let says_erased = outputs.say.iter().any(|message| message.body == Body::Erased);
            if says_erased {
                self.destroy(participant, outputs).await?;
                self.done(Step::Destroyed, participant, outputs)?;
            }
            self.publish(participant, messages);
            self.done(Step::Published, participant, outputs)?;
            if says_erased {
                return Ok(());
            }
        }
        self.destroy(participant, outputs).await?;
        self.done(Step::Destroyed, participant, outputs)
    }

    /// Compares the key stores again with what the inventory names: every few minutes, and whenever somebody else wrote there.
    ///
    /// # Errors
    /// When a key store does not answer.
    pub async fn compare(&mut self) -> Result<Vec<Finding>, PersistError> {
        let findings = self.key_stores.compare(&self.inventory).await?;
        for finding in &findings {
            tracing::warn!(%finding, "the key stores differed");
        }
        Ok(findings)
    }

    /// Terms of the replica stay wrapped by the key of their time for as long as the bucket keeps them, and a node cannot
    /// see retention's end: where there is a replica, every key that is configured counts as needed.
    fn needed_key_encryption_ids(&self) -> BTreeSet<String> {
        let replicated = self.store.backing().is_replicated();
        let configured = self.key_stores.configured_ids().filter(|_| replicated);
        self.key_stores.needed_ids().chain(configured).map(str::to_owned).collect()
    }

    async fn commit(
        &mut self,
        participant: &Participant,
        outputs: &Outputs,
        messages: &Messages,
    ) -> Result<(), PersistError> {
        let inventory = self.next_inventory(participant);
        inventory.invariant_numbers_rise_from(&self.inventory);
        inventory.invariant_covers(participant.state());
        let live = participant.state().live_secrets();
        let shares = outputs.create.iter().filter_map(|name| {
            let SecretName::Share(epoch) = *name else { return None };
            let key = self.key_stores.key(KeyName::Data(epoch))?.clone();
            Some((epoch, key, participant.expose(*name)?))
        });
        let held = live.iter().filter_map(|name| match name {
            SecretName::Share(epoch) => Some(*epoch),
            _ => None,
        });
        let outbox = next_outbox(&self.outbox, messages);
        let commit = RoundCommit {
            outbox: outbox.clone(),
            state: participant.state().encode(),
            inventory: inventory.clone(),
            shares: shares.collect(),
            held: held.collect(),
        };
        let commit = self.store.commit_round(commit, &self.node_key).await?;
        self.inventory = inventory;
        self.outbox = outbox;
        self.floor_is_due |= outputs.say.iter().any(|message| raises_floor(&message.body));
        self.done(Step::Commit, participant, outputs)?;
        let position = self.store.backing().acknowledged(commit).await?;
        self.done(Step::Acknowledged, participant, outputs)?;
        if let (true, Some(position)) = (self.floor_is_due, position) {
            self.raise_floor(position).await?;
        }
        self.floor_is_due = false;
        self.done(Step::Floor, participant, outputs)
    }

    /// Raises the floor in both key stores to a position that the bucket has acknowledged.
    async fn raise_floor(&mut self, position: Position) -> Result<(), PersistError> {
        invariant_floor_rises(self.floor, position);
        self.key_stores.raise_floor(&position.to_string()).await?;
        self.floor = Some(position);
        Ok(())
    }

    /// Lets peers and operator read what was committed, acknowledged and is at or below the floor.
    fn publish(&self, participant: &Participant, messages: Messages) {
        let is_named = matches!(self.reached, Some(Step::Floor | Step::Destroyed));
        assert!(is_named, "something is published before the floor names it");
        let mut published = Published::of(participant, self.outbox.clone(), messages);
        published.invariant_all_is_committed(&self.outbox);
        published.needed_key_encryption_ids = self.needed_key_encryption_ids();
        self.published.send_replace(Arc::new(published));
    }

    #[cfg(any(test, feature = "danger-faults"))]
    fn messages(&mut self, participant: &Participant) -> Messages {
        let messages = messages_of(participant);
        match &mut self.byzantine {
            Some(hook) => hook(messages, participant),
            None => messages,
        }
    }

    #[cfg(not(any(test, feature = "danger-faults")))]
    #[expect(clippy::unused_self, reason = "a hook stands here in the images for tests")]
    fn messages(&self, participant: &Participant) -> Messages {
        messages_of(participant)
    }

    async fn destroy(&mut self, participant: &Participant, outputs: &Outputs) -> Result<(), PersistError> {
        // What an earlier life left above the inventory is overtaken by now.
        let names = self.key_stores.names();
        let overtaken = names.filter(|name| !self.inventory.live.contains_key(name) && !self.inventory.is_above(*name));
        let mut dead: BTreeSet<_> = overtaken.collect();
        let live = participant.state().live_secrets();
        dead.extend(outputs.destroy.iter().filter(|name| !live.contains(name)).map(|name| KeyName::from(*name)));
        self.key_stores.destroy(&dead).await?;
        if !outputs.destroy.is_empty() {
            self.bundles.retain(kept_plans(participant)).await?;
        }
        Ok(())
    }

    /// The keys that outputs create. A share's is the data key of its epoch.
    fn new_keys(&self, participant: &Participant, outputs: &Outputs) -> Vec<(KeyName, KeyMaterial)> {
        outputs
            .create
            .iter()
            .filter_map(|name| Some((KeyName::from(*name), self.new_key(participant, *name)?)))
            .collect()
    }

    /// Returns the key of a new secret; `None` for one that was created and destroyed in one step, and never has to be durable.
    fn new_key(&self, participant: &Participant, name: SecretName) -> Option<KeyMaterial> {
        let secret = participant.expose(name)?;
        Some(match name {
            SecretName::Share(epoch) => {
                let known = self.key_stores.key(KeyName::Data(epoch)).cloned();
                known.unwrap_or_else(|| KeyMaterial::random(&mut secret_rng()))
            }
            SecretName::Prekey(_) | SecretName::DealerSeed(_) => KeyMaterial::new(*secret),
        })
    }

    fn next_inventory(&self, participant: &Participant) -> KeyInventory {
        let state = participant.state();
        let names = [KeyName::Identity, KeyName::Node].into_iter();
        let names = names.chain(state.live_secrets().into_iter().map(KeyName::from));
        let live: BTreeMap<_, _> = names.filter_map(|name| Some((name, self.fingerprint(name)?))).collect();
        KeyInventory {
            live,
            highest_epoch: self.inventory.highest_epoch.max(state.highest.0),
            highest_prekey: self.inventory.highest_prekey.max(state.next_prekey.0.saturating_sub(1)),
        }
    }

    /// Returns the fingerprint of a key. A key that was lost keeps the one of the inventory, so that it is taken up again should a
    /// backup bring it back.
    fn fingerprint(&self, name: KeyName) -> Option<Fingerprint> {
        let held = self.key_stores.key(name).map(|key| key.fingerprint(name));
        held.or_else(|| self.inventory.live.get(&name).copied())
    }

    /// Notes that a step is done, in its order.
    fn done(&mut self, step: Step, participant: &Participant, outputs: &Outputs) -> Result<(), PersistError> {
        step.invariant_follows(self.reached);
        self.reached = Some(step);
        if self.dies_at(step, participant, outputs) { Err(PersistError::Stopped(step)) } else { Ok(()) }
    }

    #[cfg(any(test, feature = "danger-faults"))]
    fn dies_at(&mut self, step: Step, participant: &Participant, outputs: &Outputs) -> bool {
        self.barrier.as_mut().is_some_and(|barrier| barrier(step, outputs, participant))
    }

    #[cfg(not(any(test, feature = "danger-faults")))]
    #[expect(clippy::unused_self, reason = "a barrier stands here in the images for tests")]
    fn dies_at(&self, _: Step, _: &Participant, _: &Outputs) -> bool {
        false
    }

    /// Sets the barrier.
    #[cfg(any(test, feature = "danger-faults"))]
    pub fn danger_set_barrier(&mut self, barrier: Barrier) {
        self.barrier = Some(barrier);
    }

    /// Sets the hook that changes what peers read.
    #[cfg(any(test, feature = "danger-faults"))]
    pub fn danger_set_byzantine(&mut self, hook: ByzantineHook) {
        self.byzantine = Some(hook);
    }
}

/// Checks that a floor only rises: a lower one would let an older copy of the state be taken up.
///
/// # Panics
/// When it would fall.
fn invariant_floor_rises(floor: Option<Position>, position: Position) {
    if let Some(floor) = floor {
        assert!(position.seq >= floor.seq, "the floor would fall from {floor} to {position}");
    }
}

/// Returns true for messages that must not be published before both key stores name a position that includes them.
fn raises_floor(body: &Body) -> bool {
    matches!(body, Body::Prepared { .. } | Body::Partial(_) | Body::Holds { .. } | Body::Erased)
}

/// Returns the plans whose messages stay in the second file: those of attempts that are not erased.
fn kept_plans(participant: &Participant) -> BTreeSet<Digest> {
    let attempts = participant.state().attempts.values().filter(|attempt| !attempt.erased);
    attempts.map(|attempt| attempt.plan.digest()).collect()
}
