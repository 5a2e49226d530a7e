//! Pods lease in code: from the node's free memory or out of their own lease, up to their own class, and everybody can see it.

use anyhow::{Context, Result, ensure};
use memboss_tests::bed::Bed;
use memboss_tests::leases::{self, Gpu, Seen};
use memboss_tests::pods::{self, TestPod};
use memboss_tests::wait;
use serde_json::{Value, json};

use crate::command_line::binary;

/// A container that runs the workload with a lease in code.
fn run(name: &str, options: &[&str], workload: &[&str]) -> Value {
    let mut args = vec!["run"];
    args.extend(options);
    args.extend(["--", "memboss-workload"]);
    args.extend(workload);
    json!({
        "name": name, "image": pods::IMAGE, "imagePullPolicy": "Never", "command": ["memboss"], "args": args,
        "resources": { "requests": { "cpu": "1m", "memory": "8Mi" } },
    })
}

/// A pod of these containers on node1, ended for good when they end.
fn pod(name: &str, class: &str, containers: &[Value]) -> TestPod {
    TestPod::new(name).annotate("priority", class).spec(json!({
        "containers": containers, "restartPolicy": "Never", "nodeSelector": { "kubernetes.io/hostname": "node1" },
    }))
}

async fn card(bed: &Bed) -> Result<Gpu> {
    leases::gpus(&bed.client).await?.into_iter().find(|gpu| gpu.node == "node1").context("node1 has no GPU")
}

async fn leased(bed: &Bed, uuid: &str) -> Result<u64> {
    let gpus = leases::gpus(&bed.client).await?;
    gpus.into_iter().find(|gpu| gpu.uuid == uuid).map(|gpu| gpu.leased).context("the GPU is gone")
}

/// The objects that show what a pod leases in code.
async fn shown(bed: &Bed, ns: &str, pod: &str) -> Result<Vec<Seen>> {
    let all = leases::all(&bed.client, ns).await?;
    let of_pod = |lease: &Seen| lease.text("/spec/subject/podName") == pod;
    Ok(all
        .into_iter()
        .filter(|lease| of_pod(lease) && lease.field("/metadata/labels/memboss.dev~1in-code").is_some())
        .collect())
}

/// The one object that shows what a pod leases in code, once it looks so.
async fn until_shown(bed: &Bed, ns: &str, pod: &str, what: &str, looks: impl Fn(&Seen) -> bool) -> Result<Seen> {
    let found = wait::until(&format!("what {pod} leases in code {what}"), 60, || async {
        Ok(shown(bed, ns, pod).await?.into_iter().find(|lease| looks(lease)))
    })
    .await;
    match found {
        Ok(lease) => Ok(lease),
        Err(error) => {
            let said = pods::text(&bed.client, ns, pod, "main").await.unwrap_or_default();
            Err(error.context(format!("{:?}; its log: {said}", shown(bed, ns, pod).await?)))
        }
    }
}

