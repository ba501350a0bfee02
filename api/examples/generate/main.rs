//! Generates `api/src/generated` from `api/proto`; `cargo xtask codegen` runs it.
//!
//! An example and not a build script, so that nobody who builds Keyfleet builds a protobuf compiler first.

mod generation;

fn main() -> std::io::Result<()> {
    generation::generate().into_iter().try_for_each(|(file, content)| std::fs::write(file, content))
}
