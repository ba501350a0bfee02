//! Completion: the shells' scripts, and the answers that kubectl wants.
//!
//! kubectl (1.26 and newer) asks a plugin by running the program `kubectl_complete-<plugin>` with the words typed so far. It
//! expects candidates, a line each with a tab before the description, then a directive.

use std::fmt::Write as _;
use std::io;

use clap::builder::StyledStr;
use clap::{Arg, Command};

use crate::args::CompletionArgs;

/// Directive: the shell offers files as well.
const FILES: &str = ":0";
/// Directive: the shell offers nothing else.
const NOTHING_ELSE: &str = ":4";

/// Writes a completion script to standard output.
pub(crate) fn write_script(args: &CompletionArgs, mut command: Command) {
    let name = command.get_name().to_owned();
    clap_complete::generate(args.shell, &mut command, name, &mut io::stdout());
}

/// Answers kubectl: the words typed so far; the last one is being typed and may be empty.
pub(crate) fn answer(command: &Command, words: &[String]) -> String {
    let mut root = command.clone();
    root.build();
    let (typed, before) = words.split_last().map_or(("", [].as_slice()), |(typed, before)| (typed.as_str(), before));
    let mut command = &root;
    for word in before {
        command = command.find_subcommand(word).unwrap_or(command);
    }
    let option = before.last().and_then(|word| option_with_value(command, word));
    let (candidates, directive) = match option {
        Some(option) => values(option),
        None if typed.starts_with('-') => (options(command), NOTHING_ELSE),
        None if command.has_subcommands() => (subcommands(command), NOTHING_ELSE),
        None => positionals(command),
    };
    let mut answer = String::new();
    for (candidate, about) in candidates.iter().filter(|(candidate, _)| candidate.starts_with(typed)) {
        let _ = writeln!(answer, "{candidate}\t{}", about.lines().next().unwrap_or_default());
    }
    answer + directive + "\n"
}

/// A candidate and its description.
type Candidate = (String, String);

/// Returns the option that `word` names, if a value follows it.
fn option_with_value<'a>(command: &'a Command, word: &str) -> Option<&'a Arg> {
    command.get_arguments().filter(|argument| argument.get_action().takes_values()).find(|argument| {
        argument.get_long().is_some_and(|long| word.strip_prefix("--") == Some(long))
            || argument.get_short().is_some_and(|short| *word == format!("-{short}"))
    })
}

fn values(option: &Arg) -> (Vec<Candidate>, &'static str) {
    let values = possible_values(option);
    let directive = if values.is_empty() { FILES } else { NOTHING_ELSE };
    (values, directive)
}

fn options(command: &Command) -> Vec<Candidate> {
    let shown = command.get_arguments().filter(|argument| !argument.is_hide_set());
    shown.filter_map(|argument| Some((format!("--{}", argument.get_long()?), text(argument.get_help())))).collect()
}

fn subcommands(command: &Command) -> Vec<Candidate> {
    command.get_subcommands().map(|sub| (sub.get_name().to_owned(), text(sub.get_about()))).collect()
}

fn positionals(command: &Command) -> (Vec<Candidate>, &'static str) {
    let values = command.get_positionals().flat_map(possible_values).collect();
    let directive = if command.get_positionals().any(takes_file) { FILES } else { NOTHING_ELSE };
    (values, directive)
}

fn possible_values(argument: &Arg) -> Vec<Candidate> {
    let values = argument.get_possible_values();
    values.iter().map(|value| (value.get_name().to_owned(), text(value.get_help()))).collect()
}

fn takes_file(argument: &Arg) -> bool {
    argument.get_value_names().is_some_and(|names| names[0] == "FILE")
}

fn text(about: Option<&StyledStr>) -> String {
    about.map(ToString::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn offered(words: &[&str]) -> String {
        let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
        answer(&crate::args::Cli::command(), &words)
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
