//! A higher class gets its memory: the cheapest lower one is told, has its time, goes, and is queued again.

use anyhow::{Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use kube::Api;
use kube::api::PostParams;
use memboss_tests::bed::Bed;
use memboss_tests::pods::{self, TestPod};
use memboss_tests::{leases, wait};
use serde_json::json;

/// A Deployment of one such pod; returns the name of its first one once that holds its memory past its protection.
async fn deploy(bed: &Bed, ns: &str, pod: &TestPod, app: &str) -> Result<String> {
    let deployment: Deployment = serde_json::from_value(json!({
        "metadata": { "name": app },
        "spec": { "replicas": 1, "selector": { "matchLabels": { "app": app } }, "template": pod.template() }
    }))?;
    Api::<Deployment>::namespaced(bed.client.clone(), ns).create(&PostParams::default(), &deployment).await?;
    let name = wait::until(&format!("{app} has a pod"), 30, || async {
        Ok(pods::named(&bed.client, ns, app).await?.into_iter().next())
    })
    .await?;
    pods::running(&bed.client, ns, &name).await?;
    Ok(name)
}

async fn card(bed: &Bed) -> Result<leases::Gpu> {
    let gpus = leases::gpus(&bed.client).await?;
    gpus.into_iter()
        .find(|gpu| gpu.model.contains("SIM-24G"))
        .ok_or_else(|| anyhow::anyhow!("the bed has no 24 GiB GPU"))
}

#[tokio::test]
#[ignore = "needs the test bed"]
async fn an_urgent_pod_gets_its_memory_from_the_cheapest_batch_victim_which_is_told_and_queued_again() -> Result<()> {
    Bed::in_namespace("preempt", async |bed, ns| {
        let client = &bed.client;
        let gpu = card(bed).await?;
        let on_it = |pod: TestPod| pod.annotate("gpu-uuid", &gpu.uuid);

        // 10 + 6 + 6 GiB: for 8 GiB more, the one of 10 GiB alone is enough; the NORMAL one may not be asked at all by this rule's order.
        let big = deploy(
            bed,
            ns,
            &on_it(TestPod::leasing("big", "10Gi", "batch").args("main", &["--on-notice", "ignore"])),
            "big",
        )
        .await?;
        let small = deploy(bed, ns, &on_it(TestPod::leasing("small", "6Gi", "batch")), "small").await?;
        on_it(TestPod::leasing("normal", "6Gi", "normal")).create(client, ns).await?;
        pods::running(client, ns, "normal").await?;
        let victim = leases::until_of(client, ns, &big, "is Active", |l| l.phase() == "Active").await?;

        on_it(TestPod::leasing("urgent", "8Gi", "urgent")).create(client, ns).await?;
        let told = leases::until_of(client, ns, &big, "is told", |l| l.phase() == "Revoking").await?;
        ensure!(
            told.text("/status/allocation/notice/preemptor").contains("urgent"),
            "the notice says for whom: {told:?}"
        );
        ensure!(
            told.text("/status/allocation/notice/preemptorClass").eq_ignore_ascii_case("urgent"),
            "and of which class: {told:?}"
        );
        let lines = wait::until("the workload has heard the notice", 20, || async {
            let lines = pods::log(client, ns, &big, "main").await?;
            Ok(lines.iter().any(|line| line["event"] == "notice").then_some(lines))
        })
        .await?;
        let notice = lines.iter().find(|line| line["event"] == "notice").expect("just seen");
        ensure!(notice["preemptor"].as_str().is_some_and(|p| p.contains("urgent")), "{notice}");
        ensure!(notice["remaining_ms"].as_u64().is_some_and(|ms| ms > 0), "it has time: {notice}");

        pods::running(client, ns, "urgent").await?;
        let ended = wait::until("the victim's lease has ended", 30, || async {
            Ok(leases::all(client, ns).await?.into_iter().find(|l| l.name() == victim.name() && l.phase() == "Ended"))
        })
        .await?;
        ensure!(ended.end_reason() == "Preempted", "{ended:?}");
        let again = wait::until("the victim's controller made a pod that waits", 60, || async {
            for name in pods::named(client, ns, "big").await? {
                if name != big
                    && let Some(lease) = leases::of_pod(client, ns, &name).await?.filter(|l| l.phase() == "Waiting")
                {
                    return Ok(Some(lease));
                }
            }
            Ok(None)
        })
        .await?;
        ensure!(again.text("/spec/queuedAt") == victim.text("/spec/queuedAt"), "it has its old place: {again:?}");
        let other = leases::of_pod(client, ns, &small).await?;
        ensure!(other.is_some_and(|l| l.phase() == "Active"), "whoever was not needed stays");
        leases::nothing_granted_twice(client).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
#[ignore = "needs the test bed"]
async fn freed_memory_is_charged_until_nvml_shows_it_free_and_goes_to_the_preemptor() -> Result<()> {
    Bed::in_namespace("charged", async |bed, ns| {
        let client = &bed.client;
        let gpu = card(bed).await?;
        let on_it = |pod: TestPod| pod.annotate("gpu-uuid", &gpu.uuid);
        // It neither heeds the notice nor SIGTERM: only SIGKILL after its grace ends it, and until then its memory is in use.
        let stubborn = on_it(TestPod::leasing("stubborn", "16Gi", "batch"))
            .args("main", &["--on-notice", "ignore", "--ignore-term"]);
        let name = deploy(bed, ns, &stubborn, "stubborn").await?;
        on_it(TestPod::leasing("urgent", "16Gi", "urgent")).create(client, ns).await?;
        // A thief of the same class as the victim, and one of a class between: neither may get what is freed.
        on_it(TestPod::leasing("thief", "16Gi", "low")).create(client, ns).await?;
        wait::never("memory that is in use is never charged to another", 8, || async {
            let urgent =
                leases::of_pod(client, ns, "urgent").await?.map(|l| l.text("/status/allocation/state").to_owned());
            let used = leases::gpus(client).await?.into_iter().find(|g| g.uuid == gpu.uuid).map_or(0, |g| g.used);
            let victim_lives = pods::get(client, ns, &name).await?.is_some();
            Ok((victim_lives && used > 16_000 && matches!(urgent.as_deref(), Some("Reserved" | "Active")))
                .then(|| format!("urgent is {urgent:?} with {used} MiB in use")))
        })
        .await?;
        pods::running(client, ns, "urgent").await?;
        let thief = leases::of_pod(client, ns, "thief").await?;
        ensure!(thief.is_some_and(|l| l.phase() == "Waiting"), "the freed memory went to its preemptor");
        leases::nothing_granted_twice(client).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
#[ignore = "needs the test bed"]
async fn a_victim_that_shrinks_serves_its_preemptor_and_goes_on() -> Result<()> {
    gives_back_and_goes_on("shrink").await
}

#[tokio::test]
#[ignore = "needs the test bed"]
async fn a_victim_that_offloads_serves_its_preemptor_and_goes_on() -> Result<()> {
    gives_back_and_goes_on("offload").await
}

async fn gives_back_and_goes_on(how: &str) -> Result<()> {
    Bed::in_namespace(how, async |bed, ns| {
        let client = &bed.client;
        let gpu = card(bed).await?;
        let on_it = |pod: TestPod| pod.annotate("gpu-uuid", &gpu.uuid);
        let flexible = on_it(TestPod::leasing("flexible", "16Gi", "batch"))
            .annotate(&format!("can-{how}"), "true")
            .args("main", &["--on-notice", &format!("{how}:12Gi")]);
        let name = deploy(bed, ns, &flexible, "flexible").await?;
        on_it(TestPod::leasing("urgent", "8Gi", "urgent")).create(client, ns).await?;
        pods::running(client, ns, "urgent").await?;
        let lease = leases::until_of(client, ns, &name, "is Active with less", |l| {
            l.phase() == "Active" && l.amounts().iter().sum::<u64>() < 16 * 1024
        })
        .await?;
        ensure!(pods::get(client, ns, &name).await?.is_some_and(|pod| pods::is_running(&pod)), "it never stopped");
        ensure!(lease.amounts() == [12 * 1024], "{:?}", lease.amounts());
        leases::nothing_granted_twice(client).await?;
        Ok(())
    })
    .await
}
