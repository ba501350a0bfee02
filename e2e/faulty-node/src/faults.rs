//! Faults on demand, from the environment of the image `keyfleet/node-faults`.
//!
//! | variable | says | example |
//! |---|---|---|
//! | `KEYFLEET_DANGER_DIE_AT` | `<index>:<step>[@<said>]`, … | `2:Commit@Prepared,3:Published@Dealing` |
//! | `KEYFLEET_DANGER_DEALER` | `<index>:bad-share`, `mute`, `equivocate` or `wrong-source`, … | `3:mute` |
//! | `KEYFLEET_DANGER_FROM` | faults begin with this attempt number; default 1 | `2` |
//!
//! They are set through `spec.podTemplate.env`, so every node of a fleet has the same ones; the index says whose they are. A
//! barrier is a [`Step`] of the order of durability, once it is done for outputs that say such a message (`Dealing`, `Have`,
//! `Response`, `Prepared`, `Partial`, `Holds`, `Erased`, `Heard`), or for any. The process dies there once: a file on the volume
//! remembers it, and `/status` shows it under `danger`.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use keyfleet_adversary::Behaviour;
use keyfleet_node::fault_injection::FaultInjection;
use keyfleet_node::round::persist::{Barrier, Persister, Step};
use keyfleet_threshold::identifiers::{EpochNumber, NodeIndex};
use keyfleet_threshold::round::{MessageKind, Outputs, Participant, SignedMessage};

use crate::byzantine::Byzantine;

const DIE_AT: &str = "KEYFLEET_DANGER_DIE_AT";
const DEALER: &str = "KEYFLEET_DANGER_DEALER";
const FROM: &str = "KEYFLEET_DANGER_FROM";

/// The file on the volume: one line per death.
const DIED: &str = "danger-died";

/// As the kernel's when it kills: nothing was cleaned up.
const EXIT_CODE: i32 = 137;

const STEPS: [Step; 7] =
    [Step::KeyStores, Step::Bundles, Step::Commit, Step::Acknowledged, Step::Floor, Step::Published, Step::Destroyed];

/// Kinds of messages at which a barrier can be set.
const SAID: [MessageKind; 8] = [
    MessageKind::Dealing,
    MessageKind::Have,
    MessageKind::Response,
    MessageKind::Prepared,
    MessageKind::Partial,
    MessageKind::Holds,
    MessageKind::Erased,
    MessageKind::Heard,
];

/// A variable says nothing that could be done.
#[derive(Debug, thiserror::Error)]
#[error("{variable}: `{item}` is not of the form {form}")]
pub(crate) struct FaultsError {
    variable: &'static str,
    item: String,
    form: &'static str,
}

/// Faults of one node.
pub(crate) struct Faults {
    deaths: Vec<Death>,
    behaviour: Behaviour,
    from: EpochNumber,
    file: PathBuf,
}

/// A barrier that kills.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Death {
    step: Step,
    says: Option<MessageKind>,
}

impl std::fmt::Display for Death {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.step)?;
        self.says.map_or(Ok(()), |kind| write!(f, "@{kind:?}"))
    }
}

impl Faults {
    /// Reads the faults that the environment names for the node `index`, whose volume is at `data`.
    ///
    /// # Errors
    /// What is written wrong, for whichever node: a scenario that asks for nothing would prove nothing.
    pub(crate) fn read(
        environment: impl Fn(&str) -> Option<String>,
        index: NodeIndex,
        data: &Path,
    ) -> Result<Self, FaultsError> {
        let mut faults =
            Self { deaths: Vec::new(), behaviour: Behaviour::Honest, from: EpochNumber(1), file: data.join(DIED) };
        let items = |variable| {
            let text = environment(variable).unwrap_or_default();
            text.split(',').filter(|item| !item.is_empty()).map(str::to_owned).collect::<Vec<_>>()
        };
        for item in items(DIE_AT) {
            let form = "<index>:<step>[@<said>], a step like Commit and what is said like Prepared";
            let malformed = || FaultsError { variable: DIE_AT, item: item.clone(), form };
            let (whose, death) = item.split_once(':').ok_or_else(malformed)?;
            let death = parse_death(death).ok_or_else(malformed)?;
            if whose.parse().map_err(|_| malformed()).map(NodeIndex::new)? == Some(index) {
                faults.deaths.push(death);
            }
        }
        for item in items(DEALER) {
            let form = "<index>:bad-share, mute, equivocate or wrong-source";
            let malformed = || FaultsError { variable: DEALER, item: item.clone(), form };
            let (whose, lie) = item.split_once(':').ok_or_else(malformed)?;
            let behaviour = parse_behaviour(lie, index).ok_or_else(malformed)?;
            if whose.parse().map_err(|_| malformed()).map(NodeIndex::new)? == Some(index) {
                faults.behaviour = behaviour;
            }
        }
        for item in items(FROM) {
            let malformed = |_| FaultsError { variable: FROM, item: item.clone(), form: "an attempt's number" };
            faults.from = item.parse().map(EpochNumber).map_err(malformed)?;
        }
        Ok(faults)
    }
}

