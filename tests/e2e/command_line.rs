//! The command line as built, by the API server: what it reads, what it steers, and what it says where it cannot.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use kube::config::Kubeconfig;
use memboss_tests::bed::Bed;
use memboss_tests::pods::{self, TestPod};
use memboss_tests::{leases, wait};
use serde_json::Value;

/// What it said, and how it ended.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// The command line lies beside the tests.
pub(crate) fn binary() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let found = own.ancestors().skip(1).map(|folder| folder.join("memboss")).find(|path| path.is_file());
    found.context("memboss is not beside the tests: cargo build --release --workspace")
}

fn answer(command: &mut Command) -> Result<Answer> {
    let output = command.stdin(Stdio::null()).output()?;
    let text = |bytes: Vec<u8>| String::from_utf8(bytes);
    Ok(Answer { code: output.status.code().unwrap_or(-1), out: text(output.stdout)?, err: text(output.stderr)? })
}

pub(crate) fn memboss(words: &[&str]) -> Result<Answer> {
    answer(Command::new(binary()?).args(["--by", "api"]).args(words))
}

/// What it answers where it has to end well.
fn done(words: &[&str]) -> Result<String> {
    let answer = memboss(words)?;
    ensure!(answer.code == 0, "{words:?}: {answer:?}");
    Ok(answer.out)
}

fn json(words: &[&str]) -> Result<Value> {
    Ok(serde_json::from_str(&done(&[words, &["-o", "json"]].concat())?)?)
}

fn says(text: &str, all: &[&str]) -> Result<()> {
    match all.iter().find(|words| !text.contains(**words)) {
        Some(words) => bail!("{words:?} is not in {text}"),
        None => Ok(()),
    }
}

/// A 24 GiB GPU, on which a pod of 16 GiB leaves no room for another.
async fn card(bed: &Bed) -> Result<leases::Gpu> {
    let gpus = leases::gpus(&bed.client).await?;
    gpus.into_iter().find(|gpu| gpu.model.contains("SIM-24G")).context("the bed has a 24 GiB GPU")
}

/// What is wished of a node.
async fn wish(bed: &Bed, node: &str) -> Result<Value> {
    let node = leases::api(&bed.client, "MemoryNode", "memorynodes", None).get(node).await?;
    Ok(node.data["spec"].clone())
}

#[tokio::test]
#[ignore = "needs the test bed"]
async fn it_tells_of_nodes_and_leases_from_anywhere() -> Result<()> {
    Bed::in_namespace("tells", async |bed, ns| {
        let (client, gpu) = (&bed.client, card(bed).await?);
        let on_it = |name: &str| TestPod::leasing(name, "16Gi", "normal").annotate("gpu-uuid", &gpu.uuid);
        let mut watch = Watch::begin(&["lease", "list", "--watch", "-o", "json", "-n", ns])?;
        on_it("holds").create(client, ns).await?;
        pods::running(client, ns, "holds").await?;
        on_it("waits").create(client, ns).await?;
        let waits = |lease: &leases::Seen| lease.phase() == "Waiting" && lease.position() == Some(1);
        let waiting = leases::until_of(client, ns, "waits", "waits", waits).await?;
        let holding = leases::of_pod(client, ns, "holds").await?.context("it holds")?;
        let (holds, waits) = (format!("{ns}/{}", holding.name()), format!("{ns}/{}", waiting.name()));

        let status = memboss(&["vram", "status"])?;
        ensure!(status.code == 0 && status.err.starts_with("by the API server https://"), "{status:?}");
        says(&status.out, &["NODE", "node1", "node2", "SIM-24G", "A100", "RAM"])?;
        says(&done(&["vram", "status", "-o", "wide"])?, &[&gpu.uuid, &holds])?;
        let one = memboss(&["vram", "status", "--on", &gpu.node, "-o", "json"])?;
        ensure!(one.code == 0 && one.err.is_empty(), "programs are told nothing besides: {one:?}");
        let one: Value = serde_json::from_str(&one.out)?;
        ensure!(one.as_array().is_some_and(|all| all.len() == 1 && all[0]["node"] == gpu.node.as_str()), "{one}");
        let told = &one[0]["gpus"].as_array().context("it has GPUs")?.clone();
        let told = told.iter().find(|told| told["uuid"] == gpu.uuid.as_str()).context("it is told")?;
        ensure!(told["leased_mib"] == 16 * 1024, "{told}");

        let list = json(&["lease", "list", "-n", ns])?;
        let of = |name: &str| list.as_array().and_then(|all| all.iter().find(|lease| lease["lease"] == name).cloned());
        let (held, queued) = (of(&holds).context("it is listed")?, of(&waits).context("it is listed")?);
        ensure!((&held["state"], &held["node"]) == (&"Active".into(), &gpu.node.as_str().into()), "{held}");
        ensure!(held["gpus"][0]["memory_mib"] == 16 * 1024, "{held}");
        ensure!(queued["queue"]["position"] == 1 && queued["queue"]["reason"] == "NoRoom", "{queued}");
        says(&done(&["lease", "list"])?, &[&holds, &waits, "NODE", "#1 NoRoom"])?;
        says(
            &done(&["lease", "why", &format!("{ns}/waits")])?,
            &[&waits, "class normal: Waiting", "place 1", "NoRoom"],
        )?;
        says(&done(&["vram", "top"])?, &["node1", &holds, "#1 NoRoom"])?;
        says(&done(&["ram", "status"])?, &["NODE", "PRESSURE", "node1", "node2"])?;
        watch.hears(&[&holds, "\"Active\""])?;
        watch.hears(&[&waits, "NoRoom"])
    })
    .await
}

