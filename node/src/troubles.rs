//! What goes wrong while a node runs, as problems that its `KmsNode` shows.

use keyfleet_crds::conditions::Reason;
use keyfleet_crds::node::report::ProblemAbout;
use keyfleet_litestream::database::{Phase, Status};

use crate::apiserver::status::Problems;
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
