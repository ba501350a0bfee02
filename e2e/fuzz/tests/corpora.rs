//! Every input that was kept, through its target.

use std::fs;
use std::path::Path;

use keyfleet_fuzz::TARGETS;

/// Inputs that once reached new code break no promise: no panic, one encoding for each value, nobody honest is convicted.
#[test]
fn kept_inputs_break_no_promise() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpora");
    for (name, target) in TARGETS {
        let folder = corpora.join(name);
        let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut count = 0;
        for file in files.map(|file| file.expect("an entry").path()) {
            let bytes = fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            // The name of the input stands above whatever the target says.
            eprintln!("{}", file.display());
            target(&bytes);
            count += 1;
        }
        assert!(count > 0, "the target {name} has no input");
    }
    let known: Vec<_> = TARGETS.iter().map(|(name, _)| *name).collect();
    for folder in fs::read_dir(&corpora).expect("corpora").map(|folder| folder.expect("an entry").file_name()) {
        let name = folder.into_string().expect("plain names");
        assert!(known.contains(&name.as_str()), "corpora/{name} belongs to no target");
    }
}
