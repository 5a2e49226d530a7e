//! What cannot be right is refused at admission, with the field, the value and what would be right; also while the operator is down.

use anyhow::{Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{Patch, PatchParams};
use memboss_tests::bed::{Bed, SYSTEM};
use memboss_tests::pods::{self, TestPod};
use memboss_tests::{leases, wait};
use serde_json::json;

/// Name, annotations, and what the message has to name.
type Wrong = (&'static str, &'static [(&'static str, &'static str)], &'static [&'static str]);

const WRONG: &[Wrong] = &[
    ("empty", &[("vram", "")], &["memboss.dev/vram"]),
    ("negative", &[("vram", "-8Gi")], &["memboss.dev/vram", "-8Gi"]),
    ("zero", &[("vram", "0")], &["memboss.dev/vram", "0"]),
    ("float", &[("vram", "1.5Gi")], &["memboss.dev/vram", "1.5Gi"]),
    ("unit", &[("vram", "8Gb")], &["memboss.dev/vram", "8Gb"]),
    ("words", &[("vram", "lots")], &["memboss.dev/vram", "lots"]),
    ("class", &[("vram", "1Gi"), ("priority", "highest")], &["memboss.dev/priority", "highest"]),
    ("container", &[("vram.nobody", "1Gi")], &["nobody"]),
    ("named", &[("vram", "1Gi"), ("container", "nobody")], &["nobody"]),
    ("percent", &[("vram", "101%")], &["memboss.dev/vram", "101%"]),
    ("forged", &[("vram", "1Gi"), ("gpus", "GPU-0")], &["memboss.dev/gpus"]),
];

async fn all_are_refused(bed: &Bed, ns: &str) -> Result<()> {
    for (name, annotations, names) in WRONG {
        let pod = annotations.iter().fold(TestPod::new(name), |pod, (key, value)| pod.annotate(key, value));
        let message = pod.refused(&bed.client, ns).await?;
        for word in *names {
            ensure!(message.contains(word), "{name}: the refusal does not name {word:?}: {message}");
        }
    }
    let two = TestPod::new("two").args("main", &[]).args("other", &[]).annotate("vram", "1Gi");
    let message = two.refused(&bed.client, ns).await?;
    ensure!(
        message.contains("main") && message.contains("other") || message.contains("memboss.dev/container"),
        "two candidates: {message}"
    );
    let bound = TestPod::leasing("bound", "1Gi", "normal").spec(json!({ "nodeName": "node1" }));
    let message = bound.refused(&bed.client, ns).await?;
    ensure!(message.contains("nodeName"), "{message}");
    let init = TestPod::new("init").annotate("vram.setup", "1Gi").spec(json!({
        "initContainers": [{ "name": "setup", "image": pods::IMAGE, "imagePullPolicy": "Never", "command": ["memboss-workload"] }]
    }));
    let message = init.refused(&bed.client, ns).await?;
    ensure!(message.contains("setup"), "{message}");
    Ok(())
}

#[tokio::test]
#[ignore = "needs the test bed"]
async fn every_wrong_kind_of_request_is_refused_with_field_and_value() -> Result<()> {
    Bed::in_namespace("wrong", async |bed, ns| {
        all_are_refused(bed, ns).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
#[ignore = "needs the test bed"]
async fn wrong_requests_are_refused_also_while_the_operator_is_down() -> Result<()> {
    Bed::in_namespace("down", async |bed, ns| {
        let api = Api::<Deployment>::namespaced(bed.client.clone(), SYSTEM);
        let scale = |n: i32| json!({ "spec": { "replicas": n } });
        let before = api.get("memboss-operator").await?.spec.replicas.unwrap_or(1);
        api.patch("memboss-operator", &PatchParams::default(), &Patch::Merge(scale(0))).await?;
        let ready = || async {
            Ok::<_, anyhow::Error>(
                api.get("memboss-operator").await?.status.and_then(|s| s.ready_replicas).unwrap_or(0),
            )
        };
        wait::until("the operator is down", 60, || async { Ok((ready().await? == 0).then_some(())) }).await?;
        let outcome = async {
            all_are_refused(bed, ns).await?;
            // A right one cannot be served without the operator: it is refused too, rather than started without its lease.
            let message = TestPod::leasing("right", "1Gi", "normal").refused(&bed.client, ns).await?;
            ensure!(message.contains("memboss"), "{message}");
            // Nobody else is touched.
            TestPod::new("plain").create(&bed.client, ns).await?;
            pods::running(&bed.client, ns, "plain").await.map(|_| ())
        }
        .await;
        api.patch("memboss-operator", &PatchParams::default(), &Patch::Merge(scale(before))).await?;
        wait::until("the operator is back", 60, || async { Ok((ready().await? == before).then_some(())) }).await?;
        outcome
    })
    .await
}

#[tokio::test]
#[ignore = "needs the test bed"]
async fn our_annotations_cannot_be_changed_afterwards() -> Result<()> {
    Bed::in_namespace("later", async |bed, ns| {
        let client = &bed.client;
        TestPod::leasing("later", "1Gi", "normal").create(client, ns).await?;
        pods::running(client, ns, "later").await?;
        let api = Api::<Pod>::namespaced(client.clone(), ns);
        // The administrator of the bed is exempt from nothing here: only our service accounts are.
        for (key, value) in
            [("memboss.dev/vram", "20Gi"), ("memboss.dev/priority", "urgent"), ("memboss.dev/gpus", "GPU-0")]
        {
            let patch = json!({ "metadata": { "annotations": { key: value } } });
            let refused = api.patch("later", &PatchParams::default(), &Patch::Merge(patch)).await;
            ensure!(
                refused.as_ref().is_err_and(|error| error.to_string().contains("memboss.dev")),
                "{key}: {refused:?}"
            );
        }
        Ok(())
    })
    .await
}

#[tokio::test]
#[ignore = "needs the test bed"]
async fn more_than_any_gpu_has_is_unsatisfiable_at_once_and_says_the_largest() -> Result<()> {
    Bed::in_namespace("huge", async |bed, ns| {
        let client = &bed.client;
        TestPod::leasing("huge", "500Gi", "normal").create(client, ns).await?;
        let lease = leases::until_of(client, ns, "huge", "is Unsatisfiable", |l| l.phase() == "Unsatisfiable").await?;
        let largest = leases::gpus(client).await?.iter().map(|gpu| gpu.leasable).max().unwrap_or_default();
        let (_, message) = lease.why();
        ensure!(
            message.contains(&format!("{largest}Mi")) || message.contains(&format!("{}Gi", largest / 1024)),
            "{message} names {largest} MiB"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
#[ignore = "needs the test bed"]
async fn what_is_unsatisfiable_becomes_satisfiable_when_such_a_gpu_joins() -> Result<()> {
    Bed::in_namespace("joins", async |bed, ns| {
        let client = &bed.client;
        TestPod::leasing("huge", "100Gi", "normal").create(client, ns).await?;
        leases::until_of(client, ns, "huge", "is Unsatisfiable", |l| l.phase() == "Unsatisfiable").await?;
        bed.sim("node2", "create --seed joined --gpu h200")?;
        // What a driver's tool would do after a board was added.
        bed.sim("node2", "cdi --out /etc/cdi/nvidia.json")?;
        pods::running(client, ns, "huge").await?;
        let lease = leases::until_of(client, ns, "huge", "is Active", |l| l.phase() == "Active").await?;
        ensure!(lease.node() == "node2", "{lease:?}");
        Ok(())
    })
    .await
}
