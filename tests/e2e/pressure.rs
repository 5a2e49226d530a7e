//! A node whose pods fill what its kubelet lets them have: cache goes first, then pods that lease RAM, by class, and the kubelet and the kernel end nobody.

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::Api;
use kube::api::ListParams;
use memboss_tests::bed::Bed;
use memboss_tests::leases;
use memboss_tests::pods::{self, TestPod};
use memboss_tests::wait::until;
use serde_json::{Value, json};

use crate::command_line::memboss;

const NODE: &str = "node2";
/// What the kubelet lets pods have, in MiB: little, so that a pod can fill it beside whatever else this machine does.
const PODS_HAVE: &str = "3072";

fn leasing(name: &str, mib: u64, class: &str, args: &[&str]) -> TestPod {
    TestPod::new(name)
        .annotate("ram", &format!("{mib}Mi"))
        .annotate("priority", class)
        .annotate("protection", "0")
        .args("main", &[&["--no-gpu"], args].concat())
        .spec(json!({ "nodeSelector": { "kubernetes.io/hostname": NODE } }))
}

async fn memory_node(bed: &Bed) -> Result<Value> {
    let node = leases::api(&bed.client, "MemoryNode", "memorynodes", None).get(NODE).await?;
    Ok(node.data.pointer("/status/ram").cloned().unwrap_or_default())
}

/// Whom the kubelet evicted or the kernel killed.
async fn ended_by_others(bed: &Bed, ns: &str) -> Result<Vec<String>> {
    let list = Api::<Pod>::namespaced(bed.client.clone(), ns).list(&ListParams::default()).await?;
    let told = |pod: &Pod| json!(pod.status).to_string();
    let ended = list.items.iter().filter(|pod| {
        let status = told(pod);
        status.contains("\"Evicted\"") || status.contains("OOMKilled")
    });
    Ok(ended.map(told).collect())
}

#[tokio::test]
#[ignore = "needs the test bed"]
async fn a_pod_that_grows_is_preempted_by_class_before_the_kubelet_or_the_kernel_ends_anybody() -> Result<()> {
    on_a_small_node("pressure", grows).await
}

/// Where pods may have little, and as it was before, with nobody pressed, afterwards.
async fn on_a_small_node(prefix: &str, test: impl AsyncFnOnce(&Bed, &str) -> Result<()>) -> Result<()> {
    Bed::in_namespace(prefix, async |bed, ns| {
        bed.script("reserve.sh", &[NODE, "all-but", PODS_HAVE])?;
        let outcome = async {
            until("its kubelet says that pods may have less", 60, || async { is_small(bed).await }).await?;
            test(bed, ns).await
        }
        .await;
        bed.script("reserve.sh", &[NODE, "1Gi"])?;
        outcome?;
        pods::delete_all(&bed.client, ns).await?;
        until("the node is well again", 200, || async {
            Ok((memory_node(bed).await?["closed"].is_null()).then_some(()))
        })
        .await
    })
    .await
}

async fn is_small(bed: &Bed) -> Result<Option<u64>> {
    let node = Api::<Node>::all(bed.client.clone()).get(NODE).await?;
    let allocatable = node.status.and_then(|status| status.allocatable?.get("memory").map(|amount| amount.0.clone()));
    Ok(allocatable.and_then(|amount| amount.strip_suffix("Ki")?.parse::<u64>().ok()).filter(|kib| *kib < 4 << 20))
}

/// Where the agents may drop cache, if the chart was told so (agent.pressure.cleanIn).
const MODELS: &str = "/var/lib/memboss/models";

