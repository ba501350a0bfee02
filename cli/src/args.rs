//! The commands and their options. Their doc comments are the help, and the page `docs/keyfleet.md`.

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
  6  status --check: a fleet needs attention";

/// Show Keyfleet fleets; encrypt and decrypt, sign and verify with them
///
/// The nodes of a fleet hold its key together; nobody else holds it. Encrypting and verifying need the public key alone.
/// Decrypting and signing ask the nodes, and as many of them as the threshold says must allow it.
#[derive(Parser, Debug)]
#[command(name = "keyfleet", version, after_long_help = EXIT_CODES, max_term_width = 100)]
pub struct Cli {
    /// Kubernetes to connect to.
    #[command(flatten)]
    pub(crate) kube: KubeArgs,
    /// Command to run.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Kubernetes to connect to.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Kubernetes")]
pub(crate) struct KubeArgs {
    /// Path of the kubeconfig file; default: $KUBECONFIG, ~/.kube/config, or the pod's own ServiceAccount
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig to use; default: its current context
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// Namespace of the fleet; default: that of the context, in a pod that of the pod
    #[arg(long, short, global = true, value_name = "NAME", env = "KEYFLEET_NAMESPACE", hide_env_values = true)]
    pub(crate) namespace: Option<String>,
}

/// Command to run.
#[derive(Subcommand, Debug)]
#[non_exhaustive]
pub(crate) enum Command {
    /// Show fleets: ready nodes, active epoch, next boundary, problems and what to do
    Status(StatusArgs),
    /// Encrypt data to an identity
    ///
    /// Asks no node, and with --public-key or --record no API server. The data may have any size. Only the nodes together can
    /// derive the identity's key, for callers whom the fleet's access rules allow it.
    Encrypt(EncryptArgs),
    /// Decrypt data: the nodes derive the identity's key together, for this caller alone
    ///
    /// The output file appears once all data is decrypted and complete; after an error there is no file. On standard output data
    /// appears while it is decrypted. Each piece is authentic, but wait for exit code 0 before you use it: the end may be
    /// missing.
    Decrypt(DecryptArgs),
    /// Sign a message under a key name, with the nodes
    Sign(SignArgs),
    /// Verify a signature; asks no node
    Verify(VerifyArgs),
    /// Print a fleet's public key and record; `-o json` writes the file that --record reads
    PublicKey(ShowPublicKeyArgs),
    /// Print the volume that a pod needs to ask the nodes: the fleet's record, and a token for each node
    ///
    /// Put it below `volumes` of the pod and mount it at /var/run/secrets/keyfleet.dev. There `keyfleet` finds it, and does not
    /// use the API server. Nodes see the pod's ServiceAccount as the caller; the kubelet renews its tokens. A node that joins the
    /// fleet later has no token in this volume: print it again for new pods.
    PodVolume(PodVolumeArgs),
    /// Verify epochs
    #[command(subcommand)]
    Epoch(EpochCommand),
    /// Print a completion script for a shell
    ///
    /// For bash: `source <(keyfleet completion bash)`. To complete `kubectl keyfleet`, link this program as
    /// kubectl_complete-keyfleet into a folder of the PATH.
    Completion(CompletionArgs),
}

/// Fleet to work with.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Fleet")]
pub(crate) struct FleetArgs {
    /// Name of the KmsCluster; not needed where the namespace has only one
    #[arg(long, short, value_name = "NAME", env = "KEYFLEET_CLUSTER", hide_env_values = true)]
    pub(crate) cluster: Option<String>,
    /// Read the fleet's record from a file, instead of the ConfigMap CLUSTER-record: a file that `public-key -o json` wrote,
    /// or the ConfigMap's client.json mounted into a pod
    #[arg(long, value_name = "FILE", env = "KEYFLEET_RECORD", hide_env_values = true)]
    pub(crate) record: Option<PathBuf>,
    /// Folder where this pod mounts the volume that `pod-volume` prints: the fleet's record and tokens, instead of the API
    /// server; default: /var/run/secrets/keyfleet.dev, where it exists
    #[arg(
        long,
        value_name = "DIR",
        env = "KEYFLEET_MOUNT",
        hide_env_values = true,
        conflicts_with_all = ["cluster", "record"]
    )]
    pub(crate) mount: Option<PathBuf>,
}

