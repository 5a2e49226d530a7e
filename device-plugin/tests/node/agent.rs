//! An agent whose GPUs and leases are set by the test.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use memboss_agent_api::v1::node_server::{Node, NodeServer};
use memboss_agent_api::v1::{
    CleanupRequest, CleanupResponse, DrainProgress, DrainRequest, ExplainRequest, ExplainResponse, GpuList,
    PreemptRequest, PreemptResponse, PrepareRequest, PrepareResponse, StatusRequest, StatusResponse, UndrainRequest,
    UndrainResponse, WatchGpusRequest,
};
use memboss_platform::shutdown::Shutdown;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::{UnixListenerStream, WatchStream};
use tonic::transport::Server;
use tonic::{Request, Response, Status};

#[derive(Clone)]
pub(crate) struct Agent {
    gpus: Arc<watch::Sender<GpuList>>,
    /// Pod -> what Prepare answers.
    leases: Arc<Mutex<BTreeMap<String, Result<PrepareResponse, Status>>>>,
    /// What was asked, in order: pod and container.
    asked: Arc<watch::Sender<Vec<(String, String)>>>,
    end: Shutdown,
}

impl Agent {
    pub(crate) async fn start(socket: &Path) -> Self {
        let _ = fs::remove_file(socket);
        let agent = Self { gpus: Arc::default(), leases: Arc::default(), asked: Arc::default(), end: Shutdown::new() };
        let incoming = UnixListenerStream::new(UnixListener::bind(socket).unwrap());
        let serve = Server::builder().add_service(NodeServer::new(agent.clone()));
        tokio::spawn(serve.serve_with_incoming_shutdown(incoming, agent.end.clone().cancelled_owned()));
        agent
    }

    pub(crate) fn has_gpus(&self, list: GpuList) {
        self.gpus.send_replace(list);
    }

    pub(crate) fn has_lease(&self, pod: &str, answer: Result<PrepareResponse, Status>) {
        self.leases.lock().unwrap().insert(pod.to_owned(), answer);
    }

    pub(crate) fn asked(&self) -> watch::Receiver<Vec<(String, String)>> {
        self.asked.subscribe()
    }
}

#[tonic::async_trait]
impl Node for Agent {
    type WatchGpusStream = std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<GpuList, Status>> + Send>>;

    async fn prepare(&self, request: Request<PrepareRequest>) -> Result<Response<PrepareResponse>, Status> {
        let request = request.into_inner();
        let answer = self.leases.lock().unwrap().get(&request.pod_name).cloned();
        self.asked.send_modify(|asked| asked.push((request.pod_name.clone(), request.container)));
        answer.unwrap_or_else(|| Err(Status::not_found("no lease names this pod"))).map(Response::new)
    }

    async fn watch_gpus(&self, _: Request<WatchGpusRequest>) -> Result<Response<Self::WatchGpusStream>, Status> {
        Ok(Response::new(Box::pin(WatchStream::new(self.gpus.subscribe()).map(Ok))))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn explain(&self, _: Request<ExplainRequest>) -> Result<Response<ExplainResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    type DrainStream = std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<DrainProgress, Status>> + Send>>;

    async fn drain(&self, _: Request<DrainRequest>) -> Result<Response<Self::DrainStream>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn undrain(&self, _: Request<UndrainRequest>) -> Result<Response<UndrainResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn cleanup(&self, _: Request<CleanupRequest>) -> Result<Response<CleanupResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn preempt(&self, _: Request<PreemptRequest>) -> Result<Response<PreemptResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }
}
