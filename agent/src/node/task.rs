//! Runs a [`Node`]: looks at the machine when it is time, hands in what comes, writes the ledger, and only then answers and publishes.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use memboss_core::{LeaseId, Mib, Moment, Signals};
use memboss_platform::shutdown::Shutdown;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::outlook::Outlook;
use super::view::Snapshot;
use super::{Input, News, Node, Observation, RamUser};
use crate::cleaner::{self, Cleaner};
use crate::journal::{Change, Journal};
use crate::probes::nvml::{NoNvml, Prober, Reading};
use crate::probes::pods::PodCgroups;
use crate::probes::pressure::PressureProbe;
use crate::probes::processes::{PodUid, Process, Processes, Shares};
use crate::probes::xid::Xid;
use crate::probes::{clock, meminfo, pidfd};
use crate::store::{Failure, Marker, Store};

/// So many inputs at once are one write: more would keep those before them waiting for their answers.
const BATCH: usize = 64;
/// Looking at what processes have of RAM takes no longer at once: how many there are, and how much work each is, is in the hands of their users.
const RAM_LOOK: Duration = Duration::from_millis(50);

/// How often to look.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// When nothing is on its way.
    pub idle: Duration,
    /// When something is.
    pub transition: Duration,
    /// When NVML counts as not answering.
    pub silent_after: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(2),
            transition: Duration::from_millis(500),
            silent_after: Duration::from_secs(3),
        }
    }
}

/// What the machine is seen with.
#[derive(Debug)]
pub struct Eyes {
    /// Reads GPUs.
    pub prober: Prober,
    /// What it read.
    pub readings: mpsc::UnboundedReceiver<Reading>,
    /// Errors that GPUs report.
    pub xids: mpsc::UnboundedReceiver<Xid>,
    /// Whose processes are.
    pub processes: Processes,
    /// Which pods have a cgroup.
    pub cgroups: PodCgroups,
    /// Notices the end of processes.
    pub sentinels: pidfd::Sentinels,
    /// Host memory.
    pub meminfo: PathBuf,
    /// How hard pressed it is.
    pub pressure: PressureProbe,
    /// Drops cache.
    pub cleaner: Cleaner,
    /// How often to look.
    pub pace: Pace,
}

/// The ways in and out of the task.
#[derive(Debug)]
pub struct Doors {
    /// What comes in.
    pub inputs: mpsc::Receiver<Input>,
    /// What is published.
    pub snapshots: watch::Sender<Arc<Snapshot>>,
    /// What people should know of.
    pub news: mpsc::UnboundedSender<News>,
}

/// The files of the task.
#[derive(Debug)]
pub struct Files {
    /// The ledger, on tmpfs.
    pub ledger: Journal,
    /// The marker, on persistent disk.
    pub marker: Store,
}

struct Look {
    began: Moment,
    asked: Instant,
    pods: Option<BTreeSet<PodUid>>,
}

struct Task {
    node: Node,
    eyes: Eyes,
    doors: Doors,
    files: Files,
    look: Option<Look>,
    /// What comes of cleaning that runs.
    cleaning: Option<cleaner::Running>,
    next_look: Instant,
    /// What has changed and could not be written yet.
    unwritten: Change,
    marked: Option<Marker>,
    digest: [u8; 8],
    outlook: Outlook,
    /// Those who want to see the node as it is once what they asked before is done.
    viewers: Vec<oneshot::Sender<Arc<Snapshot>>>,
    /// What processes had of RAM, when each was looked at last.
    ram_of: BTreeMap<Process, RamSeen>,
    heard: Heard,
    /// The first look has come to an end. Before that nobody is answered, and nothing shown: GPUs that were not looked for yet would count as not there.
    has_looked: bool,
    dead: bool,
}

