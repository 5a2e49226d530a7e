//! The process's metrics registry, with the figures every process shows about itself. Each crate registers its own under its own prefix.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
pub use prometheus_client::registry::Registry;

/// A registry that already shows the build and the process's memory, CPU time, threads and open files.
#[must_use]
pub fn registry(process: &'static str, version: &'static str) -> Registry {
    let mut registry = Registry::default();
    registry.register(
        "memboss_build",
        "Name and version of this process",
        Info::new(vec![("process", process), ("version", version)]),
    );
    registry.register_collector(Box::new(Process));
    registry
}

/// Reads `/proc/self` at each scrape; what cannot be read is left out.
#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Ok(me) = procfs::process::Process::myself() else { return Ok(()) };
        if let Ok(stat) = me.stat() {
            gauge(&mut encoder, "process_resident_memory_bytes", "Resident memory", stat.rss * procfs::page_size())?;
            gauge(&mut encoder, "process_threads", "Threads", u64::try_from(stat.num_threads).unwrap_or(0))?;
            let ticks = f64::from(u32::try_from(stat.utime + stat.stime).unwrap_or(u32::MAX));
            let rate = f64::from(u32::try_from(procfs::ticks_per_second()).unwrap_or(100));
            let seconds = ConstCounter::new(ticks / rate);
            let metric =
                encoder.encode_descriptor("process_cpu_seconds", "CPU time used", None, seconds.metric_type())?;
            seconds.encode(metric)?;
        }
        if let Ok(open) = me.fd_count() {
            gauge(&mut encoder, "process_open_fds", "Open file descriptors", open as u64)?;
        }
        Ok(())
    }
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> Result<(), std::fmt::Error> {
    let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
    let metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
    gauge.encode(metric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_shows_its_memory_and_cpu_time() {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry("probe", "1.2.3")).unwrap();
        for name in ["memboss_build_info", "process_resident_memory_bytes", "process_cpu_seconds_total"] {
            assert!(text.contains(name), "{name} is missing in\n{text}");
        }
    }
}
