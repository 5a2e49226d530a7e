//! Whether all that memboss needs of a cluster is there and well, as far as whoever asks may see it. The one thing that it asks the API server to do is a dry run.

use std::collections::BTreeSet;

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Node, Pod, Secret};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ListParams, PostParams};
use kube::{Api, ResourceExt as _};
use memboss_agent_api::v1::StatusResponse;
use memboss_crds::{GATE, MemoryNode, RESOURCE};
use serde_json::json;

use super::{Finding, agents, gpus};
use crate::exit::Failure;
use crate::way::{Server, refused};

/// This command's own version, which everything else should have.
const OWN: &str = env!("CARGO_PKG_VERSION");
pub(super) const VERSION_LABEL: &str = "app.kubernetes.io/version";
/// Where the operator keeps the webhook's certificate, and the time when it makes the next one.
const CERTIFICATE: &str = "memboss-webhook-cert";
const RENEW_AFTER: &str = "memboss.dev/renew-after";
pub(super) const INSTALL: &str = "helm upgrade --install memboss charts/memboss, of this command's version";

/// What there is to be said.
pub(super) async fn look(server: &Server) -> Vec<Finding> {
    let version = match server.client.apiserver_version().await {
        Ok(version) => version,
        Err(error) => {
            let advice = "see --kubeconfig and --context, and whether the API server is up";
            return vec![Finding::fail("API server", format!("{}: {}", server.url, refused(&error)), advice)];
        }
    };
    let mut findings = vec![Finding::ok("API server", format!("{} is Kubernetes {}", server.url, version.git_version))];
    findings.push(kinds(server).await);
    let operators = server.of_chart::<Deployment>("operator", ListParams::default()).await;
    findings.extend(operator(operators.as_deref()));
    let deployment = operators.ok().and_then(|found| found.into_iter().next());
    findings.push(webhook(server).await);
    findings.extend(certificate(server, deployment.as_ref()).await);
    findings.push(redis(server, deployment.as_ref()).await);
    findings.extend(agents::look(server).await);
    findings.extend(nodes(server).await);
    findings
}

/// What cannot be looked at is no fault of the cluster.
pub(super) fn unseen(about: &'static str, failure: &Failure) -> Finding {
    match failure {
        Failure::NotPermitted(_) => {
            Finding::warn(about, "you may not look at it", "ask somebody who may see the whole cluster to run this")
        }
        other => Finding::fail(about, other.to_string(), INSTALL),
    }
}

async fn kinds(server: &Server) -> Finding {
    let about = "kinds";
    let wanted = ["memorynodes", "modelloads", "ramleases", "vramleases"];
    let group = format!("{}/{}", memboss_crds::GROUP, memboss_crds::VERSION);
    let there = match server.client.list_api_group_resources(&group).await {
        Ok(list) => list.resources.into_iter().map(|resource| resource.name).collect::<BTreeSet<_>>(),
        Err(error) => return Finding::fail(about, format!("{group} is not served: {}", refused(&error)), INSTALL),
    };
    let missing: Vec<&str> = wanted.into_iter().filter(|kind| !there.contains(*kind)).collect();
    if !missing.is_empty() {
        return Finding::fail(about, format!("{group} has no {}", missing.join(", ")), INSTALL);
    }
    let api = Api::<CustomResourceDefinition>::all(server.client.clone());
    let labelled = api.list(&ListParams::default().labels("app.kubernetes.io/name=memboss")).await;
    let versions: BTreeSet<String> = match labelled {
        Ok(list) => list.items.iter().filter_map(|crd| crd.labels().get(VERSION_LABEL).cloned()).collect(),
        Err(_) => return Finding::ok(about, format!("{group} is served whole; of which version you may not see")),
    };
    if versions.is_empty() {
        return Finding::ok(about, format!("{group} is served whole; nothing says of which version"));
    }
    let others: Vec<&str> = versions.iter().map(String::as_str).filter(|version| *version != OWN).collect();
    if others.is_empty() {
        return Finding::ok(about, format!("{group} is served whole, of version {OWN}"));
    }
    let found = format!("{group} is of version {}, this command of {OWN}", others.join(", "));
    Finding::warn(about, found, INSTALL)
}

