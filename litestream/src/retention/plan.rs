//! Decision on what to keep. Pure.

use serde::{Deserialize, Serialize};

use crate::position::Seq;

/// Rules of retention. Times in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// Window: every point in time this far back can be restored, in milliseconds.
    pub window_ms: u64,
    /// Levels beyond the window, of single restore points: for example one a day for a month.
    pub levels: Vec<Level>,
    /// Least number of restore points.
    pub keep_at_least: usize,
    /// Least age of an object that is deleted, in milliseconds, and least time since the lowest needed number was
    /// raised above it. Must be longer than any writer's idle grace.
    pub grace_ms: u64,
    /// Time for which a restore's pin counts, in milliseconds.
    pub pin_expiry_ms: u64,
}

/// Level of restore points: one snapshot for every `every_ms`, for the last `keep` such stretches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Level {
    /// Length of a stretch, in milliseconds.
    pub every_ms: u64,
    /// Number of stretches.
    pub keep: u64,
}

impl Default for Rules {
    fn default() -> Self {
        const HOUR: u64 = 3_600_000;
        Self {
            window_ms: 24 * HOUR,
            levels: vec![Level { every_ms: 24 * HOUR, keep: 7 }],
            keep_at_least: 2,
            grace_ms: HOUR,
            pin_expiry_ms: 6 * HOUR,
        }
    }
}

/// Snapshot that a restore can begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Last number covered.
    pub seq: Seq,
    /// Time of its state, in milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// True when the object of that number is still there, so that those after it may be, too.
    pub anchored: bool,
}

/// Decision of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Lowest number that is still needed: every object at or above it stays.
    pub lowest_needed: Option<Seq>,
    /// Snapshots that stay, by the number that they cover.
    pub kept: Vec<Seq>,
}

/// Decides what to keep. `snapshots` are in ascending order; `lowest_needed` is the number recorded by the last run,
/// which is raised and never lowered.
#[must_use]
pub fn decide(snapshots: &[Snapshot], lowest_needed: Option<Seq>, now_ms: u64, rules: &Rules) -> Decision {
    let from_ms = now_ms.saturating_sub(rules.window_ms);
    // Where the window begins: its points are restored from here, object by object.
    let anchored: Vec<&Snapshot> = snapshots.iter().filter(|snapshot| snapshot.anchored).collect();
    let first = anchored.first().copied();
    let anchor = anchored.iter().rev().copied().find(|snapshot| snapshot.time_ms <= from_ms).or(first);
    let least = anchored.iter().rev().copied().nth(rules.keep_at_least.saturating_sub(1)).or(first);
    let proposed = anchor.map(|anchor| least.map_or(anchor.seq, |least| anchor.seq.min(least.seq)));
    hold(snapshots, lowest_needed.max(proposed), now_ms, rules)
}

/// Decides what to keep while the lowest needed number stays where it is.
#[must_use]
pub fn hold(snapshots: &[Snapshot], lowest_needed: Option<Seq>, now_ms: u64, rules: &Rules) -> Decision {
    let mut kept: Vec<Seq> = Vec::new();
    for snapshot in snapshots {
        let in_window = lowest_needed.is_none_or(|lowest_needed| snapshot.seq >= lowest_needed);
        if in_window || rules.levels.iter().any(|level| represents(*snapshot, snapshots, *level, now_ms)) {
            kept.push(snapshot.seq);
        }
    }
    kept.dedup();
    Decision { lowest_needed, kept }
}

/// Returns true when a snapshot is the first of one of a level's stretches. Stretches are counted from the Unix epoch,
/// so that the choice is the same on every run.
fn represents(snapshot: Snapshot, all: &[Snapshot], level: Level, now_ms: u64) -> bool {
    if level.every_ms == 0 {
        return false;
    }
    let stretch = snapshot.time_ms / level.every_ms;
    let first = all.iter().find(|other| other.time_ms / level.every_ms == stretch);
    first == Some(&snapshot) && (now_ms / level.every_ms).saturating_sub(stretch) < level.keep
}