#[tokio::test]
#[ignore = "needs the test bed, with agent.pressure.cleanIn"]
async fn cache_that_nobody_needs_is_dropped_before_anybody_is_asked_to_go() -> Result<()> {
    on_a_small_node("cache", async |bed, ns| {
        let client = &bed.client;
        let container = json!({
            "name": "main", "image": pods::IMAGE, "imagePullPolicy": "Never", "command": ["memboss-workload"],
            "args": ["--no-gpu", "--ram", "64Mi", "--file", format!("{MODELS}/file"), "--file-size", "2600Mi"],
            "volumeMounts": [{ "name": "models", "mountPath": MODELS }],
            "resources": { "requests": { "cpu": "1m", "memory": "8Mi" } },
        });
        let models = json!({ "name": "models", "hostPath": { "path": MODELS, "type": "DirectoryOrCreate" } });
        let reader = leasing("reader", 512, "batch", &[]);
        reader.spec(json!({ "containers": [container], "volumes": [models] })).create(client, ns).await?;
        pods::running(client, ns, "reader").await?;
        let would = memboss(&["ram", "clear", "--dry-run", "--on", NODE, "-o", "json"])?;
        ensure!(would.code == 0, "it knows where the agent may clean: {would:?}");
        let cleaning = async || Ok::<_, anyhow::Error>(memory_node(bed).await?["lastCleaning"].clone());
        let dropped = until("cache is dropped", 120, || async {
            let last = cleaning().await?;
            let mib = leases::mib(last["dropped"].as_str().unwrap_or_default()).unwrap_or_default();
            Ok((last["mode"] == "aggressive" && mib > 0).then_some(mib))
        })
        .await?;
        ensure!(dropped >= 512, "{dropped} MiB: {}", cleaning().await?);
        let last = until("it is told what came back", 120, || async {
            Ok(Some(cleaning().await?).filter(|last| !last["cameBack"].is_null()))
        })
        .await?;
        ensure!(last["cameBack"] == "0Mi", "nobody reads it again: {last}");
        leases::until_of(client, ns, "reader", "is Active", |lease| lease.phase() == "Active").await?;
        let others = ended_by_others(bed, ns).await?;
        ensure!(others.is_empty(), "{others:?}");
        let events = Api::<Event>::namespaced(client.clone(), ns).list(&ListParams::default()).await?;
        let asked = events.items.iter().any(|event| event.reason.as_deref() == Some("NodePressure"));
        ensure!(!asked, "nobody was asked to go: {:?}", events.items);
        bed.on_node(NODE, &format!("rm -f {MODELS}/file")).map(drop)
    })
    .await
}

async fn grows(bed: &Bed, ns: &str) -> Result<()> {
    let client = &bed.client;
    leasing("high", 512, "high", &["--ram", "256Mi"]).create(client, ns).await?;
    pods::running(client, ns, "high").await?;
    // Within its lease at first; then it takes 30 MiB more each second, up to more than is there.
    leasing(
        "batch",
        1024,
        "batch",
        &["--ram", "1000Mi", "--grow", "30Mi", "--grow-to", "6Gi", "--on-notice", "ignore"],
    )
    .create(client, ns)
    .await?;
    pods::running(client, ns, "batch").await?;
    let told = leases::until_of(client, ns, "batch", "is told", |lease| lease.phase() == "Revoking").await?;
    ensure!(told.text("/status/why") == "NodePressure", "{told:?}");
    ensure!(told.text("/status/message").contains("under pressure"), "{told:?}");
    ensure!(told.text("/status/allocation/notice/preemptor").is_empty(), "{told:?}");
    let ram = memory_node(bed).await?;
    ensure!(ram["pressure"] == "high" || ram["pressure"] == "critical", "{ram}");
    ensure!(ram["closed"] == "NodePressure", "{ram}");
    leasing("late", 64, "urgent", &[]).create(client, ns).await?;
    let waits = |lease: &leases::Seen| lease.phase() == "Waiting" && lease.why().0 == "NodePressure";
    leases::until_of(client, ns, "late", "waits for the pressure to end", waits).await?;
    until("the grown pod is gone", 60, || async {
        Ok(pods::get(client, ns, "batch").await?.is_none_or(|pod| !pods::is_running(&pod)).then_some(()))
    })
    .await?;
    let ended = until("its lease has ended", 60, || async {
        let all = leases::all(client, ns).await?;
        Ok(all.into_iter().find(|lease| lease.name() == told.name() && lease.phase() == "Ended"))
    })
    .await?;
    ensure!(ended.end_reason() == "NodePressure", "{ended:?}");
    let high = pods::running(client, ns, "high").await?;
    let restarts: i32 =
        high.status.and_then(|s| s.container_statuses).unwrap_or_default().iter().map(|c| c.restart_count).sum();
    ensure!(restarts == 0, "the higher class lives on");
    let others = ended_by_others(bed, ns).await?;
    ensure!(others.is_empty(), "{others:?}");
    let events = Api::<Event>::namespaced(client.clone(), ns).list(&ListParams::default()).await?;
    let about = |reason: &str| events.items.iter().filter(|event| event.reason.as_deref() == Some(reason)).count();
    ensure!((about("NodePressure") > 0) && about("Evicted") == 0 && about("OOMKilling") == 0, "{:?}", events.items);
    Ok(())
}
