//! From `.proto` files to Rust, with a compiler written in Rust (no `protoc` needed).

use std::path::{Path, PathBuf};

use prost::Message as _;

const PROTOS: [&str; 2] = ["keyfleet/v1/kms.proto", "keyfleet/v1/round.proto"];

/// Returns the generated files, with the places where they are checked in.
pub(crate) fn generate() -> [(PathBuf, Vec<u8>); 2] {
    let protos = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let descriptors = protox::compile(PROTOS, [&protos]).unwrap_or_else(|error| panic!("{error:?}"));
    let checked_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/generated");
    let described = descriptors.encode_to_vec();
    let folder = std::env::temp_dir().join(format!("keyfleet-api-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a temporary folder");
    let generated = tonic_prost_build::configure()
        .out_dir(&folder)
        .compile_fds(descriptors)
        .and_then(|()| std::fs::read(folder.join("keyfleet.v1.rs")));
    std::fs::remove_dir_all(&folder).expect("our own folder");
    [
        (checked_in.join("keyfleet.v1.rs"), generated.expect("the descriptors compile")),
        (checked_in.join("keyfleet.v1.descriptors"), described),
    ]
}