/// Whether what should run runs, and is of this command's version.
pub(super) fn running(
    about: &'static str,
    ready: i32,
    wanted: i32,
    version: Option<&String>,
    advice: String,
) -> Vec<Finding> {
    let mut findings = vec![match ready {
        _ if ready >= wanted => Finding::ok(about, format!("{ready} of {wanted} ready")),
        0 => Finding::fail(about, format!("none of {wanted} is ready"), advice),
        _ => Finding::warn(about, format!("{ready} of {wanted} ready"), advice),
    }];
    if let Some(version) = version.filter(|version| *version != OWN) {
        let found = format!("is of version {version}, this command of {OWN}");
        findings.push(Finding::warn(about, found, "use a command of the cluster's version, or upgrade the chart"));
    }
    findings
}

fn operator(found: Result<&[Deployment], &Failure>) -> Vec<Finding> {
    let about = "operator";
    match found {
        Err(failure) => vec![unseen(about, failure)],
        Ok([]) => {
            vec![Finding::fail(about, "there is none: nothing is placed, and pods that ask are refused", INSTALL)]
        }
        Ok([deployment, ..]) => {
            let wanted = deployment.spec.replicas.unwrap_or(1);
            let ready = deployment.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
            let place = deployment.namespace().unwrap_or_default();
            let advice = format!("kubectl -n {place} logs deployment/memboss-operator tells why");
            running(about, ready, wanted, deployment.labels().get(VERSION_LABEL), advice)
        }
    }
}

/// A pod that asks is shown to the webhook, and not made.
async fn webhook(server: &Server) -> Finding {
    let about = "webhook";
    let advice = "see the operator above; kubectl get mutatingwebhookconfiguration memboss -o yaml tells whether it has a caBundle";
    let hooks = Api::<MutatingWebhookConfiguration>::all(server.client.clone());
    if let Ok(None) = hooks.get_opt("memboss").await {
        return Finding::fail(about, "it is not registered: pods that ask are refused", INSTALL);
    }
    let namespace = server.namespace.as_deref().unwrap_or("default");
    let pod = serde_json::from_value::<Pod>(json!({
        "metadata": { "name": "memboss-doctor", "annotations": { "memboss.dev/vram": "1Mi" } },
        "spec": {
            "securityContext": { "runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": { "type": "RuntimeDefault" } },
            "containers": [{
                "name": "main", "image": "memboss-doctor",
                "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } }
            }]
        }
    }));
    let Ok(pod) = pod else { return Finding::warn(about, "was not looked at", advice) };
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    match Api::<Pod>::namespaced(server.client.clone(), namespace).create(&dry_run, &pod).await {
        Ok(shown) => {
            let gates = shown.spec.and_then(|spec| spec.scheduling_gates).unwrap_or_default();
            if gates.iter().any(|gate| gate.name == GATE) {
                return Finding::ok(about, "answers: a pod that asks is held until it has its memory");
            }
            let found = format!("a pod that asks in namespace {namespace} is not held: the webhook did not see it");
            Finding::fail(about, found, advice)
        }
        Err(kube::Error::Api(answer)) if answer.code == 403 && answer.message.contains("cannot create resource") => {
            let found = format!("was not tried: you may not make pods in namespace {namespace}");
            Finding::warn(about, found, "name a namespace where you may by -n NAME")
        }
        Err(kube::Error::Api(answer)) => {
            Finding::fail(about, format!("a pod that asks is refused: {}", answer.message), advice)
        }
        Err(error) => Finding::fail(about, refused(&error).to_string(), advice),
    }
}

