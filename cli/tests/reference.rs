//! The reference page is what the help says.

#[path = "../examples/generate/reference.rs"]
mod reference;

#[test]
fn the_reference_of_the_commands_is_their_help() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../");
    let page = std::fs::read_to_string(format!("{path}{}", reference::PATH)).unwrap_or_default();
    assert!(page == reference::reference(), "{} is stale; write it with: cargo xtask codegen", reference::PATH);
}
