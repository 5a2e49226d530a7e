//! Tables and sentences about host RAM. Pure.

use memboss_agent_api::v1::StatusResponse;
use memboss_core::{Cause, Mib, Sign};
use memboss_ram::clean::{Kept, Outcome};
use memboss_ram::report::{Report, Stalls};
use memboss_ram::users::{Growth, User};

use crate::output::Colours;
use crate::show::{self, table};

/// Amounts of RAM are rarely whole GiB: one digit after the point is enough for people.
fn amount(mib: Mib) -> String {
    let mib = mib.mib();
    if mib < 10 * 1024 { format!("{mib} MiB") } else { format!("{}.{} GiB", mib / 1024, mib % 1024 * 10 / 1024) }
}

fn percent(part: Mib, whole: Mib) -> String {
    match (part.mib() * 100).checked_div(whole.mib()) {
        Some(percent) => format!("{percent} %"),
        None => String::new(),
    }
}

fn share(hundredths: u32) -> String {
    format!("{}.{:02} %", hundredths / 100, hundredths % 100)
}

/// The nodes of a cluster, as their agents report them.
pub(crate) fn nodes(machines: &[StatusResponse], colours: Colours) -> String {
    if machines.is_empty() {
        return "no node has an agent".to_owned();
    }
    let mut table = table(&["NODE", "TOTAL", "AVAILABLE", "LEASABLE", "LEASED", "PRESSURE", "SIGN"]);
    for machine in machines {
        let ram = machine.ram.clone().unwrap_or_default();
        let mut row = vec![machine.node.clone()];
        row.extend([ram.total_mib, ram.available_mib].map(|mib| amount(Mib::from_mib(mib))));
        row.extend([ram.leasable_mib, ram.leased_mib].map(|mib| amount(Mib::from_mib(mib))));
        row.extend([ram.pressure, ram.pressure_sign]);
        table.add_row(row);
    }
    show::printed(table, colours)
}

/// The machine.
pub(crate) fn report(report: &Report) -> String {
    let figures = &report.figures;
    let mut table = table(&["RAM", "AMOUNT", "OF ALL", ""]);
    let rows = [
        ("total", figures.total, ""),
        ("available", figures.available, "what new work can have without swapping"),
        ("free", figures.free, "not used for anything"),
        ("processes", figures.anonymous, "comes free when they end"),
        ("shared memory", figures.shared, "and files in memory; cannot be dropped"),
        ("file cache", figures.file_cache, "available already, unless in use or not yet written"),
        ("  not written", figures.dirty, "must be written first"),
        ("mapped", figures.mapped, "files and shared memory in use by processes"),
        ("kernel caches", figures.kernel_cache, "the kernel shrinks them by itself"),
        ("huge pages", figures.huge_pages, "set aside"),
        ("swap used", figures.swap_used, ""),
    ];
    for (name, mib, note) in rows {
        if name == "total" || name == "available" || !mib.is_zero() {
            table.add_row([name.to_owned(), amount(mib), percent(mib, figures.total), note.to_owned()]);
        }
    }
    let limit = report.until_limit.map(|left| format!("\nlimit     {} left until this container's", amount(left)));
    let stalls = stalls(report.memory_stalls, report.io_stalls);
    format!("{table}\n\n{}\n{stalls}{}", pressure(report), limit.unwrap_or_default())
}

fn pressure(report: &Report) -> String {
    let sign = match report.sign {
        None => "",
        Some(Sign::LittleAvailable) => ": little is available",
        Some(Sign::LimitNear) => ": the limit of this container is near",
        Some(Sign::Stalls) => ": tasks wait for memory",
    };
    let help = match report.cause {
        Cause::Nothing => "",
        Cause::Cache => "; dropping cache that nobody needs helps: memboss ram clear",
        Cause::InUse => "; what is in use cannot be dropped, only its users can give it back: memboss ram analyze",
        Cause::Stalls => "; enough is available: something reclaims too eagerly, or the disk is slow",
    };
    format!("pressure  {}{sign}{help}", report.pressure)
}

fn stalls(memory: Option<Stalls>, io: Option<Stalls>) -> String {
    let told = |stalls: Option<Stalls>| match stalls {
        Some(stalls) => format!("some {}, all {}", share(stalls.some), share(stalls.all)),
        None => "not told by this kernel (boot with psi=1)".to_owned(),
    };
    format!("waiting   for memory: {}; for the disk: {} (of the last 10 s)", told(memory), told(io))
}

/// Processes.
pub(crate) fn users(users: &[User], exact: bool) -> String {
    let mut head = vec!["PID", "PROGRAM", "RESIDENT", "OWN", "FILES", "SHARED", "SWAPPED"];
    if exact {
        head.push("EXACT SHARE");
    }
    let mut table = table(&head);
    for user in users {
        let mut row = vec![user.pid.to_string(), user.name.clone()];
        row.extend([user.resident, user.anonymous, user.file, user.shared, user.swapped].map(amount));
        if exact {
            row.push(user.exact.map_or_else(|| "not told".to_owned(), amount));
        }
        table.add_row(row);
    }
    table.to_string()
}

