//! How many leases a second are admitted through the API server: from a pod's creation to its agent's word, with nothing started.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt};
use kube::api::DynamicObject;
use memboss_tests::bed::Bed;
use memboss_tests::leases;
use memboss_tests::pods::TestPod;
use serde_json::json;

use crate::figures::{Samples, figure};
use crate::marks::{Marks, Sight};

const PODS: u32 = 300;
const AT_ONCE: usize = 32;

/// The pod whose lease is admitted, by uid: an agent has reserved its memory.
fn admitted(sight: &Sight<'_, DynamicObject>) -> Option<String> {
    let Sight::There(lease) = sight else { return None };
    let text = |pointer| lease.data.pointer(pointer).and_then(serde_json::Value::as_str);
    let reserved = matches!(text("/status/allocation/state"), Some("Reserved" | "Active"));
    reserved.then(|| text("/spec/subject/podUid").map(ToOwned::to_owned)).flatten()
}

/// Watches the leases of a namespace for their admission; the names are the uids of their pods.
pub(crate) async fn marks(bed: &Bed, namespace: &str) -> Result<Marks> {
    let api = leases::api(&bed.client, "VramLease", "vramleases", Some(namespace));
    Marks::of(api, |sight| admitted(&sight)).await
}

/// A pod with a gate of somebody else, which nobody opens: its lease is admitted, and it never starts.
fn gated(name: &str) -> TestPod {
    TestPod::leasing(name, "256Mi", "normal").spec(json!({ "schedulingGates": [{ "name": "bench/hold" }] }))
}

/// All at once, so many in flight.
pub(crate) async fn measure(bed: &Bed) -> Result<()> {
    let ns = bed.namespace("bench-admissions").await?;
    let marks = marks(bed, &ns).await?;
    let first = Instant::now();
    let created: Vec<(String, Instant)> = futures::stream::iter(0..PODS)
        .map(|number| {
            let ns = ns.as_str();
            async move {
                let posted = Instant::now();
                let pod = gated(&format!("p{number:03}")).create(&bed.client, ns).await?;
                anyhow::Ok((pod.metadata.uid.context("a created pod has a uid")?, posted))
            }
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    let all_created = first.elapsed();
    let uids: Vec<_> = created.iter().map(|(uid, _)| uid.clone()).collect();
    let moments = marks.all(&uids).await?;
    let last = moments.iter().max().copied().unwrap_or(first);
    let each: Samples =
        created.iter().zip(&moments).map(|((_, posted), at)| at.saturating_duration_since(*posted)).collect();
    println!("{}", each.line("lease: pod created -> Reserved, 32 creations in flight"));
    println!("{}", figure("creations", &rate(all_created), None));
    println!("{}", figure("admissions", &rate(last - first), Some(">= 200 /s")));
    bed.remove(&ns).await
}

fn rate(span: Duration) -> String {
    format!("{:.0} /s ({PODS} in {:.2} s)", f64::from(PODS) / span.as_secs_f64(), span.as_secs_f64())
}
