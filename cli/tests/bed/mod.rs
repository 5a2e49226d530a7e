//! A machine for the tests: simulated GPUs, the agent as built, alone and in folders of its own, and the command line as built. It may not know what is tested.
//! The agent and the simulated libraries lie beside this test's own program: `cargo test --workspace` builds them first.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use memboss_sim_state::{DIR_ENV, Gpu, MIB, SimDir, gpu_uuid};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

/// Nothing here takes so long; it only ends a test that would hang.
const PATIENCE: Duration = Duration::from_secs(60);

/// The command line as built.
pub(crate) const MEMBOSS: &str = env!("CARGO_BIN_EXE_memboss");

/// What was built beside the command line; elsewhere if `MEMBOSS_TEST_BINARIES` says so.
pub(crate) fn built(name: &str) -> PathBuf {
    let beside = || Path::new(MEMBOSS).parent().unwrap().to_owned();
    let folder = std::env::var_os("MEMBOSS_TEST_BINARIES").map_or_else(beside, PathBuf::from);
    let places = [folder.join(name), folder.join("deps").join(name)];
    let found = places.into_iter().find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{name} is not in {}: cargo build --workspace --release", folder.display()))
}

/// Looks again and again until it is so.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "it did not come to that: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A machine with GPUs of 24 GiB, 23936 MiB of which can be leased.
pub(crate) struct Bed {
    files: TempDir,
    gpus: Vec<&'static Gpu>,
    agent: Option<Child>,
    proc_root: PathBuf,
}

impl Bed {
    pub(crate) fn new(gpus: u32) -> Self {
        Self::seeing(gpus, Path::new("/proc"))
    }

    /// Its agent sees the processes of that folder, below the machine's own.
    pub(crate) fn seeing(gpus: u32, proc_root: &Path) -> Self {
        let files = TempDir::new().unwrap();
        let dir = SimDir::new(files.path().join("sim"));
        for folder in [dir.gpus_dir(), dir.lib_dir(), files.path().join("state"), files.path().join("run")] {
            std::fs::create_dir_all(folder).unwrap();
        }
        for (library, name) in
            [("libmemboss_sim_nvml.so", "libnvidia-ml.so.1"), ("libmemboss_sim_cuda.so", "libcuda.so.1")]
        {
            std::os::unix::fs::symlink(built(library), dir.lib_dir().join(name)).unwrap();
        }
        let seed = files.path().display().to_string();
        let gpus = (0..gpus).map(|index| {
            let uuid = gpu_uuid(&seed, index);
            Gpu::create(&dir.gpu_path(&uuid), index, &uuid, &"SIM-24G:24576".parse().unwrap()).unwrap()
        });
        let gpus = gpus.collect();
        let proc_root = files.path().join(proc_root);
        std::fs::create_dir_all(&proc_root).unwrap();
        let mut bed = Self { files, gpus, agent: None, proc_root };
        bed.start_agent();
        bed
    }

    pub(crate) fn path(&self) -> &Path {
        self.files.path()
    }

