//! Writes `docs/keyfleet.md` into the checkout that is named.

mod reference;

fn main() -> std::io::Result<()> {
    let checkout = std::env::args_os().nth(1).expect("the checkout's folder is the argument");
    std::fs::write(std::path::Path::new(&checkout).join(reference::PATH), reference::reference())
}
