//! Tables and sentences of what the agent says. Pure: it may ask nobody and print nothing.

use std::time::Duration;

use comfy_table::{Attribute, Cell, Color, Table, presets};
use memboss_agent_api::v1::{Gpu, GpuShare, Health, LeaseView, Notice, Phase, StatusResponse};
use memboss_core::{Closed, Mib};

use crate::cluster::Placed;
use crate::output::Colours;
use crate::plain::free;

/// How many characters a bar has.
const BAR: u64 = 24;

/// How a table looks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    /// More columns.
    pub(crate) wide: bool,
    /// Colours.
    pub(crate) colours: Colours,
}

/// An amount as people write it.
pub(crate) fn amount(mib: u64) -> String {
    Mib::from_mib(mib).to_string()
}

/// A time as people write it, in whole seconds.
pub(crate) fn time(ms: u64) -> String {
    humantime::format_duration(Duration::from_secs(ms / 1000)).to_string()
}

pub(crate) fn table(head: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(head.iter().copied());
    table
}

fn dressed(mut table: Table, look: Look) -> String {
    match look.colours {
        Colours::On => table.enforce_styling(),
        Colours::Off => table.force_no_tty(),
    };
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}

/// A bar of parts of a whole: each part with its letter, what is left as dots. A part that is there is seen.
pub(crate) fn bar(parts: &[(char, u64)], whole: u64, width: u64) -> String {
    let mut text = String::new();
    let mut left = width;
    for (letter, part) in parts {
        let exact = part.saturating_mul(width).checked_div(whole).unwrap_or(0);
        let drawn = exact.max(u64::from(*part > 0)).min(left);
        left -= drawn;
        text.extend((0..drawn).map(|_| *letter));
    }
    text.extend((0..left).map(|_| '.'));
    text
}

fn how_full(used: u64, whole: u64) -> Color {
    match used.saturating_mul(100).checked_div(whole).unwrap_or(100) {
        0..75 => Color::Green,
        75..95 => Color::Yellow,
        _ => Color::Red,
    }
}

/// The health of a GPU, in words.
pub(crate) fn health(gpu: &Gpu) -> String {
    match gpu.health() {
        Health::Healthy => "healthy".to_owned(),
        Health::Degraded => format!("degraded: {}", gpu.health_reason),
        Health::Lost => format!("lost: {}", gpu.health_reason),
        Health::Unspecified => "unknown".to_owned(),
    }
}

/// The columns of a machine's parts.
const PARTS: [&str; 9] = ["GPU", "MODEL", "MEMORY", "LEASABLE", "LEASED", "OTHERS", "FREE", "USED", "HEALTH"];

/// What stands there besides when all is to be seen.
const MORE_OF_PARTS: [&str; 4] = ["TOTAL", "RESERVED", "UUID", "WHO"];

/// What the letters of a bar stand for.
const LEGEND: &str = "# leased, + used by others, . free";

/// The node: its GPUs and its RAM, with bars.
pub(crate) fn machine(status: &StatusResponse, look: Look) -> String {
    let mut table = table(&part_heads(look));
    table.add_rows(parts(status, look));
    let mut text = format!("{}\n{LEGEND}", dressed(table, look));
    for remark in remarks(status, "") {
        text.push_str(&format!("\n{remark}"));
    }
    text
}

/// What is to be said of a machine beside its table; `place` follows what holds there.
pub(crate) fn remarks(status: &StatusResponse, place: &str) -> Vec<String> {
    let Some(list) = &status.gpus else { return Vec::new() };
    let hold = (!list.hold.is_empty()).then(|| format!("nothing is granted now{place}: {}", list.hold));
    let unread = list.unread.then(|| format!("no GPU is granted now{place}: {}", Closed::Unread));
    hold.into_iter().chain(unread).collect()
}

