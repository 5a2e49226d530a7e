//! Host RAM is leased like GPU memory: alone or in one grant with it, in order, and to a higher class after a notice.

use anyhow::{Result, ensure};
use memboss_tests::bed::Bed;
use memboss_tests::leases;
use memboss_tests::pods::{self, TestPod};
use serde_json::json;

/// A pod of node1 that leases so many MiB of RAM.
fn leasing(name: &str, mib: u64, class: &str) -> TestPod {
    TestPod::new(name)
        .annotate("ram", &format!("{mib}Mi"))
        .annotate("priority", class)
        .spec(json!({ "nodeSelector": { "kubernetes.io/hostname": "node1" } }))
}

/// So many percent of what can be leased of node1's RAM.
async fn percent(bed: &Bed, percent: u64) -> Result<u64> {
    Ok(leases::ram(&bed.client, "node1").await?.0 * percent / 100)
}

#[tokio::test]
#[ignore = "needs the test bed"]
async fn a_pod_leases_ram_which_its_request_carries_and_the_next_waits_for_it() -> Result<()> {
    Bed::in_namespace("ram", async |bed, ns| {
        let client = &bed.client;
        let most = percent(bed, 60).await?;
        leasing("first", most, "normal").args("main", &["--ram", "256Mi"]).create(client, ns).await?;
        pods::running(client, ns, "first").await?;
        let first = leases::until_of(client, ns, "first", "is Active and its use is seen", |l| {
            l.phase() == "Active" && leases::mib(l.text("/status/allocation/used")).is_some_and(|used| used >= 256)
        })
        .await?;
        ensure!(first.text("/kind") == "RamLease" && first.gpus().is_empty(), "{first:?}");
        let pod = pods::get(client, ns, "first").await?.and_then(|pod| pod.spec);
        let resources = pod.and_then(|spec| spec.containers.into_iter().next()?.resources?.requests);
        let request = resources.as_ref().and_then(|list| list.get("memory")).and_then(|q| leases::mib(&q.0));
        ensure!(request == Some(most), "the scheduler counts what is leased: {resources:?}");
        ensure!(leases::ram(client, "node1").await?.1 == most, "the node reports what is leased");

        leasing("second", most, "normal").create(client, ns).await?;
        let second = leases::until_of(client, ns, "second", "waits and says why", |l| {
            l.phase() == "Waiting" && l.position() == Some(1)
        })
        .await?;
        ensure!(second.why().0 == "NoRam", "{:?}", second.why());
        pods::delete(client, ns, "first").await?;
        pods::running(client, ns, "second").await?;
        leases::until_of(client, ns, "second", "is Active", |l| l.phase() == "Active").await?;
        Ok(())
    })
    .await
}

#[tokio::test]
#[ignore = "needs the test bed"]
async fn an_urgent_pod_gets_ram_from_a_batch_pod_after_a_notice() -> Result<()> {
    Bed::in_namespace("ram-preempt", async |bed, ns| {
        let client = &bed.client;
        let most = percent(bed, 60).await?;
        leasing("batch", most, "batch").annotate("protection", "0").create(client, ns).await?;
        pods::running(client, ns, "batch").await?;
        leases::until_of(client, ns, "batch", "is Active", |l| l.phase() == "Active").await?;
        leasing("urgent", most, "urgent").create(client, ns).await?;
        let told = leases::until_of(client, ns, "batch", "is told", |l| l.phase() == "Revoking").await?;
        let notice = "/status/allocation/notice";
        ensure!(told.text(&format!("{notice}/preemptor")).contains("urgent"), "{told:?}");
        ensure!(leases::mib(told.text(&format!("{notice}/neededRam"))).is_some_and(|mib| mib > 0), "{told:?}");
        pods::running(client, ns, "urgent").await?;
        ensure!(pods::get(client, ns, "batch").await?.is_none_or(|pod| !pods::is_running(&pod)), "the victim went");
        Ok(())
    })
    .await
}

#[tokio::test]
#[ignore = "needs the test bed"]
async fn gpu_memory_and_ram_come_in_one_grant_or_not_at_all() -> Result<()> {
    Bed::in_namespace("ram-both", async |bed, ns| {
        let client = &bed.client;
        let most = percent(bed, 60).await?;
        let both = |name: &str| leasing(name, most, "normal").annotate("vram", "4Gi");
        both("first").args("main", &["--alloc", "4Gi"]).create(client, ns).await?;
        pods::running(client, ns, "first").await?;
        let first = leases::until_of(client, ns, "first", "is Active", |l| l.phase() == "Active").await?;
        ensure!(first.text("/kind") == "VramLease" && first.amounts() == [4096], "{first:?}");
        ensure!(leases::mib(first.text("/status/allocation/ram")) == Some(most), "{first:?}");
        both("second").create(client, ns).await?;
        let second = leases::until_of(client, ns, "second", "waits for RAM", |l| l.why().0 == "NoRam").await?;
        ensure!(second.gpus().is_empty(), "no part of it is held meanwhile: {second:?}");
        pods::delete(client, ns, "first").await?;
        pods::running(client, ns, "second").await?;
        Ok(())
    })
    .await
}

#[tokio::test]
#[ignore = "needs the test bed"]
async fn a_wrong_wish_for_ram_is_refused_with_what_would_be_right() -> Result<()> {
    Bed::in_namespace("ram-wrong", async |bed, ns| {
        let client = &bed.client;
        for (key, value, words) in [
            ("ram", "lots", ["memboss.dev/ram", "16Gi"]),
            ("ram", "50%", ["memboss.dev/ram", "16Gi"]),
            ("ram", "0", ["memboss.dev/ram", "16Gi"]),
        ] {
            let said = TestPod::new("wrong").annotate(key, value).refused(client, ns).await?;
            ensure!(words.iter().all(|word| said.contains(word)), "{key}={value}: {said}");
        }
        let about_gpus = leasing("wrong", 64, "normal").annotate("gpu-model", "H100");
        let said = about_gpus.refused(client, ns).await?;
        ensure!(said.contains("memboss.dev/gpu-model") && said.contains("RAM alone"), "{said}");
        Ok(())
    })
    .await
}
