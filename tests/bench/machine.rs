//! What the figures were measured on: a figure without its machine says nothing. It only reads `/proc`.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// How long it looks for what else runs.
const SPAN: Duration = Duration::from_secs(2);
const BUSIEST: usize = 8;

/// The three load averages.
pub(crate) fn load() -> Result<String> {
    let text = fs::read_to_string("/proc/loadavg").context("/proc/loadavg")?;
    Ok(text.split_whitespace().take(3).collect::<Vec<_>>().join(" "))
}

/// Processors, memory, kernel, load, and the busiest processes of the machine before anything is measured: those of the bed are among them.
pub(crate) fn describe() -> Result<String> {
    let cores = std::thread::available_parallelism()?;
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").context("/proc/cpuinfo")?;
    let model = field(&cpuinfo, "model name").unwrap_or_else(|| "unknown".into());
    let meminfo = fs::read_to_string("/proc/meminfo").context("/proc/meminfo")?;
    let gib = |name| {
        let kib = field(&meminfo, name).and_then(|value| value.split(' ').next()?.parse::<u32>().ok());
        f64::from(kib.unwrap_or_default()) / f64::from(1 << 20)
    };
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").context("osrelease")?;
    let mut text = String::new();
    let _ = writeln!(text, "machine: {cores} cores ({model})");
    let _ = writeln!(text, "memory:  {:.1} GiB, {:.1} available", gib("MemTotal"), gib("MemAvailable"));
    let _ = writeln!(text, "kernel:  {}", kernel.trim());
    let _ = writeln!(text, "load:    {}", load()?);
    let _ = writeln!(text, "busiest before (% of a core): {}", busiest()?);
    Ok(text)
}

fn field(text: &str, name: &str) -> Option<String> {
    let (_, value) = text.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| key.trim() == name)?;
    Some(value.trim().to_owned())
}

/// Processor time by process name, in the span looked at.
fn busiest() -> Result<String> {
    let before = ticks()?;
    std::thread::sleep(SPAN);
    let mut names: HashMap<String, u64> = HashMap::new();
    for (pid, (name, now)) in ticks()? {
        let then = before.get(&pid).map_or(0, |(_, then)| *then);
        *names.entry(name).or_default() += now.saturating_sub(then);
    }
    let mut names: Vec<_> = names.into_iter().filter(|(_, taken)| *taken > 0).collect();
    names.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    // A tick is a hundredth of a second wherever Linux runs containers.
    let percent = |taken: u64| taken / SPAN.as_secs();
    let shown = names.iter().take(BUSIEST).map(|(name, taken)| format!("{name} {}", percent(*taken)));
    Ok(shown.collect::<Vec<_>>().join(", "))
}

/// Name and ticks of every process.
fn ticks() -> Result<HashMap<u32, (String, u64)>> {
    let mut all = HashMap::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A process may end while it is looked at.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((head, tail)) = stat.rsplit_once(')') else { continue };
        let fields: Vec<_> = tail.split_whitespace().collect();
        let at = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok()).unwrap_or_default();
        let name = head.split_once('(').map(|(_, name)| name.to_owned()).unwrap_or_default();
        all.insert(pid, (name, at(11) + at(12)));
    }
    Ok(all)
}
