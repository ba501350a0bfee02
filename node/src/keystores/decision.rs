//! Decides what happens to the keys that the key stores hold when a node starts, or compares again. Pure.
//!
//! | the inventory | a key store | then |
//! |---|---|---|
//! | names the key | has it | kept |
//! | names the key | lacks it, or has another under the name | copied from the other key store; `SealRolledBack` |
//! | names the key | neither has it | `SealKeysLost` |
//! | does not name it, and it is above the highest | has it | left alone: a commit may have been lost |
//! | does not name it | has it | destroyed in both; `SealRolledBack` when only one had it |
//!
//! Neither an old backup of the Secret nor an old volume loses a key or brings one back.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use keyfleet_crds::conditions::Reason;

use super::inventory::KeyInventory;
use crate::seal::{Fingerprint, KeyName};

/// One of the two key stores.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum StoreKind {
    /// The folder `seal/` on the volume.
    Volume,
    /// The Secret `<node>-seal`.
    Secret,
}

impl fmt::Display for StoreKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Volume => "the volume",
            Self::Secret => "the seal Secret",
        })
    }
}

/// Keys of one key store, by their fingerprints.
pub type Seen = BTreeMap<KeyName, Fingerprint>;

/// Changes to both key stores. Applied in the order of the fields; then the findings are reported.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Decision {
    /// The keys to take up, and from which key store.
    pub keep: BTreeMap<KeyName, StoreKind>,
    /// The keys to write into a key store that lacks them.
    pub copy: BTreeSet<(StoreKind, KeyName)>,
    /// The keys to destroy in a key store.
    pub destroy: BTreeSet<(StoreKind, KeyName)>,
    /// Findings for a person.
    pub findings: Vec<Finding>,
}

/// Something that a person should hear of.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Finding {
    /// A key store differs from the other: it was restored from an old copy, or a change of it was interrupted.
    #[error("SealRolledBack: {key_store} lacked {} and still held {}; both key stores agree again", list(.lacked), list(.revived))]
    SealRolledBack {
        key_store: StoreKind,
        /// Live keys that it did not have.
        lacked: Vec<KeyName>,
        /// Destroyed keys that it had.
        revived: Vec<KeyName>,
    },
    /// Live keys that are in neither key store.
    #[error("SealKeysLost: {} is in neither key store; what it opened is not served, and nothing is made anew. \
        Restore the seal Secret or the volume's seal folder from a backup, or let the next round give this node a share", list(.0))]
    SealKeysLost(Vec<KeyName>),
    /// Both key stores hold a key that is never replaced, and not the same one.
    #[error(
        "the key stores hold different keys as {0}, and no inventory says which is right; remove the wrong one by hand"
    )]
    Conflict(KeyName),
}

impl Finding {
    /// The condition reason.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::SealRolledBack { .. } | Self::Conflict(_) => Reason::SealRolledBack,
            Self::SealKeysLost(_) => Reason::SealKeysLost,
        }
    }
}

