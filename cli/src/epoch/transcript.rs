//! `epoch verify --transcript`: the round again, from the messages that its nodes signed.
//!
//! Each node sends its own messages. Messages of other nodes that the record names, and the vector that was dealt on, are fetched from
//! any node that has them. Each message is
//! checked under the sender's key in the plan, and the round is judged by the same pure functions as in nodes and operator.

use std::collections::BTreeMap;
use std::sync::Arc;

use keyfleet_client::{NodeError, Observer};
use keyfleet_threshold::curve::G2;
use keyfleet_threshold::identifiers::{Digest, NodeIndex};
use keyfleet_threshold::plan::{FrozenDigests, ValidPlan};
use keyfleet_threshold::round::audit::audit;
use keyfleet_threshold::round::{Blob, RoundRecord, SignedMessage, Transcript};
use tokio::task::JoinSet;

use super::Check;
use crate::exit::{CommandError, Exit};

/// Messages of a round, and the nodes that sent none.
pub(super) struct Gathered {
    transcript: Transcript,
    silent: BTreeMap<NodeIndex, NodeError>,
}

/// Asks all nodes for the messages of the round of `plan`.
///
/// # Errors
/// When no node sends any; the message has the reason of each.
pub(super) async fn gather(
    observer: Arc<Observer>,
    plan: ValidPlan,
    record: &RoundRecord,
) -> Result<Gathered, CommandError> {
    let named = [&record.dealers, &record.responses].into_iter().flatten();
    let mut transcript = Transcript::new(plan, None);
    transcript.want(named.flat_map(|list| list.iter().map(|(_, digest)| digest)));
    let (messages, silent) = ask_all(&observer).await;
    if messages.is_empty() {
        return Err(no_messages(&silent));
    }
    for message in messages.values().flatten() {
        // Invalid messages are dropped. Where one proves an offence, the transcript names the culprit.
        let _ = transcript.hear(message);
    }
    for node in messages.keys() {
        let missing = missing(&transcript, record);
        if missing.is_empty() {
            break;
        }
        for blob in observer.fetch(*node, &missing).await.unwrap_or_default() {
            match blob {
                Blob::Message(message) => drop(transcript.hear(&message)),
                Blob::Vector(vector) => drop(transcript.learn_source(vector)),
            }
        }
    }
    Ok(Gathered { transcript, silent })
}

type Messages = BTreeMap<NodeIndex, Vec<SignedMessage>>;

async fn ask_all(observer: &Arc<Observer>) -> (Messages, BTreeMap<NodeIndex, NodeError>) {
    let mut asked = JoinSet::new();
    for node in observer.fleet().nodes.keys().copied() {
        let observer = observer.clone();
        asked.spawn(async move { (node, observer.messages(node).await) });
    }
    let (mut messages, mut silent) = (Messages::new(), BTreeMap::new());
    for (node, answer) in asked.join_all().await {
        match answer {
            Ok(sent) => drop(messages.insert(node, sent)),
            Err(error) => drop(silent.insert(node, error)),
        }
    }
    (messages, silent)
}

/// Returns the digests of the messages that the record names and nobody sent yet.
fn missing(transcript: &Transcript, record: &RoundRecord) -> Vec<Digest> {
    let (dealers, responses) =
        (record.dealers.clone().unwrap_or_default(), record.responses.clone().unwrap_or_default());
    transcript.missing_evidence(&dealers, &responses)
}

fn no_messages(silent: &BTreeMap<NodeIndex, NodeError>) -> CommandError {
    let refused = silent.values().all(NodeError::is_refusal);
    let exit = if refused { Exit::Refused } else { Exit::TooFewNodes };
    CommandError::new(exit, format!("no node sent its messages of this round:{}", listed(silent)))
}

fn listed(silent: &BTreeMap<NodeIndex, NodeError>) -> String {
    silent.iter().map(|(node, error)| format!("\n  node {node}: {error}")).collect()
}

/// Recomputes the round and compares it with its record, under the fleet's public key. Pure.
pub(super) fn check(gathered: &Gathered, record: &RoundRecord, key: &G2) -> Check {
    let promise = "what its nodes signed leads to these dealers, this polynomial and this certificate";
    let (holds, mut found) = match audit(&gathered.transcript, record) {
        Err(error) => (false, error.to_string()),
        Ok(audit) if audit.vector.constant() != *key => (false, "the round has another public key".to_owned()),
        Ok(audit) => {
            let bundles = record.dealers.as_ref().map_or(0, FrozenDigests::len);
            let responses = record.responses.as_ref().map_or(0, FrozenDigests::len);
            let mut found = format!("{bundles} bundles, {responses} responses, {} prepared", audit.prepared.len());
            for culprit in &audit.culprits {
                found += &format!("; node {} {}", culprit.index, culprit.offence);
            }
            (true, found)
        }
    };
    if !gathered.silent.is_empty() {
        found += &format!("; nodes without an answer:{}", listed(&gathered.silent));
    }
    Check { promise, holds, found }
}
