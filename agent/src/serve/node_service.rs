//! The service `Node`: binding a container, the ledger as it stands, explanations, and what root asks for.

use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt as _};
use memboss_agent_api::v1;
use memboss_agent_api::v1::node_server::Node;
use memboss_core::Span;
use memboss_platform::shutdown::Shutdown;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};

use super::turns::Turn;
use super::{Desk, admin_words, ending, message, status};
use crate::node::admin::AdminInput;
use crate::node::{Ask, Denied, Input, Presence};
use crate::probes::clock;
use crate::probes::processes::PodUid;

pub(super) struct Service {
    pub(super) desk: Desk,
    pub(super) shutdown: Shutdown,
}

type GpuStream = Pin<Box<dyn Stream<Item = Result<v1::GpuList, Status>> + Send>>;

#[tonic::async_trait]
impl Node for Service {
    async fn prepare(&self, request: Request<v1::PrepareRequest>) -> Result<Response<v1::PrepareResponse>, Status> {
        let request = request.into_inner();
        if request.pod_uid.is_empty() && (request.pod_namespace.is_empty() || request.pod_name.is_empty()) {
            return Err(Status::invalid_argument("a pod's UID, or its namespace and name, are needed"));
        }
        let uid = (!request.pod_uid.is_empty()).then(|| PodUid(request.pod_uid.clone()));
        let prepared = ask(&self.desk, None, |reply| Ask::Prepare {
            uid,
            namespace: request.pod_namespace,
            name: request.pod_name,
            container: request.container,
            reply,
        })
        .await?;
        let gpus = prepared.gpus.into_iter().map(|(uuid, index, memory)| v1::GpuShare {
            uuid,
            index,
            memory_mib: memory.mib(),
        });
        Ok(Response::new(v1::PrepareResponse { lease: prepared.lease.to_string(), gpus: gpus.collect() }))
    }

    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::StatusResponse>, Status> {
        Ok(Response::new(message::status(&*self.desk.shown().await?, clock::now())))
    }

    type WatchGpusStream = GpuStream;

    async fn watch_gpus(&self, _: Request<v1::WatchGpusRequest>) -> Result<Response<GpuStream>, Status> {
        let there = Watching::begin(self.desk.inputs.clone()).await?;
        let lists = WatchStream::new(self.desk.snapshots.clone())
            .filter_map(|snapshot| async move { snapshot.is_known().then(|| Arc::new(message::gpu_list(&snapshot))) });
        Ok(Response::new(Box::pin(
            super::workload_service::changes(lists).take_until(self.shutdown.clone().cancelled_owned()).map(
                move |list| {
                    // Lives as long as the stream does.
                    let _watching = &there;
                    Ok((*list).clone())
                },
            ),
        )))
    }

    async fn explain(&self, request: Request<v1::ExplainRequest>) -> Result<Response<v1::ExplainResponse>, Status> {
        let lease = request.into_inner().lease;
        let lines = ask(&self.desk, None, |reply| Ask::Explain { lease, reply }).await?;
        Ok(Response::new(v1::ExplainResponse { lines }))
    }

    type DrainStream = admin_words::Progress;

    async fn drain(&self, request: Request<v1::DrainRequest>) -> Result<Response<Self::DrainStream>, Status> {
        let request = request.into_inner();
        let scope = admin_words::scope(request.node, request.gpus)?;
        let deadline = (request.deadline_ms > 0).then(|| Span::from_millis(request.deadline_ms));
        let (asked, dry_run) = (scope.clone(), request.dry_run);
        let there = self.admin(|reply| AdminInput::Drain { scope: asked, deadline, dry_run, reply }).await?;
        // Whoever was there when it began is shown first.
        self.desk.shown().await?;
        let snapshots = self.desk.snapshots.clone();
        let progress = admin_words::progress(snapshots, scope, there, dry_run);
        Ok(Response::new(Box::pin(progress.take_until(self.shutdown.clone().cancelled_owned()))))
    }

    async fn undrain(&self, request: Request<v1::UndrainRequest>) -> Result<Response<v1::UndrainResponse>, Status> {
        let request = request.into_inner();
        let scope = admin_words::scope(request.node, request.gpus)?;
        self.admin(|reply| AdminInput::Undrain { scope, reply }).await?;
        Ok(Response::new(v1::UndrainResponse {}))
    }

    async fn cleanup(&self, request: Request<v1::CleanupRequest>) -> Result<Response<v1::CleanupResponse>, Status> {
        let v1::CleanupRequest { dry_run, ram_only } = request.into_inner();
        let before = self.desk.shown().await?;
        let gone = admin_words::gone(&before, &self.desk.proc_root);
        let ended = self.admin(|reply| AdminInput::Cleanup { gone, ram_only, dry_run, reply }).await?;
        Ok(Response::new(admin_words::ended(&before, ended)))
    }

    async fn preempt(&self, request: Request<v1::PreemptRequest>) -> Result<Response<v1::PreemptResponse>, Status> {
        let v1::PreemptRequest { lease, force, dry_run } = request.into_inner();
        let freed = self.admin(|reply| AdminInput::Preempt { lease, force, dry_run, reply }).await?;
        Ok(Response::new(admin_words::freed(&*self.desk.shown().await?, &freed)))
    }
}

impl Service {
    async fn admin<T>(&self, make: impl FnOnce(oneshot::Sender<Result<T, Denied>>) -> AdminInput) -> Result<T, Status> {
        let (reply, answer) = oneshot::channel();
        self.desk.inputs.send(Input::Admin(make(reply))).await.map_err(|_| ending())?;
        answer.await.map_err(|_| ending())?.map_err(|denied| status(&denied))
    }
}

/// A device plugin that watches: the node's task is told when it comes and when it is gone, however it went.
struct Watching(mpsc::Sender<Input>);

impl Watching {
    async fn begin(inputs: mpsc::Sender<Input>) -> Result<Self, Status> {
        inputs.send(Input::Plugin(Presence::Came)).await.map_err(|_| ending())?;
        Ok(Self(inputs))
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let inputs = self.0.clone();
        tokio::spawn(async move { inputs.send(Input::Plugin(Presence::Went)).await });
    }
}

/// Asks the node's task and waits for its answer, which may take long: it is others' turn once the question lies in the inbox.
pub(super) async fn ask<T>(
    desk: &Desk,
    turn: Turn,
    make: impl FnOnce(oneshot::Sender<Result<T, Denied>>) -> Ask,
) -> Result<T, Status> {
    let (reply, answer) = oneshot::channel();
    desk.inputs.send(Input::Ask(make(reply))).await.map_err(|_| ending())?;
    drop(turn);
    answer.await.map_err(|_| ending())?.map_err(|denied| status(&denied))
}
