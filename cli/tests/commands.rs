//! The program itself, as a process, beside four real nodes.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;
use std::process::Stdio;

use keyfleet_api::tls::PlatformCertificate;
use keyfleet_api::wire;
use keyfleet_test_fleet::serving::{CALLER, Fleet, token};
use keyfleet_threshold::identifiers::ClusterId;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

struct Desk {
    fleet: Fleet,
    folder: TempDir,
}

struct Ended {
    code: i32,
    out: Vec<u8>,
    said: String,
}

impl Desk {
    async fn new() -> Self {
        let desk = Self { fleet: Fleet::start(4).await, folder: tempfile::tempdir().unwrap() };
        let mut record = serde_json::to_value(desk.fleet.record()).unwrap();
        record["format"] = 1.into();
        desk.write("client.json", record.to_string().as_bytes());
        std::fs::create_dir(desk.folder.path().join("tokens")).unwrap();
        desk.tokens(CALLER);
        desk
    }

    fn tokens(&self, subject: &str) {
        let record = self.fleet.record();
        for node in &record.nodes {
            let token = token(subject, &wire::audience(ClusterId(record.cluster_id.0), node.index));
            self.write(&format!("tokens/{}", node.index), token.as_bytes());
        }
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.folder.path().join(name), bytes).unwrap();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.folder.path().join(name)).unwrap()
    }

    /// Runs the program in the folder, with `input` in a pipe.
    async fn run(&self, arguments: &[&str], input: &[u8]) -> Ended {
        run(self.folder.path(), arguments, input).await
    }

    /// The same, with all that is needed to ask the nodes.
    async fn ask(&self, arguments: &[&str], input: &[u8]) -> Ended {
        let addresses = self.fleet.callers.iter().map(|(node, address)| format!("--address={node}={address}"));
        let addresses: Vec<_> = addresses.collect();
        let mut all = arguments.to_vec();
        all.extend(["--record=client.json", "--token-dir=tokens"]);
        all.extend(addresses.iter().map(String::as_str));
        self.run(&all, input).await
    }
}

