//! Deletion in the bucket: which objects, and by whom.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use keyfleet_scenarios::cluster::{Cluster, output};
use keyfleet_scenarios::fleet::Fleet;
use keyfleet_scenarios::wait;
use serde_json::json;

/// The grace of the job, in hours: the least that there is.
const GRACE_HOURS: u64 = 1;

/// A bucket with versions and two accounts: one that nodes write with, and one that may also delete.
struct Bucket {
    name: String,
    endpoint: String,
    /// The server's folders: a bucket is a folder, and the time of a file is that of the object.
    folder: PathBuf,
}

impl Bucket {
    fn create(name: &str) -> Result<Self> {
        let from = |variable: &str| std::env::var(variable).with_context(|| format!("{variable} is not set"));
        let kubeconfig = PathBuf::from(from("KUBECONFIG")?);
        let folder = kubeconfig.parent().context("the kubeconfig is in the cluster's folder")?.join("s3");
        let bucket = Self { name: name.to_owned(), endpoint: from("KEYFLEET_S3_ENDPOINT")?, folder };
        let root = (from("AWS_ACCESS_KEY_ID")?, from("AWS_SECRET_ACCESS_KEY")?);
        for account in [bucket.writer(), bucket.sweeper()] {
            let (access, secret) = (format!("--access={}", account.0), format!("--secret={}", account.1));
            bucket.admin(&["create-user", &access, &secret, "--role=user"])?;
        }
        let (objects, itself) = (format!("arn:aws:s3:::{name}/*"), format!("arn:aws:s3:::{name}"));
        let (writer, sweeper) = (bucket.writer().0, bucket.sweeper().0);
        let allow = |who: &[&str], actions: &[&str], on: &str| json!({"Effect": "Allow", "Principal": {"AWS": who}, "Action": actions, "Resource": [on]});
        let policy = json!({"Version": "2012-10-17", "Statement": [
            allow(&[&writer, &sweeper], &["s3:GetObject", "s3:PutObject"], &objects),
            allow(&[&writer, &sweeper], &["s3:ListBucket"], &itself),
            allow(&[&sweeper], &["s3:DeleteObject", "s3:DeleteObjectVersion", "s3:GetObjectVersion"], &objects),
            allow(&[&sweeper], &["s3:ListBucketVersions"], &itself),
        ]});
        let versions = "<VersioningConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Status>Enabled</Status>\
                        </VersioningConfiguration>";
        for (query, body) in [("", ""), ("?versioning=", versions), ("?policy=", &policy.to_string())] {
            let status = bucket.request(&root, "PUT", query, body)?;
            ensure!(status.starts_with('2'), "PUT of the bucket{query} is answered with {status}");
        }
        Ok(bucket)
    }

    fn writer(&self) -> (String, String) {
        (format!("{}-node", self.name), "the-nodes-secret".to_owned())
    }

    fn sweeper(&self) -> (String, String) {
        (format!("{}-sweep", self.name), "the-jobs-secret".to_owned())
    }

    fn admin(&self, words: &[&str]) -> Result<String> {
        let root = [("ADMIN_ACCESS_KEY_ID", "AWS_ACCESS_KEY_ID"), ("ADMIN_SECRET_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY")];
        let mut command = Command::new("versitygw");
        for (to, from) in root {
            command.env(to, std::env::var(from).unwrap_or_default());
        }
        output(command.args(["admin", "--endpoint-url", &self.endpoint]).args(words))
    }

    /// The status of a signed request: of the bucket itself, or of what `path` names in it.
    fn request(&self, account: &(String, String), method: &str, path: &str, body: &str) -> Result<String> {
        let url = format!("{}/{}{path}", self.endpoint, self.name);
        let user = format!("{}:{}", account.0, account.1);
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--output", "/dev/null", "--write-out", "%{http_code}"]);
        command.args(["--aws-sigv4", "aws:amz:us-east-1:s3", "--user", &user, "--request", method]);
        command.args(["--header", "x-amz-content-sha256: UNSIGNED-PAYLOAD", "--data-binary", body, &url]);
        output(command.stderr(Stdio::piped()))
    }

