//! Things are killed half-way, nodes reboot, GPUs get lost: nothing is lost, nothing is granted twice, and no pod Fails by us.

use std::future::Future;

use anyhow::{Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use kube::Api;
use kube::api::PostParams;
use memboss_tests::bed::{Bed, SYSTEM};
use memboss_tests::leases::Seen;
use memboss_tests::pods::{self, TestPod};
use memboss_tests::{leases, wait};
use serde_json::json;

use crate::sharing::bound_to_its_lease;

const NODES: [&str; 2] = ["node1", "node2"];

/// A part that can be killed, as `kill -9` would.
#[derive(Clone, Copy, Debug)]
enum Part {
    Agent,
    Plugin,
    Operator,
    Redis,
    ApiServer,
}

const PARTS: [Part; 5] = [Part::Agent, Part::Plugin, Part::Operator, Part::Redis, Part::ApiServer];

impl Part {
    /// Kills it; one that an earlier kill still keeps away is waited for.
    async fn kill(self, bed: &Bed) -> Result<()> {
        wait::until(&format!("{self:?} is killed"), 60, || async { self.try_kill(bed).map(Some) }).await
    }

    fn try_kill(self, bed: &Bed) -> Result<()> {
        let everywhere = |binary: &str| {
            let killed = NODES.iter().filter(|node| bed.kill(node, binary).is_ok()).count();
            ensure!(killed > 0, "no {binary} runs on any node");
            Ok(())
        };
        match self {
            Self::Agent => everywhere("memboss-agent"),
            Self::Plugin => everywhere("memboss-device-plugin"),
            Self::Operator => everywhere("memboss-operator"),
            Self::Redis => everywhere("redis-server"),
            Self::ApiServer => {
                bed.script("component.sh", &["apiserver", "kill"])?;
                bed.script("component.sh", &["apiserver", "start"]).map(|_| ())
            }
        }
    }
}

/// A step in the life of a pod's lease at which something is killed.
#[derive(Clone, Copy, Debug)]
enum Step {
    Created,
    Placed,
    Reserved,
    Active,
    Ending,
}

const STEPS: [Step; 5] = [Step::Created, Step::Placed, Step::Reserved, Step::Active, Step::Ending];

async fn reach(bed: &Bed, ns: &str, pod: &str, step: Step) -> Result<()> {
    let looks = move |lease: &Seen| match step {
        Step::Created => true,
        Step::Placed => !lease.node().is_empty(),
        Step::Reserved => matches!(lease.text("/status/allocation/state"), "Reserved" | "Active"),
        Step::Active | Step::Ending => lease.text("/status/allocation/state") == "Active",
    };
    leases::until_of(&bed.client, ns, pod, &format!("is {step:?}"), looks).await.map(|_| ())
}

/// The API server may be away for a moment: whatever it was asked is asked again.
async fn insist<T, F: Future<Output = Result<T>>>(what: &str, ask: impl Fn() -> F) -> Result<T> {
    wait::until(what, 60, || async { ask().await.map(Some) }).await
}

async fn kill_at(bed: &Bed, ns: &str, part: Part, step: Step) -> Result<()> {
    let client = &bed.client;
    let name = format!("{part:?}-{step:?}").to_lowercase();
    // What was killed before may not answer yet; a controller would try again too.
    insist("its pod", || async {
        match pods::get(client, ns, &name).await? {
            Some(pod) => Ok(pod),
            None => TestPod::leasing(&name, "4Gi", "normal").create(client, ns).await,
        }
    })
    .await?;
    reach(bed, ns, &name, step).await?;
    if matches!(step, Step::Ending) {
        let api = Api::<k8s_openapi::api::core::v1::Pod>::namespaced(client.clone(), ns);
        api.delete(&name, &kube::api::DeleteParams::default()).await?;
    }
    part.kill(bed).await?;
    if matches!(step, Step::Ending) {
        wait::until(&format!("{name} is gone and its lease has ended"), 90, || async {
            let gone = pods::get(client, ns, &name).await?.is_none();
            let left = leases::all(client, ns)
                .await?
                .into_iter()
                .any(|l| l.text("/spec/subject/podName") == name && l.phase() != "Ended");
            Ok((gone && !left).then_some(()))
        })
        .await?;
        return insist("the figures", || leases::nothing_granted_twice(client)).await;
    }
    wait::until(&format!("{name} runs"), 120, || async {
        let pod = pods::get(client, ns, &name).await?;
        ensure!(pod.as_ref().is_none_or(|pod| pods::phase(pod) != "Failed"), "it Failed: {pod:?}");
        Ok(pod.filter(pods::is_running))
    })
    .await?;
    insist("its binding", || bound_to_its_lease(bed, ns, &name, "main")).await?;
    insist("the figures", || leases::nothing_granted_twice(client)).await?;
    insist("its end", || async { pods::delete_all(client, ns).await }).await
}

#[tokio::test]
#[ignore = "needs the test bed"]
async fn every_part_killed_at_every_step_loses_nothing_and_grants_nothing_twice() -> Result<()> {
    Bed::in_namespace("kill", async |bed, ns| {
        for part in PARTS {
            for step in STEPS {
                println!("killing {part:?} when the lease is {step:?}");
                kill_at(bed, ns, part, step)
                    .await
                    .map_err(|error| error.context(format!("{part:?} killed at {step:?}")))?;
                installed_again(bed).await?;
            }
        }
        Ok(())
    })
    .await
}

/// Waits until all of memboss is ready again.
async fn installed_again(bed: &Bed) -> Result<()> {
    let api = Api::<k8s_openapi::api::core::v1::Pod>::namespaced(bed.client.clone(), SYSTEM);
    wait::until("memboss is ready again", 120, || async {
        let all = api.list(&kube::api::ListParams::default()).await?.items;
        let away = |pod: &&_| pods::phase(pod) != "Succeeded" && !pods::is_running(pod);
        let away: Vec<_> = all.iter().filter(away).map(pods::in_words).collect();
        ensure!(away.is_empty(), "{}", away.join("; "));
        Ok((!all.is_empty()).then_some(()))
    })
    .await
}

#[tokio::test]
#[ignore = "needs the test bed"]
async fn a_restarted_kubelet_changes_nothing_for_what_runs_and_serves_what_comes() -> Result<()> {
    Bed::in_namespace("kubelet", async |bed, ns| {
        let client = &bed.client;
        TestPod::leasing("before", "2Gi", "normal").create(client, ns).await?;
        let pod = pods::running(client, ns, "before").await?;
        let node = pod.spec.and_then(|spec| spec.node_name).unwrap_or_default();
        bed.script("kubelet.sh", &[&node, "restart"])?;
        let after = TestPod::leasing("after", "2Gi", "normal")
            .spec(json!({ "nodeSelector": { "kubernetes.io/hostname": node } }));
        after.create(client, ns).await?;
        pods::running(client, ns, "after").await?;
        let before = pods::running(client, ns, "before").await?;
        let restarts: i32 =
            before.status.and_then(|s| s.container_statuses).unwrap_or_default().iter().map(|c| c.restart_count).sum();
        ensure!(restarts == 0, "what ran went on");
        bound_to_its_lease(bed, ns, "after", "main").await?;
        Ok(())
    })
    .await
}

#[tokio::test]
#[ignore = "needs the test bed"]
async fn a_lost_gpu_takes_nothing_new_leaves_the_others_alone_and_comes_back() -> Result<()> {
    Bed::in_namespace("lost", async |bed, ns| {
        let client = &bed.client;
        let on_node1: Vec<_> = leases::gpus(client).await?.into_iter().filter(|gpu| gpu.node == "node1").collect();
        let (lost, other) = (&on_node1[0], &on_node1[1]);
        TestPod::leasing("there", "2Gi", "normal").annotate("gpu-uuid", &lost.uuid).create(client, ns).await?;
        pods::running(client, ns, "there").await?;
        bed.sim("node1", &format!("fault --gpu {} lost", lost.uuid))?;
        let healthy = |uuid: String, wanted: bool| async move {
            let gpus = leases::gpus(client).await?;
            Ok(gpus.iter().any(|gpu| gpu.uuid == uuid && (gpu.health == "Healthy") == wanted).then_some(()))
        };
        wait::until("the loss is reported", 30, || healthy(lost.uuid.clone(), false)).await?;
        wait::until("the other GPU is well", 1, || healthy(other.uuid.clone(), true)).await?;
        TestPod::leasing("waits", "2Gi", "normal").annotate("gpu-uuid", &lost.uuid).create(client, ns).await?;
        TestPod::leasing("goes", "2Gi", "normal").annotate("gpu-uuid", &other.uuid).create(client, ns).await?;
        pods::running(client, ns, "goes").await?;
        leases::until_of(client, ns, "waits", "waits", |l| matches!(l.phase(), "Waiting" | "Unsatisfiable")).await?;
        bed.sim("node1", &format!("fault --gpu {} ok", lost.uuid))?;
        wait::until("the GPU is back", 120, || healthy(lost.uuid.clone(), true)).await?;
        pods::running(client, ns, "waits").await?;
        leases::nothing_granted_twice(client).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
#[ignore = "needs the test bed"]
async fn after_a_reboot_leases_of_pods_still_bound_come_back_before_any_waiter() -> Result<()> {
    Bed::in_namespace("reboot", async |bed, ns| {
        let client = &bed.client;
        let gpu = leases::gpus(client).await?.into_iter().find(|gpu| gpu.node == "node1").expect("node1 has GPUs");
        let pod = TestPod::leasing("bound", "16Gi", "low").annotate("gpu-uuid", &gpu.uuid);
        let deployment: Deployment = serde_json::from_value(json!({
            "metadata": { "name": "bound" },
            "spec": { "replicas": 1, "selector": { "matchLabels": { "app": "bound" } }, "template": pod.template() }
        }))?;
        Api::<Deployment>::namespaced(client.clone(), ns).create(&PostParams::default(), &deployment).await?;
        let name = wait::until("it has a pod", 30, || async {
            Ok(pods::named(client, ns, "bound").await?.into_iter().next())
        })
        .await?;
        pods::running(client, ns, &name).await?;
        // An equal waiter, which fits as soon as the other is away for a moment.
        TestPod::leasing("waiter", "16Gi", "low").annotate("gpu-uuid", &gpu.uuid).create(client, ns).await?;
        leases::until_of(client, ns, "waiter", "waits", |l| l.phase() == "Waiting").await?;

        bed.script("node-reboot.sh", &["node1"])?;
        installed_again(bed).await?;
        wait::until("the bound pod (or its successor) runs again", 180, || async {
            let waiter = pods::get(client, ns, "waiter").await?;
            ensure!(
                !waiter.is_some_and(|pod| pods::is_running(&pod)),
                "the waiter was served before what was bound came back"
            );
            for name in pods::named(client, ns, "bound").await? {
                if pods::get(client, ns, &name).await?.is_some_and(|pod| pods::is_running(&pod)) {
                    return Ok(Some(()));
                }
            }
            Ok(None)
        })
        .await?;
        leases::nothing_granted_twice(client).await?;
        Ok(())
    })
    .await
}

/// Waits until each node's heartbeat is in Redis, also after it came back empty.
async fn heartbeats(bed: &Bed) -> Result<()> {
    let secrets = Api::<k8s_openapi::api::core::v1::Secret>::namespaced(bed.client.clone(), SYSTEM);
    let secret = secrets.get("memboss-redis").await?.data.unwrap_or_default();
    let password = String::from_utf8(secret.get("password").map(|data| data.0.clone()).unwrap_or_default())?;
    let cli = [
        "kubectl",
        "-n",
        SYSTEM,
        "exec",
        "memboss-redis-0",
        "--",
        "redis-cli",
        "--no-auth-warning",
        "--user",
        "memboss-operator",
        "--pass",
        &password,
    ];
    wait::until("each node's heartbeat is in Redis", 120, || async {
        for node in NODES {
            let key = format!("{{n:{node}}}:hb");
            if bed.script("k.sh", &[&cli[..], &["EXISTS", &key]].concat())?.trim() != "1" {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
    .await
}

#[tokio::test]
#[ignore = "needs the test bed"]
async fn redis_emptied_and_away_under_load_ends_no_lease_and_grants_none() -> Result<()> {
    Bed::in_namespace("redis", async |bed, ns| {
        let client = &bed.client;
        for n in 0..6 {
            TestPod::leasing(&format!("p{n}"), "1Gi", "normal").create(client, ns).await?;
        }
        for n in 0..6 {
            pods::running(client, ns, &format!("p{n}")).await?;
        }
        let tokens = || async {
            let mut all: Vec<_> = leases::all(client, ns)
                .await?
                .iter()
                .map(|l| (l.name().to_owned(), l.phase().to_owned(), l.field("/status/allocation/token").cloned()))
                .collect();
            all.sort_by(|a, b| a.0.cmp(&b.0));
            Ok::<_, anyhow::Error>(all)
        };
        let before = tokens().await?;
        for round in 0..3 {
            heartbeats(bed).await?;
            Part::Redis.kill(bed).await?;
            let late = format!("late{round}");
            TestPod::leasing(&late, "1Gi", "normal").create(client, ns).await?;
            pods::running(client, ns, &late).await?;
        }
        let after: Vec<_> = tokens().await?.into_iter().filter(|(name, ..)| !name.starts_with("late")).collect();
        ensure!(before == after, "leases as before: {before:?} {after:?}");
        leases::nothing_granted_twice(client).await?;
        installed_again(bed).await?;
        Ok(())
    })
    .await
}