/// Runs the node until `shutdown`.
///
/// # Errors
/// When the thread that reads NVML has ended: nothing can be seen any more.
pub async fn run(node: Node, eyes: Eyes, doors: Doors, files: Files, shutdown: Shutdown) -> anyhow::Result<()> {
    let next_look = Instant::now();
    let mut task = Task {
        node,
        eyes,
        doors,
        files,
        look: None,
        cleaning: None,
        next_look,
        unwritten: Change::default(),
        marked: None,
        digest: [0; 8],
        outlook: Outlook::new(next_look),
        viewers: Vec::new(),
        ram_of: BTreeMap::new(),
        heard: Heard::default(),
        has_looked: false,
        dead: false,
    };
    // Until the first look has ended, what is said waits in the inbox.
    task.node.has_heard_until(clock::now());
    task.begin_look();
    task.after_step();
    loop {
        let wake = task.next_wake();
        let (from_inbox, input) = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            input = task.doors.inputs.recv(), if task.has_looked => match input {
                Some(input) => (true, input),
                None => return Ok(()),
            },
            reading = task.eyes.readings.recv() => match reading {
                Some(reading) => (false, task.observed(reading)),
                None => anyhow::bail!("the NVML thread has ended"),
            },
            Some(xid) = task.eyes.xids.recv() => (false, Input::Xid(xid)),
            heard = cleaner::next(&mut task.cleaning) => (false, heard),
            () = tokio::time::sleep_until(wake) => (false, task.on_time()),
        };
        task.take_in(input, from_inbox);
        task.after_step();
        if task.dead {
            anyhow::bail!("the NVML thread has ended");
        }
    }
}

/// What a process and its family had of RAM, when that was looked at last.
struct RamSeen {
    at: std::time::Instant,
    ram: Mib,
    shares: Shares,
}

impl RamSeen {
    fn at(at: std::time::Instant) -> Self {
        Self { at, ram: Mib::ZERO, shares: Shares::default() }
    }
}

/// Up to when all has been heard of what was said: nobody is ended for silence before that.
#[derive(Debug, Default)]
struct Heard {
    /// What lay in the inbox then, and how many of these were not taken out yet.
    at: Moment,
    left: usize,
}

impl Task {
    /// What came at once is written and published at once.
    fn take_in(&mut self, input: Input, from_inbox: bool) {
        let mut taken = usize::from(from_inbox);
        if self.heard.left == 0 {
            self.heard = Heard { at: clock::now(), left: self.doors.inputs.len() + taken };
        }
        self.step(input);
        let more = if self.has_looked { BATCH } else { 0 };
        for _ in 0..more {
            let Ok(input) = self.doors.inputs.try_recv() else { break };
            self.step(input);
            taken += 1;
        }
        self.heard.left = self.heard.left.saturating_sub(taken);
        if self.heard.left == 0 && self.node.has_heard_until(self.heard.at) {
            self.step(Input::Tick);
        }
    }

    fn step(&mut self, input: Input) {
        match input {
            Input::Show(viewer) => self.viewers.push(viewer),
            input => self.node.step(input, clock::now()),
        }
    }

    fn next_wake(&self) -> Instant {
        let look = match &self.look {
            Some(look) => look.asked + self.eyes.pace.silent_after,
            None => self.next_look,
        };
        // What is due before the first look waits for it.
        let due = self
            .node
            .next_wake()
            .filter(|_| self.has_looked)
            .map(|due| Instant::now() + Duration::from_millis(due.since(clock::now()).millis().saturating_add(1)));
        due.into_iter().chain(self.outlook.next()).fold(look, Instant::min)
    }

    /// A deadline has passed: it is time to look, NVML is late, or the engine has something due.
    fn on_time(&mut self) -> Input {
        let now = Instant::now();
        let silent_after = self.eyes.pace.silent_after;
        match &mut self.look {
            Some(look) if now >= look.asked + silent_after => {
                look.asked = now;
                self.has_looked = true;
                self.without_gpus()
            }
            Some(_) => Input::Tick,
            None => {
                if now >= self.next_look {
                    self.begin_look();
                }
                Input::Tick
            }
        }
    }

    /// The pods first, then the GPUs: see [`Observation`].
    fn begin_look(&mut self) {
        let began = clock::now();
        let pods = match self.eyes.cgroups.observe() {
            Ok(pods) => Some(pods),
            Err(error) => {
                tracing::debug!(%error, "cannot tell which pods are here");
                None
            }
        };
        self.dead |= !self.eyes.prober.request();
        self.look = Some(Look { began, asked: Instant::now(), pods });
    }