#[tokio::test]
#[ignore = "needs the test bed"]
async fn a_pod_leases_in_code_is_seen_doing_so_and_keeps_its_lease_when_the_agent_is_killed() -> Result<()> {
    Bed::in_namespace("in-code", async |bed, ns| {
        let client = &bed.client;
        let gpu = card(bed).await?;
        let options = ["--vram", "2Gi", "--class", "low", "--gpu", &gpu.uuid, "--label", "training"];
        let worker = pod("worker", "low", &[run("main", &options, &["--alloc", "2Gi"])]).annotate("agent", "gpus");
        worker.create(client, ns).await?;
        pods::running(client, ns, "worker").await?;
        let lease = until_shown(bed, ns, "worker", "is Active", |lease| lease.phase() == "Active").await?;
        ensure!((lease.gpus(), lease.amounts()) == (vec![gpu.uuid.clone()], vec![2048]), "{lease:?}");
        ensure!((lease.node(), lease.text("/spec/class")) == ("node1", "low"), "{lease:?}");
        ensure!(lease.text("/status/message").contains("training"), "{lease:?}");
        ensure!(lease.text("/metadata/ownerReferences/0/name") == "worker", "{lease:?}");
        ensure!(
            pods::get(client, ns, "worker")
                .await?
                .is_some_and(|pod| pod.spec.is_some_and(|s| s.scheduling_gates.is_none()))
        );
        let table = bed.script("k.sh", &["kubectl", "-n", ns, "get", "vramleases"])?;
        ensure!(["worker", "low", "2Gi", "Active", "node1", "gpu"].iter().all(|word| table.contains(word)), "{table}");
        ensure!(leased(bed, &gpu.uuid).await? == 2048, "the node reports it");

        let epoch = async || -> Result<u64> {
            let node = leases::api(client, "MemoryNode", "memorynodes", None).get("node1").await?;
            node.data.pointer("/status/agentEpoch").and_then(Value::as_u64).context("no epoch")
        };
        let before = epoch().await?;
        bed.kill("node1", "memboss-agent")?;
        wait::until("another agent reports", 60, || async { Ok((epoch().await? > before).then_some(())) }).await?;
        let after = until_shown(bed, ns, "worker", "is Active", |lease| lease.phase() == "Active").await?;
        ensure!(after.text("/metadata/uid") == lease.text("/metadata/uid"), "the same object: {after:?}");
        ensure!(
            after.field("/status/allocation/token") == lease.field("/status/allocation/token"),
            "the same grant: {after:?}"
        );
        // Its holder took it up again: without that it would end within its grace time.
        wait::never("the lease goes on", 15, || async {
            let there = shown(bed, ns, "worker").await?;
            Ok((there.len() != 1 || there[0].phase() != "Active").then(|| format!("{there:?}")))
        })
        .await?;
        leases::nothing_granted_twice(client).await?;

        pods::delete(client, ns, "worker").await?;
        wait::until("its memory is free", 30, || async { Ok((leased(bed, &gpu.uuid).await? == 0).then_some(())) })
            .await?;
        wait::until("nothing is shown", 30, || async { Ok(leases::all(client, ns).await?.is_empty().then_some(())) })
            .await
    })
    .await
}

#[tokio::test]
#[ignore = "needs the test bed"]
async fn an_agent_that_begins_anew_without_the_api_server_goes_on_with_what_pods_lease_in_code() -> Result<()> {
    Bed::in_namespace("in-code-alone", async |bed, ns| {
        let options = ["--vram", "2Gi", "--class", "low"];
        let worker = pod("worker", "low", &[run("main", &options, &["--alloc", "2Gi"])]).annotate("agent", "gpus");
        worker.create(&bed.client, ns).await?;
        let is_active = |lease: &Seen| lease.phase() == "Active";
        let before = until_shown(bed, ns, "worker", "is Active", is_active).await?;
        bed.script("component.sh", &["apiserver", "kill"])?;
        let kept = kept_by_another_agent(bed).await;
        // Whatever came of it: the other tests need it.
        bed.script("component.sh", &["apiserver", "start"])?;
        kept?;
        let after = until_shown(bed, ns, "worker", "is Active", is_active).await?;
        let grant = "/status/allocation/token";
        ensure!(after.field(grant) == before.field(grant), "the same grant: {before:?} {after:?}");
        let said =
            wait::until("its log", 60, || async { pods::text(&bed.client, ns, "worker", "main").await.map(Some) });
        ensure!(said.await?.contains("the agent is back, and the lease goes on"), "it took its lease up again");
        leases::nothing_granted_twice(&bed.client).await
    })
    .await
}

/// Kills node1's agent; the next one has the node's one lease, and has it still when the grace time of whoever did not take up its lease is over.
async fn kept_by_another_agent(bed: &Bed) -> Result<()> {
    let list = format!("{} --by socket lease list -o json", binary()?.display());
    let active = || -> Result<usize> {
        let told: Value = serde_json::from_str(&bed.on_node("node1", &list)?)?;
        let leases = told.as_array().context("no list of leases")?;
        Ok(leases.iter().filter(|lease| lease["state"] == "Active").count())
    };
    ensure!(active()? == 1, "node1 has that lease and no other");
    bed.kill("node1", "memboss-agent")?;
    wait::until("another agent answers", 60, || async { active().map(Some) }).await?;
    wait::never("the lease goes on", 13, || async {
        Ok(Some(active()?).filter(|active| *active != 1).map(|active| format!("{active} leases")))
    })
    .await
}

