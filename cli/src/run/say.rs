//! What `memboss run` says to people while it waits and runs. Pure.

use memboss_agent_api::v1::{DryRunResponse, LeaseView, Notice, Outlook, Queue};
use memboss_core::Basis;

use crate::show;

/// Its place and the reason.
pub(super) fn waiting(wish: &str, queue: &Queue) -> String {
    let place = if queue.position == 0 { String::new() } else { format!(", place {}", queue.position) };
    let why = if queue.message.is_empty() { queue.reason.clone() } else { queue.message.clone() };
    let why = if why.is_empty() { String::new() } else { format!(": {why}") };
    let estimate = estimate(queue).map(|estimate| format!("; {estimate}")).unwrap_or_default();
    format!("waiting for {wish}{place}{why}{estimate}")
}

/// When it will probably have it.
fn estimate(queue: &Queue) -> Option<String> {
    let basis = Basis::named(&queue.estimate_basis).map(|basis| format!(" ({basis})")).unwrap_or_default();
    queue.estimate_ms.map(|left| format!("probably in {}{basis}", show::time(left)))
}

/// What it has.
pub(super) fn granted(lease: &LeaseView) -> String {
    let mut parts = Vec::new();
    if !lease.gpus.is_empty() {
        parts.push(show::shares(&lease.gpus));
    }
    if lease.ram_mib > 0 {
        parts.push(format!("{} of RAM", show::amount(lease.ram_mib)));
    }
    format!("{} has {}", lease.lease, parts.join(" and "))
}

/// That it has to go.
pub(super) fn notice(notice: &Notice) -> String {
    let left = show::time(notice.remaining_ms);
    let whom = if notice.preemptor.is_empty() {
        String::new()
    } else {
        format!(" for {} ({})", notice.preemptor, notice.preemptor_class)
    };
    let needed: u64 = notice.needed_mib.iter().sum();
    let mut parts = Vec::from_iter((needed > 0).then(|| show::amount(needed)));
    parts.extend((notice.needed_ram_mib > 0).then(|| format!("{} of RAM", show::amount(notice.needed_ram_mib))));
    let much = if parts.is_empty() { String::new() } else { format!("; {} are needed", parts.join(" and ")) };
    format!("the command has to go within {left}: {}{whom}{much}", notice.reason)
}

/// What would come of a request.
pub(super) fn outlook(told: &DryRunResponse) -> String {
    let on = if told.gpus.is_empty() { String::new() } else { format!(" on {}", show::shares(&told.gpus)) };
    let why = if told.message.is_empty() { told.reason.clone() } else { told.message.clone() };
    match told.outlook() {
        Outlook::Now => format!("it would be granted at once{on}"),
        Outlook::AfterPreemption => {
            format!("it would be granted{on} after these gave way: {}", told.victims.join(", "))
        }
        Outlook::Waits => format!("it would wait: {why}"),
        Outlook::Never => format!("it could never be granted here: {why}"),
        Outlook::Unspecified => format!("the agent does not tell: {why}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_waits_is_told_for_how_long_where_something_tells() {
        let queue = Queue { position: 2, reason: "NoRoom".into(), message: "no room".into(), ..Queue::default() };
        assert_eq!(waiting("8Gi of a GPU", &queue), "waiting for 8Gi of a GPU, place 2: no room");
        let told = Queue { estimate_ms: Some(90_000), estimate_basis: "Queue".into(), ..queue };
        assert!(waiting("8Gi", &told).ends_with("no room; probably in 1m 30s (as fast as the queue has moved lately)"));
    }

    #[test]
    fn a_notice_says_for_whom_how_much_and_by_when() {
        let told = Notice {
            preemptor: "user-0/b".into(),
            preemptor_class: "urgent".into(),
            reason: "Preempted".into(),
            needed_mib: vec![1024, 1024],
            remaining_ms: 15_400,
            ..Notice::default()
        };
        assert_eq!(notice(&told), "the command has to go within 15s: Preempted for user-0/b (urgent); 2Gi are needed");
        let ram = Notice { needed_ram_mib: 512, ..told.clone() };
        assert!(notice(&ram).ends_with("; 2Gi and 512Mi of RAM are needed"), "{}", notice(&ram));
        let plain = Notice { reason: "Drained".into(), remaining_ms: 60_000, ..Notice::default() };
        assert_eq!(notice(&plain), "the command has to go within 1m: Drained");
    }
}
