//! How long a pod takes from its creation until it runs: with a lease against without, one at a time and many at once.

use std::time::{Duration, Instant};

use anyhow::Result;
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt};
use memboss_tests::bed::Bed;
use memboss_tests::pods::{self, TestPod};
use memboss_tests::wait;

use crate::figures::{Samples, figure, ms};
use crate::marks::{Marks, Sight};

const ONE_BY_ONE: usize = 15;
const CROWD: usize = 40;
const ROUNDS: usize = 2;

/// Both kinds run the same image with the same arguments and touch no GPU: the difference is the lease.
fn pod(name: &str, leased: bool) -> TestPod {
    let pod = TestPod::new(name).args("main", &["--no-gpu"]);
    if leased { pod.annotate("vram", "256Mi").annotate("priority", "normal") } else { pod }
}

async fn running_marks(bed: &Bed, namespace: &str) -> Result<Marks> {
    Marks::of(Api::<Pod>::namespaced(bed.client.clone(), namespace), |sight| match sight {
        Sight::There(pod) if pods::is_running(pod) => Some(pod.name_any()),
        Sight::There(_) | Sight::Gone(_) => None,
    })
    .await
}

/// A leased pod and a plain one in turn, each alone on the cluster.
pub(crate) async fn one_at_a_time(bed: &Bed) -> Result<()> {
    let ns = bed.namespace("bench-starts").await?;
    let marks = running_marks(bed, &ns).await?;
    let (mut leased, mut plain) = (Samples::default(), Samples::default());
    // The first pair only warms up.
    for round in 0..=ONE_BY_ONE {
        for with_lease in [true, false] {
            let name = format!("{}{round}", if with_lease { "leased" } else { "plain" });
            let posted = Instant::now();
            pod(&name, with_lease).create(&bed.client, &ns).await?;
            let took = marks.when(&name).await?.saturating_duration_since(posted);
            if round > 0 {
                if with_lease { leased.push(took) } else { plain.push(took) }
            }
            pods::delete(&bed.client, &ns, &name).await?;
        }
    }
    println!("{}", leased.line("leased pod, one at a time: created -> running"));
    println!("{}", plain.line("plain pod, one at a time: created -> running"));
    let more = leased.median().as_secs_f64() - plain.median().as_secs_f64();
    println!("{}", figure("a lease adds (medians)", &format!("{:.0} ms", more * 1000.0), Some("<= 300 ms")));
    bed.remove(&ns).await
}

/// Many leased pods at once and many plain ones at once, in turn.
pub(crate) async fn at_once(bed: &Bed) -> Result<()> {
    let (mut leased, mut plain) = (Samples::default(), Samples::default());
    let (mut each_leased, mut each_plain) = (Samples::default(), Samples::default());
    for _ in 0..ROUNDS {
        for (with_lease, all, each) in [(true, &mut leased, &mut each_leased), (false, &mut plain, &mut each_plain)] {
            let took = crowd(bed, with_lease).await?;
            all.push(took.iter().copied().max().unwrap_or_default());
            took.into_iter().for_each(|one| each.push(one));
        }
    }
    println!("{}", each_leased.line(&format!("leased pod, {CROWD} at once: first created -> it runs")));
    println!("{}", each_plain.line(&format!("plain pod, {CROWD} at once: first created -> it runs")));
    println!("{}", leased.line(&format!("{CROWD} leased pods at once: first created -> all run")));
    println!("{}", plain.line(&format!("{CROWD} plain pods at once: first created -> all run")));
    let ratio = leased.median().as_secs_f64() / plain.median().as_secs_f64().max(f64::EPSILON);
    let of = format!("{ratio:.2} ({} / {} ms)", ms(leased.median()), ms(plain.median()));
    println!("{}", figure("leased / plain, all run", &of, Some("<= 1.2")));
    Ok(())
}

/// How long after the first creation each of them ran.
async fn crowd(bed: &Bed, leased: bool) -> Result<Vec<Duration>> {
    let ns = bed.namespace("bench-crowd").await?;
    let marks = running_marks(bed, &ns).await?;
    let names: Vec<_> = (0..CROWD).map(|number| format!("p{number:02}")).collect();
    let posted = Instant::now();
    try_join_all(names.iter().map(|name| {
        let (pod, ns) = (pod(name, leased), ns.as_str());
        async move { pod.create(&bed.client, ns).await }
    }))
    .await?;
    let ran = marks.all(&names).await?;
    pods::delete_all(&bed.client, &ns).await?;
    let api = Api::<Pod>::namespaced(bed.client.clone(), &ns);
    wait::until("the crowd is gone", 120, || async {
        Ok(api.list(&kube::api::ListParams::default()).await?.items.is_empty().then_some(()))
    })
    .await?;
    bed.remove(&ns).await?;
    Ok(ran.into_iter().map(|moment| moment.saturating_duration_since(posted)).collect())
}