#[tokio::test]
#[ignore = "needs the test bed"]
async fn a_gpu_is_emptied_and_opened_again_and_a_lease_is_given_back() -> Result<()> {
    Bed::in_namespace("empties", async |bed, ns| {
        let (client, gpu) = (&bed.client, card(bed).await?);
        let on_it = |name: &str| TestPod::leasing(name, "2Gi", "normal").annotate("gpu-uuid", &gpu.uuid);
        on_it("there").create(client, ns).await?;
        pods::running(client, ns, "there").await?;
        let there = leases::until_of(client, ns, "there", "is Active", |lease| lease.phase() == "Active").await?;
        let name = format!("{ns}/{}", there.name());

        let would = json(&["vram", "drain", &gpu.uuid, "--dry-run"])?;
        ensure!(would["dry_run"] == true && would["remaining"][0]["lease"] == name.as_str(), "{would}");
        let still = leases::of_pod(client, ns, "there").await?.context("it has a lease")?;
        ensure!(still.phase() == "Active", "a dry run changes nothing: {still:?}");
        let unasked = memboss(&["vram", "drain", &gpu.uuid])?;
        ensure!(unasked.code == 2 && unasked.err.contains("--yes"), "{unasked:?}");
        let several = memboss(&["vram", "drain", "--node", "--yes"])?;
        ensure!(several.code == 2 && several.err.contains("--on NAME"), "{several:?}");

        let outcome = async {
            let drained = memboss(&["vram", "drain", &gpu.uuid, "--deadline", "3s", "--yes"])?;
            ensure!(drained.code == 0, "{drained:?}");
            ensure!(wish(bed, &gpu.node).await?["drainDeadlineSeconds"] == 3, "the node has it in its spec");
            says(&drained.out, &["0 gone, 1 still there: ", &name, "empty: 1 gone"])?;
            on_it("later").create(client, ns).await?;
            leases::until_of(client, ns, "later", "waits", |lease| {
                lease.phase() == "Waiting" && !lease.why().0.is_empty()
            })
            .await
        }
        .await;
        done(&["vram", "drain", &gpu.uuid, "--undo"])?;
        outcome?;
        ensure!(wish(bed, &gpu.node).await?["drainDeadlineSeconds"].is_null(), "it goes with the wish");
        pods::running(client, ns, "later").await?;

        done(&["lease", "release", &format!("{ns}/later"), "--yes"])?;
        wait::until("the pod whose lease was given back is gone", 60, || async {
            Ok(pods::get(client, ns, "later").await?.is_none().then_some(()))
        })
        .await?;

        let both = memboss(&["vram", "drain", "--all", "--on", &gpu.node, "--yes"])?;
        ensure!(both.code == 2 && both.err.contains("leave out --on"), "{both:?}");
        let outcome = async {
            done(&["vram", "drain", "--all", "--yes"])?;
            for node in ["node1", "node2"] {
                ensure!(wish(bed, node).await?["drain"] == true, "{node} too");
            }
            Ok(())
        }
        .await;
        done(&["vram", "drain", "--all", "--undo"])?;
        outcome
    })
    .await
}