async fn run(folder: &Path, arguments: &[&str], input: &[u8]) -> Ended {
    let mut child = Command::new(env!("CARGO_BIN_EXE_keyfleet"))
        .args(arguments)
        .current_dir(folder)
        .env_remove("KUBECONFIG")
        .env_remove("KUBERNETES_SERVICE_HOST")
        .env("HOME", folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // A program that does not read its input may be gone before it is written.
    let feed = tokio::spawn(async move {
        let _ = stdin.write_all(&input).await;
    });
    let ended = child.wait_with_output().await.unwrap();
    feed.abort();
    Ended { code: ended.status.code().unwrap_or(-1), out: ended.stdout, said: String::from_utf8(ended.stderr).unwrap() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_goes_through_files_and_pipes_and_comes_back() {
    let desk = Desk::new().await;
    let data: Vec<u8> = (0..200_000_u32).map(|i| u8::try_from(i % 253).unwrap()).collect();
    desk.write("plain", &data);
    let ended = desk.run(&["encrypt", "--record=client.json", "-i", "backups/1", "plain", "--to", "sealed"], b"").await;
    assert_eq!((ended.code, ended.said.as_str()), (0, ""), "encrypting is offline: no cluster, no token, no address");
    let ended = desk.ask(&["decrypt", "sealed", "--to", "opened"], b"").await;
    assert_eq!((ended.code, ended.said.as_str()), (0, ""));
    assert!(desk.read("opened") == data, "a file came back changed");

    let public_key = desk.fleet.record().public_key.to_string();
    let sealed = desk.run(&["encrypt", "--public-key", &public_key, "-i", "backups/1"], &data).await;
    assert_eq!(sealed.code, 0, "{}", sealed.said);
    let opened = desk.ask(&["decrypt"], &sealed.out).await;
    assert_eq!(opened.code, 0, "{}", opened.said);
    assert!(opened.out == data, "a pipe came back changed");
}

/// Nodes are known by their pins or by the authorities that are named.
/// seed: 002-26
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_are_known_by_pins_or_by_named_authorities() {
    let desk = Desk::new().await;
    let key = rcgen::KeyPair::generate().unwrap();
    let pem = |name: &str| {
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.self_signed(&key).unwrap().pem()
    };
    let (own, other) = (pem("127.0.0.1"), pem("127.0.0.2"));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let certificate = |pem: &str| {
        PlatformCertificate::read(pem.as_bytes(), key.serialize_pem().as_bytes(), now.cast_signed()).unwrap()
    };
    desk.write("ca.crt", format!("{own}{other}").as_bytes());
    desk.write("none.crt", b"nothing");
    let sign = ["sign", "-k", "receipts"];
    let trusting = ["sign", "-k", "receipts", "--ca-file=ca.crt", "--timeout=5s"];
    let ended = desk.ask(&trusting, b"paid").await;
    assert_ne!(ended.code, 0, "a node's own certificate is of no authority");
    desk.fleet.platform.set(Some(certificate(&own)));
    let by_authority = desk.ask(&trusting, b"paid").await;
    assert_eq!(by_authority.code, 0, "{}", by_authority.said);
    let by_pin = desk.ask(&sign, b"paid").await;
    assert_eq!((by_pin.code, &by_pin.out), (0, &by_authority.out), "by pin, as before: {}", by_pin.said);
    desk.fleet.platform.set(Some(certificate(&other)));
    let ended = desk.ask(&trusting, b"paid").await;
    assert!(ended.code != 0 && ended.said.contains("not valid for"), "for another address: {}", ended.said);
    let ended = desk.ask(&["sign", "-k", "receipts", "--ca-file=none.crt"], b"paid").await;
    assert!(ended.code == 2 && ended.said.contains("none.crt: no certificates in PEM"), "{}", ended.said);
}

/// A signature verifies in every format and under no other name message or key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signature_verifies_in_every_format_and_for_itself_alone() {
    let desk = Desk::new().await;
    for format in ["table", "json", "yaml"] {
        let file = format!("signature.{format}");
        let signed = desk.ask(&["sign", "-k", "receipts", "-o", format, "--to", &file], b"paid").await;
        assert_eq!(signed.code, 0, "{}", signed.said);
        let verify = ["verify", "--record=client.json", "-k", "receipts", "-s", &file];
        let verified = desk.run(&verify, b"paid").await;
        assert_eq!(verified.code, 0, "{format}: {}", verified.said);
        let other = desk.run(&verify, b"paid twice").await;
        assert_eq!(other.code, 5, "{format}: another message verified");
        assert!(String::from_utf8(other.out).unwrap().starts_with("NOT verified"));
        let other = desk.run(&["verify", "--record=client.json", "-k", "payroll", "-s", &file], b"paid").await;
        assert_eq!(other.code, 5, "{format}: another key name verified");
    }
    let hex = String::from_utf8(desk.read("signature.table")).unwrap();
    let inline = desk.run(&["verify", "--record=client.json", "-k", "receipts", "-s", hex.trim()], b"paid").await;
    assert_eq!(inline.code, 0, "{}", inline.said);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exit_codes_tell_failures_apart_and_nothing_half_written_stays() {
    let mut desk = Desk::new().await;
    let ended =
        desk.run(&["encrypt", "--record=client.json", "-i", "backups/1", "--to", "sealed"], &[7; 200_000]).await;
    assert_eq!(ended.code, 0, "{}", ended.said);
    let sealed = desk.read("sealed");

    desk.write("cut", &sealed[..sealed.len() - 1]);
    let mut changed = sealed.clone();
    changed[150_000] ^= 1;
    desk.write("changed", &changed);
    desk.write("foreign", &[b"no such thing".as_slice(), &[0; 300]].concat());
    for (file, about) in [("cut", "cut off"), ("changed", "chunk 2"), ("foreign", "not data that Keyfleet encrypted")] {
        let ended = desk.ask(&["decrypt", file, "--to", "out"], b"").await;
        assert_eq!(ended.code, 5, "{file}: {}", ended.said);
        assert!(ended.said.contains(about), "{file}: {}", ended.said);
        let left: Vec<_> = std::fs::read_dir(desk.folder.path()).unwrap().map(|f| f.unwrap().file_name()).collect();
        assert!(!desk.folder.path().join("out").exists(), "{file}: half an output was left");
        assert!(!left.iter().any(|name| name.to_string_lossy().starts_with(".keyfleet-")), "{file} left {left:?}");
    }

    for (arguments, code) in [
        (["sign", "-k", "payroll"].as_slice(), 4),
        (&["sign"], 2),
        (&["decrypt", "no-such-file"], 1),
        (&["sign", "-k", "receipts", "--timeout", "soon"], 2),
    ] {
        let ended = desk.ask(arguments, b"paid").await;
        assert_eq!(ended.code, code, "{arguments:?}: {}", ended.said);
        assert!(ended.out.is_empty() && !ended.said.is_empty(), "{arguments:?} said {:?}", ended.said);
    }
    desk.tokens("system:serviceaccount:other:thief");
    let ended = desk.ask(&["decrypt", "sealed"], b"").await;
    assert_eq!(ended.code, 4, "{}", ended.said);
    assert!(ended.said.contains("spec.access.rules"), "it does not say what would help: {}", ended.said);
    desk.tokens(CALLER);
    desk.fleet.stop(1).await;
    desk.fleet.stop(2).await;
    let ended = desk.ask(&["decrypt", "sealed", "--timeout", "3s"], b"").await;
    assert_eq!(ended.code, 3, "{}", ended.said);
    assert!(ended.said.contains("2 of 3 needed answers") && ended.said.contains("node 1:"), "{}", ended.said);
}

/// A finished round is checked from its object and a forged one is found out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_finished_round_is_checked_and_a_forged_one_found_out() {
    let mut desk = Desk::new().await;
    let key = desk.fleet.record().public_key.to_string();
    for round in ["genesis", "reshare"] {
        desk.write("epoch.json", &serde_json::to_vec(&desk.fleet.key_epoch()).unwrap());
        let ended = desk.run(&["epoch", "verify", "--file", "epoch.json", "--public-key", &key], b"").await;
        assert_eq!((ended.code, ended.said.as_str()), (0, ""), "{round}");
        assert_eq!(String::from_utf8(ended.out).unwrap().matches("ok  ").count(), 5, "{round}");
        desk.fleet.round().await;
    }
    let good = serde_json::to_value(desk.fleet.key_epoch()).unwrap();
    let other = Fleet::start(4).await.key_epoch();
    let other = serde_json::to_value(other).unwrap();
    let forgeries = [
        ("another plan", "/spec/block", serde_json::json!(4711)),
        ("another certificate", "/status/certificate", other["status"]["certificate"].clone()),
        ("another share", "/status/holders/3/publicShare", other["status"]["holders"][3]["publicShare"].clone()),
        ("another vector", "/status/vectorDigest", other["status"]["vectorDigest"].clone()),
        ("too few holders", "/status/holders", serde_json::json!([good["status"]["holders"][0]])),
    ];
    for (what, place, value) in forgeries {
        let mut forged = good.clone();
        *forged.pointer_mut(place).unwrap() = value;
        desk.write("epoch.json", forged.to_string().as_bytes());
        let ended = desk.run(&["epoch", "verify", "--file", "epoch.json", "--record", "client.json"], b"").await;
        assert_eq!(ended.code, 5, "{what} went unnoticed: {}", String::from_utf8_lossy(&ended.out));
        assert!(String::from_utf8(ended.out).unwrap().contains("WRONG"), "{what}: {}", ended.said);
    }
    // A whole other fleet's epoch is consistent, and not of this key.
    desk.write("epoch.json", other.to_string().as_bytes());
    let ended = desk.run(&["epoch", "verify", "--file", "epoch.json", "--public-key", &key, "-o", "json"], b"").await;
    assert_eq!(ended.code, 5);
    let found: serde_json::Value = serde_json::from_slice(&ended.out).unwrap();
    assert_eq!(found["verified"], false);
}

/// Ten times what the process may hold of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_megabytes_go_through_a_pipe_in_bounded_memory() {
    const BYTES: usize = 100 << 20;
    const RESIDENT_KIB_MAX: u64 = 40 << 10;
    let desk = Desk::new().await;
    let peak = |child: &tokio::process::Child| {
        let id = child.id()?;
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    let addresses = desk.fleet.callers.iter().map(|(node, address)| format!("--address={node}={address}"));
    let asks: Vec<_> = addresses.chain(["--record=client.json".into(), "--token-dir=tokens".into()]).collect();
    let start = |arguments: &[&str], more: &[String], stdin: Stdio| {
        Command::new(env!("CARGO_BIN_EXE_keyfleet"))
            .args(arguments)
            .args(more)
            .current_dir(desk.folder.path())
            .stdin(stdin)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    };
    let mut encrypt = start(&["encrypt", "--record=client.json", "-i", "backups/1"], &[], Stdio::piped());
    let between: Stdio = encrypt.stdout.take().unwrap().try_into().unwrap();
    let mut decrypt = start(&["decrypt"], &asks, between);
    let mut stdin = encrypt.stdin.take().unwrap();
    let feed = tokio::spawn(async move {
        let block = [3; 1 << 16];
        for _ in 0..BYTES / block.len() {
            stdin.write_all(&block).await.unwrap();
        }
    });
    let mut out = decrypt.stdout.take().unwrap();
    let (mut came, mut block, mut peaks) = (0, vec![0; 1 << 16], [0, 0]);
    loop {
        let read = tokio::io::AsyncReadExt::read(&mut out, &mut block).await.unwrap();
        if read == 0 {
            break;
        }
        assert!(block[..read].iter().all(|byte| *byte == 3), "data came back changed");
        came += read;
        peaks = [peaks[0].max(peak(&encrypt).unwrap_or(0)), peaks[1].max(peak(&decrypt).unwrap_or(0))];
    }
    feed.await.unwrap();
    assert!(encrypt.wait().await.unwrap().success() && decrypt.wait().await.unwrap().success());
    assert_eq!(came, BYTES);
    assert!(peaks[0] > 0 && peaks[1] > 0, "no peak was seen");
    assert!(peaks.iter().all(|peak| *peak < RESIDENT_KIB_MAX), "peaks of {peaks:?} KiB");
    println!("peaks: encrypt {} KiB, decrypt {} KiB", peaks[0], peaks[1]);
}

/// A pod needs nothing but its mounted volume, and uses renewed tokens at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_asks_with_its_mounted_volume_alone() {
    let desk = Desk::new().await;
    let at = |name: &str| desk.folder.path().join(name);
    let mut record = serde_json::to_value(desk.fleet.record()).unwrap();
    record["format"] = 1.into();
    // As the kubelet lays a projected volume out: a link that it moves to the renewed files.
    let lay_out = |folder: &str, subject: &str| {
        std::fs::create_dir_all(at(&format!("mount/{folder}/tokens"))).unwrap();
        desk.write(&format!("mount/{folder}/client.json"), record.to_string().as_bytes());
        desk.write(&format!("mount/{folder}/namespace"), b"shop");
        for node in &desk.fleet.record().nodes {
            let token = token(subject, &wire::audience(ClusterId(desk.fleet.record().cluster_id.0), node.index));
            desk.write(&format!("mount/{folder}/tokens/{}", node.index), token.as_bytes());
        }
        std::os::unix::fs::symlink(folder, at("mount/..new")).unwrap();
        std::fs::rename(at("mount/..new"), at("mount/..data")).unwrap();
    };
    lay_out("..1", "system:serviceaccount:elsewhere:stranger");
    for name in ["client.json", "namespace", "tokens"] {
        std::os::unix::fs::symlink(format!("..data/{name}"), at(&format!("mount/{name}"))).unwrap();
    }
    let addresses = desk.fleet.callers.iter().map(|(node, address)| format!("--address={node}={address}"));
    let addresses: Vec<_> = addresses.collect();
    let ask = async |arguments: &[&str]| {
        let mut all = arguments.to_vec();
        all.push("--mount=mount");
        all.extend(addresses.iter().map(String::as_str));
        desk.run(&all, b"").await
    };
    let ended = desk.run(&["encrypt", "--mount=mount", "-i", "backups/1", "--to", "sealed"], b"a secret").await;
    assert_eq!((ended.code, ended.said.as_str()), (0, ""), "the public key is in the volume");
    let ended = ask(&["decrypt", "sealed"]).await;
    assert_eq!(ended.code, 4, "a stranger's tokens opened it: {}", ended.said);
    lay_out("..2", CALLER);
    let ended = ask(&["decrypt", "sealed"]).await;
    assert_eq!((ended.code, ended.out.as_slice(), ended.said.as_str()), (0, b"a secret".as_slice(), ""));

    std::fs::remove_file(at("mount/..2/tokens/2")).unwrap();
    let ended = ask(&["decrypt", "sealed"]).await;
    assert_eq!(ended.code, 0, "a node that joined after the pod was made is not needed: {}", ended.said);
    std::fs::remove_file(at("mount/namespace")).unwrap();
    let ended = ask(&["decrypt", "sealed"]).await;
    assert!(ended.code == 1 && ended.said.contains("pod-volume"), "{} {}", ended.code, ended.said);
    let ended = desk.run(&["decrypt", "--mount=mount", "--record=client.json", "sealed"], b"").await;
    assert_eq!(ended.code, 2, "two fleets at once: {}", ended.said);
}
