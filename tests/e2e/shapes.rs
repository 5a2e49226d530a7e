//! Pods of other shapes: several containers, several GPUs, shares, restarts.

use anyhow::{Result, ensure};
use memboss_tests::bed::Bed;
use memboss_tests::pods::{self, TestPod};
use memboss_tests::{leases, wait};

use crate::sharing::bound_to_its_lease;

#[tokio::test]
#[ignore = "needs the test bed"]
async fn two_containers_of_one_pod_share_a_gpu() -> Result<()> {
    Bed::in_namespace("two", async |bed, ns| {
        let client = &bed.client;
        let pod = TestPod::new("two")
            .args("main", &["--alloc", "2Gi"])
            .args("side", &["--alloc", "1Gi"])
            .args("plain", &["--no-gpu"])
            .annotate("vram.main", "2Gi")
            .annotate("vram.side", "1Gi");
        pod.create(client, ns).await?;
        pods::running(client, ns, "two").await?;
        let main = bound_to_its_lease(bed, ns, "two", "main").await?;
        let side = bound_to_its_lease(bed, ns, "two", "side").await?;
        ensure!(main == side && main.len() == 1, "{main:?} {side:?}");
        let plain = pods::log(client, ns, "two", "plain").await?;
        ensure!(
            plain.iter().all(|line| line["gpus"].as_array().is_none_or(Vec::is_empty)),
            "who did not ask sees no GPU: {plain:?}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
#[ignore = "needs the test bed"]
async fn one_pod_gets_several_gpus_of_one_node() -> Result<()> {
    Bed::in_namespace("several", async |bed, ns| {
        let client = &bed.client;
        TestPod::leasing("several", "2x8Gi", "normal").create(client, ns).await?;
        pods::running(client, ns, "several").await?;
        let inside = bound_to_its_lease(bed, ns, "several", "main").await?;
        ensure!(inside.len() == 2, "{inside:?}");
        let lease = leases::of_pod(client, ns, "several").await?.expect("it runs");
        ensure!(lease.amounts() == [8192, 8192], "{:?}", lease.amounts());
        Ok(())
    })
    .await
}

#[tokio::test]
#[ignore = "needs the test bed"]
async fn half_of_a_gpu_is_half_of_whichever_it_becomes() -> Result<()> {
    Bed::in_namespace("half", async |bed, ns| {
        let client = &bed.client;
        for (name, model) in [("small", "SIM-24G"), ("large", "A100")] {
            TestPod::new(name).annotate("vram", "50%").annotate("gpu-model", model).create(client, ns).await?;
            pods::running(client, ns, name).await?;
            let lease = leases::until_of(client, ns, name, "is Active", |l| l.phase() == "Active").await?;
            let gpu = leases::gpus(client)
                .await?
                .into_iter()
                .find(|gpu| lease.gpus() == [gpu.uuid.clone()])
                .expect("its GPU is reported");
            ensure!(gpu.model.contains(model), "{gpu:?}");
            ensure!(
                lease.amounts() == [gpu.leasable / 2 / 256 * 256],
                "half of {} in whole units: {:?}",
                gpu.leasable,
                lease.amounts()
            );
        }
        Ok(())
    })
    .await
}

#[tokio::test]
#[ignore = "needs the test bed"]
async fn a_restarted_container_gets_its_gpu_again_also_after_the_plugin_was_killed() -> Result<()> {
    Bed::in_namespace("restart", async |bed, ns| {
        let client = &bed.client;
        TestPod::leasing("again", "2Gi", "normal").create(client, ns).await?;
        let pod = pods::running(client, ns, "again").await?;
        let node = pod.spec.and_then(|spec| spec.node_name).unwrap_or_default();
        let before = bound_to_its_lease(bed, ns, "again", "main").await?;
        for plugin_too in [false, true] {
            let restarts = restarts(bed, ns, "again").await?;
            if plugin_too {
                bed.kill(&node, "memboss-device-plugin")?;
            }
            bed.kill(&node, "memboss-workload")?;
            wait::until("the container was started again", 90, || async {
                Ok((self::restarts(bed, ns, "again").await? > restarts).then_some(()))
            })
            .await?;
            pods::running(client, ns, "again").await?;
            ensure!(
                bound_to_its_lease(bed, ns, "again", "main").await? == before,
                "the same GPU (plugin killed: {plugin_too})"
            );
        }
        Ok(())
    })
    .await
}

async fn restarts(bed: &Bed, ns: &str, pod: &str) -> Result<i32> {
    let pod = pods::get(&bed.client, ns, pod).await?;
    let statuses = pod.and_then(|pod| pod.status).and_then(|status| status.container_statuses).unwrap_or_default();
    Ok(statuses.iter().map(|status| status.restart_count).sum())
}

#[tokio::test]
#[ignore = "needs the test bed"]
async fn a_pod_is_not_pinned_to_a_node_where_it_cannot_run() -> Result<()> {
    Bed::in_namespace("eligible", async |bed, ns| {
        let client = &bed.client;
        // node1 has the fuller, smaller GPUs, where packing would put it; its node selector says node2.
        let selected = TestPod::leasing("selected", "1Gi", "normal")
            .spec(serde_json::json!({ "nodeSelector": { "kubernetes.io/hostname": "node2" } }));
        selected.create(client, ns).await?;
        let pod = pods::running(client, ns, "selected").await?;
        ensure!(pod.spec.and_then(|spec| spec.node_name).as_deref() == Some("node2"));
        let never = TestPod::leasing("never", "1Gi", "normal")
            .spec(serde_json::json!({ "nodeSelector": { "kubernetes.io/hostname": "node9" } }));
        never.create(client, ns).await?;
        let lease = leases::until_of(client, ns, "never", "says why it waits", |l| {
            l.phase() == "Unsatisfiable" || !l.why().0.is_empty()
        })
        .await?;
        ensure!(lease.node().is_empty(), "it is placed nowhere: {lease:?}");
        Ok(())
    })
    .await
}
