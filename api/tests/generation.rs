//! The generated code is what the protobuf says.

#[path = "../examples/generate/generation.rs"]
mod generation;

/// seed: 001-15
#[test]
fn generated_code_is_unchanged() {
    let checked_in = std::fs::read_to_string(generation::generated_file()).unwrap_or_default();
    assert!(
        checked_in == generation::generate(),
        "api/src/generated/keyfleet.v1.rs differs from api/proto: run `cargo xtask codegen` and commit it"
    );
}