    fn observed(&mut self, reading: Reading) -> Input {
        let Some(look) = self.look.take() else { return Input::Tick };
        self.has_looked = true;
        let pids: BTreeSet<u32> = match &reading {
            Ok(sample) => sample
                .gpus
                .iter()
                .filter_map(|gpu| gpu.usage.as_ref().ok())
                .flat_map(|u| u.processes.keys())
                .copied()
                .collect(),
            Err(_) => BTreeSet::new(),
        };
        let whose = if self.node.has_clients() { pids.clone() } else { BTreeSet::new() };
        let lineages = whose.into_iter().map(|pid| (pid, self.eyes.processes.lineage(pid))).collect();
        let owners: BTreeMap<_, _> = pids.iter().map(|pid| (*pid, self.eyes.processes.owner(*pid))).collect();
        if reading.is_ok() {
            self.eyes.processes.keep_only(&pids);
        }
        let ram = meminfo::observe(&self.eyes.meminfo).ok();
        let ram_used = self.ram_used();
        let (began, pods) = (look.began, look.pods);
        let signals = self.signals();
        Input::Seen(Box::new(Observation { began, pods, reading, owners, lineages, ram, ram_used, signals }))
    }

    fn signals(&self) -> Option<Signals> {
        let seen = self.eyes.pressure.observe();
        seen.inspect_err(|error| tracing::debug!(%error, "the pressure cannot be told")).ok()
    }

    /// A look at everything but the GPUs: a driver that hangs holds up no lease of RAM.
    fn without_gpus(&mut self) -> Input {
        let (began, pods) = (clock::now(), self.eyes.cgroups.observe().ok());
        let (ram, ram_used) = (meminfo::observe(&self.eyes.meminfo).ok(), self.ram_used());
        let (owners, lineages, reading) = (BTreeMap::new(), BTreeMap::new(), Err(NoNvml::Silent));
        let signals = self.signals();
        Input::Seen(Box::new(Observation { began, pods, reading, owners, lineages, ram, ram_used, signals }))
    }

    /// What those who lease RAM have of it. Of several leases of one process each counts for as much as it holds, the last for what is above; and whoever
    /// leases for itself is not counted with the process that began it.
    fn ram_used(&mut self) -> BTreeMap<LeaseId, Mib> {
        let users = self.node.wants_ram_of();
        let pods = users.iter().filter_map(|(_, user, _)| user.pod().cloned());
        let by_pod = self.eyes.cgroups.ram(&pods.collect());
        let processes: BTreeSet<Process> = users.iter().filter_map(|(_, user, _)| user.process()).collect();
        let mut left = self.ram_of(&processes);
        let mut all = BTreeMap::new();
        let mut last: BTreeMap<Process, LeaseId> = BTreeMap::new();
        for (lease, user, held) in users {
            match user {
                RamUser::Pod(pod) => all.extend(by_pod.get(&pod).map(|used| (lease, *used))),
                RamUser::Process(process) => {
                    let Some(left) = left.get_mut(&process) else { continue };
                    let takes = held.min(*left);
                    *left = left.minus(takes);
                    all.insert(lease.clone(), takes);
                    last.insert(process, lease);
                }
            }
        }
        for (process, lease) in last {
            let above = left.get(&process).copied().unwrap_or_default();
            all.entry(lease).and_modify(|used| *used = used.plus(above));
        }
        all
    }

    /// What those processes have of RAM. Those that were looked at longest ago come first; whom it is too late for is as it was.
    fn ram_of(&mut self, processes: &BTreeSet<Process>) -> BTreeMap<Process, Mib> {
        self.ram_of.retain(|process, _| processes.contains(process));
        let mut in_turn: Vec<Process> = processes.iter().copied().collect();
        in_turn.sort_by_key(|process| self.ram_of.get(process).map(|seen| seen.at));
        let until = std::time::Instant::now() + RAM_LOOK;
        for process in in_turn {
            let now = std::time::Instant::now();
            if now >= until {
                break;
            }
            let seen = self.ram_of.entry(process).or_insert_with(|| RamSeen::at(now));
            match self.eyes.processes.ram(process, processes, until, &mut seen.shares) {
                // What was not come to is there still, for all that is known.
                Some((ram, whole)) => (seen.at, seen.ram) = (now, if whole { ram } else { ram.max(seen.ram) }),
                None => drop(self.ram_of.remove(&process)),
            }
        }
        self.ram_of.iter().map(|(process, seen)| (*process, seen.ram)).collect()
    }

