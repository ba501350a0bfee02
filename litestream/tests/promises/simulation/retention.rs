//! Retention in the simulation.

use keyfleet_litestream::retention::plan;

use super::*;

impl World {
    /// Runs retention as the product does: decides, raises the lowest needed number, and deletes what lay below the number
    /// of before.
    pub(super) fn collect(&mut self) {
        let snapshots: Vec<plan::Snapshot> = self
            .bucket
            .snapshots()
            .into_iter()
            .filter_map(|(seq, hash)| {
                let object = self.bucket.get(&layout::sequence(seq));
                if object.is_some_and(|object| Digest::of(object) != hash) {
                    return None;
                }
                let (header, _) = Header::decode(self.bucket.get(&layout::snapshot(seq, hash))?).ok()?;
                Some(plan::Snapshot { seq, time_ms: header.time_ms, anchored: object.is_some() })
            })
            .collect();
        let rules = plan::Rules {
            window_ms: 0,
            levels: Vec::new(),
            keep_at_least: 1,
            grace_ms: RETENTION_GRACE_MS,
            pin_expiry_ms: 0,
        };
        let old = self.bucket.lowest_needed;
        let settled = old.is_none_or(|(_, raised_ms)| self.now_ms - raised_ms >= RETENTION_GRACE_MS);
        let decide = if settled { plan::decide } else { plan::hold };
        let decision = decide(&snapshots, old.map(|(lowest_needed, _)| lowest_needed), self.now_ms + 3_000, &rules);
        plan::invariant_keeps_what_is_needed(&snapshots, &decision, self.now_ms + 3_000, &rules);
        if decision.lowest_needed > old.map(|(lowest_needed, _)| lowest_needed) {
            self.bucket.lowest_needed = decision.lowest_needed.map(|lowest_needed| (lowest_needed, self.now_ms));
        }
        let Some((limit, _)) = old.filter(|_| settled) else { return };
        let (now_ms, before) = (self.now_ms, self.bucket.objects.len());
        self.bucket.objects.retain(|key, (_, stored_ms)| {
            let seq = layout::parse_sequence(key);
            let snapshot = layout::parse_snapshot(key).map(|(seq, _)| seq).filter(|s| !decision.kept.contains(s));
            let below = seq.or(snapshot).is_some_and(|seq| seq < limit);
            !below || now_ms - *stored_ms < RETENTION_GRACE_MS
        });
        let gone = before - self.bucket.objects.len();
        self.collected += gone as u64;
        if gone > 0 {
            self.say(format_args!("retention: {gone} objects below {limit} deleted"));
        }
    }
}
