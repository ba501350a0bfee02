//! The commands of everyone who works on Keyfleet.
fn main() {}
