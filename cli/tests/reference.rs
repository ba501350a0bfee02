//! The reference page is what the help says.

#[path = "../examples/generate/reference.rs"]
mod reference;

#[test]
fn the_reference_of_the_commands_is_their_help() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../");
    let page = std::fs::read_to_string(format!("{path}{}", reference::PATH)).unwrap_or_default();
    assert!(page == reference::reference(), "{} is stale; write it with: cargo xtask codegen", reference::PATH);
}

#[test]
fn the_sample_of_a_callers_pod_is_what_the_command_prints() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../");
    let sample = std::fs::read_to_string(format!("{path}{}", reference::SAMPLE)).unwrap_or_default();
    assert!(
        sample == keyfleet_cli::pod_volume::sample(),
        "{} is stale; write it with: cargo xtask codegen",
        reference::SAMPLE
    );
}