#[tokio::test]
#[ignore = "needs the test bed"]
async fn an_agent_is_asked_by_way_of_its_pod() -> Result<()> {
    Bed::in_namespace("asks", async |bed, ns| {
        let (client, gpu) = (&bed.client, card(bed).await?);
        TestPod::leasing("holds", "2Gi", "normal").annotate("gpu-uuid", &gpu.uuid).create(client, ns).await?;
        pods::running(client, ns, "holds").await?;
        let lease = leases::until_of(client, ns, "holds", "is Active", |lease| lease.phase() == "Active").await?;
        let name = format!("{ns}/{}", lease.name());

        let would = json(&["lease", "preempt", &name, "--dry-run"])?;
        ensure!(would["dry_run"] == true && would["freed_gpus"][0]["memory_mib"] == 2048, "{would}");
        let clean = json(&["vram", "cleanup", "--yes"])?;
        ensure!(clean["ended"].as_array().is_some_and(Vec::is_empty), "nobody is stale: {clean}");
        json(&["ram", "cleanup", "--dry-run"])?;
        let users = json(&["ram", "analyze", "--top", "3", "--on", &gpu.node])?;
        ensure!(
            users["report"]["until_limit"].is_null(),
            "the limit of the agent's container is not the node's: {users}"
        );
        ensure!(users["processes"].as_array().is_some_and(|all| all.len() == 3), "{users}");
        let would =
            json(&["ram", "clear", "conservative", "--in", "/var/lib/memboss", "--dry-run", "--on", &gpu.node])?;
        ensure!(would.is_object(), "{would}");
        let nothing = memboss(&["ram", "clear", "--in", "/nowhere", "--on", &gpu.node])?;
        ensure!(nothing.code != 0 && nothing.err.contains("/nowhere"), "its exit code is the one here: {nothing:?}");
        let unnamed = memboss(&["ram", "clear", "--on", &gpu.node])?;
        ensure!(unnamed.code != 0 && unnamed.err.contains("agent.pressure.cleanIn"), "where it may: {unnamed:?}");

        let gone = json(&["lease", "preempt", &name, "--yes"])?;
        ensure!(gone["lease"]["lease"] == name.as_str(), "{gone}");
        wait::until("who was asked to go is gone", 60, || async {
            let left = leases::all(client, ns).await?.into_iter().find(|seen| seen.name() == lease.name());
            Ok(left.is_none_or(|seen| seen.phase() == "Ended").then_some(()))
        })
        .await
    })
    .await
}

#[tokio::test]
#[ignore = "needs the test bed"]
async fn the_doctor_finds_the_cluster_well_and_whoever_may_not_look_is_told_so() -> Result<()> {
    let bed = Bed::connect().await?;
    let found = memboss(&["doctor", "-o", "json"])?;
    ensure!(found.code == 0, "{found:?}");
    let found: Value = serde_json::from_str(&found.out)?;
    let verdicts: BTreeMap<String, String> = found
        .as_array()
        .context("it is a list")?
        .iter()
        .map(|finding| (finding["about"].to_string(), finding["verdict"].to_string()))
        .collect();
    for about in ["API server", "kinds", "operator", "webhook", "certificate", "Redis", "agents", "node"] {
        ensure!(verdicts.get(&format!("{about:?}")).is_some_and(|verdict| verdict == "\"ok\""), "{about}: {found:#}");
    }

    let files = Files::new("doctor")?;
    let stranger = files.kubeconfig("stranger")?;
    let as_stranger = |words: &[&str]| answer(Command::new(binary()?).args(["--kubeconfig", &stranger]).args(words));
    for words in [
        &["vram", "status"][..],
        &["lease", "list"],
        &["lease", "why", "a/b"],
        &["vram", "drain", "GPU-0", "--yes"],
        &["vram", "cleanup", "--yes"],
    ] {
        let refused = as_stranger(words)?;
        ensure!(refused.code == 77 && refused.err.contains("forbidden"), "{words:?}: {refused:?}");
        ensure!(refused.err.contains("the role view"), "it says what would help: {refused:?}");
    }
    let unseen = as_stranger(&["doctor"])?;
    says(&unseen.out, &["you may not look at it", "you may not make pods in namespace default"])?;

    // Who may read everything may still steer nothing.
    let reader = files.kubeconfig("reader")?;
    bed.script("k.sh", &["kubectl", "create", "clusterrolebinding", "reader", "--clusterrole=view", "--user=reader"])?;
    let outcome = async {
        let as_reader = |words: &[&str]| answer(Command::new(binary()?).args(["--kubeconfig", &reader]).args(words));
        let seen = as_reader(&["vram", "status"])?;
        ensure!(seen.code == 0 && seen.out.contains("node1"), "{seen:?}");
        let refused = as_reader(&["vram", "cleanup", "--yes"])?;
        ensure!(refused.code == 77 && refused.err.contains("pods/exec"), "{refused:?}");
        let refused = as_reader(&["vram", "drain", "--node", "--on", "node1", "--yes"])?;
        ensure!(refused.code == 77 && refused.err.contains("memorynodes"), "{refused:?}");
        Ok(())
    }
    .await;
    bed.script("k.sh", &["kubectl", "delete", "clusterrolebinding", "reader"])?;
    outcome
}