/// Several nodes, the same of each.
pub(crate) fn machines(machines: &[StatusResponse], look: Look) -> String {
    if machines.is_empty() {
        return "no node has an agent".to_owned();
    }
    let mut table = table(&[vec!["NODE"], part_heads(look)].concat());
    let mut said = String::new();
    for status in machines {
        let rows = parts(status, look).into_iter();
        table.add_rows(rows.map(|row| [vec![Cell::new(&status.node)], row].concat()));
        for remark in remarks(status, &format!(" on {}", status.node)) {
            said.push_str(&format!("\n{remark}"));
        }
    }
    format!("{}\n{LEGEND}{said}", dressed(table, look))
}

fn part_heads(look: Look) -> Vec<&'static str> {
    let more: &[&str] = if look.wide { &MORE_OF_PARTS } else { &[] };
    [&PARTS, more].concat()
}

/// A row for each GPU, and one for the RAM.
fn parts(status: &StatusResponse, look: Look) -> Vec<Vec<Cell>> {
    let list = status.gpus.clone().unwrap_or_default();
    let mut rows: Vec<Vec<Cell>> = list
        .gpus
        .iter()
        .map(|gpu| {
            let mut row = gpu_row(gpu, look.wide);
            if look.wide {
                row.push(Cell::new(who(status, |lease| lease.gpus.iter().any(|share| share.uuid == gpu.uuid))));
            }
            row
        })
        .collect();
    if let Some(ram) = &status.ram {
        let bar = bar(&[('#', ram.leased_mib)], ram.leasable_mib, BAR);
        let color = how_full(ram.leased_mib, ram.leasable_mib);
        let free = ram.leasable_mib.saturating_sub(ram.leased_mib);
        let mut row = vec![Cell::new("RAM"), Cell::new(""), Cell::new(format!("[{bar}]")).fg(color)];
        row.extend([ram.leasable_mib, ram.leased_mib].map(|mib| Cell::new(amount(mib))));
        row.extend([Cell::new(""), Cell::new(amount(free)), Cell::new(""), Cell::new("")]);
        if look.wide {
            let who = who(status, |lease| lease.ram_mib > 0);
            row.extend([Cell::new(amount(ram.total_mib)), Cell::new(""), Cell::new(""), Cell::new(who)]);
        }
        rows.push(row);
    }
    rows
}

/// Who holds of a part.
fn who(status: &StatusResponse, of: impl Fn(&LeaseView) -> bool) -> String {
    let holds = |lease: &&LeaseView| !matches!(lease.phase(), Phase::Waiting | Phase::Ended) && of(lease);
    let names = status.leases.iter().filter(holds).map(|lease| lease.lease.as_str());
    names.collect::<Vec<_>>().join(" ")
}

fn gpu_row(gpu: &Gpu, wide: bool) -> Vec<Cell> {
    let bar = bar(&[('#', gpu.leased_mib), ('+', gpu.foreign_mib)], gpu.leasable_mib, BAR);
    let well = if gpu.health() == Health::Healthy { Color::Green } else { Color::Red };
    let mut row = vec![
        Cell::new(gpu.index),
        Cell::new(&gpu.model),
        Cell::new(format!("[{bar}]")).fg(how_full(gpu.leased_mib + gpu.foreign_mib, gpu.leasable_mib)),
        Cell::new(amount(gpu.leasable_mib)),
        Cell::new(amount(gpu.leased_mib)),
        Cell::new(amount(gpu.foreign_mib)),
        Cell::new(amount(free(gpu))),
        Cell::new(amount(gpu.used_mib)),
        Cell::new(health(gpu)).fg(well),
    ];
    if wide {
        row.extend([amount(gpu.total_mib), amount(gpu.reserved_mib), gpu.uuid.clone()].map(Cell::new));
    }
    row
}

/// The leases that an agent knows.
pub(crate) fn leases(leases: &[LeaseView], look: Look) -> String {
    lease_table(leases.iter().map(|lease| (lease, "")), look)
}

/// Leases, and on which nodes they are if there are several.
pub(crate) fn placed(leases: &[Placed], look: Look) -> String {
    lease_table(leases.iter().map(|placed| (&placed.view, placed.node.as_str())), look)
}

