//! The inventory: which keys are alive. One sealed row of the state file.

use std::collections::BTreeMap;

use keyfleet_threshold::identifiers::{EpochNumber, PrekeyNumber};
use keyfleet_threshold::round::PersistentState;

use crate::seal::{Fingerprint, KeyName};

const VERSION: u8 = 1;

/// All live keys, and the highest numbers ever used.
///
/// The fingerprint tells the key that was committed from another under the same name: when a process dies between the
/// key stores and the commit, the next one makes the key anew, and an old backup of one key store may still hold the first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct KeyInventory {
    /// The live keys.
    pub live: BTreeMap<KeyName, Fingerprint>,
    /// The highest epoch number that was committed; zero before the first.
    pub highest_epoch: u64,
    /// The highest prekey number that was committed; zero before the first.
    pub highest_prekey: u64,
}

/// The bytes are no inventory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the inventory row is malformed")]
pub struct InventoryError;

impl KeyInventory {
    /// Returns true when a key of this name may have been made after the inventory was written: such a key is not the inventory's to
    /// destroy.
    #[must_use]
    pub fn is_above(&self, name: KeyName) -> bool {
        match name {
            KeyName::Identity | KeyName::Node => true,
            KeyName::Prekey(PrekeyNumber(number)) => number > self.highest_prekey,
            KeyName::DealerSeed(EpochNumber(number)) | KeyName::Data(EpochNumber(number)) => {
                number > self.highest_epoch
            }
        }
    }

    /// Checks that this inventory may take the place of `before`: a highest number that falls would make a used number new.
    ///
    /// # Panics
    /// When a number falls.
    pub(crate) fn invariant_numbers_rise_from(&self, before: &Self) {
        assert!(self.highest_epoch >= before.highest_epoch, "the highest epoch number would fall");
        assert!(self.highest_prekey >= before.highest_prekey, "the highest prekey number would fall");
    }

    /// Returns true when the highest numbers cover those that a participant's state has used. Both are rows of one transaction.
    #[must_use]
    pub(crate) fn covers(&self, state: &PersistentState) -> bool {
        self.highest_epoch >= state.highest.0 && self.highest_prekey >= state.next_prekey.0.saturating_sub(1)
    }

    /// Checks before a write that the inventory covers the state that is written with it. A start checks the same after the load,
    /// as an error.
    ///
    /// # Panics
    /// When the state used a number above the inventory's highest.
    pub(crate) fn invariant_covers(&self, state: &PersistentState) {
        assert!(self.covers(state), "the state uses epoch {} or a prekey above the inventory's highest", state.highest);
    }

    /// Version (1 byte), u64 highest epoch, u64 highest prekey, u32 count, then per key: u8 length, name, 16 bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend(self.highest_epoch.to_be_bytes());
        out.extend(self.highest_prekey.to_be_bytes());
        out.extend(u32::try_from(self.live.len()).expect("a node has few keys").to_be_bytes());
        for (name, fingerprint) in &self.live {
            let name = name.to_string();
            out.push(u8::try_from(name.len()).expect("names are short"));
            out.extend(name.as_bytes());
            out.extend(fingerprint.0);
        }
        out
    }

    /// Decodes what [`KeyInventory::encode`] wrote.
    ///
    /// # Errors
    /// When the bytes are not exactly one inventory.
    pub fn decode(bytes: &[u8]) -> Result<Self, InventoryError> {
        Self::parse(bytes).ok_or(InventoryError)
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first()?;
        let (epoch, rest) = rest.split_first_chunk()?;
        let (prekey, rest) = rest.split_first_chunk()?;
        let (count, mut rest) = rest.split_first_chunk()?;
        let mut live = BTreeMap::new();
        for _ in 0..u32::from_be_bytes(*count) {
            let (length, after) = rest.split_first()?;
            let (name, after) = after.split_at_checked((*length).into())?;
            let (fingerprint, after) = after.split_first_chunk()?;
            live.insert(std::str::from_utf8(name).ok()?.parse().ok()?, Fingerprint(*fingerprint));
            rest = after;
        }
        let inventory =
            Self { live, highest_epoch: u64::from_be_bytes(*epoch), highest_prekey: u64::from_be_bytes(*prekey) };
        (*version == VERSION && rest.is_empty() && inventory.encode() == bytes).then_some(inventory)
    }
}
