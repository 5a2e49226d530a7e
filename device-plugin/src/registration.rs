//! Keeps the plugin known to the kubelet: serves on a socket of its own, registers it, and starts over on a new socket whenever the kubelet
//! restarts, deletes our socket, or stops listening. It gives up never.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use memboss_kubelet_api::deviceplugin::device_plugin_server::{DevicePlugin, DevicePluginServer};
use memboss_kubelet_api::deviceplugin::registration_client::RegistrationClient;
use memboss_kubelet_api::deviceplugin::{DevicePluginOptions, RegisterRequest};
use memboss_kubelet_api::{REGISTRATION_SOCKET, VERSION};
use memboss_platform::admin::Condition;
use memboss_platform::shutdown::Shutdown;
use rustix::fs::inotify::WatchFlags;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use crate::figures::Figures;
use crate::server::Streams;
use crate::state::chain;
use crate::watch::DirectoryWatch;

const OWN_PREFIX: &str = "memboss-";
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How fast things are noticed.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Between two looks, for what inotify misses. The kubelet rejects pods for good about a second after its socket appears.
    pub look: Duration,
    /// How long the kubelet may go without a `ListAndWatch` stream: it never opens a second one by itself.
    pub stream: Duration,
    /// How long the kubelet may take to answer a registration, in which it connects back to us.
    pub register: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { look: Duration::from_millis(250), stream: Duration::from_secs(10), register: Duration::from_secs(5) }
    }
}

/// Why a registration came to its end.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the plugin is shutting down")]
    Shutdown,
    #[error("the kubelet's socket was replaced")]
    KubeletReplaced,
    #[error("our socket was deleted")]
    SocketDeleted,
    #[error("the kubelet has no stream of our devices open")]
    NoStream,
    #[error("failed to serve on {path:?}")]
    Serve {
        path: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What can be registered: a service that is served on one socket after the other.
pub trait Offer: DevicePlugin + Clone {
    /// What it asks of the kubelet.
    const OPTIONS: DevicePluginOptions;

    /// The same on another socket, whose streams end with `end`.
    #[must_use]
    fn until(&self, end: Shutdown) -> Self;

    /// Its open streams, on whichever socket.
    fn streams(&self) -> &Streams;

    /// Where it counts.
    fn figures(&self) -> &Figures;
}

/// See the module.
#[derive(Debug)]
pub struct Registration<S> {
    /// Where the kubelet and its plugins have their sockets.
    pub directory: PathBuf,
    /// The extended resource.
    pub resource: String,
    /// What is served.
    pub service: S,
    /// Met while registered.
    pub condition: Condition,
    /// How fast.
    pub pace: Pace,
}

/// Tells a file from a later one of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    inode: u64,
    changed: (i64, i64),
}

impl Identity {
    fn of(path: &Path) -> Option<Self> {
        let found = fs::symlink_metadata(path).ok()?;
        // An inode number is used again soon; with the time of its last change it is not.
        Some(Self { inode: found.ino(), changed: (found.ctime(), found.ctime_nsec()) })
    }
}

/// Our server on one socket.
struct Serving {
    path: PathBuf,
    identity: Option<Identity>,
    end: Shutdown,
    task: JoinHandle<Result<(), tonic::transport::Error>>,
}

impl<S: Offer> Registration<S> {
    /// Runs until `shutdown`.
    pub async fn run(self, shutdown: Shutdown) {
        let mut pauses = schedule().build();
        loop {
            match self.once(&shutdown).await {
                Ended::Shutdown => return,
                // No pause: the kubelet is about to reject pods for want of healthy devices.
                why @ (Ended::KubeletReplaced | Ended::SocketDeleted) => {
                    self.lost(&why);
                    pauses = schedule().build();
                }
                why => {
                    self.lost(&why);
                    tokio::select! {
                        () = shutdown.cancelled() => return,
                        () = tokio::time::sleep(pauses.next().unwrap_or(LONGEST_PAUSE)) => {}
                    }
                }
            }
        }
    }

    fn lost(&self, why: &Ended) {
        tracing::warn!(why = chain(why), "registering again");
        self.condition.not_ready(chain(why));
    }

    /// One socket, from its making to its end.
    async fn once(&self, shutdown: &Shutdown) -> Ended {
        let mut watch = DirectoryWatch::new(&self.directory, changes());
        let Some(kubelet) = self.kubelet(&mut watch, shutdown).await else { return Ended::Shutdown };
        self.remove_stale().await;
        let mut serving = match self.serve() {
            Ok(serving) => serving,
            Err(ended) => return ended,
        };
        let ended = tokio::select! {
            () = shutdown.cancelled() => Ended::Shutdown,
            ended = self.replaced(&mut watch, kubelet, &serving.path, serving.identity) => ended,
            ended = self.keep_registered(&serving.path) => ended,
            result = &mut serving.task => ended_early(&serving.path, result),
        };
        serving.stop().await;
        ended
    }