/// Checks that no kept restore point within the window, nor the newest, needs an object below the lowest needed number.
///
/// # Panics
/// Panics when the decision breaks that.
pub fn invariant_keeps_what_is_needed(snapshots: &[Snapshot], decision: &Decision, now_ms: u64, rules: &Rules) {
    let Some(lowest_needed) = decision.lowest_needed else { return };
    let anchored: Vec<_> = snapshots.iter().filter(|snapshot| snapshot.anchored).collect();
    if let Some(newest) = anchored.last() {
        assert!(newest.seq >= lowest_needed && decision.kept.contains(&newest.seq), "the newest snapshot would go");
    }
    let from_ms = now_ms.saturating_sub(rules.window_ms);
    let first = anchored.iter().rev().find(|snapshot| snapshot.time_ms <= from_ms);
    if let Some(first) = first {
        assert!(first.seq >= lowest_needed && decision.kept.contains(&first.seq), "the window's beginning would go");
    }
    assert!(
        anchored.iter().rev().take(rules.keep_at_least).all(|snapshot| decision.kept.contains(&snapshot.seq)),
        "fewer restore points than promised would stay"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt as _, SeedableRng as _};

    const DAY: u64 = 86_400_000;

    fn daily(days: std::ops::Range<u64>) -> Vec<Snapshot> {
        days.map(|day| Snapshot { seq: Seq(day * 100 + 1), time_ms: day * DAY, anchored: true }).collect()
    }

    #[test]
    fn the_window_keeps_the_snapshot_before_its_beginning() {
        let rules = Rules { window_ms: 3 * DAY, levels: Vec::new(), ..Rules::default() };
        let decision = decide(&daily(0..10), None, 9 * DAY + 5, &rules);
        assert_eq!(decision.lowest_needed, Some(Seq(601)), "a point three days back needs the snapshot of day 6");
        assert_eq!(decision.kept.first(), Some(&Seq(601)));
    }

    #[test]
    fn levels_keep_single_points_beyond_the_window() {
        let rules = Rules { window_ms: DAY, levels: vec![Level { every_ms: 7 * DAY, keep: 3 }], ..Rules::default() };
        let decision = decide(&daily(0..30), None, 29 * DAY, &rules);
        assert!(decision.kept.contains(&Seq(1401)) && decision.kept.contains(&Seq(2101)), "{:?}", decision.kept);
        assert!(!decision.kept.contains(&Seq(701)), "a fourth week was kept");
    }

    #[test]
    fn the_lowest_needed_number_never_falls() {
        let rules = Rules::default();
        let decision = decide(&daily(0..3), Some(Seq(250)), 100 * DAY, &rules);
        assert_eq!(decision.lowest_needed, Some(Seq(250)));
        let decision = decide(&daily(0..1), None, 1000 * DAY, &rules);
        assert_eq!((decision.lowest_needed, decision.kept), (Some(Seq(1)), vec![Seq(1)]));
        assert_eq!(decide(&[], None, 5, &rules), Decision { lowest_needed: None, kept: Vec::new() });
    }

    #[test]
    fn no_random_history_loses_what_a_kept_point_needs() {
        for seed in 0..500 {
            let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
            let rules = Rules {
                window_ms: rng.random_range(0..20) * DAY / 4,
                keep_at_least: rng.random_range(1..4),
                levels: vec![Level { every_ms: DAY, keep: rng.random_range(0..9) }],
                ..Rules::default()
            };
            let (mut seq, mut time_ms, mut lowest_needed, mut snapshots) = (1, 0, None, Vec::new());
            for _ in 0..40 {
                seq += rng.random_range(1..50);
                time_ms += rng.random_range(1..DAY);
                snapshots.push(Snapshot { seq: Seq(seq), time_ms, anchored: true });
                let decision = decide(&snapshots, lowest_needed, time_ms + 1, &rules);
                invariant_keeps_what_is_needed(&snapshots, &decision, time_ms + 1, &rules);
                assert!(decision.lowest_needed >= lowest_needed, "seed {seed}: the lowest needed number fell");
                lowest_needed = decision.lowest_needed;
                for snapshot in &mut snapshots {
                    snapshot.anchored &= lowest_needed.is_none_or(|lowest_needed| snapshot.seq >= lowest_needed);
                }
                snapshots.retain(|snapshot| decision.kept.contains(&snapshot.seq));
            }
        }
    }
}