fn list(names: &[KeyName]) -> String {
    if names.is_empty() {
        return "nothing".to_owned();
    }
    names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn is_live(inventory: Option<&KeyInventory>, name: &KeyName) -> bool {
    inventory.is_some_and(|inventory| inventory.live.contains_key(name))
}

/// Decides. `secret` is `None` while the API server does not answer: then nothing is destroyed or reported lost, and the
/// question is asked again before the node's next round message.
#[must_use]
pub fn decide(inventory: Option<&KeyInventory>, volume: &Seen, secret: Option<&Seen>) -> Decision {
    let empty = Seen::new();
    let seen = [(StoreKind::Volume, volume), (StoreKind::Secret, secret.unwrap_or(&empty))];
    let mut decision = Decision::default();
    let (mut lost, mut lacked, mut revived) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
    for (name, fingerprint) in inventory.iter().flat_map(|inventory| &inventory.live) {
        let holder = seen.iter().find(|(_, held)| held.get(name) == Some(fingerprint)).map(|(key_store, _)| *key_store);
        let Some(holder) = holder else {
            lost.push(*name);
            continue;
        };
        decision.keep.insert(*name, holder);
        for (key_store, _) in seen.iter().filter(|(_, held)| held.get(name) != Some(fingerprint)) {
            decision.copy.insert((*key_store, *name));
            lacked.entry(*key_store).or_insert_with(Vec::new).push(*name);
        }
    }
    let unnamed: BTreeSet<KeyName> = seen.iter().flat_map(|(_, held)| held.keys().copied()).collect();
    for name in unnamed.into_iter().filter(|name| !is_live(inventory, name)) {
        let holders: Vec<_> =
            seen.iter().filter(|(_, held)| held.contains_key(&name)).map(|(key_store, _)| *key_store).collect();
        if inventory.is_none_or(|inventory| inventory.is_above(name)) {
            let differ =
                matches!((volume.get(&name), secret.and_then(|held| held.get(&name))), (Some(a), Some(b)) if a != b);
            if differ && matches!(name, KeyName::Identity | KeyName::Node) {
                decision.findings.push(Finding::Conflict(name));
            } else {
                decision.keep.insert(name, holders[0]);
            }
            continue;
        }
        if let [key_store] = holders[..] {
            revived.entry(key_store).or_insert_with(Vec::new).push(name);
        }
        decision.destroy.extend(holders.into_iter().map(|key_store| (key_store, name)));
    }
    if secret.is_none() {
        // One key store alone proves nothing about the other.
        return Decision { keep: decision.keep, ..Decision::default() };
    }
    for key_store in [StoreKind::Volume, StoreKind::Secret] {
        let (lacked, revived) =
            (lacked.remove(&key_store).unwrap_or_default(), revived.remove(&key_store).unwrap_or_default());
        if !lacked.is_empty() || !revived.is_empty() {
            decision.findings.push(Finding::SealRolledBack { key_store, lacked, revived });
        }
    }
    if !lost.is_empty() {
        decision.findings.push(Finding::SealKeysLost(lost));
    }
    decision
}

#[cfg(test)]
mod tests {
    use super::*;
    use StoreKind::{Secret, Volume};
    use keyfleet_threshold::identifiers::{EpochNumber, PrekeyNumber};

    fn data(number: u64) -> KeyName {
        KeyName::Data(EpochNumber(number))
    }

    fn prekey(number: u64) -> KeyName {
        KeyName::Prekey(PrekeyNumber(number))
    }

    fn seen(keys: &[(KeyName, u8)]) -> Seen {
        keys.iter().map(|(name, byte)| (*name, Fingerprint([*byte; 16]))).collect()
    }

    fn inventory(keys: &[(KeyName, u8)]) -> KeyInventory {
        KeyInventory { live: seen(keys), highest_epoch: 9, highest_prekey: 20 }
    }

    fn rolled_back(key_store: StoreKind, lacked: &[KeyName], revived: &[KeyName]) -> Finding {
        Finding::SealRolledBack { key_store, lacked: lacked.to_vec(), revived: revived.to_vec() }
    }

    struct Case {
        says: &'static str,
        inventory: Option<KeyInventory>,
        volume: Seen,
        secret: Option<Seen>,
        keep: Vec<(KeyName, StoreKind)>,
        copy: Vec<(StoreKind, KeyName)>,
        destroy: Vec<(StoreKind, KeyName)>,
        findings: Vec<Finding>,
    }

    /// The table of the module's documentation, and the pairs of it that have bitten others.
    #[test]
    fn no_backup_loses_a_key_or_brings_one_back() {
        let named = || Some(inventory(&[(data(7), 1), (prekey(20), 2)]));
        let both = || seen(&[(data(7), 1), (prekey(20), 2)]);
        let kept = || vec![(data(7), Volume), (prekey(20), Volume)];
        let none = || Case {
            says: "both key stores agree with the inventory",
            inventory: named(),
            volume: both(),
            secret: Some(both()),
            keep: kept(),
            copy: vec![],
            destroy: vec![],
            findings: vec![],
        };
        let cases = [
            none(),
            Case {
                says: "the Secret comes from a backup made before epoch 7 and still holds epoch 5",
                secret: Some(seen(&[(data(5), 1), (prekey(20), 2)])),
                copy: vec![(Secret, data(7))],
                destroy: vec![(Secret, data(5))],
                findings: vec![rolled_back(Secret, &[data(7)], &[data(5)])],
                ..none()
            },
            Case {
                says: "the volume is an old snapshot",
                volume: seen(&[(data(5), 1), (prekey(3), 2)]),
                keep: vec![(data(7), Secret), (prekey(20), Secret)],
                copy: vec![(Volume, data(7)), (Volume, prekey(20))],
                destroy: vec![(Volume, data(5)), (Volume, prekey(3))],
                findings: vec![rolled_back(Volume, &[prekey(20), data(7)], &[prekey(3), data(5)])],
                ..none()
            },
            Case {
                says: "a key store holds another key under a live name",
                secret: Some(seen(&[(data(7), 99), (prekey(20), 2)])),
                copy: vec![(Secret, data(7))],
                findings: vec![rolled_back(Secret, &[data(7)], &[])],
                ..none()
            },
            Case {
                says: "the process died between the two halves of a retirement",
                volume: seen(&[(data(7), 1), (prekey(20), 2), (data(6), 1)]),
                secret: Some(seen(&[(data(7), 1), (prekey(20), 2), (data(6), 1)])),
                destroy: vec![(Volume, data(6)), (Secret, data(6))],
                ..none()
            },
            Case {
                says: "the process died between the key stores and the commit",
                volume: seen(&[(data(7), 1), (prekey(20), 2), (data(10), 1), (prekey(21), 1)]),
                secret: Some(seen(&[(data(7), 1), (prekey(20), 2), (data(10), 1)])),
                keep: vec![(prekey(20), Volume), (prekey(21), Volume), (data(7), Volume), (data(10), Volume)],
                ..none()
            },
            Case {
                says: "a live key is in neither key store",
                volume: seen(&[(prekey(20), 2)]),
                secret: Some(seen(&[(prekey(20), 2)])),
                keep: vec![(prekey(20), Volume)],
                findings: vec![Finding::SealKeysLost(vec![data(7)])],
                ..none()
            },
            Case {
                says: "the API server does not answer: nothing is destroyed, copied or called lost",
                volume: seen(&[(data(7), 1), (data(5), 1)]),
                secret: None,
                keep: vec![(data(7), Volume)],
                ..none()
            },
            Case {
                says: "there is no state file: whatever the key stores hold is above it",
                inventory: None,
                volume: seen(&[]),
                secret: Some(seen(&[(KeyName::Identity, 1), (data(5), 1)])),
                keep: vec![(KeyName::Identity, Secret), (data(5), Secret)],
                ..none()
            },
            Case {
                says: "two identities and no inventory: a person must look",
                inventory: None,
                volume: seen(&[(KeyName::Identity, 1)]),
                secret: Some(seen(&[(KeyName::Identity, 2)])),
                keep: vec![],
                findings: vec![Finding::Conflict(KeyName::Identity)],
                ..none()
            },
        ];
        for case in cases {
            let expected = Decision {
                keep: case.keep.into_iter().collect(),
                copy: case.copy.into_iter().collect(),
                destroy: case.destroy.into_iter().collect(),
                findings: case.findings,
            };
            assert_eq!(decide(case.inventory.as_ref(), &case.volume, case.secret.as_ref()), expected, "{}", case.says);
        }
    }

    #[test]
    fn the_ledger_survives_its_encoding_and_no_cut() {
        let inventory = inventory(&[(data(7), 1), (prekey(20), 2), (KeyName::Identity, 3)]);
        let bytes = inventory.encode();
        assert_eq!(KeyInventory::decode(&bytes), Ok(inventory));
        for length in 0..bytes.len() {
            assert!(KeyInventory::decode(&bytes[..length]).is_err(), "an inventory cut at byte {length} was read");
        }
    }
}