/// The columns of leases, without and with their nodes.
pub(crate) const LEASE_HEADS: [&str; 9] = ["LEASE", "CLASS", "STATE", "FOR", "GPUS", "RAM", "USED", "HOLDER", "WHY"];

fn lease_table<'a>(leases: impl Iterator<Item = (&'a LeaseView, &'a str)> + Clone, look: Look) -> String {
    if leases.clone().next().is_none() {
        return "no leases".to_owned();
    }
    let several = leases.clone().any(|(_, node)| !node.is_empty());
    let mut head = LEASE_HEADS.to_vec();
    if several {
        head.insert(1, "NODE");
    }
    if look.wide {
        head.extend(["PID", "UID", "LABEL", "TOKEN"]);
    }
    let mut table = table(&head);
    for (lease, node) in leases {
        let [name, class, phase, since, gpus, ram, used, holder, why] = columns(lease);
        let mut row = vec![Cell::new(name)];
        row.extend(several.then(|| Cell::new(node)));
        row.extend([Cell::new(class), Cell::new(phase).fg(colour(lease))]);
        row.extend([since, gpus, ram, used, holder, why].map(Cell::new));
        if look.wide {
            let holder = lease.holder.clone().unwrap_or_default();
            // A pod's lease is no single process's.
            let [pid, uid] =
                if holder.pid > 0 { [holder.pid, holder.uid].map(|id| id.to_string()) } else { Default::default() };
            let token = lease.token.map(|token| format!("{}.{}", token.epoch, token.sequence)).unwrap_or_default();
            row.extend([pid, uid, holder.label, token].map(Cell::new));
        }
        table.add_row(row);
    }
    dressed(table, look)
}

/// What a line about a lease says: name, class, state, since when, GPUs, RAM, use, holder, why.
pub(crate) fn columns(lease: &LeaseView) -> [String; 9] {
    let holder = lease.holder.clone().unwrap_or_default();
    let ram = if lease.ram_mib > 0 { amount(lease.ram_mib) } else { String::new() };
    let used = if lease.gpus.is_empty() { holder.ram_used_mib } else { holder.used_mib };
    let name = if holder.label.is_empty() { holder.name } else { format!("{} ({})", holder.name, holder.label) };
    [
        lease.lease.clone(),
        lease.class.clone(),
        state(lease).to_owned(),
        time(holder.phase_ms),
        shares(&lease.gpus),
        ram,
        used.map_or_else(String::new, amount),
        name,
        why(lease),
    ]
}

/// Parts of GPUs.
pub(crate) fn shares(gpus: &[GpuShare]) -> String {
    let parts = gpus.iter().map(|gpu| format!("gpu{}:{}", gpu.index, amount(gpu.memory_mib)));
    parts.collect::<Vec<_>>().join(" ")
}

fn why(lease: &LeaseView) -> String {
    match (&lease.queue, &lease.notice) {
        // Only the first of a long queue know their places, and who can never be served has none.
        (Some(queue), _) if queue.position == 0 => format!("{}: {}", queue.reason, queue.message),
        (Some(queue), _) => format!("#{} {}: {}", queue.position, queue.reason, queue.message),
        (_, Some(notice)) => told(notice),
        _ if lease.message.is_empty() => lease.reason.clone(),
        _ => lease.message.clone(),
    }
}

/// For whom a holder has to go, and by when.
pub(crate) fn told(notice: &Notice) -> String {
    let left = time(notice.remaining_ms);
    if notice.preemptor.is_empty() {
        format!("{}: {left} left", notice.reason)
    } else {
        format!("{} for {} ({}): {left} left", notice.reason, notice.preemptor, notice.preemptor_class)
    }
}

fn colour(lease: &LeaseView) -> Color {
    match lease.phase() {
        Phase::Active | Phase::Reserved => Color::Green,
        Phase::Revoking | Phase::Stopping => Color::Red,
        Phase::Waiting => Color::Yellow,
        Phase::Ended | Phase::Unspecified => Color::Reset,
    }
}

