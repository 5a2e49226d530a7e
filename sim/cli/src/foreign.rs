//! Processes that stand for somebody outside memboss: they take a slot of a GPU and hold it until they are killed.
#![expect(unsafe_code, reason = "a process that outlives its parent needs a session of its own")]

use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use memboss_sim_state::{Charge, Gpu, HolderKind, MIB, SimDir};

/// Starts one, waits until it holds, prints its pid.
pub(crate) fn add(dir: &SimDir, gpu: &str, mib: u64) -> Result<()> {
    use std::io::{BufRead as _, Read as _};
    let program = std::env::current_exe().context("failed to find this program")?;
    let mut command = Command::new(program);
    command.arg("--dir").arg(dir.path()).args(["foreign", "hold", "--gpu", gpu, "--mib", &mib.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // SAFETY: between fork and exec only setsid is called, which is safe there.
    unsafe {
        command.pre_exec(|| if libc::setsid() < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) });
    }
    let mut child = command.spawn().context("failed to start the holder")?;
    let mut line = String::new();
    if let Some(out) = child.stdout.take() {
        std::io::BufReader::new(out).read_line(&mut line)?;
    }
    // A pipe, not ours handed on: whoever waits for our output to end would wait for the holder.
    if line.trim() != "holding" {
        let mut why = String::new();
        if let Some(mut errors) = child.stderr.take() {
            errors.read_to_string(&mut why)?;
        }
        bail!("the holder did not get {mib} MiB: {}", why.trim());
    }
    println!("{}", child.id());
    Ok(())
}

/// Is one.
pub(crate) fn hold(gpu: &'static Gpu, mib: u64) -> Result<()> {
    gpu.join(HolderKind::Foreign)?;
    gpu.charge(Charge::Bytes(mib.saturating_mul(MIB)))?;
    println!("holding");
    loop {
        std::thread::park();
    }
}

/// Ends those on a GPU; prints how many.
pub(crate) fn remove(gpu: &Gpu) -> Result<()> {
    let foreign = gpu.holders()?.into_iter().filter(|holder| holder.kind == HolderKind::Foreign);
    let pids: Vec<i32> = foreign.filter_map(|holder| i32::try_from(holder.pid?).ok()).collect();
    for pid in &pids {
        // SAFETY: sends a signal and touches no memory; a holder that ended meanwhile only makes it fail.
        unsafe { libc::kill(*pid, libc::SIGKILL) };
    }
    println!("{}", pids.len());
    Ok(())
}
