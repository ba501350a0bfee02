//! Completion for kubectl (1.26 and newer), which asks a plugin for it: a program `kubectl_complete-<plugin>` is given the
//! words typed so far, and answers candidates, a line each with a tab before the description, then a directive.

use std::fmt::Write as _;

/// Let the shell offer files.
const FILES: &str = ":0";
/// Offer nothing else.
const NOTHING_ELSE: &str = ":4";

/// The answer to the words typed so far; the last one is being typed and may be empty.
#[must_use]
pub fn answer(command: &clap::Command, words: &[String]) -> String {
    let mut root = command.clone();
    root.build();
    let (typed, before) = words.split_last().map_or(("", [].as_slice()), |(typed, before)| (typed.as_str(), before));
    let mut command = &root;
    for word in before {
        command = command.find_subcommand(word).unwrap_or(command);
    }
    let mut answer = String::new();
    let mut offer = |candidate: &str, about: String| {
        if candidate.starts_with(typed) {
            let _ = writeln!(answer, "{candidate}\t{}", about.lines().next().unwrap_or_default());
        }
    };
    let told = |about: Option<&clap::builder::StyledStr>| about.map(ToString::to_string).unwrap_or_default();
    let values_of = before.last().and_then(|word| {
        let takes = |argument: &&clap::Arg| argument.get_action().takes_values();
        let named = |argument: &&clap::Arg| {
            argument.get_long().is_some_and(|long| word.strip_prefix("--") == Some(long))
                || argument.get_short().is_some_and(|short| *word == format!("-{short}"))
        };
        command.get_arguments().filter(takes).find(named)
    });
    let mut directive = NOTHING_ELSE;
    if let Some(argument) = values_of {
        let values = argument.get_possible_values();
        if values.is_empty() {
            directive = FILES;
        }
        for value in values {
            offer(value.get_name(), told(value.get_help()));
        }
    } else if typed.starts_with('-') {
        for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
            if let Some(long) = argument.get_long() {
                offer(&format!("--{long}"), told(argument.get_help()));
            }
        }
    } else if command.has_subcommands() {
        for sub in command.get_subcommands() {
            offer(sub.get_name(), told(sub.get_about()));
        }
    } else {
        for value in command.get_positionals().flat_map(clap::Arg::get_possible_values) {
            offer(value.get_name(), told(value.get_help()));
        }
        let takes_files = |argument: &clap::Arg| argument.get_value_names().is_some_and(|names| names[0] == "FILE");
        if command.get_positionals().any(takes_files) {
            directive = FILES;
        }
    }
    answer + directive + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn offered(words: &[&str]) -> String {
        let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
        answer(&crate::arguments::Arguments::command(), &words)
    }

    #[test]
    fn kubectl_is_offered_commands_options_and_values() {
        assert_eq!(offered(&["stat"]).lines().next().map(|line| line.split('\t').next()), Some(Some("status")));
        assert!(offered(&["epoch", ""]).starts_with("verify\t"), "commands of commands");
        assert!(offered(&["decrypt", "--serv"]).starts_with("--service-account\t"));
        assert!(offered(&["decrypt", "--name"]).starts_with("--namespace\t"), "options of every command");
        assert!(offered(&["status", "-o", ""]).starts_with("table\t"), "values of an option");
        assert!(offered(&["completion", "b"]).starts_with("bash"));
        assert!(offered(&["decrypt", ""]).ends_with(":0\n"), "files where files are meant");
        assert!(offered(&["status", "--check", ""]).ends_with(":4\n"), "and nowhere else");
    }
}
