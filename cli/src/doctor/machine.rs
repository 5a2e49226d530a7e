//! What memboss needs of the kernel and of the file systems.

use std::fs;
use std::path::Path;

use memboss_agent_api::v1::StatusResponse;
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use nix::time::{ClockId, clock_gettime};

use super::{Doctor, Finding};

/// The ledger and its next version fit into that many times over.
const ROOM_MIB: u64 = 16;

pub(super) fn look(asked: &Doctor, run_dir: &Path) -> Vec<Finding> {
    let mut findings = vec![processes(&asked.proc_root), ledger(run_dir)];
    findings.extend(room(run_dir));
    findings.push(state(&asked.state_dir));
    findings.push(cgroups(&asked.cgroup_root));
    findings.push(stalls(&asked.proc_root));
    findings.push(cdi(asked));
    findings.push(clock(&asked.proc_root));
    findings
}

/// Whether the agent began in this boot.
pub(super) fn same_boot(status: &StatusResponse, asked: &Doctor) -> Finding {
    let path = asked.proc_root.join("sys/kernel/random/boot_id");
    match fs::read_to_string(&path) {
        Ok(boot) if boot.trim() == status.boot_id => Finding::ok("boot", "the agent's ledger is of this boot"),
        Ok(_) => Finding::warn(
            "boot",
            "the agent says that it is of another boot",
            "it was told another --boot-id-file, or it is another machine's",
        ),
        Err(error) => Finding::fail("boot", format!("{}: {error}", path.display()), "the agent needs it: mount /proc"),
    }
}

fn processes(proc_root: &Path) -> Finding {
    let own = proc_root.join("self/stat");
    if let Err(error) = fs::read_to_string(&own) {
        return Finding::fail("processes", format!("{}: {error}", own.display()), "mount /proc");
    }
    match fs::read_to_string(proc_root.join("1/stat")) {
        Ok(_) => Finding::ok("processes", format!("{} shows those of others", proc_root.display())),
        Err(error) => Finding::warn(
            "processes",
            format!("{} hides those of others: {error}", proc_root.display()),
            "the agent (root) sees them all the same; for ram analyze mount it without hidepid",
        ),
    }
}

fn ledger(run_dir: &Path) -> Finding {
    let at = run_dir.display();
    match statfs(run_dir) {
        Ok(found) if found.filesystem_type() == TMPFS_MAGIC => Finding::ok("ledger", format!("{at} lies in memory")),
        Ok(_) => Finding::warn(
            "ledger",
            format!("{at} does not lie in memory (tmpfs)"),
            "after a reboot it would be read once more, and thrown away; the agent's --run-dir should be below /run",
        ),
        Err(error) => {
            Finding::fail("ledger", format!("{at}: {error}"), "start memboss-agent, or say where by --run-dir")
        }
    }
}

fn room(run_dir: &Path) -> Option<Finding> {
    let found = statfs(run_dir).ok()?;
    let block = u64::try_from(found.block_size()).ok()?;
    let free = found.blocks_available().saturating_mul(block) >> 20;
    let told = format!("{free} MiB are free at {}", run_dir.display());
    let advice = "a ledger that cannot be written grants nothing: remove what fills it, or make it larger";
    Some(match free {
        0 => Finding::fail("room", told, advice),
        1..ROOM_MIB => Finding::warn("room", told, advice),
        _ => Finding::ok("room", told),
    })
}

fn state(state_dir: &Path) -> Finding {
    let at = state_dir.display();
    match statfs(state_dir) {
        Ok(found) if found.filesystem_type() == TMPFS_MAGIC => Finding::warn(
            "state",
            format!("{at} lies in memory"),
            "the agent cannot tell a lost ledger from a new boot there: put its --state-dir on a disk",
        ),
        Ok(_) => Finding::ok("state", format!("{at} lies on a disk")),
        Err(error) => {
            Finding::fail("state", format!("{at}: {error}"), "start memboss-agent, or say where by --state-dir")
        }
    }
}

fn cgroups(root: &Path) -> Finding {
    if root.join("cgroup.controllers").exists() {
        return Finding::ok("cgroups", "version 2");
    }
    if root.join("memory").exists() {
        return Finding::warn(
            "cgroups",
            "version 1",
            "limits of containers are seen less exactly; version 2 is better",
        );
    }
    Finding::warn("cgroups", format!("none at {}", root.display()), "pods cannot be told apart without them")
}

fn stalls(proc_root: &Path) -> Finding {
    match fs::read_to_string(proc_root.join("pressure/memory")) {
        Ok(_) => Finding::ok("stalls", "the kernel tells how long tasks wait for memory"),
        Err(error) => Finding::warn(
            "stalls",
            format!("the kernel does not tell how long tasks wait for memory: {error}"),
            "boot with psi=1; without it pressure is judged by what is available alone",
        ),
    }
}

fn cdi(asked: &Doctor) -> Finding {
    let names = asked.cdi_dirs.iter().filter_map(|dir| fs::read_dir(dir).ok());
    let mut files = names.flatten().flatten().map(|entry| entry.path());
    let of_nvidia =
        |path: &std::path::PathBuf| fs::read_to_string(path).is_ok_and(|text| text.contains("nvidia.com/gpu"));
    match files.find(of_nvidia) {
        Some(path) => Finding::ok("CDI", format!("{} describes the GPUs to container runtimes", path.display())),
        None => Finding::warn(
            "CDI",
            "no file describes the GPUs to container runtimes",
            "only containers need it: nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml",
        ),
    }
}

/// A machine that counts its time otherwise than this process does is another one: what is found here would be of a container.
fn clock(proc_root: &Path) -> Finding {
    let told = fs::read_to_string(proc_root.join("uptime")).ok();
    let uptime = told.as_deref().and_then(|text| text.split('.').next()).and_then(|text| text.parse::<i64>().ok());
    match (clock_gettime(ClockId::CLOCK_BOOTTIME), uptime) {
        (Ok(now), Some(uptime)) if (now.tv_sec() - uptime).abs() <= 5 => {
            Finding::ok("clock", format!("counts {uptime} s since the boot"))
        }
        (Ok(now), Some(uptime)) => Finding::warn(
            "clock",
            format!("counts {} s since the boot, {} says {uptime} s", now.tv_sec(), proc_root.display()),
            "this is a container or a time namespace: run memboss doctor on the host",
        ),
        (Err(error), _) => Finding::fail(
            "clock",
            format!("there is none that counts since the boot: {error}"),
            "the kernel is too old",
        ),
        (_, None) => Finding::warn("clock", "the kernel does not tell how long it has run", "mount /proc"),
    }
}