/// Only who may read the Secret sees it.
async fn certificate(server: &Server, operator: Option<&Deployment>) -> Option<Finding> {
    let about = "certificate";
    let place = operator?.namespace()?;
    let secret = Api::<Secret>::namespaced(server.client.clone(), &place).get_metadata(CERTIFICATE).await;
    let secret = match secret {
        Ok(secret) => secret,
        Err(kube::Error::Api(answer)) if answer.code == 403 => return None,
        Err(error) => {
            let advice = "the operator makes it when it starts: its log says why it could not";
            return Some(Finding::fail(about, refused(&error).to_string(), advice));
        }
    };
    let renew: Option<Timestamp> = secret.annotations().get(RENEW_AFTER).and_then(|at| at.parse().ok());
    Some(match renew {
        Some(at) if at > Timestamp::now() => Finding::ok(about, format!("the webhook's is renewed after {at:.0}")),
        Some(at) => Finding::warn(
            about,
            format!("the webhook's should have been renewed at {at:.0}; it is valid for ten days more"),
            format!("the operator does it: kubectl -n {place} logs deployment/memboss-operator tells why it did not"),
        ),
        None => {
            Finding::warn(about, "nothing says when it is renewed", "delete the Secret: the operator makes another")
        }
    })
}

async fn redis(server: &Server, operator: Option<&Deployment>) -> Finding {
    let about = "Redis";
    let advice = "nothing is lost by it: dead nodes are noticed later, and nothing else";
    let bundled = server.of_chart::<StatefulSet>("redis", ListParams::default()).await;
    if let Ok([store, ..]) = bundled.as_deref() {
        let ready = store.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
        return match ready {
            0 => Finding::warn(about, "the bundled one is not ready", advice),
            _ => Finding::ok(about, "the bundled one is ready"),
        };
    }
    let url = operator.and_then(|operator| {
        let pod = operator.spec.template.spec.as_ref()?.containers.first()?.env.clone()?;
        pod.into_iter().find(|variable| variable.name == "MEMBOSS_REDIS_URL")?.value
    });
    match url {
        Some(url) => Finding::ok(about, format!("{url} is yours: it is not looked at from here")),
        None => Finding::warn(about, "none is configured, as far as can be seen", advice),
    }
}

/// Each node with what its agent reports and what its kubelet knows of the device plugin.
async fn nodes(server: &Server) -> Vec<Finding> {
    let (nodes, machines) =
        (Api::<Node>::all(server.client.clone()).list(&ListParams::default()).await, server.machines().await);
    let machines = match machines {
        Ok(machines) => machines,
        Err(failure) => return vec![unseen("nodes", &failure)],
    };
    let mut findings: Vec<Finding> = machines.iter().flat_map(machine).collect();
    findings.extend(versions(server).await);
    match nodes {
        Ok(list) => {
            let wanted = |node: &&Node| server.on.as_ref().is_none_or(|on| *on == node.name_any());
            findings.extend(list.items.iter().filter(wanted).map(|node| known(node, &machines)));
        }
        Err(error) => findings.push(unseen("nodes", &refused(&error))),
    }
    findings
}

fn known(node: &Node, machines: &[StatusResponse]) -> Finding {
    let about = "node";
    let name = node.name_any();
    let Some(machine) = machines.iter().find(|machine| machine.node == name) else {
        let advice = "nothing is leased there; the chart's agent.nodeSelector and tolerations say where agents run";
        return Finding::warn(about, format!("{name} has no agent"), advice);
    };
    let (gpus, unread) = machine.gpus.as_ref().map_or((0, false), |list| (list.gpus.len(), list.unread));
    let allocatable = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
    let units = allocatable.and_then(|all| all.get(RESOURCE)).map(|units| units.0.clone()).unwrap_or_default();
    match (gpus, units.as_str()) {
        // What its driver does is told beside it.
        (0, _) if unread => Finding::ok(about, format!("{name} has an agent")),
        (0, _) => Finding::ok(about, format!("{name} has an agent and no GPU: RAM alone is leased there")),
        (_, "" | "0") => Finding::fail(
            about,
            format!("{name} has {gpus} GPU(s), and its kubelet knows no {RESOURCE}: no pod that asks can start there"),
            "the device plugin has not registered: see the log of container device-plugin in its agent's pod",
        ),
        (_, units) => Finding::ok(about, format!("{name} has an agent, {gpus} GPU(s) and {units} units of {RESOURCE}")),
    }
}

