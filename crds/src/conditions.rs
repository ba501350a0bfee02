//! Condition types and reasons, and how a condition is set.
//!
//! Conditions are `metav1.Condition`s with `observedGeneration`; in the schema they are a map keyed by type, so that two
//! writers never overwrite each other's.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$word_doc:meta])* $word:ident,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$word_doc])* $word,)+
        }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$word,)+];

            /// As it is written in objects.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$word => stringify!($word),)+
                }
            }

            /// Reads a word of an object; `None` for one that this release does not know.
            #[must_use]
            pub fn of(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|known| known.as_str() == word)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// Condition types of a `KmsCluster`.
    ClusterCondition {
        /// The fleet serves: an epoch is active and at least threshold nodes answer. Stays True through routine reshares.
        Ready,
        /// Something asked for is under way: genesis, scale, replacement, roll-out.
        Progressing,
        /// The fleet serves, but something needs a look.
        Degraded,
        /// The active epoch is the one that the last boundary asked for.
        EpochCurrent,
        /// Every node's state is replicated as far as it should be.
        Replicated,
        /// One worker or zone holds enough nodes to open the key, or to stop the fleet.
        PlacementAtRisk,
        /// One more node away stops the fleet.
        QuorumAtRisk,
        /// Fewer than threshold nodes can serve.
        QuorumLost,
    }
}

words! {
    /// Condition types of a `KmsNode`.
    NodeCondition {
        /// The node serves the newest active epoch it has heard of.
        Ready,
        /// The node's identity key is pinned, and it is the one that the node shows.
        IdentityPinned,
        /// The node's state has reached its replica.
        Replicated,
        /// The node has a worker to run on, and its volume can follow.
        Placed,
        /// A removed node has proven that its secrets are destroyed.
        Erased,
    }
}

words! {
    /// Why a condition is what it is.
    Reason {
        /// As it should be.
        AsExpected,
        /// Not known yet.
        Unknown,
        /// The object is being set up.
        Starting,
        /// `spec.paused` is set.
        Paused,
        /// The object is being deleted.
        Deleting,
        /// A genesis round runs.
        Genesis,
        /// Nodes are added or removed.
        Scaling,
        /// Pods are changed one at a time.
        RollingOut,
        /// The spec asks for something that cannot be done.
        SpecInvalid,
        /// Too few nodes are up.
        NodesDown,
        /// A node's pod cannot be scheduled.
        Unschedulable,
        /// The last round failed.
        RoundFailed,
        /// The record of a round under way is not as the operator wrote it, so that no round goes on.
        RoundHalted,
        /// Too few dealers qualified.
        TooFewDealers,
        /// Too few receivers stored their share in time.
        TooFewHolders,
        /// The certificate could not be combined.
        CertificateMissing,
        /// The round was given up for a newer one.
        Superseded,
        /// The block source does not answer.
        BlockSourceDown,
        /// The block source went back below a height that it had reported.
        BlockSourceReversed,
        /// The block source jumped implausibly far ahead.
        BlockSourceJumped,
        /// The block source answers for another chain, or nonsense.
        BlockSourceWrong,
        /// The key-encryption key's Secret, file or variable is not there.
        KeyEncryptionKeyMissing,
        /// The key-encryption key has the wrong length or opens nothing.
        KeyEncryptionKeyWrong,
        /// A node's two key stores differed and were reconciled.
        SealRolledBack,
        /// Key material that should exist is in neither key store.
        SealKeysLost,
        /// A node shows another identity key than the pinned one.
        IdentityLost,
        /// The node has not offered an identity key yet.
        IdentityMissing,
        /// A node offers the identity key of another.
        IdentityTaken,
        /// No replication is configured.
        NotConfigured,
        /// The bucket does not exist.
        BucketMissing,
        /// The replica's store does not answer, or not in time.
        ReplicaUnavailable,
        /// The store refuses the credentials.
        CredentialsRefused,
        /// The ConfigMap of the authorities that may sign the store's certificate is missing or unusable.
        AuthoritiesMissing,
        /// The job that deletes what replicas no longer need did not end well.
        RetentionFailed,
        /// The bucket holds this name's mark of another cluster id.
        NameTaken,
        /// A record, volume or replica of an earlier life exists, so no key is generated.
        EarlierLifeFound,
        /// `spec.expectedPublicKey` is set, and no fleet with that key is found.
        ExpectedKeyNotFound,
        /// The API server's record is older than what nodes prove.
        RecordRolledBack,
        /// A node heard two valid certificates of one number: the API server showed two records.
        RecordContradicted,
        /// Not enough nodes have reported yet to decide anything.
        AwaitingReports,
        /// A TLS Secret is missing or unusable; the node's own certificate serves.
        CertificateUnusable,
        /// A node runs a version that knows no common plan version with the others.
        VersionsDiffer,
        /// A removed node was given up as lost: nothing proves that its secrets are gone.
        ErasureUnproven,
        /// A node claims to hold an epoch's share and cannot sign with it.
        PossessionUnproven,
    }
}