    /// Waits for the kubelet's socket.
    async fn kubelet(&self, watch: &mut DirectoryWatch, shutdown: &Shutdown) -> Option<Identity> {
        let path = self.directory.join(REGISTRATION_SOCKET);
        loop {
            if let Some(identity) = Identity::of(&path) {
                return Some(identity);
            }
            self.condition.not_ready(format!("waiting for {}", path.display()));
            if !watch.works() {
                *watch = DirectoryWatch::new(&self.directory, changes());
            }
            tokio::select! {
                () = shutdown.cancelled() => return None,
                _ = watch.next(self.pace.look) => {}
            }
        }
    }

    /// Returns when the kubelet is another one, or our socket is gone: a starting kubelet deletes the sockets of all plugins.
    async fn replaced(
        &self,
        watch: &mut DirectoryWatch,
        kubelet: Identity,
        own: &Path,
        identity: Option<Identity>,
    ) -> Ended {
        let path = self.directory.join(REGISTRATION_SOCKET);
        loop {
            watch.next(self.pace.look).await;
            if Identity::of(&path).is_some_and(|now| now != kubelet) {
                return Ended::KubeletReplaced;
            }
            if Identity::of(own) != identity {
                return Ended::SocketDeleted;
            }
        }
    }

    /// Registers, however long that takes, then sees to it that the kubelet listens.
    async fn keep_registered(&self, own: &Path) -> Ended {
        let mut pauses = schedule().build();
        while let Err(error) = self.register(own).await {
            tracing::warn!(error, "failed to register with the kubelet; trying again");
            self.condition.not_ready(error);
            tokio::time::sleep(pauses.next().unwrap_or(LONGEST_PAUSE)).await;
        }
        tracing::info!(resource = self.resource, socket = ?own, "registered");
        self.service.figures().registrations.inc();
        let mut streams = self.service.streams().count();
        loop {
            match tokio::time::timeout(self.pace.stream, streams.wait_for(|open| *open > 0)).await {
                Ok(_) => self.condition.ready(),
                Err(_) => return Ended::NoStream,
            }
            if streams.wait_for(|open| *open == 0).await.is_err() {
                return Ended::NoStream;
            }
            self.condition.not_ready("the kubelet has no stream of our devices open");
        }
    }

    async fn register(&self, own: &Path) -> Result<(), String> {
        let endpoint = own.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let request = RegisterRequest {
            version: VERSION.to_owned(),
            endpoint,
            resource_name: self.resource.clone(),
            options: Some(S::OPTIONS),
        };
        let ask = async {
            let socket = self.directory.join(REGISTRATION_SOCKET);
            let channel = memboss_kubelet_api::connect(&socket).await.map_err(|error| chain(&error))?;
            RegistrationClient::new(channel).register(request).await.map_err(|status| status.message().to_owned())
        };
        match tokio::time::timeout(self.pace.register, ask).await {
            Ok(result) => result.map(|_| ()),
            Err(_) => Err(format!("the kubelet did not answer within {:?}", self.pace.register)),
        }
    }

    /// A socket under a name that was never used: the kubelet refuses one that it still knows, and may end the old one late.
    fn serve(&self) -> Result<Serving, Ended> {
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        let path = self.directory.join(format!("{OWN_PREFIX}{}-{nanos:x}.sock", std::process::id()));
        let listener =
            UnixListener::bind(&path).map_err(|source| Ended::Serve { path: path.clone(), source: source.into() })?;
        let end = Shutdown::new();
        let service = self.service.until(end.clone());
        let serve = Server::builder()
            .add_service(DevicePluginServer::new(service))
            .serve_with_incoming_shutdown(UnixListenerStream::new(listener), end.clone().cancelled_owned());
        let identity = Identity::of(&path);
        Ok(Serving { path, identity, end, task: tokio::spawn(serve) })
    }

    /// Removes sockets that earlier instances of the plugin left: nobody answers there.
    async fn remove_stale(&self) {
        let Ok(entries) = fs::read_dir(&self.directory) else { return };
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            let ours = path.file_name().is_some_and(|name| {
                let name = name.to_string_lossy();
                name.starts_with(OWN_PREFIX) && name.ends_with(".sock")
            });
            let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
            if ours && tokio::net::UnixStream::connect(&path).await.is_err_and(refused) {
                tracing::info!(?path, "removed the socket of an earlier instance");
                let _ = fs::remove_file(&path);
            }
        }
    }
}

impl Serving {
    /// Ends the server and its streams, and removes the socket if it is still ours.
    async fn stop(mut self) {
        self.end.cancel();
        // A finished task was waited for already. One that goes on serves a start that waits for its lease; the kubelet asks again at the new socket.
        if !self.task.is_finished() && tokio::time::timeout(Duration::from_secs(1), &mut self.task).await.is_err() {
            self.task.abort();
        }
        if self.identity.is_some() && Identity::of(&self.path) == self.identity {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn ended_early(path: &Path, result: Result<Result<(), tonic::transport::Error>, tokio::task::JoinError>) -> Ended {
    let source = match result {
        Ok(Ok(())) => "the server ended by itself".into(),
        Ok(Err(error)) => error.into(),
        Err(error) => error.into(),
    };
    Ended::Serve { path: path.to_owned(), source }
}

fn changes() -> WatchFlags {
    WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::MOVED_TO | WatchFlags::MOVED_FROM
}

fn schedule() -> ExponentialBuilder {
    ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(LONGEST_PAUSE)
        .without_max_times()
        .with_jitter()
}