    pub(crate) fn start_agent(&mut self) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.path().join("agent.log")).unwrap();
        let mut agent = Command::new(built("memboss-agent"));
        agent
            .args(["--standalone", "--node-name", "desk", "--admin-address", "127.0.0.1:0"])
            .arg("--run-dir")
            .arg(self.path().join("run"))
            .arg("--state-dir")
            .arg(self.path().join("state"))
            .arg("--proc-root")
            .arg(&self.proc_root)
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        self.dress(&mut agent);
        self.agent = Some(agent.spawn().unwrap());
        // What an agent left behind that was killed lets nobody in.
        for socket in [self.socket(), self.path().join("run/node/node.sock")] {
            until("the agent listens", || std::os::unix::net::UnixStream::connect(&socket).ok());
        }
    }

    pub(crate) fn kill_agent(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            agent.kill().unwrap();
            agent.wait().unwrap();
        }
    }

    /// What the agent remembers is gone, as after a new start of the machine.
    pub(crate) fn forget(&self) {
        for folder in ["run", "state"] {
            std::fs::remove_dir_all(self.path().join(folder)).unwrap();
            std::fs::create_dir(self.path().join(folder)).unwrap();
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path().join("run/agent/agent.sock")
    }

    pub(crate) fn uuid(&self, gpu: usize) -> String {
        self.gpus[gpu].uuid().to_owned()
    }

    /// What processes hold of a GPU, as the driver sees it.
    pub(crate) fn used_mib(&self, gpu: usize) -> u64 {
        self.gpus[gpu].usage().unwrap().used / MIB
    }

    fn dress<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .env(DIR_ENV, self.path().join("sim"))
            .env("MEMBOSS_NVML_LIBRARY", self.path().join("sim/lib/libnvidia-ml.so.1"))
            .env("LD_LIBRARY_PATH", self.path().join("sim/lib"))
            .env("MEMBOSS_SOCKET", self.socket())
            .env("MEMBOSS_NODE_SOCKET", self.path().join("run/node/node.sock"))
            .env_remove("CUDA_VISIBLE_DEVICES")
            .env_remove("NO_COLOR")
            .env_remove("KUBERNETES_SERVICE_HOST")
            .env("TERM", "xterm")
    }

    /// The command line, for this machine.
    pub(crate) fn memboss(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(MEMBOSS);
        command.args(arguments).stdin(Stdio::null());
        self.dress(&mut command);
        command
    }

    /// Any program, for this machine.
    pub(crate) fn program(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments);
        self.dress(&mut command);
        command
    }

    pub(crate) fn ask(&self, arguments: &[&str]) -> Answer {
        Answer::of(self.memboss(arguments).output().unwrap())
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let answer = self.ask(&[arguments, &["-o", "json"]].concat());
        assert_eq!(answer.code, 0, "{arguments:?}: {answer:?}");
        serde_json::from_str(&answer.out).unwrap()
    }

    /// The lease of that name, if there is one.
    pub(crate) fn lease(&self, name: &str) -> Option<Value> {
        let leases = self.json(&["lease", "list"]);
        leases.as_array().unwrap().iter().find(|lease| lease["lease"] == name).cloned()
    }

    pub(crate) fn start(&self, arguments: &[&str]) -> Running {
        Running::start(&mut self.memboss(arguments))
    }

    /// The name of this user's lease.
    pub(crate) fn mine(name: &str) -> String {
        format!("user-{}/{name}", nix::unistd::geteuid())
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.kill_agent();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.path().join("agent.log")).unwrap_or_default();
            println!("the agent said:\n{log}");
        }
    }
}

/// What a command said, and how it ended.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Answer {
    pub(crate) fn of(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }
}

/// A command at work. What it says on either stream is heard as it says it.
pub(crate) struct Running {
    child: Child,
    lines: Receiver<String>,
    heard: Vec<(String, bool)>,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (said, lines) = channel();
        listen(child.stdout.take().unwrap(), said.clone());
        listen(child.stderr.take().unwrap(), said);
        Self { child, lines, heard: Vec::new() }
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// A line with those words that was not asked for yet. Its two streams are heard in no order.
    pub(crate) fn says(&mut self, words: &str) -> String {
        loop {
            if let Some((line, asked_for)) =
                self.heard.iter_mut().find(|(line, asked_for)| !*asked_for && line.contains(words))
            {
                *asked_for = true;
                return line.clone();
            }
            let Ok(line) = self.lines.recv_timeout(PATIENCE) else {
                panic!("it did not say {words:?}, but {:#?}", self.heard);
            };
            self.heard.push((line, false));
        }
    }

    /// Everything that it has said, once it has ended, and its exit code.
    pub(crate) fn ends(mut self) -> (i32, Vec<String>) {
        let status = until("it ends", || self.child.try_wait().unwrap());
        let mut heard: Vec<String> = self.heard.drain(..).map(|(line, _)| line).collect();
        heard.extend(self.lines.iter());
        (status.code().unwrap_or(-1), heard)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn listen(stream: impl Read + Send + 'static, said: Sender<String>) {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if said.send(line).is_err() {
                return;
            }
        }
    });
}

/// A command on a terminal: what is on it is seen as it comes, whole lines or not.
pub(crate) struct Terminal {
    child: Child,
    seen: Arc<Mutex<String>>,
}

impl Terminal {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (mut shown, seen) = (child.stdout.take().unwrap(), Arc::<Mutex<String>>::default());
        let here = seen.clone();
        std::thread::spawn(move || {
            let mut part = [0; 4096];
            while let Ok(length @ 1..) = shown.read(&mut part) {
                here.lock().unwrap().push_str(&String::from_utf8_lossy(&part[..length]));
            }
        });
        Self { child, seen }
    }

    /// Everything that was seen, once those words are there.
    pub(crate) fn says(&self, words: &str) -> String {
        let begun = Instant::now();
        loop {
            let seen = self.seen.lock().unwrap().clone();
            if seen.contains(words) {
                return seen;
            }
            assert!(begun.elapsed() < PATIENCE, "{words:?} is not on the terminal, but {seen:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Types something.
    pub(crate) fn types(&mut self, keys: &[u8]) {
        self.child.stdin.as_mut().unwrap().write_all(keys).unwrap();
    }

    pub(crate) fn ends(mut self) -> i32 {
        until("it ends", || self.child.try_wait().unwrap()).code().unwrap_or(-1)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Whether a process is there and has not ended.
pub(crate) fn lives(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}