/// Public key to use.
#[derive(Args, Debug, Default)]
pub(crate) struct PublicKeyArgs {
    /// The fleet's public key, 192 hexadecimal digits: then no API server is needed
    #[arg(long, value_name = "HEX", conflicts_with_all = ["cluster", "record", "mount"])]
    pub(crate) public_key: Option<PublicKey>,
    /// The fleet.
    #[command(flatten)]
    pub(crate) fleet: FleetArgs,
}

/// Route to the nodes, and limits of requests.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Nodes")]
pub(crate) struct NodeArgs {
    /// Ask as this ServiceAccount, NAME or NAMESPACE/NAME: requests a short-lived token for each node
    #[arg(
        long,
        value_name = "NAME",
        env = "KEYFLEET_SERVICE_ACCOUNT",
        hide_env_values = true,
        conflicts_with = "token_dir"
    )]
    pub(crate) service_account: Option<String>,
    /// Read the token for each node from the file DIR/INDEX: a projected volume of a pod, or tokens of another issuer. Each
    /// must be for the audience keyfleet.dev/CLUSTER_ID/INDEX of its node
    #[arg(long, value_name = "DIR", env = "KEYFLEET_TOKEN_DIR", hide_env_values = true)]
    pub(crate) token_dir: Option<PathBuf>,
    /// Route to the nodes
    #[arg(long, value_enum, default_value_t = Route::Auto)]
    pub(crate) via: Route,
    /// Address of a node, for --via direct; may be repeated; default: the host names inside the cluster. Use the node's port `kms`,
    /// for --transcript its port `round`
    #[arg(long, value_name = "INDEX=HOST:PORT", value_parser = address)]
    pub(crate) address: Vec<(u32, String)>,
    /// Check the nodes' certificates against these authorities, a bundle in PEM, instead of their pinned identity keys: for
    /// fleets whose spec.tls names your own certificate. The certificate must be valid for the address given with --address,
    /// otherwise for the host name of the node or the Service inside the cluster
    #[arg(long, value_name = "FILE", env = "KEYFLEET_CA_FILE", hide_env_values = true)]
    pub(crate) ca_file: Option<PathBuf>,
    /// Time to wait for the nodes, like 30s or 2m
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = time)]
    pub(crate) timeout: Option<Duration>,
}

/// Route to the nodes.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Route {
    /// `direct` in a pod or with --address, otherwise `port-forward`
    #[default]
    Auto,
    /// Through the API server: needs the rights `get` and `create` on pods/portforward
    PortForward,
    /// To the nodes' host names, or to --address
    Direct,
}

/// Output format.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OutputFormat {
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
pub(crate) struct StatusArgs {
    /// Name of the KmsCluster; default: all of the namespace
    pub(crate) cluster: Option<String>,
    /// Show the fleets of all namespaces
    #[arg(long, short = 'A')]
    pub(crate) all_namespaces: bool,
    /// Output format
    #[arg(long, short, value_enum, default_value_t = OutputFormat::Table)]
    pub(crate) output: OutputFormat,
    /// Exit with code 6 when a fleet needs attention
    #[arg(long)]
    pub(crate) check: bool,
}

/// `encrypt`
#[derive(Args, Debug)]
pub(crate) struct EncryptArgs {
    /// Identity to encrypt to, like backups/2026: access rules allow callers to derive its key
    #[arg(long, short, value_name = "NAME")]
    pub(crate) identity: String,
    /// File to encrypt; - is standard input
    #[arg(value_name = "FILE", default_value = "-")]
    pub(crate) input: PathBuf,
    /// File to write; - is standard output
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub(crate) to: PathBuf,
    /// The key.
    #[command(flatten)]
    pub(crate) key: PublicKeyArgs,
}

/// `decrypt`
#[derive(Args, Debug)]
pub(crate) struct DecryptArgs {
    /// File to decrypt; - is standard input
    #[arg(value_name = "FILE", default_value = "-")]
    pub(crate) input: PathBuf,
    /// File to write; - is standard output
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub(crate) to: PathBuf,
    /// The fleet.
    #[command(flatten)]
    pub(crate) fleet: FleetArgs,
    /// The nodes.
    #[command(flatten)]
    pub(crate) nodes: NodeArgs,
}

