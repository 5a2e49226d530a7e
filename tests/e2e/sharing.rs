//! Pods share GPUs by MiB and wait in order.

use anyhow::{Result, ensure};
use memboss_tests::bed::Bed;
use memboss_tests::pods::{self, TestPod};
use memboss_tests::{leases, wait};

#[tokio::test]
#[ignore = "needs the test bed"]
async fn two_pods_share_a_gpu_and_the_third_waits_with_its_position_and_reason() -> Result<()> {
    Bed::in_namespace("sharing", async |bed, ns| {
        let client = &bed.client;
        // One 24 GiB GPU is named, so that the third has nowhere else to go.
        let gpu = leases::gpus(client)
            .await?
            .into_iter()
            .find(|gpu| gpu.model.contains("SIM-24G"))
            .expect("the bed has a 24 GiB GPU");
        let on_it = |name: &str, vram: &str| TestPod::leasing(name, vram, "normal").annotate("gpu-uuid", &gpu.uuid);

        on_it("eight", "8Gi").create(client, ns).await?;
        on_it("twelve", "12Gi").create(client, ns).await?;
        pods::running(client, ns, "eight").await?;
        pods::running(client, ns, "twelve").await?;
        let eight = leases::until_of(client, ns, "eight", "is Active", |l| l.phase() == "Active").await?;
        let twelve = leases::until_of(client, ns, "twelve", "is Active", |l| l.phase() == "Active").await?;
        ensure!(
            eight.gpus() == [gpu.uuid.clone()] && twelve.gpus() == eight.gpus(),
            "both are on {}: {eight:?} {twelve:?}",
            gpu.uuid
        );
        ensure!((eight.amounts(), twelve.amounts()) == (vec![8192], vec![12288]));

        on_it("third", "8Gi").create(client, ns).await?;
        let third = leases::until_of(client, ns, "third", "waits and says why", |l| {
            l.phase() == "Waiting" && l.position().is_some()
        })
        .await?;
        ensure!(third.position() == Some(1), "it is first in the queue: {third:?}");
        ensure!(
            third.why().0 == "NoRoom" && third.why().1.contains("8Gi"),
            "the reason names what it needs: {:?}",
            third.why()
        );
        ensure!(pods::get(client, ns, "third").await?.is_some_and(|pod| pods::phase(&pod) == "Pending"));

        pods::delete(client, ns, "eight").await?;
        pods::running(client, ns, "third").await?;
        leases::nothing_granted_twice(client).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
#[ignore = "needs the test bed"]
async fn forty_pods_at_once_all_start_each_bound_to_the_gpu_of_its_lease() -> Result<()> {
    Bed::in_namespace("forty", async |bed, ns| {
        let client = &bed.client;
        let names: Vec<_> = (0..40).map(|n| format!("p{n:02}")).collect();
        let create = |name: &String| {
            let pod = TestPod::leasing(name, "512Mi", "normal");
            async move { pod.create(client, ns).await }
        };
        let created = futures::future::join_all(names.iter().map(create)).await;
        for pod in created {
            pod?;
        }
        wait::until("all forty run", 120, || async {
            let mut running = 0;
            for name in &names {
                let pod = pods::get(client, ns, name).await?;
                ensure!(pod.as_ref().is_none_or(|pod| pods::phase(pod) != "Failed"), "{name} Failed");
                running += usize::from(pod.is_some_and(|pod| pods::is_running(&pod)));
            }
            Ok((running == names.len()).then_some(()))
        })
        .await?;
        for name in &names {
            bound_to_its_lease(bed, ns, name, "main").await?;
        }
        leases::nothing_granted_twice(client).await?;
        Ok(())
    })
    .await
}

/// Checks from inside the container: the GPUs that it sees are those of its lease, and no other.
pub(crate) async fn bound_to_its_lease(bed: &Bed, ns: &str, pod: &str, container: &str) -> Result<Vec<String>> {
    let lease = leases::until_of(&bed.client, ns, pod, "is Active", |l| l.phase() == "Active").await?;
    let seen = wait::until(&format!("{pod}/{container} tells its GPUs"), 30, || async {
        let lines = pods::log(&bed.client, ns, pod, container).await?;
        Ok(lines.into_iter().rev().find(|line| line["event"] == "binding"))
    })
    .await?;
    let mut inside: Vec<String> = serde_json::from_value(seen["gpus"].clone())?;
    let mut leased = lease.gpus();
    inside.sort();
    leased.sort();
    ensure!(
        inside.iter().all(|gpu| leased.contains(gpu)) && !inside.is_empty(),
        "{pod}/{container} sees {inside:?}, its lease has {leased:?}"
    );
    Ok(inside)
}
