//! The report, drawn for people. Colours are escape sequences that the stream drops where nobody sees them.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};

use super::StatusReport;
use super::report::{EpochReport, FleetReport};
use crate::output::columns;

const GOOD: Style = AnsiColor::Green.on_default().bold();
const BAD: Style = AnsiColor::Red.on_default().bold();
const HEAD: Style = Style::new().bold();

pub(super) fn draw(out: &mut dyn Write, report: &StatusReport) -> io::Result<()> {
    if report.fleets.is_empty() {
        return writeln!(out, "No KmsCluster here. Look elsewhere with --namespace or --all-namespaces.");
    }
    for (place, fleet) in report.fleets.iter().enumerate() {
        if place > 0 {
            writeln!(out)?;
        }
        draw_fleet(out, fleet)?;
    }
    Ok(())
}

fn draw_fleet(out: &mut dyn Write, fleet: &FleetReport) -> io::Result<()> {
    let phase = fleet.phase.map_or_else(|| "not seen yet".to_owned(), |phase| format!("{phase:?}"));
    let style = if fleet.ready { GOOD } else { BAD };
    writeln!(out, "{HEAD}{}/{}{HEAD:#}   {style}{phase}{style:#}", fleet.namespace, fleet.name)?;
    let mut rows = Vec::new();
    rows.push(row(
        "Public key",
        fleet.public_key.map_or_else(|| "none yet".to_owned(), |key| format!("{}…", key.fingerprint())),
    ));
    if let Some(id) = fleet.cluster_id {
        rows.push(row("Cluster id", id.to_string()));
    }
    rows.push(row("Epoch", fleet.active_epoch.as_ref().map_or_else(|| "none yet".to_owned(), active)));
    if let Some(round) = &fleet.round {
        rows.push(row("Round", under_way(round)));
    }
    if let Some(boundary) = fleet.next_boundary {
        rows.push(row("Next boundary", format!("block {boundary}")));
    }
    let needed = fleet.threshold.map(|threshold| format!(" ({threshold} needed)")).unwrap_or_default();
    rows.push(row("Nodes", format!("{} of {} ready{needed}", fleet.ready_nodes, fleet.nodes.len())));
    columns(out, &rows)?;
    if !fleet.nodes.is_empty() {
        writeln!(out)?;
        let head = ["  NODE", "READY", "EPOCH", "WORKER", "ZONE"].map(str::to_owned).to_vec();
        let rows = fleet.nodes.iter().map(|node| {
            vec![
                format!("  {}", node.index),
                if node.ready { "yes" } else { "no" }.to_owned(),
                or_dash(node.epoch.map(|epoch| epoch.to_string())),
                or_dash(node.worker.clone()),
                or_dash(node.zone.clone()),
            ]
        });
        columns(out, &std::iter::once(head).chain(rows).collect::<Vec<_>>())?;
    }
    if !fleet.attention.is_empty() {
        writeln!(out, "\n  {BAD}Needs a look{BAD:#}")?;
        for attention in &fleet.attention {
            writeln!(out, "  - {} ({}): {}", attention.about, attention.reason, attention.message)?;
        }
    }
    Ok(())
}

fn row(name: &str, value: String) -> Vec<String> {
    vec![format!("  {name}"), value]
}

fn or_dash(value: Option<String>) -> String {
    value.unwrap_or_else(|| "-".to_owned())
}

fn active(epoch: &EpochReport) -> String {
    let mut text = epoch.number.to_string();
    if let Some(age) = epoch.age_seconds {
        text += &format!(", active for {}", duration(age));
    }
    if let (Some(kind), Some(block)) = (epoch.kind, epoch.block) {
        text += &format!(", {kind:?} at block {block}");
    }
    if let Some(held) = &epoch.held {
        text += &format!(", held by {held}");
    }
    text
}

fn under_way(round: &EpochReport) -> String {
    let kind = round.kind.map_or_else(|| "about to begin".to_owned(), |kind| format!("{kind:?}"));
    let phase = round.phase.map(|phase| format!(", {phase:?}")).unwrap_or_default();
    let age = round.age_seconds.map(|age| format!(", for {}", duration(age))).unwrap_or_default();
    format!("{} ({kind}{phase}{age})", round.number)
}

/// As kubectl writes ages: the one or two largest units.
fn duration(seconds: i64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{}s", seconds % 60),
        (0, ..) => format!("{hours}h{minutes}m"),
        _ => format!("{days}d{hours}h"),
    }
}
