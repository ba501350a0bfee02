//! The commands and their options. What stands here is the help, and the page made of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use keyfleet_crds::values::PublicKey;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  a file, the API server or the program itself failed
  2  wrong usage
  3  too few nodes answered in time; trying again may help
  4  nodes refused: the token or the access rules; trying again does not help
  5  a signature, an epoch or encrypted data does not verify
  6  status --check: something needs a look";

/// Look at Keyfleet's fleets, encrypt and decrypt, sign and verify
///
/// A fleet's key is held by its nodes together and by nobody else. Encrypting and verifying need only the public key;
/// decrypting and signing ask the nodes, threshold of which must allow it.
#[derive(Parser, Debug)]
#[command(name = "keyfleet", version, after_long_help = EXIT_CODES, max_term_width = 100)]
pub struct Arguments {
    /// The cluster.
    #[command(flatten)]
    pub kubernetes: Kubernetes,
    /// Command to run.
    #[command(subcommand)]
    pub command: Command,
}

/// Kubernetes to connect to.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Kubernetes")]
pub struct Kubernetes {
    /// The kubeconfig file; otherwise $KUBECONFIG, ~/.kube/config, or the pod's own ServiceAccount
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// The namespace; otherwise the context's, in a pod the pod's
    #[arg(long, short, global = true, value_name = "NAME", env = "KEYFLEET_NAMESPACE", hide_env_values = true)]
    pub namespace: Option<String>,
}

/// Command to run.
#[derive(Subcommand, Debug)]
#[non_exhaustive]
pub enum Command {
    /// Show fleets: who is ready, which epoch, next boundary, what is wrong and what to do
    Status(Status),
    /// Encrypt data to an identity
    ///
    /// Needs no node, and with --public-key or --record nothing at all. Data of any size; only the nodes together can make
    /// the identity's key, for callers whom the fleet's access rules allow to derive it.
    Encrypt(Encrypt),
    /// Decrypt data: the nodes make the identity's key together, for this caller alone
    ///
    /// The output file appears when all data was decrypted and found whole, or not at all. On standard output data appears
    /// as it is decrypted, each piece authentic: wait for the exit code before acting on it.
    Decrypt(Decrypt),
    /// Sign a message under a key name: the nodes sign together
    Sign(Sign),
    /// Verify a signature, without any node
    Verify(Verify),
    /// Print a fleet's public facts; as JSON they are what --record takes
    PublicKey(ShowPublicKey),
    /// Print the volume with which a pod asks the nodes: public facts, and a token for each node
    ///
    /// Put it below `volumes` of the pod and mount it at /var/run/secrets/keyfleet.dev: there `keyfleet` finds it by itself
    /// and asks the API server for nothing. The pod's ServiceAccount is who asks; the kubelet renews its tokens. Nodes that join
    /// the fleet later are asked by pods made later.
    PodVolume(PodVolume),
    /// Check epochs
    #[command(subcommand)]
    Epoch(Epoch),
    /// Print a completion script for a shell
    ///
    /// For bash: `source <(keyfleet completion bash)`. kubectl completes `kubectl keyfleet` when a link to this program is named
    /// kubectl_complete-keyfleet and is in the PATH.
    Completion(Completion),
}

/// Fleet to work with.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Fleet")]
pub struct Which {
    /// The KmsCluster; not needed where the namespace has only one
    #[arg(long, short, value_name = "NAME", env = "KEYFLEET_CLUSTER", hide_env_values = true)]
    pub cluster: Option<String>,
    /// The fleet's public facts in a file, instead of the ConfigMap CLUSTER-record: what `public-key -o json` prints, or
    /// the ConfigMap's client.json mounted into a pod
    #[arg(long, value_name = "FILE", env = "KEYFLEET_RECORD", hide_env_values = true)]
    pub record: Option<PathBuf>,
    /// The volume that `pod-volume` prints, mounted in this pod: public facts and tokens; the API server is asked for
    /// nothing. Found by itself at /var/run/secrets/keyfleet.dev
    #[arg(
        long,
        value_name = "DIR",
        env = "KEYFLEET_MOUNT",
        hide_env_values = true,
        conflicts_with_all = ["cluster", "record"]
    )]
    pub mount: Option<PathBuf>,
}