/// `sign`
#[derive(Args, Debug)]
pub(crate) struct SignArgs {
    /// Key name to sign under: access rules allow callers to use it. A signature under one name does not verify under another
    #[arg(long, short, value_name = "NAME")]
    pub(crate) key_name: String,
    /// File with the message, at most 1,000,000 bytes; - is standard input
    #[arg(value_name = "FILE", default_value = "-")]
    pub(crate) message: PathBuf,
    /// File to write; - is standard output
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub(crate) to: PathBuf,
    /// Output format; `table` writes the signature alone, 96 hexadecimal digits
    #[arg(long, short, value_enum, default_value_t = OutputFormat::Table)]
    pub(crate) output: OutputFormat,
    /// The fleet.
    #[command(flatten)]
    pub(crate) fleet: FleetArgs,
    /// The nodes.
    #[command(flatten)]
    pub(crate) nodes: NodeArgs,
}

/// `verify`
#[derive(Args, Debug)]
pub(crate) struct VerifyArgs {
    /// Key name under which the message was signed
    #[arg(long, short, value_name = "NAME")]
    pub(crate) key_name: String,
    /// Signature: 96 hexadecimal digits, or a file that `sign` wrote in any format
    #[arg(long, short, value_name = "HEX|FILE")]
    pub(crate) signature: String,
    /// File with the message; - is standard input
    #[arg(value_name = "FILE", default_value = "-")]
    pub(crate) message: PathBuf,
    /// Output format
    #[arg(long, short, value_enum, default_value_t = OutputFormat::Table)]
    pub(crate) output: OutputFormat,
    /// The key.
    #[command(flatten)]
    pub(crate) key: PublicKeyArgs,
}

/// `public-key`
#[derive(Args, Debug, Default)]
pub(crate) struct ShowPublicKeyArgs {
    /// The fleet.
    #[command(flatten)]
    pub(crate) fleet: FleetArgs,
    /// Output format; `table` writes the public key alone
    #[arg(long, short, value_enum, default_value_t = OutputFormat::Table)]
    pub(crate) output: OutputFormat,
}

/// `pod-volume`
#[derive(Args, Debug, Default)]
pub(crate) struct PodVolumeArgs {
    /// The fleet.
    #[command(flatten)]
    pub(crate) fleet: FleetArgs,
    /// Output format; `table` writes YAML
    #[arg(long, short, value_enum, default_value_t = OutputFormat::Yaml)]
    pub(crate) output: OutputFormat,
}

/// `epoch`
#[derive(Subcommand, Debug)]
pub(crate) enum EpochCommand {
    /// Verify a finished round under the fleet's public key: its plan, its certificate, its holders' public shares; with
    /// --transcript also every message that led there
    Verify(VerifyEpochArgs),
}

/// `epoch verify`
#[derive(Args, Debug)]
pub(crate) struct VerifyEpochArgs {
    /// Number of the epoch; default: the active one
    pub(crate) number: Option<u64>,
    /// Public key that the epoch must be of; default: that of the fleet's record
    #[arg(long, value_name = "HEX")]
    pub(crate) public_key: Option<PublicKey>,
    /// File with the KeyEpoch (JSON or YAML), instead of asking the API server
    #[arg(long, value_name = "FILE", conflicts_with = "number")]
    pub(crate) file: Option<PathBuf>,
    /// Verify the round itself as well, from the messages that its nodes signed. Asks the nodes, so the caller needs an access
    /// rule with the verb Observe. Nodes keep these messages until the epoch retires
    #[arg(long, conflicts_with = "file")]
    pub(crate) transcript: bool,
    /// Output format
    #[arg(long, short, value_enum, default_value_t = OutputFormat::Table)]
    pub(crate) output: OutputFormat,
    /// The fleet.
    #[command(flatten)]
    pub(crate) fleet: FleetArgs,
    /// The nodes, for --transcript.
    #[command(flatten)]
    pub(crate) nodes: NodeArgs,
}

/// `completion`
#[derive(Args, Debug)]
pub(crate) struct CompletionArgs {
    /// Shell to complete for
    pub(crate) shell: clap_complete::Shell,
}

impl NodeArgs {
    /// Returns the addresses that were given, by index.
    #[must_use]
    pub(crate) fn addresses(&self) -> BTreeMap<u32, String> {
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

fn time(text: &str) -> Result<Duration, &'static str> {
    const EXAMPLE: &str = "write a time like 30s or 2m";
    let time: jiff::SignedDuration = text.parse().map_err(|_| EXAMPLE)?;
    Duration::try_from(time).ok().filter(|time| !time.is_zero()).ok_or(EXAMPLE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_commands_are_consistent() {
        Cli::command().debug_assert();
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
