//! The way to the test bed: its API server, its nodes, and the scripts that start, stop and break its parts.
//! It may not know what is tested.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};

/// Where memboss is installed on the bed.
pub const SYSTEM: &str = "memboss-system";

/// A running test bed.
#[derive(Clone)]
pub struct Bed {
    /// A client of its API server, as its administrator.
    pub client: Client,
    name: String,
    scripts: PathBuf,
}

impl Bed {
    /// The bed named by `MEMBOSS_BED` (default `test`), reached with `KUBECONFIG`.
    ///
    /// # Errors
    /// When `KUBECONFIG` does not lead to an API server.
    pub async fn connect() -> Result<Self> {
        let client =
            Client::try_default().await.context("no way to the test cluster: run it by `make cluster-test`")?;
        let scripts = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("cluster");
        Ok(Self { client, name: std::env::var("MEMBOSS_BED").unwrap_or_else(|_| "test".into()), scripts })
    }

    /// Runs one of the bed's scripts to its end and returns what it printed.
    ///
    /// # Errors
    /// When it fails; the message carries what it said.
    pub fn script(&self, script: &str, args: &[&str]) -> Result<String> {
        let path = self.scripts.join(script);
        let output = Command::new(&path)
            .arg("--name")
            .arg(&self.name)
            .args(args)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("failed to run {}", path.display()))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!("{script} {args:?} ended with {}:\n{text}{}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        Ok(text)
    }

    /// Runs a command inside a node.
    ///
    /// # Errors
    /// When it fails.
    pub fn on_node(&self, node: &str, command: &str) -> Result<String> {
        self.script("node.sh", &[node, "sh", "-c", command])
    }

    /// Drives the simulated GPUs of a node.
    ///
    /// # Errors
    /// When the simulator refuses.
    pub fn sim(&self, node: &str, args: &str) -> Result<String> {
        self.on_node(node, &format!("/run/memboss-sim/bin/memboss-sim {args}"))
    }

    /// Kills a process of ours on a node, without warning; `binary` is its file's name.
    ///
    /// # Errors
    /// When there is none.
    pub fn kill(&self, node: &str, binary: &str) -> Result<()> {
        self.signal(node, binary, "KILL")
    }

    /// Sends a process of ours on a node that signal; `binary` is its file's name.
    ///
    /// # Errors
    /// When there is none.
    pub fn signal(&self, node: &str, binary: &str, signal: &str) -> Result<()> {
        // The nodes share one pid namespace: the cgroup tells whose process it is.
        let find = format!(
            "for p in $(pgrep -f '^([^ ]*/)?{binary}( |$)'); do grep -q '/{node}/' /proc/$p/cgroup && kill -{signal} $p && echo $p; done; true"
        );
        let reached = self.on_node(node, &find)?;
        ensure!(!reached.trim().is_empty(), "no {binary} runs on {node}");
        Ok(())
    }

    /// Runs a test in a namespace of its own, which goes with everything in it whatever came of the test: the next one finds the bed empty.
    ///
    /// # Errors
    /// The test's; or when there is no bed, or the namespace does not go.
    #[expect(clippy::print_stdout, reason = "what a test prints is shown when it fails")]
    pub async fn in_namespace(prefix: &str, test: impl AsyncFnOnce(&Self, &str) -> Result<()>) -> Result<()> {
        let bed = Self::connect().await?;
        let namespace = bed.namespace(prefix).await?;
        let outcome = test(&bed, &namespace).await;
        if let Err(error) = &outcome {
            // First of all, and then what it looked like: a log that is cut short still says why.
            println!("{error:#}");
            for (namespace, what) in
                [(namespace.as_str(), "pods,vramleases"), (&namespace, "events"), (SYSTEM, "pods,events")]
            {
                let args = ["kubectl", "-n", namespace, "get", what, "-o", "wide"];
                println!("{}", bed.script("k.sh", &args).unwrap_or_else(|error| format!("{error:#}")));
            }
        }
        let removed = bed.remove(&namespace).await;
        outcome.and(removed)
    }

    /// A fresh namespace, which goes with everything in it by [`Bed::remove`].
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn namespace(&self, prefix: &str) -> Result<String> {
        let nanos = std::time::UNIX_EPOCH.elapsed()?.as_nanos() % 1_000_000_000;
        let name = format!("{prefix}-{nanos:09}");
        let namespace: Namespace = serde_json::from_value(serde_json::json!({
            "metadata": { "name": name, "annotations": { "memboss.dev/max-class": "urgent" } }
        }))?;
        Api::<Namespace>::all(self.client.clone()).create(&PostParams::default(), &namespace).await?;
        Ok(name)
    }

    /// Removes a namespace and waits until it is gone: no lease of it holds memory then.
    ///
    /// # Errors
    /// When it does not go.
    pub async fn remove(&self, namespace: &str) -> Result<()> {
        let api = Api::<Namespace>::all(self.client.clone());
        let grace = DeleteParams::default();
        crate::pods::delete_all(&self.client, namespace).await?;
        api.delete(namespace, &grace).await?;
        crate::wait::until(&format!("namespace {namespace} is gone"), 90, || async {
            Ok(api.get_opt(namespace).await?.is_none().then_some(()))
        })
        .await
    }
}
