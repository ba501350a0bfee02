//! Writes the generated files: `keyfleet-crds-generate <root of the checkout>`.
#![expect(clippy::disallowed_methods, reason = "the generator writes files")]

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(root) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: keyfleet-crds-generate <root of the checkout>");
        return ExitCode::from(2);
    };
    for file in keyfleet_crds::generate::files() {
        let path = root.join(&file.path);
        let written =
            path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(&path, file.content));
        if let Err(error) = written {
            eprintln!("cannot write {}: {error}", path.display());
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
