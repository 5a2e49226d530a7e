//! The way to a node's agent from elsewhere: `memboss` in the agent's own pod is started by the API server, and either hands a connection on to the agent's
//! socket for root, or does there what only can be done there. Whoever may do that has the rights `get` and `create` on `pods/exec` of the agents' pods.

use std::fmt::Debug;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::{AttachParams, AttachedProcess, ListParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Resource, ResourceExt as _};
use memboss_agent_api::v1::StatusRequest;
use memboss_agent_api::v1::node_client::NodeClient;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::agent::{Steered, answer};
use crate::exit::Failure;
use crate::way::{Server, refused};

/// The container in them.
const CONTAINER: &str = "agent";
/// Where the chart's own words install it.
const USUAL: &str = "memboss-system";
/// A program that cannot begin says so at once.
const COMPLAINS_WITHIN: Duration = Duration::from_secs(2);
/// Of each stream.
const BUFFER: usize = 64 * 1024;

impl Server {
    /// What root may ask of the agent of that node.
    pub(crate) async fn steer(&self, node: &str) -> Result<Steered, Failure> {
        let mut process = self.exec(node, &["memboss".to_owned(), "proxy".to_owned()], true).await?;
        let at = PathBuf::from(format!("node {node}"));
        let (Some(input), Some(output), Some(mut said)) = (process.stdin(), process.stdout(), process.stderr()) else {
            return Err(Failure::NoAgent(format!("the API server gave no connection to the agent of {node}")));
        };
        let status = process.take_status();
        let complaint = tokio::spawn(async move {
            let mut text = String::new();
            drop(said.read_to_string(&mut text).await);
            text
        });
        // It lives as long as this program, whose end ends it.
        tokio::spawn(process.join());
        let channel = memboss_agent_api::connect_over(tokio::io::join(output, input)).await;
        let mut agent = NodeClient::new(channel.map_err(|_| Failure::NoAgent(format!("no agent answers on {node}")))?);
        match answer(&at, agent.status(StatusRequest {})).await {
            Ok(_) => Ok(Steered { agent, at }),
            Err(failure) => {
                let text = tokio::time::timeout(COMPLAINS_WITHIN, complaint).await.ok().and_then(Result::ok);
                let ended = match status {
                    Some(status) => tokio::time::timeout(COMPLAINS_WITHIN, status).await.ok().flatten(),
                    None => None,
                };
                let ended = ended.and_then(|status| status.message);
                let said = text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()).or(ended);
                Err(said
                    .map_or(failure, |said| Failure::NoAgent(format!("the agent of {node} is not reached: {said}"))))
            }
        }
    }

    /// Runs this program on that node, in its agent's pod, with those words; its exit code.
    pub(crate) async fn run_on(&self, node: &str, words: &[String]) -> Result<u8, Failure> {
        let command: Vec<String> = ["memboss".to_owned()].into_iter().chain(words.iter().cloned()).collect();
        let mut process = self.exec(node, &command, false).await?;
        let (Some(output), Some(said), Some(status)) = (process.stdout(), process.stderr(), process.take_status())
        else {
            return Err(Failure::NoAgent(format!("the API server gave no connection to the agent's pod on {node}")));
        };
        let (one, other) = tokio::join!(pour(output, std::io::stdout()), pour(said, std::io::stderr()));
        one.and(other).map_err(|error| Failure::Undone(format!("what {node} says cannot be told on: {error}")))?;
        let ended = status.await;
        let broke = || Failure::NoAgent(format!("the connection to {node} broke before the end: ask again"));
        code(&ended.ok_or_else(broke)?).ok_or_else(broke)
    }

    async fn exec(&self, node: &str, command: &[String], stdin: bool) -> Result<AttachedProcess, Failure> {
        let pod = self.agent_pod(node).await?;
        let api = Api::<Pod>::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
        let how = AttachParams::default()
            .container(CONTAINER)
            .stdin(stdin)
            .stdout(true)
            .stderr(true)
            .max_stdin_buf_size(BUFFER)
            .max_stdout_buf_size(BUFFER)
            .max_stderr_buf_size(BUFFER);
        api.exec(&pod.name_any(), command.to_vec(), &how).await.map_err(|error| not_let_in(&error, &pod))
    }

    /// Objects of a part of the chart, wherever it was installed; who may not see all is shown where it usually is.
    pub(crate) async fn of_chart<K>(&self, component: &str, which: ListParams) -> Result<Vec<K>, Failure>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let ours = which.labels(&format!("app.kubernetes.io/name=memboss,app.kubernetes.io/component={component}"));
        let found = match Api::<K>::all(self.client.clone()).list(&ours).await {
            Err(kube::Error::Api(answer)) if answer.code == 403 => {
                Api::<K>::namespaced(self.client.clone(), USUAL).list(&ours).await
            }
            other => other,
        };
        found.map(|list| list.items).map_err(|error| refused(&error))
    }

    /// The agents' pods that are not about to end.
    pub(crate) async fn agent_pods(&self, which: ListParams) -> Result<Vec<Pod>, Failure> {
        let mut pods: Vec<Pod> = self.of_chart("agent", which).await?;
        pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
        Ok(pods)
    }

    /// The pod of that node's agent.
    async fn agent_pod(&self, node: &str) -> Result<Pod, Failure> {
        let there = ListParams::default().fields(&format!("spec.nodeName={node}"));
        self.agent_pods(there).await?.into_iter().next().ok_or_else(|| {
            Failure::NoAgent(format!("no agent's pod is on node {node}: memboss doctor --by api tells what is there"))
        })
    }
}

fn not_let_in(error: &kube::Error, pod: &Pod) -> Failure {
    let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
    let said = error.to_string();
    let is_403 = matches!(error, kube::Error::Api(answer) if answer.code == 403);
    // A refused upgrade of the connection is told by its status alone.
    if is_403 || said.contains("403") {
        return Failure::NotPermitted(format!(
            "the agent is asked by way of its pod {namespace}/{name}, and you have no right to that: it is get and create on pods/exec in namespace {namespace}"
        ));
    }
    Failure::NoAgent(format!("the agent's pod {namespace}/{name} cannot be reached: {said}"))
}

/// Hands everything on as it comes.
async fn pour(mut from: impl AsyncRead + Unpin, mut to: impl Write) -> std::io::Result<()> {
    let mut part = [0; 8192];
    loop {
        let length = from.read(&mut part).await?;
        if length == 0 {
            return Ok(());
        }
        to.write_all(part.get(..length).unwrap_or_default())?;
        to.flush()?;
    }
}

/// The exit code in the words of the API.
fn code(ended: &Status) -> Option<u8> {
    if ended.status.as_deref() == Some("Success") {
        return Some(0);
    }
    let causes = ended.details.as_ref()?.causes.as_ref()?;
    let cause = causes.iter().find(|cause| cause.reason.as_deref() == Some("ExitCode"))?;
    cause.message.as_ref()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_of_a_program_on_a_node_is_read_from_its_status() {
        let status = |value| serde_json::from_value::<Status>(value).unwrap();
        assert_eq!(code(&status(serde_json::json!({ "status": "Success" }))), Some(0));
        let failed = serde_json::json!({
            "status": "Failure", "details": { "causes": [{ "reason": "ExitCode", "message": "77" }] }
        });
        assert_eq!(code(&status(failed)), Some(77));
        assert_eq!(code(&status(serde_json::json!({ "status": "Failure" }))), None);
    }
}
