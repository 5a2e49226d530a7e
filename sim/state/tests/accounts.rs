//! Accounts in a GPU's file, kept by real processes. A process is this program started again: the one test named `one_process` does as its environment says.
#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use memboss_sim_state::{Charge, Gpu, HolderKind, MIB, Profile, SimDir, StateError, gpu_uuid};
use tempfile::TempDir;

const SAID: &str = "said: ";

struct Place {
    dir: SimDir,
    _files: TempDir,
}

impl Place {
    fn new() -> Self {
        let files = TempDir::new().unwrap();
        let dir = SimDir::new(files.path());
        std::fs::create_dir_all(dir.gpus_dir()).unwrap();
        Self { dir, _files: files }
    }

    /// A GPU of 1024 MiB, of which the driver keeps 16.
    fn gpu(&self) -> &'static Gpu {
        let uuid = gpu_uuid("accounts", 0);
        let profile: Profile = "SIM:1024".parse().unwrap();
        Gpu::create(&self.dir.gpu_path(&uuid), 0, &uuid, &profile).unwrap()
    }
}

/// A process that charges, says how it went, and holds until its input ends.
struct Holder {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Holder {
    fn start(prefix: &[&str], gpu: &Path, mib: &[u64]) -> Self {
        let program = std::env::current_exe().unwrap();
        let mut command = match prefix.split_first() {
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
            None => Command::new(program),
        };
        let amounts: Vec<_> = mib.iter().map(u64::to_string).collect();
        let mut child = command
            .args(["--exact", "one_process", "--ignored", "--nocapture", "--test-threads", "1"])
            .envs([("ACCOUNTS_GPU", gpu.as_os_str()), ("ACCOUNTS_MIB", amounts.join(",").as_ref())])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, input, output }
    }

    fn begin(&mut self) {
        self.input.as_mut().unwrap().write_all(b"go\n").unwrap();
    }

