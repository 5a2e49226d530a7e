//! What root asks for and is told, in the words of the protocol.

use std::collections::BTreeSet;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use memboss_agent_api::v1;
use memboss_core::{EndReason, GpuUuid, LeaseId};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::Status;

use super::message;
use crate::node::admin::{Freed, Scope};
use crate::node::view::{LeaseSeen, Snapshot};
use crate::order::State;
use crate::probes::clock;
use crate::probes::processes::{Process, lives};

/// No drain is told of more often.
const PACE: Duration = Duration::from_millis(250);

/// How a drain goes on.
pub(super) type Progress = Pin<Box<dyn Stream<Item = Result<v1::DrainProgress, Status>> + Send>>;

/// Where something is to be closed or opened.
pub(super) fn scope(node: bool, gpus: Vec<String>) -> Result<Scope, Status> {
    let gpus: Result<BTreeSet<GpuUuid>, _> = gpus.into_iter().map(GpuUuid::new).collect();
    Ok(Scope { node, gpus: gpus.map_err(|bad| Status::invalid_argument(bad.to_string()))? })
}

/// Who is still there, again on every change, until nobody is.
pub(super) fn progress(
    snapshots: watch::Receiver<Arc<Snapshot>>,
    scope: Scope,
    there: Vec<LeaseId>,
    dry_run: bool,
) -> Progress {
    let told = WatchStream::new(snapshots)
        .filter(|snapshot| std::future::ready(snapshot.is_known()))
        .map(move |snapshot| stage(&snapshot, &scope, &there));
    let mut before: Option<(Vec<(LeaseId, State)>, u32)> = None;
    let changes = told.filter_map(move |(stage, progress)| {
        let news = before.as_ref() != Some(&stage);
        before = Some(stage);
        std::future::ready(news.then_some(progress))
    });
    // The last word is followed by the end at once, not by what happens next.
    let words = tokio_stream::StreamExt::throttle(changes, PACE).flat_map(move |progress| {
        let last = dry_run || progress.done;
        futures::stream::iter([Some(progress)].into_iter().chain(last.then_some(None)))
    });
    Box::pin(words.take_while(|word| std::future::ready(word.is_some())).filter_map(std::future::ready).map(Ok))
}

type Stage = (Vec<(LeaseId, State)>, u32);

fn stage(snapshot: &Snapshot, scope: &Scope, there: &[LeaseId]) -> (Stage, v1::DrainProgress) {
    let mut remaining: Vec<_> = snapshot.leases.iter().filter(|(_, seen)| is_in(seen, scope)).collect();
    remaining.sort_by_key(|(lease, seen)| (seen.class, (*lease).clone()));
    let gone = there.iter().filter(|lease| !remaining.iter().any(|(id, _)| id == lease)).count();
    let gone = u32::try_from(gone).unwrap_or(u32::MAX);
    let now = clock::now();
    let progress = v1::DrainProgress {
        remaining: remaining.iter().map(|(id, seen)| message::lease(id, seen, now)).collect(),
        gone,
        done: remaining.is_empty(),
    };
    ((remaining.into_iter().map(|(id, seen)| (id.clone(), seen.state)).collect(), gone), progress)
}

fn is_in(seen: &LeaseSeen, scope: &Scope) -> bool {
    seen.state.is_charged() && (scope.node || seen.gpus.iter().any(|(uuid, ..)| scope.gpus.contains(uuid)))
}

/// The processes of leases that are there no more.
pub(super) fn gone(snapshot: &Snapshot, proc_root: &Path) -> BTreeSet<Process> {
    let holders = snapshot.leases.values().filter_map(|seen| seen.whose.as_ref()?.process);
    holders.filter(|holder| matches!(lives(proc_root, *holder), Ok(false))).collect()
}

/// What was ended, as it was before.
pub(super) fn ended(before: &Snapshot, ended: Vec<(LeaseId, EndReason)>) -> v1::CleanupResponse {
    let now = clock::now();
    let view = |(lease, reason): (LeaseId, EndReason)| {
        let shown = before.leases.get(&lease).map(|seen| message::lease(&lease, seen, now)).unwrap_or_default();
        let why = match reason {
            EndReason::Exited => "its process is gone",
            _ => "its connection broke and nobody took it up again, or it was not renewed, in time",
        };
        v1::LeaseView { lease: lease.to_string(), reason: reason.name().to_owned(), message: why.to_owned(), ..shown }
    };
    v1::CleanupResponse { ended: ended.into_iter().map(view).collect() }
}

/// What comes of asking a holder to go.
pub(super) fn freed(snapshot: &Snapshot, freed: &Freed) -> v1::PreemptResponse {
    let now = clock::now();
    let seen = snapshot.leases.get(&freed.lease);
    let ended =
        || v1::LeaseView { lease: freed.lease.to_string(), phase: v1::Phase::Ended.into(), ..v1::LeaseView::default() };
    let index = |uuid: &GpuUuid| snapshot.gpus.iter().find(|gpu| gpu.uuid == *uuid).map_or(0, |gpu| gpu.index);
    let share = |share: &memboss_core::GpuShare| v1::GpuShare {
        uuid: share.uuid.to_string(),
        index: index(&share.uuid),
        memory_mib: share.memory.mib(),
    };
    v1::PreemptResponse {
        lease: Some(seen.map_or_else(ended, |seen| message::lease(&freed.lease, seen, now))),
        gpus: freed.placement.gpus.iter().map(share).collect(),
        ram_mib: freed.placement.ram.mib(),
        waiting: freed.waiting.iter().map(ToString::to_string).collect(),
    }
}
