//! What happens to the machine under memboss: strangers on a GPU, an NVML that hangs or is not there, a leader that was only paused.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use memboss_tests::bed::{Bed, SYSTEM};
use memboss_tests::leases::{self, Gpu};
use memboss_tests::pods::{self, TestPod};
use memboss_tests::wait;

async fn gpu_of(bed: &Bed, uuid: &str) -> Result<Gpu> {
    leases::gpus(&bed.client).await?.into_iter().find(|gpu| gpu.uuid == uuid).context("the GPU is reported")
}

/// A 24 GiB GPU, which one pod of 16 GiB fills.
async fn card(bed: &Bed) -> Result<Gpu> {
    let gpus = leases::gpus(&bed.client).await?;
    gpus.into_iter().find(|gpu| gpu.model.contains("SIM-24G")).context("the bed has a 24 GiB GPU")
}

#[tokio::test]
#[ignore = "needs the test bed"]
async fn memory_that_a_stranger_uses_is_leased_to_nobody_until_it_is_free() -> Result<()> {
    Bed::in_namespace("stranger", async |bed, ns| {
        let (client, gpu) = (&bed.client, card(bed).await?);
        bed.sim(&gpu.node, &format!("foreign add --gpu {} --mib 16384", gpu.uuid))?;
        let outcome = async {
            wait::until("the stranger's memory is reported", 30, || async {
                Ok((gpu_of(bed, &gpu.uuid).await?.foreign >= 16_384).then_some(()))
            })
            .await?;
            TestPod::leasing("waits", "16Gi", "urgent").annotate("gpu-uuid", &gpu.uuid).create(client, ns).await?;
            let looks = |lease: &leases::Seen| lease.phase() == "Waiting" && lease.why().0 == "NoRoom";
            leases::until_of(client, ns, "waits", "waits for room", looks).await?;
            // It has room beside the stranger, and will have beside the first in line.
            TestPod::leasing("fits", "4Gi", "low").annotate("gpu-uuid", &gpu.uuid).create(client, ns).await?;
            pods::running(client, ns, "fits").await.map(|_| ())
        }
        .await;
        bed.sim(&gpu.node, &format!("foreign remove --gpu {}", gpu.uuid))?;
        outcome?;
        pods::running(client, ns, "waits").await?;
        leases::nothing_granted_twice(client).await
    })
    .await
}

/// While NVML does not tell: what runs goes on, nothing is granted or taken away; afterwards everything is as it was.
async fn nvml_goes_and_comes_back(name: &str, away: impl AsyncFn(&Bed, &Gpu) -> Result<()>, back: &str) -> Result<()> {
    Bed::in_namespace(name, async |bed, ns| {
        let (client, gpu) = (&bed.client, card(bed).await?);
        let on_it = |name: &str| TestPod::leasing(name, "2Gi", "normal").annotate("gpu-uuid", &gpu.uuid);
        on_it("before").create(client, ns).await?;
        pods::running(client, ns, "before").await?;
        let token = |lease: &leases::Seen| lease.field("/status/allocation/token").cloned();
        let before = leases::until_of(client, ns, "before", "is Active", |lease| lease.phase() == "Active").await?;
        let outcome = async {
            away(bed, &gpu).await?;
            wait::until("the GPU is reported as lost", 60, || async {
                Ok((gpu_of(bed, &gpu.uuid).await?.health == "Lost").then_some(()))
            })
            .await?;
            on_it("during").create(client, ns).await?;
            let waits = |lease: &leases::Seen| lease.phase() == "Waiting" && lease.why().0 == "Closed";
            leases::until_of(client, ns, "during", "waits for the GPU", waits).await?;
            let still = leases::of_pod(client, ns, "before").await?.context("its lease is there")?;
            ensure!(token(&still) == token(&before) && still.phase() == "Active", "it goes on: {still:?}");
            ensure!(pods::get(client, ns, "before").await?.is_some_and(|pod| pods::is_running(&pod)));
            Ok(())
        }
        .await;
        bed.sim(&gpu.node, &back.replace("GPU", &gpu.uuid))?;
        outcome?;
        pods::running(client, ns, "during").await?;
        let after = leases::of_pod(client, ns, "before").await?.context("its lease is there")?;
        ensure!(token(&after) == token(&before), "the same grant: {after:?}");
        leases::nothing_granted_twice(client).await
    })
    .await
}

