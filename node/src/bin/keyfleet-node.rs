//! The node's process.
fn main() {}
