//! Cost of a reshare beside the bare mathematics, without Kubernetes: `cargo xtask bench fleet` calls it.
//!
//! All nodes run in this process, with their stores in memory and their streams over TLS. Every core works for all of them,
//! so that the processor time is what counts; one that has a core of its own is as many times faster.

#![allow(clippy::unwrap_used, clippy::cast_precision_loss)]

#[path = "processor/mod.rs"]
mod processor;

use std::time::Instant;

use keyfleet_test_fleet::serving::Fleet;

/// Reshares of each fleet.
const RESHARES: usize = 5;

#[tokio::main]
async fn main() {
    let sizes: Vec<u32> = std::env::args().skip(1).map(|size| size.parse().expect("a number of nodes")).collect();
    println!("| nodes | reshare, ms | processor time a node, ms |\n|---|---|---|");
    for nodes in sizes {
        let mut fleet = Fleet::start(nodes).await;
        let (mut lengths, before) = (Vec::new(), processor::time());
        for _ in 0..RESHARES {
            let began = Instant::now();
            fleet.round().await;
            lengths.push(began.elapsed().as_secs_f64());
        }
        let of_a_node = (processor::time() - before) / RESHARES as f64 / f64::from(nodes);
        lengths.sort_by(f64::total_cmp);
        println!("| {nodes} | {:.0} | {:.0} |", lengths[RESHARES / 2] * 1e3, of_a_node * 1e3);
    }
}
