"""How hard pressed this machine's RAM is, who uses it, and dropping page cache that nobody needs. It needs no agent."""

from memboss_ram import CacheManager, MemoryAnalyzer, ProcessMonitor

analysis = MemoryAnalyzer().analyze()
print(f"pressure {analysis.pressure.value}: {analysis.advice}")
print(
    f"{analysis.available_mib} of {analysis.total_mib} MiB available, {analysis.droppable_mib} MiB of cache could be dropped"
)
if analysis.pressure != "low":
    print("resting on", analysis.sign)

monitor = ProcessMonitor()
monitor.growth()
for process in monitor.processes(top=3):
    print(f"{process.name} ({process.pid}): {process.resident_mib} MiB")
for growth in monitor.growth(top=3):
    print(f"{growth.name}: {growth.mib_per_minute:+.0f} MiB a minute")

freed_mb = CacheManager().cleanup(mode="auto")
print(f"{freed_mb} MiB became free")
report = CacheManager().clean(mode="balanced", dry_run=True)
print(f"balanced would drop {report.dropped_mib} MiB of {len(report.files)} files")