async fn hang(bed: &Bed, gpu: &Gpu) -> Result<()> {
    bed.sim(&gpu.node, &format!("fault --gpu {} hang", gpu.uuid)).map(|_| ())
}

#[tokio::test]
#[ignore = "needs the test bed"]
async fn an_nvml_that_hangs_ends_nothing_and_grants_nothing() -> Result<()> {
    nvml_goes_and_comes_back("hangs", hang, "fault --gpu GPU ok").await
}

#[tokio::test]
#[ignore = "needs the test bed"]
async fn an_agent_that_starts_without_nvml_keeps_its_ledger_and_goes_on_when_nvml_comes() -> Result<()> {
    let absent = async |bed: &Bed, gpu: &Gpu| {
        bed.sim(&gpu.node, "nvml absent")?;
        bed.kill(&gpu.node, "memboss-agent")
    };
    nvml_goes_and_comes_back("absent", absent, "nvml present").await
}

#[tokio::test]
#[ignore = "needs the test bed"]
async fn an_agent_that_starts_while_nvml_hangs_says_so_keeps_its_ledger_and_goes_on_when_nvml_tells() -> Result<()> {
    let silent = async |bed: &Bed, gpu: &Gpu| {
        hang(bed, gpu).await?;
        bed.kill(&gpu.node, "memboss-agent")?;
        wait::until("its node says that the driver is silent", 30, || async {
            Ok(leases::gpus_unread(&bed.client, &gpu.node).await?.then_some(()))
        })
        .await
    };
    nvml_goes_and_comes_back("silent", silent, "fault --gpu GPU ok").await
}

#[tokio::test]
#[ignore = "needs the test bed"]
async fn a_leader_that_was_paused_changes_nothing_when_it_goes_on() -> Result<()> {
    Bed::in_namespace("paused", async |bed, ns| {
        let client = &bed.client;
        let api = Api::<Lease>::namespaced(client.clone(), SYSTEM);
        let holder = || async {
            let spec = api.get("memboss-operator").await?.spec;
            anyhow::Ok(spec.and_then(|spec| spec.holder_identity).unwrap_or_default())
        };
        let old = holder().await?;
        let operators = Api::<Pod>::namespaced(client.clone(), SYSTEM).list(&kube::api::ListParams::default()).await?;
        let leads = |pod: &&Pod| pod.metadata.uid.as_ref().is_some_and(|uid| old.contains(uid.as_str()));
        let leader = operators.items.iter().find(leads).context("the leader is one of the pods")?;
        let node = leader.spec.as_ref().and_then(|spec| spec.node_name.clone()).context("it runs on a node")?;
        bed.signal(&node, "memboss-operator", "STOP")?;
        let outcome = async {
            wait::until("another one leads", 60, || async { Ok((holder().await? != old).then_some(())) }).await?;
            TestPod::leasing("by-new", "2Gi", "normal").create(client, ns).await?;
            pods::running(client, ns, "by-new").await.map(|_| ())
        }
        .await;
        bed.signal(&node, "memboss-operator", "CONT")?;
        outcome?;
        let placed = leases::of_pod(client, ns, "by-new").await?.context("it has a lease")?;
        TestPod::leasing("after", "2Gi", "normal").create(client, ns).await?;
        pods::running(client, ns, "after").await?;
        let after = leases::of_pod(client, ns, "after").await?.context("it has a lease")?;
        let epoch = |lease: &leases::Seen| lease.field("/status/placement/epoch/number").and_then(|n| n.as_u64());
        ensure!(epoch(&after) >= epoch(&placed) && epoch(&placed).is_some(), "{after:?} after {placed:?}");
        let same = leases::of_pod(client, ns, "by-new").await?.context("it has a lease")?;
        let placement = |lease: &leases::Seen| lease.field("/status/placement").cloned();
        ensure!(placement(&same) == placement(&placed), "the old leader placed it again: {same:?}");
        leases::nothing_granted_twice(client).await
    })
    .await
}