#[tokio::test]
#[ignore = "needs the test bed"]
async fn the_doctor_tells_of_a_container_runtime_that_does_not_look_for_our_devices() -> Result<()> {
    Bed::in_namespace("cdi", async |bed, ns| {
        let node = serde_json::json!({ "nodeSelector": { "kubernetes.io/hostname": "node1" } });
        let blind = TestPod::leasing("blind", "1Gi", "normal").spec(node);
        let told = async {
            bed.script("cdi.sh", &["node1", "/etc/elsewhere"])?;
            blind.create(&bed.client, ns).await?;
            wait::until("the doctor tells of it", 120, || async {
                let found = memboss(&["doctor"])?;
                Ok(found.out.contains("node1: device-plugin: runtime-reads-cdi").then_some(found))
            })
            .await
        }
        .await;
        bed.script("cdi.sh", &["node1", "/etc/cdi", "/run/cdi"])?;
        let told = told?;
        ensure!(told.code == 1 && told.out.contains("cdi_spec_dirs"), "{told:?}");
        wait::until("the doctor finds all well", 60, || async { Ok((memboss(&["doctor"])?.code == 0).then_some(())) })
            .await
    })
    .await
}

#[tokio::test]
#[ignore = "needs the test bed"]
async fn which_way_it_goes_is_chosen_and_what_is_not_there_is_named() -> Result<()> {
    let files = Files::new("way")?;
    let plugin = files.0.join("kubectl-memboss");
    std::os::unix::fs::symlink(binary()?, &plugin)?;
    let as_plugin = answer(Command::new(&plugin).args(["vram", "status"]))?;
    ensure!(as_plugin.code == 0 && as_plugin.err.contains("by the API server"), "{as_plugin:?}");
    let run = answer(Command::new(&plugin).args(["run", "--vram", "1Gi", "--", "true"]))?;
    ensure!(run.code == 2 && run.err.contains("run it on the node"), "{run:?}");

    let nowhere = |words: &[&str]| {
        answer(Command::new(binary()?).args(words).env("HOME", &files.0).env("KUBECONFIG", files.0.join("none")))
    };
    let nothing = nowhere(&["vram", "status"])?;
    ensure!(nothing.code == 69, "{nothing:?}");
    says(&nothing.err, &["agent.sock", "--socket", "no way to an API server", "--kubeconfig"])?;
    let api = nowhere(&["vram", "status", "--by", "api"])?;
    ensure!(api.code == 69 && !api.err.contains("agent.sock"), "{api:?}");
    let context = memboss(&["vram", "status", "--context", "nowhere"])?;
    ensure!(context.code == 69 && context.err.contains("nowhere"), "{context:?}");

    let node = memboss(&["vram", "status", "--on", "nowhere"])?;
    ensure!(node.code == 2, "{node:?}");
    says(&node.err, &["nowhere", "node1", "node2"])?;
    let gpu = memboss(&["vram", "drain", "7", "--yes"])?;
    ensure!(gpu.code == 2 && gpu.err.contains("no GPU \"7\""), "{gpu:?}");
    let gpu = memboss(&["vram", "drain", "0", "--yes"])?;
    ensure!(gpu.code == 2 && gpu.err.contains("--on NAME"), "each node has one: {gpu:?}");
    let lease = memboss(&["lease", "why", "nobody/nothing"])?;
    ensure!(lease.code == 1 && lease.err.contains("nobody/nothing"), "{lease:?}");
    Ok(())
}

/// A folder that goes with everything in it.
struct Files(PathBuf);

impl Files {
    fn new(name: &str) -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("memboss-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        Ok(Self(folder))
    }

    /// The bed's way to its API server, for another user.
    fn kubeconfig(&self, user: &str) -> Result<String> {
        let mut file = Kubeconfig::read()?;
        for known in &mut file.auth_infos {
            known.auth_info.get_or_insert_default().impersonate = Some(user.to_owned());
        }
        let path = self.0.join(user);
        std::fs::write(&path, serde_json::to_string(&file)?)?;
        Ok(path.to_str().context("the folder has a name")?.to_owned())
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(Path::new(&self.0)));
    }
}

/// The command line while it goes on telling.
struct Watch {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    heard: Vec<String>,
}

impl Watch {
    fn begin(words: &[&str]) -> Result<Self> {
        let mut child = Command::new(binary()?).args(["--by", "api"]).args(words).stdout(Stdio::piped()).spawn()?;
        let out = child.stdout.take().context("it was asked for")?;
        Ok(Self { child, lines: BufReader::new(out).lines(), heard: Vec::new() })
    }

    /// Until a line has all of those words.
    fn hears(&mut self, all: &[&str]) -> Result<()> {
        let has = |line: &String| all.iter().all(|words| line.contains(words));
        while !self.heard.iter().any(has) {
            let next = self.lines.next().with_context(|| format!("{all:?} was not told: {:#?}", self.heard))?;
            self.heard.push(next?);
        }
        Ok(())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