impl Reason {
    /// The page of `docs/runbooks/` for a person who meets it in a condition that needs one; `None` where nothing is to be
    /// done, or the message says it all. A new reason has to say which: the match has no rest.
    #[must_use]
    pub fn runbook(self) -> Option<&'static str> {
        Some(match self {
            Self::NodesDown => "quorum.md",
            Self::RoundFailed
            | Self::RoundHalted
            | Self::TooFewDealers
            | Self::TooFewHolders
            | Self::CertificateMissing
            | Self::AwaitingReports
            | Self::VersionsDiffer => "rounds.md",
            Self::NotConfigured
            | Self::BucketMissing
            | Self::ReplicaUnavailable
            | Self::CredentialsRefused
            | Self::AuthoritiesMissing => "replicated.md",
            Self::RecordRolledBack => "record-rolled-back.md",
            Self::RecordContradicted => "record-contradicted.md",
            Self::EarlierLifeFound | Self::ExpectedKeyNotFound => "earlier-life.md",
            Self::NameTaken => "name-taken.md",
            Self::SealKeysLost | Self::SealRolledBack | Self::KeyEncryptionKeyMissing | Self::KeyEncryptionKeyWrong => {
                "seal.md"
            }
            Self::IdentityLost | Self::IdentityMissing | Self::IdentityTaken => "identity-lost.md",
            Self::BlockSourceDown | Self::BlockSourceWrong | Self::BlockSourceReversed | Self::BlockSourceJumped => {
                "blocks.md"
            }
            Self::Unschedulable => "placement.md",
            Self::CertificateUnusable => "certificate.md",
            Self::AsExpected
            | Self::Unknown
            | Self::Starting
            | Self::Paused
            | Self::Deleting
            | Self::Genesis
            | Self::Scaling
            | Self::RollingOut
            | Self::SpecInvalid
            | Self::Superseded
            | Self::RetentionFailed
            | Self::ErasureUnproven
            | Self::PossessionUnproven => return None,
        })
    }

    /// A message with the name of the page, unless it names one.
    #[must_use]
    pub fn explained(self, message: String) -> String {
        match self.runbook() {
            Some(page) => explained_by(page, message),
            None => message,
        }
    }
}

/// The page for a `KmsNode` whose pod has no worker to run on: the spread, which is what `Unschedulable` means of a
/// cluster, is not the cause there.
pub const WORKER_GONE_PAGE: &str = "worker-gone.md";

/// A message with the name of a page of `docs/runbooks/`, unless it names one.
#[must_use]
pub fn explained_by(page: &str, message: String) -> String {
    if message.contains("docs/runbooks/") {
        return message;
    }
    format!("{}. See docs/runbooks/{page}", message.trim_end_matches('.'))
}

/// Sets `new` in `conditions` by its type, keeping `lastTransitionTime` where the status stays. Returns whether anything
/// but times changed, which is when a status is worth writing.
pub fn set(conditions: &mut Vec<Condition>, mut new: Condition) -> bool {
    let Some(old) = conditions.iter_mut().find(|condition| condition.type_ == new.type_) else {
        conditions.push(new);
        conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
        return true;
    };
    if old.status == new.status {
        new.last_transition_time = old.last_transition_time.clone();
    }
    let changed = *old != new;
    *old = new;
    changed
}

/// A condition. `truth` of `None` is `Unknown`. The message says what is, and the next step where there is one.
#[must_use]
pub fn condition(
    type_: &str,
    truth: Option<bool>,
    reason: Reason,
    message: impl Into<String>,
    observed_generation: Option<i64>,
    now: Time,
) -> Condition {
    let status = match truth {
        Some(true) => "True",
        Some(false) => "False",
        None => "Unknown",
    };
    Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: reason.to_string(),
        message: message.into(),
        observed_generation,
        last_transition_time: now,
    }
}

/// Returns true where the condition of this type is `True`.
#[must_use]
pub fn is_true(conditions: &[Condition], type_: &str) -> bool {
    conditions.iter().any(|condition| condition.type_ == type_ && condition.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Time {
        Time(k8s_openapi::jiff::Timestamp::from_second(second).unwrap())
    }

    fn ready(truth: bool, message: &str, second: i64) -> Condition {
        condition(ClusterCondition::Ready.as_str(), Some(truth), Reason::AsExpected, message, Some(1), at(second))
    }

    /// The transition time moves with the status and with nothing else.
    #[test]
    fn the_transition_time_moves_with_the_status_alone() {
        let mut conditions = Vec::new();
        assert!(set(&mut conditions, ready(true, "serves", 1)));
        assert!(!set(&mut conditions, ready(true, "serves", 2)), "the same again is no reason to write");
        assert!(set(&mut conditions, ready(true, "serves epoch 2", 3)), "another message is");
        assert_eq!(conditions[0].last_transition_time, at(1));
        assert!(set(&mut conditions, ready(false, "down", 4)));
        assert_eq!((conditions.len(), &conditions[0].last_transition_time), (1, &at(4)));
    }

    #[test]
    fn reasons_are_what_the_api_server_accepts() {
        for reason in Reason::ALL {
            let text = reason.as_str();
            assert!(text.chars().all(|c| c.is_ascii_alphanumeric()), "{text}");
        }
    }

    /// Every page that a reason names exists and names the reason, and every page is named by a reason.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test reads the pages")]
    fn reasons_and_runbooks_name_each_other() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/runbooks");
        let mut named = std::collections::BTreeSet::from(["README.md", WORKER_GONE_PAGE]);
        let index = std::fs::read_to_string(folder.join("README.md")).unwrap();
        for reason in Reason::ALL {
            let Some(page) = reason.runbook() else { continue };
            let text = std::fs::read_to_string(folder.join(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
            let said = format!("{text}{index}");
            assert!(said.contains(reason.as_str()), "{page} does not say {reason}");
            named.insert(page);
        }
        for file in std::fs::read_dir(&folder).unwrap() {
            let name = file.unwrap().file_name().into_string().unwrap();
            assert!(named.contains(name.as_str()), "no reason names docs/runbooks/{name}");
            assert!(name == "README.md" || index.contains(&format!("({name})")), "the index lacks {name}");
        }
        let long = Reason::BucketMissing.explained("no bucket".into());
        assert_eq!(long, "no bucket. See docs/runbooks/replicated.md");
        assert_eq!(Reason::BucketMissing.explained(long.clone()), long, "the page is named twice");
    }
}