#[tokio::test]
#[ignore = "needs the test bed"]
async fn a_pod_leases_in_code_up_to_its_own_class() -> Result<()> {
    Bed::in_namespace("in-code-cap", async |bed, ns| {
        let client = &bed.client;
        let high = run("main", &["--vram", "1Gi", "--class", "high"], &[]);
        pod("low", "low", &[high]).annotate("agent", "gpus").create(client, ns).await?;
        let said = wait::until("it is told why not", 60, || async {
            let said = pods::text(client, ns, "low", "main").await.unwrap_or_default();
            Ok(said.contains("up to low").then_some(said))
        })
        .await?;
        ensure!(said.contains("memboss.dev/priority=high"), "{said}");
        for (annotations, words) in [
            (&[("agent", "yes")][..], &["memboss.dev/agent", "yes", "gpus"][..]),
            (&[("agent", "true"), ("layout", "spread")], &["memboss.dev/layout", "in code alone"]),
            (&[("agent", "gpus"), ("vram", "1Gi")], &["memboss.dev/agent", "write true"]),
        ] {
            let wrong = annotations.iter().fold(TestPod::new("wrong"), |pod, (key, value)| pod.annotate(key, value));
            let said = wrong.refused(client, ns).await?;
            ensure!(words.iter().all(|word| said.contains(word)), "{annotations:?}: {said}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
#[ignore = "needs the test bed"]
async fn what_is_leased_in_code_goes_to_an_urgent_pod_after_a_notice() -> Result<()> {
    Bed::in_namespace("in-code-gives", async |bed, ns| {
        let client = &bed.client;
        let gpu = card(bed).await?;
        let options = ["--vram", "20Gi", "--class", "batch", "--gpu", &gpu.uuid];
        let worker = pod("worker", "batch", &[run("main", &options, &["--alloc", "4Gi"])]).annotate("agent", "gpus");
        worker.create(client, ns).await?;
        until_shown(bed, ns, "worker", "is Active", |lease| lease.phase() == "Active").await?;
        TestPod::leasing("urgent", "8Gi", "urgent").annotate("gpu-uuid", &gpu.uuid).create(client, ns).await?;
        let said = wait::until("the worker is told and ends", 60, || async {
            let over = pods::get(client, ns, "worker").await?.is_some_and(|pod| pods::phase(&pod) != "Running");
            let said = pods::text(client, ns, "worker", "main").await.unwrap_or_default();
            Ok((over && said.contains("urgent")).then_some(said))
        })
        .await?;
        ensure!(said.contains("\"event\":\"term\""), "the workload was asked to end: {said}");
        pods::running(client, ns, "urgent").await?;
        wait::until("nothing is shown", 30, || async { Ok(shown(bed, ns, "worker").await?.is_empty().then_some(())) })
            .await?;
        leases::nothing_granted_twice(client).await
    })
    .await
}

#[tokio::test]
#[ignore = "needs the test bed"]
async fn what_a_pod_with_a_lease_leases_in_code_comes_out_of_it() -> Result<()> {
    Bed::in_namespace("in-code-part", async |bed, ns| {
        let client = &bed.client;
        let gpu = card(bed).await?;
        let containers = [
            run("main", &["--vram", "2Gi"], &["--alloc", "1Gi"]),
            run("other", &["--vram", "3Gi"], &["--alloc", "1Gi"]),
        ];
        let worker = pod("worker", "normal", &containers).annotate("agent", "true");
        let worker = worker.annotate("vram.main", "2Gi").annotate("vram.other", "2Gi").annotate("gpu-uuid", &gpu.uuid);
        worker.create(client, ns).await?;
        let part = until_shown(bed, ns, "worker", "is Active", |lease| lease.phase() == "Active").await?;
        ensure!(part.text("/metadata/labels/memboss.dev~1in-code") == "part", "{part:?}");
        ensure!(part.text("/status/message").contains("out of"), "{part:?}");
        ensure!(leased(bed, &gpu.uuid).await? == 4096, "it costs the node nothing more");
        // 2 and 3 GiB do not fit into 4: one of the containers waits until the other's process has ended.
        let first = if part.amounts() == [2048] { "main" } else { "other" };
        let second = if first == "main" { "other" } else { "main" };
        let waits = wait::until("the other one waits", 30, || async {
            let said = pods::text(client, ns, "worker", second).await.unwrap_or_default();
            Ok(said.contains("wait").then_some(said))
        })
        .await?;
        ensure!(!waits.contains("binding"), "{waits}");
        pods::delete(client, ns, "worker").await?;
        wait::until("its memory is free", 30, || async { Ok((leased(bed, &gpu.uuid).await? == 0).then_some(())) })
            .await?;
        wait::until("nothing is shown", 30, || async { Ok(shown(bed, ns, "worker").await?.is_empty().then_some(())) })
            .await
    })
    .await
}

#[tokio::test]
#[ignore = "needs the test bed"]
async fn memory_that_was_just_leased_in_code_is_not_given_to_a_pod_before_any_object_shows_it() -> Result<()> {
    Bed::in_namespace("in-code-new", async |bed, ns| {
        let client = &bed.client;
        let gpu = card(bed).await?;
        let options = ["--vram", "16Gi", "--gpu", &gpu.uuid];
        let worker = pod("worker", "normal", &[run("main", &options, &[])]).annotate("agent", "gpus");
        worker.create(client, ns).await?;
        wait::until("it is granted", 60, || async {
            let said = pods::text(client, ns, "worker", "main").await.unwrap_or_default();
            Ok(said.contains(" has ").then_some(()))
        })
        .await?;
        // Whether or not the object is there by now, the agent has the last word.
        TestPod::leasing("late", "16Gi", "normal").annotate("gpu-uuid", &gpu.uuid).create(client, ns).await?;
        let late = leases::until_of(client, ns, "late", "waits", |lease| lease.phase() == "Waiting").await?;
        ensure!(leased(bed, &gpu.uuid).await? <= 16 << 10, "{late:?}");
        leases::nothing_granted_twice(client).await?;
        until_shown(bed, ns, "worker", "is Active", |lease| lease.phase() == "Active").await?;
        wait::never("both have it", 5, || async {
            let late = leases::of_pod(client, ns, "late").await?;
            Ok(late.filter(|lease| lease.phase() == "Active").map(|lease| format!("{lease:?}")))
        })
        .await?;
        pods::delete(client, ns, "worker").await?;
        pods::running(client, ns, "late").await.map(drop)
    })
    .await
}

#[tokio::test]
#[ignore = "needs the test bed"]
async fn a_quota_closes_the_gpus_of_the_agent_to_a_namespace() -> Result<()> {
    Bed::in_namespace("in-code-quota", async |bed, ns| {
        let client = &bed.client;
        bed.script(
            "k.sh",
            &["kubectl", "-n", ns, "create", "quota", "no-gpus", "--hard=requests.memboss.dev/agent-gpus=0"],
        )?;
        let worker = || pod("worker", "normal", &[run("main", &["--ram", "64Mi"], &[])]);
        // The quota is enforced once it has been counted.
        let said = wait::until("it is refused", 30, || async {
            match worker().annotate("agent", "gpus").create(client, ns).await {
                Err(said) => Ok(Some(format!("{said:?}"))),
                Ok(_) => pods::delete(client, ns, "worker").await.map(|()| None),
            }
        })
        .await?;
        ensure!(said.contains("no-gpus") && said.contains("memboss.dev/agent-gpus"), "{said}");
        worker().annotate("agent", "true").create(client, ns).await?;
        pods::running(client, ns, "worker").await.map(drop)
    })
    .await
}