impl FaultInjection for Faults {
    fn died(&self) -> Vec<String> {
        fs::read_to_string(&self.file).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    fn install(self: Box<Self>, persister: &mut Persister) {
        if let (true, Some(key)) = (self.behaviour != Behaviour::Honest, persister.identity_key()) {
            tracing::warn!(behaviour = ?self.behaviour, from = self.from.0, "danger: this node lies when it deals");
            let mut byzantine = Byzantine::new(self.behaviour, self.from, key);
            persister.danger_set_byzantine(Box::new(move |honest, participant| byzantine.bend(honest, participant)));
        }
        let before = self.died();
        let deaths: Vec<_> = self.deaths.into_iter().filter(|death| !before.contains(&death.to_string())).collect();
        if !deaths.is_empty() {
            persister.danger_set_barrier(barrier(deaths, self.from, self.file));
        }
    }
}

/// Kills the process at the first of its deaths, which is durable before.
fn barrier(deaths: Vec<Death>, from: EpochNumber, file: PathBuf) -> Barrier {
    Box::new(move |step, outputs, participant| {
        let Some(death) = deaths.iter().find(|death| death.is_due(step, outputs, participant, from)) else {
            return false;
        };
        if let Err(error) = note(&file, death) {
            // Without the note it would die again and again.
            tracing::error!(%error, "danger: the volume does not take the note of a death; it is put off");
            return false;
        }
        let highest = participant.state().highest.0;
        tracing::error!(at = %death, attempt = highest, "danger: this process dies at its barrier");
        std::process::exit(EXIT_CODE)
    })
}

fn note(file: &Path, death: &Death) -> std::io::Result<()> {
    let mut file = fs::OpenOptions::new().create(true).append(true).open(file)?;
    writeln!(file, "{death}")?;
    file.sync_all()
}

impl Death {
    fn is_due(&self, step: Step, outputs: &Outputs, participant: &Participant, from: EpochNumber) -> bool {
        let state = participant.state();
        let number = |message: &SignedMessage| {
            let mut attempts = state.attempts.iter();
            attempts.find(|(_, attempt)| attempt.plan.digest() == message.plan).map(|(number, _)| *number)
        };
        let said = |kind: MessageKind| {
            outputs.say.iter().any(|message| message.body.kind() == kind && number(message).is_some_and(|n| n >= from))
        };
        step == self.step && self.says.map_or(state.highest >= from, said)
    }
}

fn parse_death(text: &str) -> Option<Death> {
    let (step, says) = text.split_once('@').map_or((text, None), |(step, says)| (step, Some(says)));
    let step = STEPS.into_iter().find(|known| format!("{known:?}") == step)?;
    let says = match says {
        None => None,
        Some(says) => Some(SAID.into_iter().find(|kind| format!("{kind:?}") == says)?),
    };
    Some(Death { step, says })
}

fn parse_behaviour(text: &str, index: NodeIndex) -> Option<Behaviour> {
    // Somebody else: a node opens its own share well.
    let victim = NodeIndex::new(if index.value() == 1 { 2 } else { 1 })?;
    Some(match text {
        "bad-share" => Behaviour::LyingDealer { victim },
        "mute" => Behaviour::MuteDealer,
        "equivocate" => Behaviour::Equivocator,
        "wrong-source" => Behaviour::ForeignConstant,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(index: u32, variables: &[(&str, &str)]) -> Result<Faults, FaultsError> {
        let lookup =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        Faults::read(lookup, NodeIndex::new(index).unwrap(), Path::new("/nowhere"))
    }

    #[test]
    fn faults_are_those_of_the_node_that_is_named_and_of_no_other() {
        let variables = [
            (DIE_AT, "2:Commit@Prepared,3:Published@Dealing,2:KeyStores"),
            (DEALER, "3:mute,1:bad-share"),
            (FROM, "2"),
        ];
        let second = read(2, &variables).unwrap();
        let deaths: Vec<_> = second.deaths.iter().map(ToString::to_string).collect();
        assert_eq!((deaths, second.behaviour), (vec!["Commit@Prepared".into(), "KeyStores".into()], Behaviour::Honest));
        assert_eq!((second.from, second.died()), (EpochNumber(2), Vec::new()));
        let third = read(3, &variables).unwrap();
        assert_eq!((third.deaths.len(), third.behaviour), (1, Behaviour::MuteDealer));
        let first = read(1, &variables).unwrap();
        let victim = NodeIndex::new(2).unwrap();
        assert_eq!((first.deaths.len(), first.behaviour), (0, Behaviour::LyingDealer { victim }));
    }

    #[test]
    fn a_malformed_fault_keeps_every_node_from_starting() {
        for (variable, value) in [
            (DIE_AT, "Commit"),
            (DIE_AT, "x:Commit"),
            (DIE_AT, "2:Committed"),
            (DIE_AT, "2:Commit@Nothing"),
            (DEALER, "2:kind"),
            (DEALER, "mute"),
            (FROM, "soon"),
        ] {
            let error = read(1, &[(variable, value)]).err().unwrap_or_else(|| panic!("{variable}={value} passed"));
            assert!(error.to_string().contains(value), "{error}");
        }
    }
}