fn machine(status: &StatusResponse) -> Vec<Finding> {
    let list = status.gpus.clone().unwrap_or_default();
    let mut findings: Vec<Finding> = gpus::unread(&list).into_iter().collect();
    findings.extend(list.gpus.iter().flat_map(gpus::judge));
    for finding in &mut findings {
        finding.found = format!("{}: {}", status.node, finding.found);
    }
    if !list.hold.is_empty() {
        let found = format!("nothing is granted on {} now: {}", status.node, list.hold);
        let advice =
            "draining ends by memboss vram drain --undo; anything else when the agent has looked at everything";
        findings.push(Finding::warn("grants", found, advice));
    }
    findings
}

/// Agents that are of another version than this command.
async fn versions(server: &Server) -> Option<Finding> {
    let nodes = Api::<MemoryNode>::all(server.client.clone()).list(&ListParams::default()).await.ok()?;
    let others = nodes.items.iter().filter_map(|node| {
        let version = &node.status.as_ref()?.agent_version;
        (version != OWN).then(|| format!("{} {version}", node.name_any()))
    });
    let others: Vec<String> = others.collect();
    let found = format!("this command is of version {OWN}, agents are not: {}", others.join(", "));
    (!others.is_empty()).then(|| Finding::warn("versions", found, "wait for the agents' rollout, or upgrade the chart"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;
    use memboss_agent_api::v1::{Gpu, GpuList, Health};

    fn node(units: Option<&str>) -> Node {
        let allocatable = units.map_or(json!({}), |units| json!({ RESOURCE: units }));
        serde_json::from_value(json!({ "metadata": { "name": "a" }, "status": { "allocatable": allocatable } }))
            .unwrap()
    }

    #[test]
    fn a_node_is_well_when_its_agent_reports_and_its_kubelet_knows_the_units() {
        let gpu = Gpu { health: Health::Healthy.into(), ..Gpu::default() };
        let gpus = Some(GpuList { gpus: vec![gpu], hold: "draining".into(), unread: true });
        let there = [StatusResponse { node: "a".into(), gpus, ..StatusResponse::default() }];
        assert_eq!(known(&node(Some("93")), &there).verdict, Verdict::Ok);
        assert_eq!(known(&node(None), &there).verdict, Verdict::Fail);
        assert_eq!(known(&node(Some("0")), &there).verdict, Verdict::Fail);
        assert_eq!(known(&node(None), &[]).verdict, Verdict::Warn);
        let mut silent = there.clone();
        silent[0].gpus = Some(GpuList { unread: true, ..GpuList::default() });
        assert_eq!(known(&node(None), &silent).found, "a has an agent");
        let told: Vec<_> = machine(&there[0]).into_iter().map(|finding| finding.found).collect();
        assert!(
            ["a: the driver has not told", "a now: draining"]
                .iter()
                .all(|words| told.iter().any(|t| t.contains(words))),
            "{told:?}"
        );
    }

    #[test]
    fn what_runs_in_part_is_a_warning_and_another_version_too() {
        let verdicts = |ready, version: &str| {
            let found = running("operator", ready, 2, Some(&version.to_owned()), String::new());
            found.iter().map(|finding| finding.verdict).collect::<Vec<_>>()
        };
        assert_eq!(verdicts(2, OWN), [Verdict::Ok]);
        assert_eq!(verdicts(1, OWN), [Verdict::Warn]);
        assert_eq!(verdicts(0, "0.0.1"), [Verdict::Fail, Verdict::Warn]);
    }
}
