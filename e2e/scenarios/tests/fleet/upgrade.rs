//! New images.

use anyhow::{Context, Result, ensure};
use keyfleet_scenarios::cluster::Cluster;
use keyfleet_scenarios::fleet::{Fleet, every};
use keyfleet_scenarios::probe::is_ready;
use keyfleet_scenarios::wait;
use serde_json::{Value, json};

/// A new image reaches one node after the other, and no request of a client fails.
///
/// seed: 002-14
#[test]
fn a_new_image_rolls_node_by_node_without_a_failed_request() -> Result<()> {
    let cluster = Cluster::shared()?;
    // Boundaries far enough apart that a slow machine has time between rounds: no pod goes while one is under way.
    let fleet = Fleet::ready(&cluster, "image", &every(40))?;
    let key = fleet.public_key()?;
    // Another image than the fleet was made with; it differs in nothing that is asked for here.
    let image = "docker.io/keyfleet/node-faults:dev";
    let mut worst = 0;
    fleet.never_failing(|| {
        fleet.patch(&json!({ "image": image }))?;
        wait::until("every node runs the new image and is ready", || {
            let pods = fleet.namespace.get(&["pods"])?;
            let pods = pods["items"].as_array().cloned().unwrap_or_default();
            let new = |pod: &Value| pod["spec"]["containers"][0]["image"] == image && is_ready(pod);
            worst = worst.max(4 - pods.iter().filter(|pod| is_ready(pod)).count());
            Ok((pods.len() == 4 && pods.iter().all(new)).then_some(()))
        })
        .with_context(|| fleet.stands())
    })?;
    ensure!(worst <= 1, "{worst} of four nodes were away at once");
    ensure!(fleet.public_key()? == key, "the public key changed");
    Ok(())
}
