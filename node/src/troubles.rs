//! What goes wrong while a node runs, as problems that its `KmsNode` shows.

use std::sync::Arc;

use keyfleet_crds::conditions::Reason;
use keyfleet_crds::node::report::ProblemAbout;
use keyfleet_litestream::database::{Phase, Status};
use keyfleet_threshold::identifiers::EpochNumber;
use keyfleet_threshold::round::Notice;
use tokio::sync::watch;

use crate::apiserver::status::Problems;
use crate::round::Epochs;
use crate::startup::bucket_reason;
use crate::store::Backing;

/// So many failures in a row are more than a hiccup.
const FAILURES: u32 = 3;
const REPLICATION: [Reason; 3] = [Reason::BucketMissing, Reason::CredentialsRefused, Reason::ReplicaUnavailable];

/// Notes where replication stands, for as long as the process lives.
pub async fn watch_replication(backing: Backing, problems: Problems) {
    let Backing::Replicated { database, .. } = backing else { return };
    let mut status = database.status();
    loop {
        let found = trouble(&status.borrow_and_update());
        match found {
            Some((reason, message)) => problems.set(ProblemAbout::Replication, reason, &message),
            None => problems.clear_reasons(ProblemAbout::Replication, &REPLICATION),
        }
        if status.changed().await.is_err() {
            return;
        }
    }
}

/// Shows what the node noticed in rounds, until it serves an epoch that is newer.
pub async fn watch_rounds(
    mut notices: watch::Receiver<Vec<Notice>>,
    mut served: watch::Receiver<Arc<Epochs>>,
    problems: Problems,
) {
    loop {
        let newest = served.borrow_and_update().newest().map(|(number, _)| number);
        let standing = standing(&notices.borrow_and_update(), newest);
        match standing {
            Some(message) => problems.set(ProblemAbout::Peers, Reason::RoundFailed, &message),
            None => problems.clear_reasons(ProblemAbout::Peers, &[Reason::RoundFailed]),
        }
        tokio::select! {
            Ok(()) = notices.changed() => {}
            Ok(()) = served.changed() => {}
            else => return,
        }
    }
}

/// The newest notice of an epoch that no newer one has made a thing of the past. None before the first epoch: no key is
/// made while a node has problems, and what a failed genesis left must not forbid the next.
fn standing(notices: &[Notice], newest: Option<EpochNumber>) -> Option<String> {
    let newest = newest?;
    let stands = |notice: &&Notice| number(notice).is_some_and(|number| number >= newest);
    notices.iter().rfind(stands).map(ToString::to_string)
}

fn number(notice: &Notice) -> Option<EpochNumber> {
    match notice {
        Notice::PrekeysReused(number, _)
        | Notice::RecordContradictsMessages(number)
        | Notice::NoSharing(number, _)
        | Notice::BadCertificate(number)
        | Notice::Unable(number) => Some(*number),
        _ => None,
    }
}

fn trouble(status: &Status) -> Option<(Reason, String)> {
    let waits = "serving goes on; rounds wait until the bucket takes what they wrote";
    match (&status.phase, &status.trouble) {
        (Phase::Fenced { seq }, _) => {
            let message = format!(
                "another writer took this node's replica over at {}: two pods of one node run, or one was restored elsewhere; \
                 end the wrong one",
                seq.0
            );
            Some((Reason::ReplicaUnavailable, message))
        }
        (Phase::Refused(what), _) => Some((Reason::ReplicaUnavailable, what.clone())),
        (_, Some((failures, kind, what))) if *failures >= FAILURES => {
            // A count in the message would be a write for every failure.
            Some((bucket_reason(*kind), format!("{what}; {waits}")))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noticed_stands_until_a_newer_epoch_is_served() {
        let notices = [Notice::Unable(EpochNumber(3)), Notice::BadCertificate(EpochNumber(5))];
        let said = |newest: Option<u64>| standing(&notices, newest.map(EpochNumber));
        assert_eq!(said(None), None, "what a failed genesis left forbids the next");
        assert!(said(Some(3)).is_some_and(|message| message.contains("epoch 5")), "the newest notice is not shown");
        assert!(said(Some(4)).is_some_and(|message| message.contains("epoch 5")), "it went with an older epoch");
        assert_eq!(said(Some(6)), None, "a notice outlived its round");
        assert!(standing(&notices[..1], Some(EpochNumber(2))).is_some_and(|message| message.contains("share")));
    }
}