    /// What it said: how many MiB it got, and its pid as it sees itself.
    fn said(&mut self) -> (u64, u32) {
        loop {
            let mut line = String::new();
            assert_ne!(self.output.read_line(&mut line).unwrap(), 0, "it ended without a word");
            // The test runner's own words may stand before ours on the line.
            if let Some((_, said)) = line.trim_end().split_once(SAID) {
                let (got, pid) = said.split_once(' ').unwrap();
                return (got.parse().unwrap(), pid.parse().unwrap());
            }
        }
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "not a test: what the tests start"]
fn one_process() {
    let Some(path) = std::env::var_os("ACCOUNTS_GPU") else { return };
    let amounts = std::env::var("ACCOUNTS_MIB").unwrap();
    let gpu = Gpu::open(Path::new(&path)).unwrap();
    let mut input = std::io::stdin().lock();
    input.read_line(&mut String::new()).unwrap();
    gpu.join(HolderKind::Compute).unwrap();
    let mut got = 0;
    for amount in amounts.split(',') {
        got += gpu.charge(Charge::Bytes(amount.parse::<u64>().unwrap() * MIB)).unwrap_or(0);
    }
    println!("{SAID}{} {}", got / MIB, std::process::id());
    input.read_to_end(&mut Vec::new()).unwrap();
}

#[test]
fn many_processes_that_charge_at_once_get_exactly_what_there_is() {
    let place = Place::new();
    let gpu = place.gpu();
    let amounts = [3; 100];
    let mut holders: Vec<_> = (0..12).map(|_| Holder::start(&[], gpu.path(), &amounts)).collect();
    holders.iter_mut().for_each(Holder::begin);
    let got: u64 = holders.iter_mut().map(|holder| holder.said().0).sum();
    // 1008 MiB are free, and 336 threes fit into them without a rest.
    assert_eq!(got, 1008);
    let usage = gpu.usage().unwrap();
    assert_eq!((usage.used / MIB, usage.free), (1008, 0));
    assert_eq!(gpu.holders().unwrap().len(), 12);
    drop(holders);
    assert_eq!(gpu.usage().unwrap().used, 0);
}

#[test]
fn a_slot_of_a_killed_process_is_free_and_the_next_one_starts_from_nothing() {
    let place = Place::new();
    let gpu = place.gpu();
    let mut first = Holder::start(&[], gpu.path(), &[10]);
    let mut last = Holder::start(&[], gpu.path(), &[20]);
    let mut dies = Holder::start(&[], gpu.path(), &[500]);
    for holder in [&mut first, &mut dies, &mut last] {
        holder.begin();
        holder.said();
    }
    dies.kill();
    let bytes = |gpu: &Gpu| gpu.holders().unwrap().iter().map(|holder| holder.bytes / MIB).collect::<Vec<_>>();
    assert_eq!(bytes(gpu), [10, 20]);
    let mut next = Holder::start(&[], gpu.path(), &[40]);
    next.begin();
    next.said();
    assert_eq!(bytes(gpu), [10, 40, 20], "in the slot between");
}

#[test]
fn a_reader_sees_pids_of_an_inner_namespace_as_its_own_numbers_them() {
    let place = Place::new();
    let gpu = place.gpu();
    let unshare = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"];
    let mut inside: Vec<_> = (0..2).map(|_| Holder::start(&unshare, gpu.path(), &[100])).collect();
    inside.iter_mut().for_each(Holder::begin);
    // Both are process 1 of their own namespace, and are still told apart.
    assert_eq!(inside.iter_mut().map(Holder::said).collect::<Vec<_>>(), [(100, 1), (100, 1)]);
    let holders = gpu.holders().unwrap();
    assert_eq!(holders.iter().map(|holder| holder.bytes / MIB).sum::<u64>(), 200);
    let pids: Vec<_> = holders.iter().map(|holder| holder.pid.unwrap()).collect();
    assert_ne!(pids[0], pids[1]);
    for pid in pids {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        assert!(status.lines().any(|line| line.starts_with("NSpid:") && line.ends_with("\t1")), "{status}");
    }
}

#[test]
fn a_process_sees_itself_and_gives_back_what_it_holds_when_its_last_user_leaves() {
    let place = Place::new();
    let gpu = place.gpu();
    assert!(matches!(gpu.charge(Charge::Bytes(1)), Err(StateError::NotJoined)));
    gpu.join(HolderKind::Compute).unwrap();
    gpu.join(HolderKind::Compute).unwrap();
    gpu.charge(Charge::Bytes(100 * MIB)).unwrap();
    let me = &gpu.holders().unwrap()[0];
    assert_eq!((me.pid, me.bytes / MIB), (Some(std::process::id()), 100));
    assert!(
        matches!(gpu.charge(Charge::Bytes(909 * MIB)), Err(StateError::OutOfMemory { free, .. }) if free == 908 * MIB)
    );
    gpu.leave().unwrap();
    assert_eq!(gpu.usage().unwrap().used / MIB, 100);
    gpu.leave().unwrap();
    assert_eq!(gpu.holders().unwrap(), []);
}

#[test]
fn opening_a_gpu_again_keeps_what_this_process_holds() {
    let place = Place::new();
    let gpu = place.gpu();
    gpu.join(HolderKind::Foreign).unwrap();
    gpu.charge(Charge::Bytes(MIB)).unwrap();
    // By another name, as a bind mount is: the file decides.
    let other = place.dir.path().join("other");
    std::fs::hard_link(gpu.path(), &other).unwrap();
    assert!(std::ptr::eq(Gpu::open(&other).unwrap(), gpu));
    assert!(std::ptr::eq(place.dir.gpus().unwrap()[0], gpu));
    assert_eq!(gpu.usage().unwrap().used, MIB);
}

#[test]
fn a_listener_that_sleeps_hears_the_newest_xids_and_never_a_wrong_one() {
    let place = Place::new();
    let gpu = place.gpu();
    (1..=1000).for_each(|xid| gpu.push_xid(xid).unwrap());
    let mut position = 0;
    let mut heard = Vec::new();
    while let Some((xid, behind)) = gpu.xid_at(position) {
        heard.push(xid);
        position = behind;
    }
    assert!(heard.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{heard:?}");
    assert_eq!((heard.last(), position), (Some(&1000), 1000));
}

#[test]
fn a_file_that_is_no_gpu_is_passed_over_and_refused() {
    let place = Place::new();
    let gpu = place.gpu();
    let other = place.dir.gpus_dir().join("notes");
    std::fs::write(&other, "nothing").unwrap();
    assert!(matches!(Gpu::open(&other), Err(StateError::NotAGpu(path)) if path == other));
    std::fs::write(&other, vec![0; usize::try_from(gpu.path().metadata().unwrap().len()).unwrap()]).unwrap();
    assert!(matches!(Gpu::open(&other), Err(StateError::NotAGpu(_))));
    assert_eq!(place.dir.gpus().unwrap().len(), 1);
    assert_eq!(SimDir::new(place.dir.path().join("nowhere")).gpus().unwrap().len(), 0);
}
