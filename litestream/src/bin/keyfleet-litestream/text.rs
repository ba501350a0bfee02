//! Answers in words, for people.

use std::fmt::Write as _;

use keyfleet_litestream::config::Db;
use keyfleet_litestream::drill::{Drilled, Local};
use keyfleet_litestream::retention::Swept;
use keyfleet_litestream::verify::Verified;

use crate::commands::{Objects, Status};

/// Formats a list of objects as a table.
pub(crate) fn objects(db: &Db, listed: &Objects) -> String {
    let mut lines = vec![
        format!("{}:", db.options.location),
        format!("{:>8} {:>6} {:>10} {:>21} {:>10}  {:30} kind", "seq", "term", "commits", "", "bytes", "time"),
    ];
    for object in &listed.objects {
        lines.push(format!(
            "{:>8} {:>6} {:>10} {:>21} {:>10}  {:30} {}",
            object.seq.0,
            object.term.0,
            object.first_commit.0,
            format!("to {}", object.last_commit),
            object.size,
            time(object.time_ms),
            object.kind
        ));
    }
    lines.join("\n")
}

/// Formats the result of a verification, a line for each finding and remark.
pub(crate) fn verified(db: &Db, verified: &Verified) -> String {
    let said = verified.findings.iter().chain(&verified.remarks);
    let mut lines: Vec<String> = said.map(|line| format!("  {line}")).collect();
    let end = verified.position.map_or_else(|| "no replica".to_owned(), |position| position.to_string());
    let (location, objects, bytes) = (&db.options.location, verified.objects, verified.bytes);
    lines.insert(0, format!("{location}: {objects} objects whole, {bytes} bytes, ends at {end}"));
    lines.join("\n")
}

/// Formats the result of a drill.
pub(crate) fn drilled(db: &Db, drilled: &Drilled) -> String {
    let rows: u64 = drilled.tables.iter().map(|table| table.rows).sum();
    let route = match &drilled.other_route {
        Some(other) => format!("the same rows from {}", other.snapshot),
        None => "there is one route only".to_owned(),
    };
    let local = match &drilled.local {
        Local::Same { commit, .. } => format!("the same rows as the local file at commit {commit}"),
        Local::NotCompared(why) => format!("not compared with the local file: {why}"),
    };
    let (location, position, tables) = (&db.options.location, drilled.newest.position, drilled.tables.len());
    format!("{location}: restored to {position}, {tables} tables with {rows} rows; {route}; {local}")
}

/// Formats the state of a replica.
pub(crate) fn status(db: &Db, status: &Status) -> String {
    match (&status.head, status.age_ms) {
        (Some(head), Some(age_ms)) => format!(
            "{}: {head}, newest commit {} s ago, {} snapshots; this machine last knew {}",
            db.options.location,
            age_ms / 1000,
            status.snapshots,
            status.local.map_or_else(|| "nothing".into(), |position| position.to_string())
        ),
        _ => format!("{}: there is no replica", db.options.location),
    }
}

/// Formats the result of a retention run.
pub(crate) fn swept(db: &Db, swept: &Swept, dry_run: bool) -> String {
    let would = if dry_run { "would delete" } else { "deleted" };
    let boundary = swept.lowest_needed.map_or_else(|| "none".into(), |boundary| boundary.to_string());
    let (location, deleted, kept) = (&db.options.location, swept.deleted.len(), swept.kept.len());
    let mut text = format!("{location}: {would} {deleted} objects; boundary {boundary}; {kept} restore points kept");
    if let Some(first) = swept.held.first() {
        let _ = write!(text, "; {} objects may not be deleted, the first: {first}", swept.held.len());
    }
    text
}

/// Formats a time in milliseconds since the Unix epoch.
pub(crate) fn time(ms: u64) -> String {
    i64::try_from(ms)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .map_or_else(|| format!("{ms} ms"), |time| time.to_string())
}
