//! Settings: chances and delays that make the world hostile.

/// Chances and delays of everything that goes wrong by itself.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Chance that one read of a stream, or one fetch, comes to nothing, in thousandths. It is tried again at the next poll.
    pub loss_permille: u32,
    /// Longest delay of one read, in milliseconds.
    pub delay_max_ms: u64,
    /// Chance that a node dies while it carries out one input's outputs, in ten-thousandths.
    pub crash_per_10k: u32,
    /// Chance that an operator is restarted at a reconcile or between two of its writes, in thousandths.
    pub operator_restart_permille: u32,
    /// Chance per block that a node goes away for up to thirty blocks, in thousandths, while no more than n−t are away.
    pub outage_permille: u32,
    /// Writes by which a node's watch may lag behind the API server.
    pub watch_lag_writes: u64,
    /// Chance per block that a second operator runs for up to ten blocks, in thousandths.
    pub second_operator_permille: u32,
    /// Chance per block that the API server is away for up to two blocks, in thousandths.
    pub api_outage_permille: u32,
    /// Chance per block that the chain stands still for up to five block times, in thousandths.
    pub stall_permille: u32,
}

impl Settings {
    /// A network that delays and nothing else goes wrong.
    pub const CALM: Self = Self {
        loss_permille: 0,
        delay_max_ms: 200,
        crash_per_10k: 0,
        operator_restart_permille: 0,
        outage_permille: 0,
        watch_lag_writes: 0,
        second_operator_permille: 0,
        api_outage_permille: 0,
        stall_permille: 0,
    };
    /// Everything goes wrong, seldom enough that rounds can succeed.
    pub const ROUGH: Self = Self {
        loss_permille: 200,
        delay_max_ms: 4_000,
        crash_per_10k: 500,
        operator_restart_permille: 50,
        outage_permille: 80,
        watch_lag_writes: 10,
        second_operator_permille: 30,
        api_outage_permille: 20,
        stall_permille: 20,
    };
}