/// Public key to use.
#[derive(Args, Debug, Default)]
pub struct WhichKey {
    /// The fleet's public key, 192 hexadecimal digits: then nothing else is asked
    #[arg(long, value_name = "HEX", conflicts_with_all = ["cluster", "record", "mount"])]
    pub public_key: Option<PublicKey>,
    /// The fleet.
    #[command(flatten)]
    pub which: Which,
}

/// Route to the nodes, and limits of requests.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Nodes")]
pub struct Reach {
    /// Ask as this ServiceAccount, NAME or NAMESPACE/NAME: a short-lived token is requested for each node
    #[arg(
        long,
        value_name = "NAME",
        env = "KEYFLEET_SERVICE_ACCOUNT",
        hide_env_values = true,
        conflicts_with = "token_dir"
    )]
    pub service_account: Option<String>,
    /// Take tokens from files DIR/INDEX, each for the audience keyfleet.dev/CLUSTER_ID/INDEX of its node: projected volumes
    /// of a pod, or tokens of another issuer
    #[arg(long, value_name = "DIR", env = "KEYFLEET_TOKEN_DIR", hide_env_values = true)]
    pub token_dir: Option<PathBuf>,
    /// Route to the nodes
    #[arg(long, value_enum, default_value_t = Via::Auto)]
    pub via: Via,
    /// A node's address, for --via direct; may be repeated. Otherwise the host names inside the cluster. Its port is `kms`, for a
    /// transcript `round`
    #[arg(long, value_name = "INDEX=HOST:PORT", value_parser = address)]
    pub address: Vec<(u32, String)>,
    /// Know nodes by certificates of these authorities, a bundle in PEM, in the place of their pinned identities: where the
    /// KmsCluster's spec.tls names your own certificate. It has to be valid for the address that is given, or for the host
    /// name of the node or the Service inside the cluster
    #[arg(long, value_name = "FILE", env = "KEYFLEET_CA_FILE", hide_env_values = true)]
    pub ca_file: Option<PathBuf>,
    /// Time to wait for the nodes, like 30s or 2m
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = time)]
    pub timeout: Option<Duration>,
}

/// Route to the nodes.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Via {
    /// direct in a pod or with --address, otherwise port-forward
    #[default]
    Auto,
    /// Through the API server: needs `create` on pods/portforward
    PortForward,
    /// By their host names, or by --address
    Direct,
}

/// Output format.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Format {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
    /// For programs and people
    Yaml,
}

/// `status`
#[derive(Args, Debug, Default)]
pub struct Status {
    /// The KmsCluster; otherwise all of the namespace
    pub cluster: Option<String>,
    /// Of all namespaces
    #[arg(long, short = 'A')]
    pub all_namespaces: bool,
    /// Output format
    #[arg(long, short, value_enum, default_value_t = Format::Table)]
    pub output: Format,
    /// Exit with code 6 when something needs a look
    #[arg(long)]
    pub check: bool,
}

/// `encrypt`
#[derive(Args, Debug)]
pub struct Encrypt {
    /// Whom to encrypt to: the name that access rules allow or refuse, like backups/2026
    #[arg(long, short, value_name = "NAME")]
    pub identity: String,
    /// The data; - is standard input
    #[arg(value_name = "FILE", default_value = "-")]
    pub input: PathBuf,
    /// Where to write; - is standard output
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub to: PathBuf,
    /// The key.
    #[command(flatten)]
    pub key: WhichKey,
}

/// `decrypt`
#[derive(Args, Debug)]
pub struct Decrypt {
    /// The encrypted data; - is standard input
    #[arg(value_name = "FILE", default_value = "-")]
    pub input: PathBuf,
    /// Where to write; - is standard output
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub to: PathBuf,
    /// The fleet.
    #[command(flatten)]
    pub which: Which,
    /// The nodes.
    #[command(flatten)]
    pub reach: Reach,
}

/// `sign`
#[derive(Args, Debug)]
pub struct Sign {
    /// The key's name, which access rules allow or refuse; a signature under one name does not verify under another
    #[arg(long, short, value_name = "NAME")]
    pub key_name: String,
    /// The message, at most 1,000,000 bytes; - is standard input
    #[arg(value_name = "FILE", default_value = "-")]
    pub message: PathBuf,
    /// Where to write; - is standard output
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub to: PathBuf,
    /// Output format: table is the signature alone, 96 hexadecimal digits
    #[arg(long, short, value_enum, default_value_t = Format::Table)]
    pub output: Format,
    /// The fleet.
    #[command(flatten)]
    pub which: Which,
    /// The nodes.
    #[command(flatten)]
    pub reach: Reach,
}

