//! `epoch verify --transcript`: the round again, from what its nodes signed.
//!
//! Every node tells what it said; what the record names besides is fetched from whoever has it. Each message is checked
//! under the sender's key in the plan, and the round is judged by the same pure functions as in nodes and operator.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use keyfleet_client::{NodeError, Observer};
use keyfleet_threshold::curve::G2;
use keyfleet_threshold::identifiers::{Digest, NodeIndex};
use keyfleet_threshold::plan::{FrozenDigests, ValidPlan};
use keyfleet_threshold::polynomial::VerificationVector;
use keyfleet_threshold::round::audit::audit;
use keyfleet_threshold::round::{Blob, RoundRecord, SignedMessage, Transcript};
use tokio::task::JoinSet;

use super::Check;
use crate::exit::{Exit, Failure};

/// Messages of a round, and the nodes that sent none.
pub struct Heard {
    transcript: Transcript,
    silent: BTreeMap<NodeIndex, NodeError>,
}

/// Asks all nodes what was said in the round of `plan`. `source` is the vector of the epoch that it reshared.
///
/// # Errors
/// When no node tells anything: each one's reason is said.
pub async fn gather(
    observer: Arc<Observer>,
    plan: ValidPlan,
    source: Option<VerificationVector>,
    record: &RoundRecord,
) -> Result<Heard, Failure> {
    let named: BTreeSet<Digest> = [&record.dealers, &record.responses]
        .into_iter()
        .flatten()
        .flat_map(|list| list.iter().map(|(_, d)| d))
        .collect();
    let mut transcript = Transcript::new(plan, source);
    transcript.want(named.iter().copied());
    let (told, silent) = ask_all(&observer).await;
    if told.is_empty() {
        return Err(nobody(&silent));
    }
    for message in told.values().flatten() {
        // What does not check is dropped; where that proves a fault, the transcript names who is to blame.
        let _ = transcript.hear(message);
    }
    for node in told.keys() {
        let missing = missing(&transcript, &named);
        if missing.is_empty() {
            break;
        }
        for blob in observer.fetch(*node, &missing).await.unwrap_or_default() {
            match blob {
                Blob::Message(message) => drop(transcript.hear(&message)),
                Blob::Prekeys(set) => drop(transcript.learn_prekeys(&set)),
                _ => {}
            }
        }
    }
    Ok(Heard { transcript, silent })
}

type Told = BTreeMap<NodeIndex, Vec<SignedMessage>>;

async fn ask_all(observer: &Arc<Observer>) -> (Told, BTreeMap<NodeIndex, NodeError>) {
    let mut asked = JoinSet::new();
    for node in observer.fleet().nodes.keys().copied() {
        let observer = observer.clone();
        asked.spawn(async move { (node, observer.said(node).await) });
    }
    let (mut told, mut silent) = (Told::new(), BTreeMap::new());
    for (node, answer) in asked.join_all().await {
        match answer {
            Ok(said) => drop(told.insert(node, said)),
            Err(fault) => drop(silent.insert(node, fault)),
        }
    }
    (told, silent)
}

fn missing(transcript: &Transcript, named: &BTreeSet<Digest>) -> Vec<Digest> {
    let unheard = |digest: &&Digest| transcript.bundle(digest).is_none() && transcript.response(digest).is_none();
    let mut missing: Vec<_> = named.iter().filter(unheard).copied().collect();
    missing.extend(transcript.missing_prekeys());
    missing
}

fn nobody(silent: &BTreeMap<NodeIndex, NodeError>) -> Failure {
    let refused = silent.values().all(NodeError::is_refusal);
    let exit = if refused { Exit::Refused } else { Exit::TooFewNodes };
    Failure::new(exit, format!("no node told what was said in the round:{}", listed(silent)))
}

fn listed(silent: &BTreeMap<NodeIndex, NodeError>) -> String {
    silent.iter().map(|(node, fault)| format!("\n  node {node}: {fault}")).collect()
}

/// Recomputes the round and compares it with its record, under the fleet's public key. Pure.
pub fn check(heard: &Heard, record: &RoundRecord, key: &G2) -> Check {
    let promise = "what its nodes signed leads to these dealers, this polynomial and this certificate";
    let (holds, mut found) = match audit(&heard.transcript, record) {
        Err(fault) => (false, fault.to_string()),
        Ok(audit) if audit.vector.constant() != *key => (false, "it is a round of another public key".to_owned()),
        Ok(audit) => {
            let count = |list: &Option<FrozenDigests>| list.as_ref().map_or(0, FrozenDigests::len);
            let (bundles, responses) = (count(&record.dealers), count(&record.responses));
            let mut found = format!("{bundles} bundles, {responses} responses, {} prepared", audit.prepared.len());
            for culprit in &audit.culprits {
                found += &format!("; node {} {}", culprit.index, culprit.offence);
            }
            (true, found)
        }
    };
    if !heard.silent.is_empty() {
        found += &format!("; not heard:{}", listed(&heard.silent));
    }
    Check { promise, holds, found }
}
