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

/// A node takes 110 pods, and the operator counts those that wait for their place on it.
const PODS: u32 = 150;
const ROUNDS: u32 = 2;
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

/// A pod of a scheduler that is not there: its lease is admitted and its gate opened, and it never starts.
fn waiting(name: &str) -> TestPod {
    TestPod::leasing(name, "256Mi", "normal").spec(json!({ "schedulerName": "nobody" }))
}

/// What one round took.
struct Round {
    created: Duration,
    admitted: Duration,
    each: Vec<Duration>,
}

/// Rounds of many creations, so many of them in flight: the cluster's nodes take no more pods at once than a round has.
pub(crate) async fn measure(bed: &Bed) -> Result<()> {
    let (mut created, mut admitted, mut each) = (Duration::ZERO, Duration::ZERO, Samples::default());
    for _ in 0..ROUNDS {
        let took = round(bed).await?;
        created += took.created;
        admitted += took.admitted;
        took.each.into_iter().for_each(|one| each.push(one));
    }
    println!("{}", each.line(&format!("lease: pod created -> Reserved, {AT_ONCE} creations in flight")));
    println!("{}", figure("creations", &rate(created), None));
    println!("{}", figure("admissions", &rate(admitted), Some(">= 200 /s")));
    Ok(())
}

async fn round(bed: &Bed) -> Result<Round> {
    let ns = bed.namespace("bench-admissions").await?;
    let marks = marks(bed, &ns).await?;
    let first = Instant::now();
    let posted: Vec<(String, Instant)> = futures::stream::iter(0..PODS)
        .map(|number| {
            let ns = ns.as_str();
            async move {
                let posted = Instant::now();
                let pod = waiting(&format!("p{number:03}")).create(&bed.client, ns).await?;
                anyhow::Ok((pod.metadata.uid.context("a created pod has a uid")?, posted))
            }
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    let created = first.elapsed();
    let uids: Vec<_> = posted.iter().map(|(uid, _)| uid.clone()).collect();
    let moments = marks.all(&uids).await?;
    let last = moments.iter().max().copied().unwrap_or(first);
    let each = posted.iter().zip(&moments).map(|((_, posted), at)| at.saturating_duration_since(*posted)).collect();
    bed.remove(&ns).await?;
    Ok(Round { created, admitted: last.saturating_duration_since(first), each })
}

fn rate(span: Duration) -> String {
    let all = PODS * ROUNDS;
    format!("{:.0} /s ({all} in {:.2} s)", f64::from(all) / span.as_secs_f64(), span.as_secs_f64())
}
