//! Writes `docs/keyfleet.md` and `manifests/samples/caller.yaml` into the checkout that is named.

mod reference;

fn main() -> std::io::Result<()> {
    let checkout = std::env::args_os().nth(1).expect("the checkout's folder is the argument");
    let checkout = std::path::Path::new(&checkout);
    std::fs::write(checkout.join(reference::SAMPLE), keyfleet_cli::pod_volume::sample())?;
    std::fs::write(checkout.join(reference::PATH), reference::reference())
}
