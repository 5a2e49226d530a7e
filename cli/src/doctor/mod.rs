//! `memboss doctor`: looks at everything that memboss needs of a machine, or of a cluster, says of each thing whether it is well, and what to do where it is not.
//! It changes nothing.

mod agents;
mod cluster;
mod gpus;
mod machine;
mod sockets;

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use comfy_table::Color;
use memboss_agent_api::v1::StatusResponse;
use serde::Serialize;

use crate::agent::Sockets;
use crate::exit::Failure;
use crate::output::{Colours, Output};
use crate::show;
use crate::way::{self, Where};

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// NVML's library; the system's if not given.
    #[arg(long, env = "MEMBOSS_NVML_LIBRARY", value_name = "PATH")]
    nvml_library: Option<PathBuf>,
    /// The agent's folder in memory: its ledger and its sockets. Without: where root's socket is.
    #[arg(long, value_name = "PATH")]
    run_dir: Option<PathBuf>,
    /// The agent's folder on disk.
    #[arg(long, default_value = "/var/lib/memboss", value_name = "PATH")]
    state_dir: PathBuf,
    /// Where the kernel tells of processes.
    #[arg(long, default_value = "/proc", value_name = "PATH")]
    proc_root: PathBuf,
    /// Where control groups are.
    #[arg(long, default_value = "/sys/fs/cgroup", value_name = "PATH")]
    cgroup_root: PathBuf,
    /// Where container runtimes look for devices; may be repeated.
    #[arg(long = "cdi-dir", default_values = ["/etc/cdi", "/var/run/cdi"], value_name = "PATH")]
    cdi_dirs: Vec<PathBuf>,
}

/// How a thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// Well.
    Ok,
    /// It works, but not all of it, or not for long.
    Warn,
    /// It does not work.
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    verdict: Verdict,
    about: &'static str,
    found: String,
    /// What to do.
    advice: Option<String>,
}

impl Finding {
    fn ok(about: &'static str, found: impl Into<String>) -> Self {
        Self { verdict: Verdict::Ok, about, found: found.into(), advice: None }
    }

    fn warn(about: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { verdict: Verdict::Warn, about, found: found.into(), advice: Some(advice.into()) }
    }

    fn fail(about: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { verdict: Verdict::Fail, about, found: found.into(), advice: Some(advice.into()) }
    }
}

pub(crate) async fn run(asked: &Doctor, at: &Where, output: Output) -> Result<()> {
    let findings = match at.away(output).await? {
        Some(server) => cluster::look(&server).await,
        None => here(asked, &at.sockets).await,
    };
    output.say(&findings, || table(&findings))?;
    let failed = findings.iter().filter(|finding| finding.verdict == Verdict::Fail).count();
    if failed > 0 { Err(Failure::Undone(format!("{failed} of {} do not work", findings.len())).into()) } else { Ok(()) }
}

async fn here(asked: &Doctor, sockets: &Sockets) -> Vec<Finding> {
    if is_served_pod(sockets) {
        return in_pod(asked, sockets).await;
    }
    let (mut findings, status) = sockets::look(sockets).await;
    findings.extend(status.as_ref().map(|status| machine::same_boot(status, asked)));
    findings.extend(gpus::look(asked.nvml_library.as_deref(), status.as_ref()));
    let beside = sockets.node_socket.ancestors().nth(2).unwrap_or_else(|| "/run/memboss".as_ref());
    findings.extend(machine::look(asked, asked.run_dir.as_deref().unwrap_or(beside)));
    findings
}

/// Whether this is a container of a pod that the agent serves. The agent's own has the machine's folders, and root's socket.
fn is_served_pod(sockets: &Sockets) -> bool {
    way::is_in_pod() && !sockets.node_socket.exists()
}

/// What matters of all that where leases are taken in a pod; the rest is the machine's, and not to be seen from there.
async fn in_pod(asked: &Doctor, sockets: &Sockets) -> Vec<Finding> {
    let (mut findings, status) = sockets::ours(sockets, sockets::IN_POD).await;
    findings.extend(gpus::look(asked.nvml_library.as_deref(), status.as_ref()));
    let not_from_here = "this is a pod: of the node and the installation nothing was looked at";
    findings.push(Finding::warn("pod", not_from_here, "kubectl memboss doctor looks at these"));
    findings
}

fn table(findings: &[Finding]) -> String {
    let mut table = show::table(&["", "ABOUT", "FOUND"]);
    for finding in findings {
        let verdict = match finding.verdict {
            Verdict::Ok => show::strong("ok", Color::Green),
            Verdict::Warn => show::strong("warn", Color::Yellow),
            Verdict::Fail => show::strong("fail", Color::Red),
        };
        table.add_row([verdict, finding.about.into(), finding.found.as_str().into()]);
        if let Some(advice) = &finding.advice {
            table.add_row(["", "", &format!("-> {advice}")]);
        }
    }
    show::printed(table, Colours::of_stdout())
}

/// What the agent told, if it did.
type Told<'a> = Option<&'a StatusResponse>;
