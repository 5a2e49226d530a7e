//! How long memory lies idle between two holders: from the end of one's process to the admission of the next, which waits for it.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use futures::{AsyncBufReadExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{DeleteParams, LogParams};
use memboss_tests::bed::Bed;
use memboss_tests::leases;
use memboss_tests::pods::{self, TestPod};

use crate::admissions;
use crate::figures::{Samples, figure, ms};
use crate::marks::{Marks, Sight};

const TIMES: usize = 10;
/// Each wants so much of a GPU of 24 GiB that two have no room.
const AMOUNT: &str = "16Gi";

/// Each pod waits for the one before.
pub(crate) async fn measure(bed: &Bed) -> Result<()> {
    let gpu = leases::gpus(&bed.client).await?.into_iter().min_by_key(|gpu| gpu.leasable).context("there is no GPU")?;
    ensure!((16_384..32_768).contains(&gpu.leasable), "the smallest GPU has {} MiB, not some 24 GiB", gpu.leasable);
    let ns = bed.namespace("bench-release").await?;
    let admitted = admissions::marks(bed, &ns).await?;
    let api = Api::<Pod>::namespaced(bed.client.clone(), &ns);
    let gone = Marks::of(api.clone(), |sight| match sight {
        Sight::Gone(pod) => pod.metadata.uid.clone(),
        Sight::There(_) => None,
    })
    .await?;
    let pod = |name: &str| TestPod::leasing(name, AMOUNT, "normal").annotate("gpu-uuid", &gpu.uuid);
    let (mut idle, mut until_gone, mut whole) = (Samples::default(), Samples::default(), Samples::default());
    let mut holder = pod("holder0").create(&bed.client, &ns).await?;
    for turn in 1..=TIMES {
        let name = holder.metadata.name.clone().context("a pod has a name")?;
        leases::until_of(&bed.client, &ns, &name, "is Active", |lease| lease.phase() == "Active").await?;
        pods::running(&bed.client, &ns, &name).await?;
        let next_name = format!("holder{turn}");
        let next = pod(&next_name).create(&bed.client, &ns).await?;
        leases::until_of(&bed.client, &ns, &next_name, "waits", |lease| lease.position() == Some(1)).await?;
        let asked = Instant::now();
        let ended = end(&api, &name).await?;
        let granted = admitted.when(&uid(&next)?).await?;
        idle.push(granted.saturating_duration_since(ended));
        whole.push(granted.saturating_duration_since(asked));
        until_gone.push(gone.when(&uid(&holder)?).await?.saturating_duration_since(ended));
        holder = next;
    }
    println!("{}", idle.line("release: process ended -> next lease Reserved"));
    println!("{}", until_gone.line("for comparison: process ended -> its pod is deleted"));
    println!("{}", whole.line("release: pod deleted (grace 1 s) -> next lease Reserved"));
    println!("{}", figure("the memory lies idle (median)", &format!("{} ms", ms(idle.median())), None));
    bed.remove(&ns).await
}

fn uid(pod: &Pod) -> Result<String> {
    pod.metadata.uid.clone().context("a created pod has a uid")
}

/// Deletes a pod with a short grace; returns when its process said its last word, by the clock of the container runtime, which is this machine's.
async fn end(api: &Api<Pod>, name: &str) -> Result<Instant> {
    let follow = LogParams { follow: true, timestamps: true, ..LogParams::default() };
    let mut lines = api.log_stream(name, &follow).await?.lines();
    let short = DeleteParams { grace_period_seconds: Some(1), ..DeleteParams::default() };
    api.delete(name, &short).await?;
    while let Some(line) = lines.try_next().await? {
        if line.contains(r#""event":"term""#) {
            let stamp = line.split_whitespace().next().unwrap_or_default();
            let said: SystemTime = stamp.parse::<Timestamp>().with_context(|| format!("{line:?} has no time"))?.into();
            let ago = SystemTime::now().duration_since(said).unwrap_or(Duration::ZERO);
            return Instant::now().checked_sub(ago).context("the clock runs");
        }
    }
    anyhow::bail!("{name} ended without a word")
}
