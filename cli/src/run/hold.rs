//! Holding a lease by its stream, and taking it up again when the stream breaks, as it does when the agent restarts. It decides nothing about the command.

use std::path::PathBuf;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable as _};
use memboss_agent_api::v1::leases_client::LeasesClient;
use memboss_agent_api::v1::{AcquireRequest, LeaseEvent, Phase, ResumeRequest};
use tokio::sync::mpsc;
use tonic::{Code, Status, Streaming};

use crate::exit::Failure;

/// Shorter than the agent's grace time, so that an agent that comes back is seen in time.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What becomes of the lease.
#[derive(Debug)]
pub(super) enum News {
    /// The agent tells.
    Told(Box<LeaseEvent>),
    /// The connection broke; it is being taken up again.
    Broken,
    /// It was taken up again.
    Back,
    /// It cannot be had, or not be taken up again.
    Lost(Failure),
}

/// Asks for a lease and holds it. The news end after [`News::Lost`] or the lease's end; they are no more listened to when the receiver is gone.
pub(super) fn begin(socket: PathBuf, request: AcquireRequest) -> mpsc::Receiver<News> {
    let (news, heard) = mpsc::channel(16);
    tokio::spawn(async move {
        let mut holding = Holding { socket, request, lease: String::new(), secret: String::new(), news };
        if let Err(failure) = holding.hold().await {
            drop(holding.news.send(News::Lost(failure)).await);
        }
    });
    heard
}

struct Holding {
    socket: PathBuf,
    request: AcquireRequest,
    lease: String,
    secret: String,
    news: mpsc::Sender<News>,
}

/// How listening to one stream ended.
enum Heard {
    /// With the lease's end, or nobody wants to hear more.
    All,
    /// In the middle.
    Broken,
}

/// Why a lease was not taken up again.
enum NotBack {
    /// Not yet.
    Later,
    /// Never.
    Never(Failure),
}

impl Holding {
    async fn hold(&mut self) -> Result<(), Failure> {
        let mut stream = self.open().await?;
        while let Heard::Broken = self.listen(stream).await {
            if self.news.send(News::Broken).await.is_err() {
                return Ok(());
            }
            let pauses = ExponentialBuilder::default()
                .with_min_delay(Duration::from_millis(50))
                .with_max_delay(LONGEST_PAUSE)
                .with_jitter()
                .without_max_times();
            let again = (|| self.again()).retry(pauses).when(|why| matches!(why, NotBack::Later)).await;
            stream = match again {
                Ok(stream) => stream,
                Err(NotBack::Never(failure)) => return Err(failure),
                Err(NotBack::Later) => return Err(self.unanswered()),
            };
            if self.news.send(News::Back).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn unanswered(&self) -> Failure {
        Failure::NoAgent(format!("no agent answers at {}", self.socket.display()))
    }

    async fn open(&self) -> Result<Streaming<LeaseEvent>, Failure> {
        let agent = self.agent().await?;
        let asked = || {
            let (mut agent, request) = (agent.clone(), self.request.clone());
            async move { agent.acquire(request).await }
        };
        crate::agent::begun(&self.socket, asked).await
    }

    async fn agent(&self) -> Result<LeasesClient<tonic::transport::Channel>, Failure> {
        crate::agent::connect(&self.socket).await.map(LeasesClient::new)
    }

    /// Tells what is heard until the stream ends.
    async fn listen(&mut self, mut stream: Streaming<LeaseEvent>) -> Heard {
        while let Ok(Some(event)) = stream.message().await {
            if !event.secret.is_empty() {
                self.secret.clone_from(&event.secret);
            }
            if let Some(lease) = &event.lease {
                self.lease.clone_from(&lease.lease);
            }
            let ended = event.lease.as_ref().is_some_and(|lease| lease.phase() == Phase::Ended);
            if self.news.send(News::Told(Box::new(event))).await.is_err() || ended {
                return Heard::All;
            }
        }
        Heard::Broken
    }

    /// One try. Before the first word of the agent there is nothing to take up: the same request under the same name is the same lease.
    async fn again(&self) -> Result<Streaming<LeaseEvent>, NotBack> {
        if self.news.is_closed() {
            return Err(NotBack::Never(self.unanswered()));
        }
        let mut agent = self.agent().await.map_err(|_| NotBack::Later)?;
        let opened = if self.secret.is_empty() {
            agent.acquire(self.request.clone()).await
        } else {
            agent.resume(ResumeRequest { lease: self.lease.clone(), secret: self.secret.clone() }).await
        };
        opened.map(tonic::Response::into_inner).map_err(|status| self.not_back(&status))
    }

    fn not_back(&self, status: &Status) -> NotBack {
        match status.code() {
            Code::NotFound | Code::PermissionDenied | Code::InvalidArgument => {
                NotBack::Never(crate::agent::refused(&self.socket, status))
            }
            // Of what is asked for anew. What is there already was granted: only asking was too much just now.
            Code::ResourceExhausted if self.secret.is_empty() => {
                NotBack::Never(crate::agent::refused(&self.socket, status))
            }
            // It ends, begins, or rebuilds its ledger.
            _ => NotBack::Later,
        }
    }
}