    /// Writes what changed, then answers and publishes; what could not be written is told to nobody.
    fn after_step(&mut self) {
        if !self.write() {
            self.next_look = Instant::now() + Duration::from_secs(1);
            self.show_what_was();
            return;
        }
        for process in self.node.take_processes_to_watch() {
            self.eyes.sentinels.watch(process);
        }
        self.node.tell_clients();
        self.outlook.changed();
        if self.outlook.is_on(!self.viewers.is_empty(), Instant::now()) {
            self.look_out();
        }
        for answer in self.node.take_answers() {
            answer();
        }
        for pushed in self.node.take_pushes() {
            pidfd::push(self.eyes.processes.root(), &pushed);
        }
        for news in self.node.take_news() {
            // Without Kubernetes nobody listens; the log has it.
            let _ = self.doors.news.send(news);
        }
        if let Some(order) = self.node.take_clean_order() {
            self.cleaning = Some(self.eyes.cleaner.begin(order));
        }
        if self.look.is_none() {
            self.plan_look();
        }
    }

    fn plan_look(&mut self) {
        if self.node.wants_look() {
            self.begin_look();
            return;
        }
        let pace = if self.node.is_in_transition() { self.eyes.pace.transition } else { self.eyes.pace.idle };
        let at = Instant::now() + pace;
        // A look that is planned already and still ahead is not put off by whatever came in.
        self.next_look = if self.next_look > Instant::now() { self.next_look.min(at) } else { at };
    }

    /// Shows all leases to everybody who looks.
    fn look_out(&mut self) {
        let began = Instant::now();
        let places = self.node.places();
        if self.outlook.tells(began) {
            self.node.tell_all_clients(&places);
        }
        if self.has_looked {
            let snapshot = self.node.snapshot(self.digest, &places);
            self.doors.snapshots.send_replace(Arc::new(snapshot));
        }
        self.show_what_was();
        self.outlook.done(began, Instant::now());
    }

    fn show_what_was(&mut self) {
        let published = self.doors.snapshots.borrow().clone();
        for viewer in self.viewers.drain(..) {
            // It may have gone.
            let _ = viewer.send(published.clone());
        }
    }

    fn write(&mut self) -> bool {
        self.unwritten.then(self.node.take_change());
        let whole = self.files.ledger.wants_whole();
        if self.unwritten.is_empty() && !whole {
            return true;
        }
        if let Err(error) = self.write_marker() {
            tracing::error!(error = &error as &dyn std::error::Error, "the marker cannot be written");
        }
        let written = if whole { self.write_whole() } else { self.files.ledger.add(&self.unwritten) };
        match written {
            Ok(sum) => {
                self.digest.copy_from_slice(&sum[..8]);
                self.unwritten = Change::default();
                true
            }
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "nothing is granted until the ledger is written"
                );
                false
            }
        }
    }

    /// Where a whole finds no space, a change still may.
    fn write_whole(&mut self) -> Result<[u8; 32], Failure> {
        match self.files.ledger.begin(&self.node.ledger()) {
            Err(error) if self.files.ledger.can_add() => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the ledger's file grows on");
                self.files.ledger.add(&self.unwritten)
            }
            outcome => outcome,
        }
    }

    fn write_marker(&mut self) -> Result<(), Failure> {
        let (boot_id, floor) = (self.node.boot_id(), self.node.floor());
        let agent_epoch = self.node.agent_epoch;
        let same = |marker: &Marker| {
            (marker.boot_id.as_str(), marker.agent_epoch, marker.floor.as_ref()) == (boot_id, agent_epoch, floor)
        };
        if self.marked.as_ref().is_some_and(same) {
            return Ok(());
        }
        let marker = Marker { boot_id: boot_id.to_owned(), agent_epoch, floor: floor.cloned() };
        self.files.marker.write(&marker)?;
        self.marked = Some(marker);
        Ok(())
    }
}