/// Who grew.
pub(crate) fn growth(growth: &[Growth]) -> String {
    if growth.is_empty() {
        return "no process changed in that time".to_owned();
    }
    let mut table = table(&["PID", "PROGRAM", "BEFORE", "NOW", "MIB A MINUTE"]);
    for one in growth {
        let (before, now) = (amount(one.before), amount(one.now));
        table.add_row([one.pid.to_string(), one.name.clone(), before, now, format!("{:+}", one.per_minute)]);
    }
    table.to_string()
}

/// What cleaning did, or would do.
pub(crate) fn outcome(outcome: &Outcome, dry_run: bool) -> String {
    let mut lines = Vec::new();
    if let Some(refrain) = outcome.refrained {
        lines.push(format!("pressure is {}: {}", outcome.pressure, refrain.sentence()));
        if outcome.whole_machine.is_none() {
            return lines.join("\n");
        }
    }
    for file in &outcome.files {
        let of = file.before.map(|before| amount(before.minus(file.after.unwrap_or_default())));
        let of = of.unwrap_or_else(|| "what was cached".to_owned());
        let part = if file.partly { " (a part of it)" } else { "" };
        lines.push(format!("  {of} of {}{part}", file.path.display()));
    }
    for (kept, number) in &outcome.kept {
        lines.push(format!("  {number} file(s) left alone: {}", why(*kept)));
    }
    if outcome.unseen_processes > 0 {
        lines.push(format!(
            "  {} process(es) may not be looked into: what they use is not known",
            outcome.unseen_processes
        ));
    }
    if dry_run {
        lines.push(format!("would drop {} from the cache; nothing was touched", amount(outcome.dropped)));
        return lines.join("\n");
    }
    let change = |(before, after): (Mib, Mib)| format!("{} -> {}", amount(before), amount(after));
    let unknown = match outcome.unknown {
        0 => String::new(),
        files => format!(", at most: of {files} file(s) it cannot be known"),
    };
    lines.push(format!(
        "dropped {} of files from the cache{unknown}, in {} ms (longest stall {} ms)",
        amount(outcome.dropped),
        outcome.took.as_millis(),
        outcome.longest_stall.as_millis()
    ));
    if let Some(cache) = outcome.whole_machine {
        lines.push(format!("the whole machine's file cache {}", change(cache)));
    }
    lines.push(format!("free      {}", change(outcome.free)));
    lines.push(format!("available {}   (clean cache was available before)", change(outcome.available)));
    lines.join("\n")
}

/// What of it was in the cache again after a while, on a line of its own.
pub(crate) fn came_back(back: Option<Mib>) -> String {
    match back {
        None => "\nwhat came back cannot be known".to_owned(),
        Some(Mib::ZERO) => "\nnothing came back: nobody needed it".to_owned(),
        Some(back) => format!("\ncame back {}: that was needed after all", amount(back)),
    }
}

/// A change of the level.
pub(crate) fn change(report: &Report) -> String {
    format!("{} ({} available)", pressure(report), amount(report.figures.available))
}

const fn why(kept: Kept) -> &'static str {
    match kept {
        Kept::InUse => "a process has them open or mapped",
        Kept::UseUnknown => "not yours, and not all processes may be looked into (root may)",
        Kept::ChangedLately => "changed too short a while ago for this mode",
        Kept::Dirty => "they have pages that are not written yet",
        Kept::InMemory => "they lie in memory themselves (tmpfs)",
        Kept::NotCached => "not in the cache",
        Kept::Unreadable => "they may not be read, or were replaced meanwhile",
        Kept::NotReached => "there was no time left, or enough was dropped",
        Kept::Small => "smaller than 1 MiB",
        Kept::NotFollowed => "links, or on another file system",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use memboss_core::Pressure;
    use memboss_ram::report::Figures;

    #[test]
    fn a_report_says_how_hard_pressed_it_is_and_what_would_help() {
        let figures = Figures { total: Mib::from_mib(24_105), available: Mib::from_mib(1_800), ..Figures::default() };
        let shown = report(&Report {
            figures,
            memory_stalls: None,
            io_stalls: Some(Stalls { some: 1_205, all: 7 }),
            pressure: Pressure::Moderate,
            sign: Some(Sign::LittleAvailable),
            cause: Cause::InUse,
            until_limit: Some(Mib::from_mib(300)),
        });
        for words in
            ["23.5 GiB", "1800 MiB", "7 %", "moderate: little is available", "12.05 %", "psi=1", "300 MiB left"]
        {
            assert!(shown.contains(words), "{words}: {shown}");
        }
        assert!(!shown.contains("swap used"), "what is not there is not shown: {shown}");
    }
}
