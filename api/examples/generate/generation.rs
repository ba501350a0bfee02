//! From `.proto` files to Rust, with a compiler written in Rust (no `protoc` needed).

use std::path::{Path, PathBuf};

const PROTOS: [&str; 2] = ["keyfleet/v1/kms.proto", "keyfleet/v1/round.proto"];

/// Where the generated code is checked in.
pub(crate) fn generated_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/generated/keyfleet.v1.rs")
}

/// The generated code.
pub(crate) fn generate() -> String {
    let protos = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let descriptors = protox::compile(PROTOS, [&protos]).unwrap_or_else(|error| panic!("{error:?}"));
    let folder = std::env::temp_dir().join(format!("keyfleet-api-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a temporary folder");
    let generated = tonic_prost_build::configure()
        .out_dir(&folder)
        .compile_fds(descriptors)
        .and_then(|()| std::fs::read_to_string(folder.join("keyfleet.v1.rs")));
    std::fs::remove_dir_all(&folder).expect("our own folder");
    generated.expect("the descriptors compile")
}
