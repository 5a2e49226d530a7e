//! Whether every node's agent runs, and what those of them that are not ready say themselves: asked of the address that the kubelet asks too.

use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, HTTPGetAction, Pod};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::Finding;
use super::cluster::{INSTALL, VERSION_LABEL, running, unseen};
use crate::way::Server;

/// What follows the name of a condition that does not hold, where a part says whether it is ready.
const NOT_READY: &str = ": not ready: ";
const UNASKED: &str = "is not ready, and could not be asked why (that needs create on pods/portforward)";
/// What is well answers at once.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// In bytes; a few lines are usual.
const LONGEST_ANSWER: u64 = 64 * 1024;

pub(super) async fn look(server: &Server) -> Vec<Finding> {
    let about = "agents";
    match server.of_chart::<DaemonSet>("agent", ListParams::default()).await.as_deref() {
        Err(failure) => vec![unseen(about, failure)],
        Ok([]) => vec![Finding::fail(about, "there are none", INSTALL)],
        Ok([set, ..]) => {
            let (ready, wanted) = set.status.as_ref().map_or((0, 0), |s| (s.number_ready, s.desired_number_scheduled));
            let place = set.namespace().unwrap_or_default();
            let advice = format!("kubectl -n {place} get pods -o wide, and the logs of those that are not ready");
            let mut findings = running(about, ready, wanted, set.labels().get(VERSION_LABEL), advice);
            if ready < wanted {
                findings.extend(reasons(server).await);
            }
            findings
        }
    }
}

/// Why those are not ready that are not, as far as they may be asked.
async fn reasons(server: &Server) -> Vec<Finding> {
    let pods = server.agent_pods(ListParams::default()).await.unwrap_or_default();
    let mut findings = Vec::new();
    for pod in &pods {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
        for (container, status) in not_ready(pod) {
            let why = match waits(status) {
                Some(why) => vec![why],
                None => says(server, pod, container).await.unwrap_or_else(|| vec![UNASKED.to_owned()]),
            };
            let logs = format!(
                "kubectl -n {} logs {} -c {} says more",
                pod.namespace().unwrap_or_default(),
                pod.name_any(),
                container.name
            );
            let one = |why: String| Finding::fail("agents", format!("{node}: {}: {why}", container.name), logs.clone());
            findings.extend(why.into_iter().map(one));
        }
    }
    findings
}

fn not_ready(pod: &Pod) -> impl Iterator<Item = (&Container, &ContainerStatus)> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    containers.filter_map(|container| {
        let status = statuses.iter().find(|status| status.name == container.name)?;
        (!status.ready).then_some((container, status))
    })
}

/// Why it does not run, if it does not.
fn waits(status: &ContainerStatus) -> Option<String> {
    let waiting = status.state.as_ref()?.waiting.as_ref()?;
    let parts = [&waiting.reason, &waiting.message].into_iter().flatten();
    Some(parts.map(String::as_str).collect::<Vec<_>>().join(": "))
}

/// What it answers when it is asked whether it is ready. The way to it is the kubelet's: an API server need not reach the pods' own addresses.
async fn says(server: &Server, pod: &Pod, container: &Container) -> Option<Vec<String>> {
    let (path, port) = asked_at(container)?;
    let api = Api::<Pod>::namespaced(server.client.clone(), &pod.namespace()?);
    let asked = async {
        let mut way = api.portforward(&pod.name_any(), &[port]).await.ok()?;
        let mut stream = way.take_stream(port)?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        (&mut stream).take(LONGEST_ANSWER).read_to_end(&mut answer).await.ok()?;
        Some(conditions(&String::from_utf8_lossy(&answer)))
    };
    tokio::time::timeout(ANSWERS_WITHIN, asked).await.ok().flatten()
}

/// Where the kubelet asks it.
fn asked_at(container: &Container) -> Option<(String, u16)> {
    let HTTPGetAction { path, port, .. } = container.readiness_probe.as_ref()?.http_get.as_ref()?;
    let port = match port {
        IntOrString::Int(port) => *port,
        IntOrString::String(name) => {
            let ports = container.ports.as_deref().unwrap_or_default();
            ports.iter().find(|port| port.name.as_ref() == Some(name))?.container_port
        }
    };
    Some((path.clone()?, u16::try_from(port).ok()?))
}

/// The conditions that do not hold, of all that it answers.
fn conditions(answer: &str) -> Vec<String> {
    let lines = answer.lines().filter_map(|line| line.split_once(NOT_READY));
    lines.map(|(name, why)| format!("{name}: {why}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_not_ready_is_asked_where_the_kubelet_asks_it() {
        let probe = |port| json!({ "httpGet": { "path": "/readyz", "port": port } });
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": "agent-x", "namespace": "memboss-system" },
            "spec": { "nodeName": "node1", "containers": [
                { "name": "agent", "readinessProbe": probe(json!(9401)) },
                { "name": "device-plugin", "ports": [{ "name": "plugin-admin", "containerPort": 9402 }], "readinessProbe": probe(json!("plugin-admin")) },
            ]},
            "status": { "containerStatuses": [
                { "name": "agent", "ready": true, "image": "", "imageID": "", "restartCount": 0 },
                { "name": "device-plugin", "ready": false, "image": "", "imageID": "", "restartCount": 0 },
            ]},
        }))
        .unwrap();
        let found: Vec<_> = not_ready(&pod).map(|(container, _)| asked_at(container)).collect();
        assert_eq!(found, [Some(("/readyz".to_owned(), 9402))]);
        let answer = "agent: ready\nruntime-reads-cdi: not ready: nobody opened it\n";
        assert_eq!(conditions(answer), ["runtime-reads-cdi: nobody opened it"]);
        let waiting = json!({ "waiting": { "reason": "ImagePullBackOff", "message": "no such image" } });
        let status =
            json!({ "name": "a", "ready": false, "image": "", "imageID": "", "restartCount": 0, "state": waiting });
        let status: ContainerStatus = serde_json::from_value(status).unwrap();
        assert_eq!(waits(&status).as_deref(), Some("ImagePullBackOff: no such image"));
    }
}
