//! Nodes that die in the middle of a round, and nodes that lie, from the image that does so on demand.

use anyhow::{Context, Result, ensure};
use keyfleet_scenarios::cluster::Cluster;
use keyfleet_scenarios::fleet::{CALLER, Fleet, NAME};
use keyfleet_scenarios::machine::xtask;
use keyfleet_scenarios::wait;
use serde_json::{Value, json};

/// A fleet whose nodes do as these variables say, from the first reshare on. Rounds are asked for.
fn faulty<'a>(
    cluster: &'a Cluster,
    purpose: &str,
    (nodes, threshold): (u32, u32),
    variables: &[(&str, &str)],
) -> Result<Fleet<'a>> {
    let mut env = vec![json!({"name": "KEYFLEET_DANGER_FROM", "value": "2"})];
    env.extend(variables.iter().map(|(name, value)| json!({"name": name, "value": value})));
    let differs = json!({
        "nodes": nodes, "threshold": threshold, "image": "docker.io/keyfleet/node-faults:dev", "podTemplate": {"env": env},
    });
    Fleet::ready(cluster, purpose, &differs)
}

/// Asks for a reshare, and returns its epoch once that is active.
fn reshare(fleet: &Fleet<'_>, word: &str) -> Result<Value> {
    let annotation = format!("keyfleet.dev/reshare={word}");
    fleet.namespace.kubectl(&["annotate", "--overwrite", "kmscluster", NAME, &annotation])?;
    let number = fleet.wait_next()?;
    fleet.wait_phase(number, &["Active", "Confirmed"])
}

/// A node's status page, read through the API server.
fn page(fleet: &Fleet<'_>, index: u32) -> Result<Value> {
    let path = format!("/api/v1/namespaces/{}/pods/{}:9090/proxy/status", fleet.namespace.name, fleet.node(index));
    Ok(serde_json::from_str(&fleet.namespace.cluster.kubectl(["get", "--raw", &path])?)?)
}

fn culprit(epoch: &Value, index: u32) -> Option<&Value> {
    epoch["status"]["culprits"].as_array()?.iter().find(|culprit| culprit["index"] == index)
}

fn indexes(list: &Value) -> Vec<u64> {
    let index = |item: &Value| item.as_u64().or_else(|| item["index"].as_u64());
    list.as_array().into_iter().flatten().filter_map(index).collect()
}

/// A node that dies at a barrier in a round sends the same messages again, and serves.
///
/// It dies at the worst moment: its share is durable, and no message about it has left the node.
///
/// seed: 003-30, 003-36
#[test]
fn a_node_killed_at_a_barrier_repeats_its_messages() -> Result<()> {
    let cluster = Cluster::shared()?;
    let barriers = [("KEYFLEET_DANGER_DIE_AT", "2:Commit@Prepared,3:Published@Dealing")];
    let fleet = faulty(&cluster, "barrier", (4, 3), &barriers)?;
    for index in 1..=4 {
        ensure!(page(&fleet, index)?["danger"]["died"] == json!([]), "node {index} died before the round");
    }
    let sealed = fleet.encrypt("orders/1", b"secret")?;
    let epoch = reshare(&fleet, "now")?;
    let number = epoch["spec"]["number"].as_u64().context("an epoch has a number")?;
    // In this round and no other, each at its own barrier, and once.
    for (index, barrier) in [(2, "Commit@Prepared"), (3, "Published@Dealing")] {
        fleet.wait_pod(index, None)?;
        let died = wait::until("the page shows where the node died", || {
            // Its pod may have been seen ready before it died: the page is away until the container is back.
            let Ok(page) = page(&fleet, index) else { return Ok(None) };
            let died = page["danger"]["died"].clone();
            Ok((died != json!([])).then_some(died))
        })?;
        ensure!(died == json!([barrier]), "node {index} died at {died}, not at {barrier} alone");
        let ended = wait::until("the pod's status shows how its container ended", || {
            let pod = fleet.namespace.get(&["pod", &fleet.node(index)])?;
            let ended = pod["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"].clone();
            Ok((!ended.is_null()).then_some(ended))
        })?;
        ensure!(ended == 137, "node {index} ended with {ended}, not at its barrier");
        let log = fleet.namespace.kubectl(&["logs", &fleet.node(index), "--container", "node", "--previous"])?;
        let last = log.lines().rfind(|line| line.contains("dies at its barrier")).unwrap_or_default();
        ensure!(last.contains(barrier) && last.contains(&number.to_string()), "it died elsewhere: {last:?}");
    }
    for index in [2, 3] {
        let accused = culprit(&epoch, index).filter(|culprit| culprit["fault"] == "Equivocation");
        ensure!(accused.is_none(), "node {index} said something else after its restart: {accused:?}");
    }
    ensure!(indexes(&epoch["status"]["dealers"]).contains(&3), "what node 3 dealt before it died does not count");
    // All four hold the epoch without another round, those that died from what they had made durable.
    let held = wait::until("every node holds the epoch", || {
        let epoch = fleet.wait_phase(number, &["Active", "Confirmed"])?;
        let served = (1..=4).map(|index| page(&fleet, index)).collect::<Result<Vec<_>>>()?;
        Ok(served.iter().all(|page| page["activeEpoch"] == number).then_some(epoch))
    })
    .with_context(|| fleet.stands())?;
    let accused = held["status"]["culprits"].to_string();
    ensure!(!accused.contains("Equivocation"), "somebody said two things: {accused}");
    // Each of the two is needed when another is away.
    let held = crate::rounds::Held::new(&fleet, &[fleet.node(1)])?;
    ensure!(fleet.decrypt(&sealed, &["--timeout", "60s"])? == b"secret", "other data came out");
    drop(held);
    Ok(())
}

