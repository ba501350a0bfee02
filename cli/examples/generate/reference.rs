//! The reference of the commands, from their own help.

use clap::CommandFactory as _;

/// Where it stands in the checkout.
pub(crate) const PATH: &str = "docs/keyfleet.md";
/// Where the sample of a caller's pod stands.
pub(crate) const SAMPLE: &str = "manifests/samples/caller.yaml";

pub(crate) fn reference() -> String {
    let mut text = String::from(
        "# The commands of users\n\nGenerated from the commands' own help by `cargo xtask codegen`. The same program, installed \
         as `kubectl-keyfleet`, is `kubectl keyfleet`.\n",
    );
    let mut command = keyfleet_cli::args::Cli::command();
    command.build();
    describe(&mut command, "keyfleet", &mut text);
    text
}

fn describe(command: &mut clap::Command, name: &str, text: &mut String) {
    let help = command.clone().bin_name(name).term_width(100).render_long_help().to_string();
    let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
    *text += &format!("\n## `{name}`\n\n```text\n{}\n```\n", lines.join("\n").trim_end());
    let shown = command.get_subcommands().filter(|sub| sub.get_name() != "help");
    let names: Vec<String> = shown.map(|sub| sub.get_name().to_owned()).collect();
    for sub in names {
        if let Some(found) = command.find_subcommand_mut(&sub) {
            describe(found, &format!("{name} {sub}"), text);
        }
    }
}
