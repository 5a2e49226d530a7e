//! What memboss takes of a node while it has nothing to do: processor time and resident memory of each of its processes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use memboss_tests::bed::Bed;
use memboss_tests::{leases, wait};

use crate::figures::figure;

const SPAN: Duration = Duration::from_secs(20);
const BINARIES: [&str; 3] = ["memboss-agent", "memboss-device-plugin", "memboss-operator"];

/// A process as `/proc` shows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Process {
    node: String,
    binary: String,
    pid: u32,
}

/// What it took so far.
#[derive(Clone, Copy, Debug)]
struct Taken {
    ticks: u32,
    rss_kib: u32,
}

/// Looks twice, some time apart, with no pod of ours on the cluster.
pub(crate) async fn measure(bed: &Bed) -> Result<()> {
    wait::until("no lease is left", 120, || async {
        let all = leases::api(&bed.client, "VramLease", "vramleases", None).list(&ListParams::default()).await?;
        Ok(all.items.is_empty().then_some(()))
    })
    .await?;
    let nodes = Api::<k8s_openapi::api::core::v1::Node>::all(bed.client.clone()).list(&ListParams::default()).await?;
    let nodes: Vec<_> = nodes.items.iter().map(ResourceExt::name_any).collect();
    let per_second = f64::from(bed.on_node(&nodes[0], "getconf CLK_TCK")?.trim().parse::<u32>()?);
    let (before, since) = (look(bed, &nodes)?, Instant::now());
    // The span is what is measured.
    tokio::time::sleep(SPAN).await;
    let (after, span) = (look(bed, &nodes)?, since.elapsed().as_secs_f64());

    println!("\n{:<58}{:>12}{:>12}", format!("idle for {} s", SPAN.as_secs()), "% of a core", "RSS MiB");
    let mut on_node: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    for (process, now) in &after {
        let then = before.get(process).with_context(|| format!("{process:?} began while it was looked at"))?;
        let cpu = f64::from(now.ticks - then.ticks) / per_second / span * 100.0;
        let rss = f64::from(now.rss_kib) / 1024.0;
        println!("{:<58}{cpu:>12.2}{rss:>12.1}", format!("{} on {}", process.binary, process.node));
        if process.binary != "memboss-operator" {
            let sum = on_node.entry(&process.node).or_default();
            *sum = (sum.0 + cpu, sum.1 + rss);
        }
    }
    for (node, (cpu, rss)) in on_node {
        let both = format!("{cpu:.2} % of a core, {rss:.1} MiB");
        println!("{}", figure(&format!("agent + plugin on {node}"), &both, Some("< 0.5 % of a core, <= 40 MiB")));
    }
    Ok(())
}

/// Every process of memboss on these nodes.
fn look(bed: &Bed, nodes: &[String]) -> Result<BTreeMap<Process, Taken>> {
    let mut found = BTreeMap::new();
    for node in nodes {
        for line in bed.on_node(node, &script(node))?.lines() {
            let [binary, pid, user, system, rss] = line.split_whitespace().collect::<Vec<_>>()[..] else {
                anyhow::bail!("{node} said {line:?}");
            };
            let process = Process { node: node.clone(), binary: binary.to_owned(), pid: pid.parse()? };
            let ticks = user.parse::<u32>()? + system.parse::<u32>()?;
            found.insert(process, Taken { ticks, rss_kib: rss.parse()? });
        }
    }
    Ok(found)
}

/// The nodes share one pid namespace: the cgroup tells whose process it is. Prints name, pid, user and system ticks, KiB.
fn script(node: &str) -> String {
    let names = BINARIES.join("|");
    format!(
        r#"for p in $(pgrep -f '^([^ ]*/)?({names})( |$)'); do
  grep -q '/{node}/' /proc/$p/cgroup || continue
  name=$(tr '\0' '\n' </proc/$p/cmdline | head -1)
  echo "${{name##*/}} $p $(sed 's/.*) //' /proc/$p/stat | cut -d' ' -f12,13) $(awk '/^VmRSS/ {{print $2}}' /proc/$p/status)"
done"#
    )
}