pub(crate) fn state(lease: &LeaseView) -> &'static str {
    match lease.phase() {
        Phase::Waiting => "Waiting",
        Phase::Reserved => "Reserved",
        Phase::Active => "Active",
        Phase::Revoking => "Revoking",
        Phase::Stopping => "Stopping",
        Phase::Ended => "Ended",
        Phase::Unspecified => "unknown",
    }
}

/// A cell that stands out.
pub(crate) fn strong(text: &str, color: Color) -> Cell {
    Cell::new(text).fg(color).add_attribute(Attribute::Bold)
}

/// A table as it is printed.
pub(crate) fn printed(table: Table, colours: Colours) -> String {
    dressed(table, Look { wide: false, colours })
}

#[cfg(test)]
mod tests {
    use super::*;
    use memboss_agent_api::v1::{GpuList, Holder, Queue, Ram};

    const PLAIN: Look = Look { wide: false, colours: Colours::Off };

    #[test]
    fn amounts_and_states_are_shown_as_people_write_them() {
        let gpu = Gpu {
            model: "T4".into(),
            leasable_mib: 14_336,
            leased_mib: 8_192,
            foreign_mib: 1_024,
            health: Health::Lost.into(),
            health_reason: "off the bus".into(),
            ..Gpu::default()
        };
        let share = GpuShare { index: 1, memory_mib: 8_192, ..GpuShare::default() };
        let holder = Holder { pid: 7, name: "python".into(), label: "nightly".into(), ..Holder::default() };
        let lease = LeaseView {
            lease: "ns/a".into(),
            phase: Phase::Revoking.into(),
            gpus: vec![share],
            holder: Some(holder),
            notice: Some(Notice {
                preemptor: "ns/b".into(),
                preemptor_class: "urgent".into(),
                reason: "Preempted".into(),
                remaining_ms: 12_345,
                ..Notice::default()
            }),
            ..LeaseView::default()
        };
        let waits = LeaseView {
            lease: "ns/b".into(),
            phase: Phase::Waiting.into(),
            queue: Some(Queue { position: 1, reason: "Claimed".into(), message: "for it".into(), ..Queue::default() }),
            ..LeaseView::default()
        };
        let status = StatusResponse {
            gpus: Some(GpuList { gpus: vec![gpu], hold: "draining".into(), unread: true }),
            ram: Some(Ram { total_mib: 2048, leasable_mib: 1024, leased_mib: 512, ..Ram::default() }),
            leases: vec![lease, waits],
            ..StatusResponse::default()
        };
        let shown = machine(&status, PLAIN);
        for words in [
            "14Gi",
            "5Gi",
            "lost: off the bus",
            "[#############+..........]",
            "nothing is granted now: draining",
            "no GPU is granted now: the driver has not told yet",
        ] {
            assert!(shown.contains(words), "{words}: {shown}");
        }
        let shown = leases(&status.leases, PLAIN);
        for words in ["ns/a", "Revoking", "gpu1:8Gi", "for ns/b (urgent): 12s left", "python (nightly)", "#1 Claimed"] {
            assert!(shown.contains(words), "{words}: {shown}");
        }
        assert!(!shown.contains('\u{1b}'), "no colours where none are wanted: {shown:?}");
        assert!(leases(&status.leases, Look { wide: false, colours: Colours::On }).contains('\u{1b}'));
    }

    #[test]
    fn a_part_that_is_there_is_seen_and_no_bar_is_longer_than_it_may_be() {
        for (parts, whole, drawn) in [
            (vec![('#', 1), ('+', 0)], 1_000_000, "#........."),
            (vec![('#', 50), ('+', 90)], 100, "#####+++++"),
            (vec![('#', 5)], 0, "#........."),
            (vec![], 0, ".........."),
        ] {
            assert_eq!(bar(&parts, whole, 10), drawn, "{parts:?}");
        }
    }
}
