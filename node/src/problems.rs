//! Problems of a running node, as its `KmsNode` shows them.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use keyfleet_crds::conditions::Reason;
use keyfleet_crds::node::report::ProblemAbout;
use keyfleet_litestream::database::{Phase, Status};
use keyfleet_threshold::identifiers::EpochNumber;
use keyfleet_threshold::round::Notice;
use tokio::sync::watch;

use crate::apiserver::status::Problems;
use crate::round::Epochs;
use crate::store::Backing;
use crate::store::backing::ACKNOWLEDGE;
use crate::store::replica::bucket_reason;

/// Interval of a look at how long commits have waited.
const LOOK: Duration = Duration::from_secs(5);
/// Failures in a row that are more than a hiccup.
const FAILURES: u32 = 3;
const REPLICATION: [Reason; 3] = [Reason::BucketMissing, Reason::CredentialsRefused, Reason::ReplicaUnavailable];

/// Notes where replication stands, for as long as the process lives.
pub(crate) async fn watch_replication(backing: Backing, problems: Problems) {
    let Some(mut status) = backing.status() else { return };
    loop {
        let Some(lag) = backing.lag() else { return };
        let waits = Some(Duration::from_millis(lag.lag_ms)).filter(|_| lag.lag_commits > 0);
        let found = problem_of(&status.borrow_and_update(), waits, Timestamp::now());
        match found {
            Some((reason, message)) => problems.set(ProblemAbout::Replication, reason, &message),
            None => problems.clear_reasons(ProblemAbout::Replication, &REPLICATION),
        }
        tokio::select! {
            changed = status.changed() => if changed.is_err() { return },
            // A bucket that says nothing at all changes nothing here.
            () = tokio::time::sleep(LOOK), if lag.lag_commits > 0 => {}
        }
    }
}

/// Shows what the node noticed in rounds, until it serves an epoch that is newer.
pub(crate) async fn watch_rounds(
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
    notices.iter().rfind(|notice| number(notice).is_some_and(|number| number >= newest)).map(ToString::to_string)
}

fn number(notice: &Notice) -> Option<EpochNumber> {
    match notice {
        Notice::FaultyDealing(number, _)
        | Notice::ForeignBundle(number, _)
        | Notice::RecordContradictsMessages(number)
        | Notice::NoSharing(number, _)
        | Notice::BadCertificate(number)
        | Notice::FalseList(number, _)
        | Notice::Unable(number) => Some(*number),
        _ => None,
    }
}

/// Returns the problem of replication, if there is one. `waits` is the time for which the oldest commit has waited.
fn problem_of(status: &Status, waits: Option<Duration>, now: Timestamp) -> Option<(Reason, String)> {
    let goes_on = "serving goes on; rounds wait until the bucket takes what they wrote";
    // A time and no length: that would be a write for every second.
    let since = waits.and_then(|waits| now.checked_sub(waits).ok()).map_or_else(String::new, |since| {
        format!(" Since {} nothing was acknowledged.", since.strftime("%Y-%m-%dT%H:%M:%SZ"))
    });
    match (&status.phase, &status.trouble) {
        (Phase::Fenced { seq }, _) => {
            let message = format!(
                "another writer took this node's replica over at {}: two pods of one node run, or one was restored elsewhere; \
                 end the wrong one",
                seq.0
            );
            Some((Reason::ReplicaUnavailable, message))
        }
        (Phase::Refused(what), _) => Some((
            Reason::ReplicaUnavailable,
            format!(
                "{what}. The node serves on from its volume, takes part in no round and looks again every ten seconds: put the \
                 bucket's newest versions back. docs/runbooks/replicated.md"
            ),
        )),
        (_, Some((failures, kind, what))) if *failures >= FAILURES => {
            // A count in the message would be a write for every failure.
            Some((bucket_reason(*kind), format!("{what}; {goes_on}.{since}")))
        }
        _ if waits.is_some_and(|waits| waits >= ACKNOWLEDGE) => {
            Some((Reason::ReplicaUnavailable, format!("the bucket does not answer in time; {goes_on}.{since}")))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use keyfleet_litestream::bucket::ErrorKind;

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

    fn status(phase: Phase, trouble: Option<(u32, ErrorKind, String)>) -> Status {
        let (term, committed) = (keyfleet_litestream::position::Term(1), keyfleet_litestream::position::CommitNo(9));
        let (durable, snapshot, errors) = (None, None, Vec::new());
        Status { phase, term, durable, committed, trouble, snapshot, closed_chains: 0, errors }
    }

    /// A bucket that is away is reported with the time since when, in the same words however long it lasts.
    #[test]
    fn an_absent_bucket_is_reported_in_words_that_stay() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let failing = status(Phase::Shipping, Some((3, ErrorKind::Transport, "no route".into())));
        let said = |seconds| {
            problem_of(&failing, Some(Duration::from_secs(seconds)), at(1_000 + i64::try_from(seconds).unwrap()))
        };
        let (reason, message) = said(2).expect("three failures are trouble");
        assert_eq!(reason, Reason::ReplicaUnavailable);
        assert!(message.contains("Since 1970-01-01T00:16:40Z"), "{message}");
        assert_eq!(said(60), said(2), "each second is another message, and so another write");
        let mute = status(Phase::Shipping, None);
        assert_eq!(problem_of(&mute, Some(Duration::from_secs(2)), at(0)), None, "a commit under way is no trouble");
        assert!(problem_of(&mute, Some(Duration::from_secs(11)), at(0)).is_some(), "a mute bucket is not told of");
        let refused =
            problem_of(&status(Phase::Refused("older".into()), None), None, at(0)).expect("a rollback is trouble");
        assert!(refused.1.contains("docs/runbooks/replicated.md"), "{}", refused.1);
    }
}