    /// The names of the objects in a folder, without those that were deleted.
    fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.folder.join("buckets").join(&self.name).join(folder));
        let mut names: Vec<String> =
            entries.into_iter().flatten().flatten().map(|entry| entry.file_name().to_string_lossy().into()).collect();
        names.sort();
        names
    }

    /// Files of all versions below a folder, the newest and older ones.
    fn files(&self, folder: &str) -> usize {
        let count = |root: &str| files_below(&self.folder.join(root).join(&self.name).join(folder)).len();
        count("buckets") + count("versions")
    }

    /// Makes everything older, as if time had passed.
    fn age(&self, by: Duration) -> Result<()> {
        for root in ["buckets", "versions"] {
            for path in files_below(&self.folder.join(root).join(&self.name)) {
                let file = fs::File::options().write(true).open(&path)?;
                let stored = file.metadata()?.modified()?;
                file.set_modified(stored.checked_sub(by).unwrap_or(SystemTime::UNIX_EPOCH))?;
            }
        }
        Ok(())
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        for account in [self.writer(), self.sweeper()] {
            let _ = self.admin(&["delete-user", &format!("--access={}", account.0)]);
        }
        for root in ["buckets", "versions"] {
            let _ = fs::remove_dir_all(self.folder.join(root).join(&self.name));
        }
    }
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            found.extend(files_below(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

/// Runs the job now, as a person does, and waits until it has ended well.
fn run_job(fleet: &Fleet<'_>, name: &str) -> Result<()> {
    let cron_job = format!("cronjob/{}-retention", keyfleet_scenarios::fleet::NAME);
    fleet.namespace.kubectl(&["create", "job", name, "--from", &cron_job])?;
    let done = fleet.namespace.kubectl(&["wait", "--for=condition=Complete", "job", name, "--timeout=120s"]);
    done.map(drop).with_context(|| {
        let log = fleet.namespace.kubectl(&["logs", &format!("job/{name}")]);
        format!("{}\n{}", fleet.stands(), log.unwrap_or_default())
    })
}

/// A pod's uid, and then the same node's next pod.
fn replace_pod(fleet: &Fleet<'_>, index: u32) -> Result<()> {
    let uid = fleet.wait_pod(index, None)?["metadata"]["uid"].clone();
    fleet.namespace.kubectl(&["delete", "pod", &fleet.node(index), "--wait=false"])?;
    fleet.wait_pod(index, uid.as_str()).map(drop)
}

/// The job deletes the objects that no restore needs; a node cannot delete anything.
#[test]
fn only_the_job_deletes_from_the_bucket() -> Result<()> {
    const NODE: u32 = 2;
    let cluster = Cluster::shared()?;
    let fleet = Fleet::prepare(&cluster, "retention")?;
    let bucket = Bucket::create(&fleet.namespace.name)?;
    for (name, (access, secret)) in [("s3", bucket.writer()), ("s3-sweep", bucket.sweeper())] {
        fleet.secret(name, &[("accessKeyId", &access), ("secretAccessKey", &secret)])?;
    }
    fleet.apply(&json!({
        "nodes": 3,
        "replication": {
            "s3": {
                "bucket": bucket.name, "endpoint": "http://s3.keyfleet-dev.svc:9000", "credentialsSecret": "s3",
                "forcePathStyle": true,
            },
            // Once a year: here it runs when it is told to.
            "retention": {"cron": "0 0 1 1 *", "graceHours": GRACE_HOURS, "credentialsSecret": "s3-sweep"},
        },
    }))?;
    fleet.wait_ready()?;
    let listed = fleet.namespace.kubectl(&["get", "cronjobs"])?;
    ensure!(listed.contains("keys-retention") && listed.contains("0 0 1 1 *"), "it is not to be seen:\n{listed}");
    let id = fleet.object()?["status"]["clusterId"].as_str().context("the fleet has an id")?.to_owned();
    let (snapshots, all) = (format!("{id}/{NODE}/snap"), format!("{id}/{NODE}"));
    let await_snapshots = |count: usize| {
        wait::until(&format!("{count} snapshots of node {NODE}"), || {
            let names = bucket.names(&snapshots);
            Ok((names.len() >= count).then_some(names))
        })
    };
    // Each start begins a term with a snapshot of its own.
    await_snapshots(1)?;
    for starts in 2..4 {
        replace_pod(&fleet, NODE)?;
        await_snapshots(starts)?;
    }
    let before = bucket.names(&snapshots);

    run_job(&fleet, "first")?;
    ensure!(bucket.names(&all).contains(&"boundary".to_owned()), "the boundary was not raised");
    ensure!(bucket.names(&snapshots) == before, "something was deleted in the run that raised the boundary");
    bucket.age(Duration::from_secs(2 * 3600 * GRACE_HOURS))?;
    let files = bucket.files(&all);
    run_job(&fleet, "second")?;
    let left = bucket.names(&snapshots);
    ensure!(left.len() == 2 && before.ends_with(&left), "of {before:?} there are {left:?}");
    ensure!(bucket.files(&all) < files, "versions were left behind: {} files of {files}", bucket.files(&all));

    // The nodes' own account reads and writes, and deletes nothing.
    let newest = format!("/{snapshots}/{}", left.last().context("there is a snapshot")?);
    let answer = |method: &str| bucket.request(&bucket.writer(), method, &newest, "");
    ensure!(answer("GET")? == "200", "a node's account cannot read its replica");
    ensure!(answer("DELETE")? == "403", "a node's account may delete");

    // Right after, the volume is lost.
    let node = fleet.node(NODE);
    let uid = fleet.wait_pod(NODE, None)?["metadata"]["uid"].clone();
    fleet.namespace.kubectl(&["delete", "pvc", &format!("{node}-state"), "--wait=false"])?;
    fleet.namespace.kubectl(&["delete", "pod", &node])?;
    fleet.wait_pod(NODE, uid.as_str())?;
    let log = fleet.namespace.kubectl(&["logs", &node, "--container", "restore"])?;
    ensure!(log.contains("the state file was restored"), "nothing was restored: {log}");
    let held = fleet.namespace.get(&["kmsnode", &node])?["status"]["node"]["epochs"].clone();
    ensure!(held.as_array().is_some_and(|held| !held.is_empty()), "the node came back without its share: {held}");
    Ok(())
}