/// `verify`
#[derive(Args, Debug)]
pub struct Verify {
    /// The key's name under which the message was signed
    #[arg(long, short, value_name = "NAME")]
    pub key_name: String,
    /// The signature: 96 hexadecimal digits, or a file that `sign` wrote in any format
    #[arg(long, short, value_name = "HEX|FILE")]
    pub signature: String,
    /// The message; - is standard input
    #[arg(value_name = "FILE", default_value = "-")]
    pub message: PathBuf,
    /// Output format
    #[arg(long, short, value_enum, default_value_t = Format::Table)]
    pub output: Format,
    /// The key.
    #[command(flatten)]
    pub key: WhichKey,
}

/// `public-key`
#[derive(Args, Debug, Default)]
pub struct ShowPublicKey {
    /// The fleet.
    #[command(flatten)]
    pub which: Which,
    /// Output format: table is the public key alone
    #[arg(long, short, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

/// `pod-volume`
#[derive(Args, Debug, Default)]
pub struct PodVolume {
    /// The fleet.
    #[command(flatten)]
    pub which: Which,
    /// Output format: table is YAML
    #[arg(long, short, value_enum, default_value_t = Format::Yaml)]
    pub output: Format,
}

/// `epoch`
#[derive(Subcommand, Debug)]
pub enum Epoch {
    /// Check a finished round: its certificate, its holders' public shares and its plan, under the fleet's public key; with
    /// --transcript every message that led there
    Verify(VerifyEpoch),
}

/// `epoch verify`
#[derive(Args, Debug)]
pub struct VerifyEpoch {
    /// The epoch's number; otherwise the active one
    pub number: Option<u64>,
    /// The public key that the epoch must be of; otherwise that of the cluster's record
    #[arg(long, value_name = "HEX")]
    pub public_key: Option<PublicKey>,
    /// The KeyEpoch in a file (JSON or YAML), instead of asking the API server
    #[arg(long, value_name = "FILE", conflicts_with = "number")]
    pub file: Option<PathBuf>,
    /// Check the round itself as well, from the messages that its nodes signed: they are asked, so the caller needs a rule with
    /// the verb Observe. Nodes keep them until the epoch retires
    #[arg(long, conflicts_with = "file")]
    pub transcript: bool,
    /// Output format
    #[arg(long, short, value_enum, default_value_t = Format::Table)]
    pub output: Format,
    /// The fleet.
    #[command(flatten)]
    pub which: Which,
    /// The nodes, for --transcript.
    #[command(flatten)]
    pub reach: Reach,
}

/// `completion`
#[derive(Args, Debug)]
pub struct Completion {
    /// The shell
    pub shell: clap_complete::Shell,
}

/// Writes a completion script to standard output.
pub fn complete(completion: &Completion, mut command: clap::Command) {
    let name = command.get_name().to_owned();
    clap_complete::generate(completion.shell, &mut command, name, &mut std::io::stdout());
}

impl Reach {
    /// The addresses that were given, by index.
    #[must_use]
    pub fn addresses(&self) -> BTreeMap<u32, String> {
        self.address.iter().cloned().collect()
    }
}

fn address(text: &str) -> Result<(u32, String), String> {
    let (index, address) = text.split_once('=').ok_or("write INDEX=HOST:PORT, like 1=127.0.0.1:7443")?;
    let index = index.parse().ok().filter(|index| *index > 0).ok_or("the index is a number from 1")?;
    if address.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
        return Err("the address has no port: write HOST:PORT".to_owned());
    }
    Ok((index, address.to_owned()))
}

fn time(text: &str) -> Result<Duration, String> {
    let wrong = || "write a time like 30s or 2m".to_owned();
    let time: jiff::SignedDuration = text.parse().map_err(|_| wrong())?;
    Duration::try_from(time).ok().filter(|time| !time.is_zero()).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_commands_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn addresses_and_times_are_read_or_refused_with_an_example() {
        assert_eq!(address("2=host:7443"), Ok((2, "host:7443".to_owned())));
        for wrong in ["2", "0=host:1", "x=host:1", "2=host", "2=host:x"] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
        assert_eq!(time("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(time("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["", "0s", "-3s", "soon"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }
}