/// Dealers that cheat, stay mute or send two versions are left out and named, while the round succeeds.
///
/// Three of seven lie when they deal, each in its own way; four is the threshold.
///
/// seed: 000-13, 004-27, 004-29
#[test]
fn lying_and_mute_dealers_are_named_and_the_round_succeeds() -> Result<()> {
    let cluster = Cluster::shared()?;
    let lies = [("KEYFLEET_DANGER_DEALER", "2:bad-share,5:mute,7:equivocate")];
    let fleet = faulty(&cluster, "liars", (7, 4), &lies)?;
    let (key, before) = (fleet.public_key()?, fleet.object()?["status"]["activeEpoch"].clone());
    let sealed = fleet.encrypt("orders/1", b"secret")?;
    let epoch = reshare(&fleet, "now")?;
    let attempts = fleet.epochs()?.len();
    ensure!(attempts == 2, "the first attempt did not succeed: {attempts} epochs since {before}\n{}", fleet.stands());
    let qualified = indexes(&epoch["status"]["qualified"]);
    ensure!(qualified == [1, 3, 4, 6], "qualified are {qualified:?}, not exactly the honest dealers");
    for (index, fault, evidence) in [(2, "InvalidShare", 2), (5, "NoDealing", 0), (7, "Equivocation", 2)] {
        let named =
            culprit(&epoch, index).with_context(|| format!("node {index} is not named: {}", epoch["status"]))?;
        ensure!(named["fault"] == fault, "node {index} is accused of {}, not of {fault}", named["fault"]);
        let digests = named["evidenceDigests"].as_array().map_or(0, Vec::len);
        ensure!(digests == evidence, "{digests} messages prove {fault} of node {index}, not {evidence}: {named}");
    }
    let accused = epoch["status"]["culprits"].as_array().map_or(0, Vec::len);
    ensure!(accused == 3, "somebody honest is accused: {}", epoch["status"]["culprits"]);
    ensure!(fleet.public_key()? == key, "the public key changed");
    ensure!(fleet.decrypt(&sealed, &["--timeout", "60s"])? == b"secret", "the new epoch opens nothing");
    // Anyone whom a rule lets read the round comes to the same conclusions from its signed messages; others read nothing.
    let number = epoch["spec"]["number"].as_u64().context("an epoch has a number")?;
    let refused = fleet.audit(number).err().context("a caller without a rule read the round")?.to_string();
    ensure!(refused.contains("exit status: 4") && refused.contains("Observe"), "not a clear refusal: {refused}");
    let subject = format!("system:serviceaccount:{}:{CALLER}", fleet.namespace.name);
    fleet.patch(&json!({"access": {"rules": [{"subjects": [subject], "verbs": ["Observe"]}]}}))?;
    let audited = wait::until("the round is audited", || fleet.audit(number).map(Some))?;
    let found = audited["checks"].as_array().and_then(|checks| checks.last()).map(|check| check["found"].to_string());
    let found = found.context("no check")?;
    ensure!(audited["verified"] == true && audited["checks"].as_array().map(Vec::len) == Some(6), "{audited}");
    for (index, proven) in [(2, true), (5, false), (7, true)] {
        // Silence leaves nothing to prove it by.
        ensure!(
            found.contains(&format!("node {index}")) == proven,
            "node {index} is not judged by its messages: {found}"
        );
    }
    Ok(())
}

/// The image of a release contains no fault that could be asked for.
#[test]
fn a_release_image_has_no_fault_injection() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let archives = folder.path().display().to_string();
    let done = xtask(&["image", "node", "node-faults", "--output", &archives])?.output()?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let words = ["KEYFLEET_DANGER", "bad-share", "equivocate", "wrong-source", "danger-died", "dies at its barrier"];
    for (image, knows) in [("node", false), ("node-faults", true)] {
        // Layers are not compressed: what a program contains, its archive contains.
        let archive = std::fs::read(folder.path().join(format!("{image}-dev.tar")))?;
        for word in words {
            let found = memchr::memmem::find(&archive, word.as_bytes()).is_some();
            ensure!(found == knows, "{image}: `{word}` is {}in it", if found { "" } else { "not " });
        }
    }
    Ok(())
}
