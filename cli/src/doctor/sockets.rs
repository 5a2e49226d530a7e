//! Whether the agent is there, lets this user in, answers, and understands this command.

use std::path::Path;

use memboss_agent_api::v1::StatusResponse;

use super::Finding;
use crate::agent::Sockets;
use crate::exit::Failure;

const START: &str =
    "start it (systemctl start memboss-agent), or say where it listens by --socket; about a cluster: --by api";

/// What to do in a pod where no agent is to be found.
pub(super) const IN_POD: &str =
    "annotate the pod memboss.dev/agent: \"true\"; kubectl memboss doctor tells whether the node's agent runs";

/// What was found, and what the agent told.
pub(super) async fn look(sockets: &Sockets) -> (Vec<Finding>, Option<StatusResponse>) {
    let (mut findings, status) = ours(sockets, START).await;
    findings.push(root(sockets).await);
    (findings, status)
}

/// The same of the socket that everybody uses.
pub(super) async fn ours(sockets: &Sockets, advice: &str) -> (Vec<Finding>, Option<StatusResponse>) {
    let mut findings = vec![there("agent's socket", &sockets.socket, advice)];
    let told = sockets.status().await;
    let status = match told {
        Ok(status) => {
            findings.push(Finding::ok("agent", format!("answers as node {:?}", status.node)));
            findings.extend(hold(&status));
            Some(status)
        }
        Err(failure) => {
            findings.push(silent(&failure, advice));
            None
        }
    };
    (findings, status)
}

fn there(about: &'static str, socket: &Path, advice: &str) -> Finding {
    use std::os::unix::fs::FileTypeExt as _;
    let at = socket.display();
    match std::fs::metadata(socket) {
        Ok(found) if found.file_type().is_socket() => Finding::ok(about, format!("is at {at}")),
        Ok(_) => Finding::fail(about, format!("{at} is no socket"), "remove it and start memboss-agent again"),
        Err(error) => Finding::fail(about, format!("{at}: {error}"), advice),
    }
}

fn silent(failure: &Failure, advice: &str) -> Finding {
    let said = failure.to_string();
    match failure {
        Failure::NotPermitted(_) => {
            Finding::fail("agent", said, "its folder and its socket are open to everybody: see who changed that")
        }
        Failure::NoAgent(_) => Finding::fail("agent", said, format!("{advice}; its log says why it ended")),
        _ => Finding::fail("agent", said, "install an agent and a command of the same version"),
    }
}

fn hold(status: &StatusResponse) -> Option<Finding> {
    let why = status.gpus.as_ref().map(|gpus| gpus.hold.as_str()).filter(|why| !why.is_empty())?;
    let advice = "wait until it has looked at everything; if it lasts, its log says what it waits for";
    Some(Finding::warn("grants", format!("nothing is granted now: {why}"), advice))
}

/// The socket for root: there, and closed to everybody else.
async fn root(sockets: &Sockets) -> Finding {
    let (about, at) = ("root's socket", sockets.node_socket.display());
    let is_root = nix::unistd::geteuid().is_root();
    match sockets.node().await {
        Ok(_) if is_root => Finding::ok(about, format!("lets root in at {at}")),
        Ok(_) => Finding::warn(
            about,
            format!("{at} lets this user in, who is not root"),
            "whoever may use it may empty the machine: make its folder root's alone (chmod 0700)",
        ),
        Err(Failure::NotPermitted(_)) if !is_root => Finding::ok(about, format!("{at} is root's alone")),
        Err(failure) => Finding::fail(about, failure.to_string(), "start memboss-agent, or say where by --node-socket"),
    }
}
