//! The heartbeat against a real Redis server: down, emptied, started again, and with users of its own.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use memboss_agent::credentials::Source;
use memboss_agent::heartbeat::{self, Pulse, Telling};
use memboss_agent::neighbours::{Failure, Neighbours};
use memboss_agent::node::view::Snapshot;
use memboss_platform::shutdown::Shutdown;
use redis::AsyncCommands as _;
use tokio::sync::watch;

/// A server on a Unix socket of its own, killed at the end.
struct Server {
    child: Child,
    socket: PathBuf,
}

impl Server {
    fn start(dir: &Path) -> Self {
        let socket = dir.join("redis.sock");
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
            .arg(&socket)
            .current_dir(dir)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        Self { child, socket }
    }

    fn url(dir: &Path, user: &str) -> String {
        format!("redis+unix://{}{user}", dir.join("redis.sock").display())
    }

    async fn client(&self) -> redis::aio::MultiplexedConnection {
        let url = format!("redis+unix://{}", self.socket.display());
        loop {
            let client = redis::Client::open(url.as_str()).unwrap();
            if let Ok(connection) = client.get_multiplexed_async_connection().await {
                return connection;
            }
            again().await;
        }
    }

    fn kill(self) {
        drop(self);
    }
}

impl Drop for Server {
    /// Also when a test has failed.
    fn drop(&mut self) {
        let killed = self.child.kill().and_then(|()| self.child.wait());
        assert!(killed.is_ok(), "redis-server cannot be killed");
    }
}

/// Between two looks at something that is to become true.
async fn again() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}

async fn field(connection: &mut redis::aio::MultiplexedConnection, name: &str) -> String {
    loop {
        let value: Option<String> = connection.hget(heartbeat::key("n1"), name).await.unwrap();
        if let Some(value) = value {
            return value;
        }
        again().await;
    }
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), what).await.expect("in time")
}

fn snapshot() -> Arc<Snapshot> {
    Arc::new(Snapshot {
        node: "n1".into(),
        boot_id: "boot".into(),
        agent_epoch: 3,
        digest: "abc".into(),
        ..Snapshot::default()
    })
}

struct Beating {
    pulse: Arc<Pulse>,
    shutdown: Shutdown,
    task: tokio::task::JoinHandle<()>,
    _snapshots: watch::Sender<Arc<Snapshot>>,
}

fn beat(url: String) -> Beating {
    beat_of(url, Telling::Beat, snapshot())
}

fn beat_of(url: String, telling: Telling, snapshot: Arc<Snapshot>) -> Beating {
    let (sender, receiver) = watch::channel(snapshot);
    let (pulse, shutdown) = (Arc::new(Pulse::default()), Shutdown::new());
    let task = tokio::spawn(heartbeat::run(Source::Url(url), telling, receiver, pulse.clone(), shutdown.clone()));
    Beating { pulse, shutdown, task, _snapshots: sender }
}

impl Beating {
    async fn end(self) {
        self.shutdown.cancel();
        within(self.task).await.unwrap();
    }

    async fn until(&self, reached: impl Fn(u64, u64) -> bool) {
        within(async {
            loop {
                let (beats, misses) = self.pulse.counts();
                if reached(beats, misses) {
                    return;
                }
                again().await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_heartbeat_tells_the_node_and_expires_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut connection = within(server.client()).await;
    let beating = beat(Server::url(dir.path(), ""));
    assert_eq!(within(field(&mut connection, "epoch")).await, "3");
    assert_eq!(within(field(&mut connection, "digest")).await, "abc");
    let left: i64 = connection.pttl(heartbeat::key("n1")).await.unwrap();
    assert!((1..=5000).contains(&left), "{left}");
    beating.end().await;
    server.kill();
}

#[tokio::test]
async fn a_server_that_was_emptied_or_started_again_has_the_heartbeat_again() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut connection = within(server.client()).await;
    let beating = beat(Server::url(dir.path(), ""));
    within(field(&mut connection, "seq")).await;
    redis::cmd("FLUSHALL").exec_async(&mut connection).await.unwrap();
    within(field(&mut connection, "seq")).await;

    server.kill();
    let (_, before) = beating.pulse.counts();
    beating.until(|_, misses| misses > before).await;
    let server = Server::start(dir.path());
    let mut connection = within(server.client()).await;
    assert_eq!(within(field(&mut connection, "boot")).await, "boot");
    beating.end().await;
    server.kill();
}

#[tokio::test]
async fn a_server_that_never_comes_stops_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let beating = beat(Server::url(dir.path(), ""));
    beating.until(|beats, misses| beats == 0 && misses >= 2).await;
    beating.end().await;
}

#[tokio::test]
async fn a_user_that_may_touch_its_own_key_alone_is_enough() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut connection = within(server.client()).await;
    redis::cmd("ACL")
        .arg(&["SETUSER", "n1", "on", ">secret", "resetkeys", "~{n:n1}:*", "-@all"])
        .arg(&["+hset", "+pexpire", "+multi", "+exec", "+hello"])
        .exec_async(&mut connection)
        .await
        .unwrap();
    let beating = beat(Server::url(dir.path(), "?user=n1&pass=secret"));
    assert_eq!(within(field(&mut connection, "epoch")).await, "3");
    beating.end().await;
    server.kill();
}

#[tokio::test]
async fn machines_that_share_a_server_see_one_another_until_it_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut connection = within(server.client()).await;
    let named = |name: &str| Arc::new(Snapshot { node: name.into(), agent_epoch: 7, ..Snapshot::default() });
    let machines = ["beta", "alpha"].map(|name| beat_of(Server::url(dir.path(), ""), Telling::Machine, named(name)));
    for machine in &machines {
        machine.until(|beats, _| beats > 0).await;
    }
    // Neither what a node of a cluster writes is a machine, nor what somebody else left there.
    let beating = beat(Server::url(dir.path(), ""));
    beating.until(|beats, _| beats > 0).await;
    let _: () = connection.hset(heartbeat::key("odd"), heartbeat::SHOWS, b"\xff\xff\xff".as_slice()).await.unwrap();
    let neighbours = Neighbours::new(Source::Url(Server::url(dir.path(), "")));
    let seen = neighbours.machines().await.unwrap();
    let names: Vec<_> = seen.iter().map(|machine| (machine.node.as_str(), machine.agent_epoch)).collect();
    assert_eq!(names, [("alpha", 7), ("beta", 7)]);
    server.kill();
    let afresh = Neighbours::new(Source::Url(Server::url(dir.path(), "")));
    assert!(matches!(afresh.machines().await, Err(Failure::Ask(_))));
    for machine in machines {
        machine.end().await;
    }
    beating.end().await;
}
