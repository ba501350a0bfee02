//! The generated code is what the protobuf says.

#[path = "../examples/generate/generation.rs"]
mod generation;

/// seed: 001-15
#[test]
fn generated_code_is_unchanged() {
    for (file, content) in generation::generate() {
        let checked_in = std::fs::read(&file).unwrap_or_default();
        assert!(
            checked_in == content,
            "{} differs from api/proto: run `cargo xtask codegen` and commit it",
            file.display()
        );
    }
}
