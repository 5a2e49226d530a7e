//! `memboss run` as it is used: what the command gets, how it ends, and what becomes of it and of its lease when anything else ends first.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "what a failing test shows")]

mod bed;

use bed::{Bed, MEMBOSS, Running, built, lives, until};
use nix::sys::signal::Signal;

/// A command that says that it is there and goes on until it is ended.
const STAYS: [&str; 3] = ["sh", "-c", "echo there; exec sleep 1000"];
/// One that saves its work when it is asked to go.
const SAVES: [&str; 3] = ["sh", "-c", "trap 'echo saved; exit 5' TERM; echo there; while :; do sleep 0.05; done"];
/// One that does not go.
const STUBBORN: [&str; 3] = ["sh", "-c", "trap 'echo no' TERM; echo there; while :; do sleep 0.05; done"];

/// In a session of their own: one that does not go, and one that does.
const APART_STUBBORN: &str =
    "setsid sh -c \"trap '' TERM; echo apart \\$\\$; exec >/dev/null 2>&1; while :; do sleep 0.05; done\"";
const APART_SAVES: &str =
    "setsid sh -c \"trap 'echo apart: saved; exit' TERM; echo apart \\$\\$; while :; do sleep 0.05; done\"";

fn with<'a>(arguments: &[&'a str], command: &[&'a str]) -> Vec<&'a str> {
    [&["run"], arguments, &["--"], command].concat()
}

#[test]
fn a_command_gets_what_was_granted_and_its_exit_code_is_its_own() {
    let bed = Bed::new(2);
    let tells = "echo $CUDA_VISIBLE_DEVICES $MEMBOSS_LEASE $MEMBOSS_CLASS $MEMBOSS_VRAM_MIB $MEMBOSS_RAM_MIB; exit 7";
    let asked = ["--vram", "8Gi", "--gpus", "2", "--ram", "1Gi", "--class", "high", "--name", "job"];
    let answer = bed.ask(&with(&asked, &["sh", "-c", tells]));
    let (first, second) = (bed.uuid(0), bed.uuid(1));
    let told: Vec<&str> = answer.out.split_whitespace().collect();
    let mut gpus: Vec<&str> = told[0].split(',').collect();
    gpus.sort_unstable();
    let mut both = [first.as_str(), second.as_str()];
    both.sort_unstable();
    assert_eq!(gpus, both, "{answer:?}");
    assert_eq!(told[1..], [Bed::mine("job").as_str(), "high", "8192,8192", "1024"], "{answer:?}");
    assert_eq!(answer.code, 7);
    assert!(answer.err.contains("gpu0:8Gi"), "it says what was granted: {answer:?}");

    let tells = "echo ${CUDA_VISIBLE_DEVICES-unset}";
    assert_eq!(bed.ask(&with(&["--vram", "1Gi", "--no-env"], &["sh", "-c", tells])).out, "unset\n");
    assert_eq!(bed.ask(&with(&["--ram", "1Gi"], &["sh", "-c", tells])).out, "unset\n", "a lease of RAM hides no GPU");
    let quiet = bed.ask(&with(&["--vram", "50%", "-q"], &["sh", "-c", "echo $MEMBOSS_VRAM_MIB"]));
    assert_eq!((quiet.out.trim().parse::<u64>().unwrap() / 256, quiet.err.as_str()), (23_936 / 2 / 256, ""));
    assert_eq!(bed.ask(&with(&["--vram", "1Gi"], &["sh", "-c", "kill -TERM $$"])).code, 128 + 15);
    assert_eq!(bed.ask(&with(&["--vram", "1Gi"], &["no-such-command"])).code, 127);
    let plain = bed.path().join("plain");
    std::fs::write(&plain, "no program").unwrap();
    assert_eq!(bed.ask(&with(&["--vram", "1Gi"], &[plain.to_str().unwrap()])).code, 126);
    until("nothing is left of any of them", || {
        bed.json(&["lease", "list"]).as_array().unwrap().is_empty().then_some(())
    });
}

#[test]
fn a_waiter_is_told_its_place_and_why_and_gets_what_another_gives_back() {
    let bed = Bed::new(1);
    let mut first = bed.start(&with(&["--vram", "20Gi", "--name", "first"], &STAYS));
    first.says("there");
    let mut second = bed.start(&with(&["--vram", "20Gi"], &["echo", "mine now"]));
    let told = second.says("waiting for 20Gi of a GPU");
    assert!(told.contains("place 1") && told.contains("3456Mi"), "{told}");
    first.signal(Signal::SIGTERM);
    let (code, _) = first.ends();
    assert_eq!(code, 128 + 15, "the signal was passed on, and the command died of it");
    second.says("mine now");
    assert_eq!(second.ends().0, 0);
}

#[test]
fn what_is_not_granted_says_so_by_its_exit_code() {
    let bed = Bed::new(1);
    let mut holder = bed.start(&with(&["--vram", "20Gi"], &STAYS));
    holder.says("there");
    for (asked, words) in [
        (vec!["--vram", "20Gi", "--no-wait"], "3456Mi"),
        (vec!["--vram", "20Gi", "--timeout", "50ms"], "the time to wait is over"),
        (vec!["--vram", "100Gi"], "could never be granted"),
        (vec!["--ram", "100Ti"], "could never be granted"),
    ] {
        let answer = bed.ask(&with(&asked, &["echo", "never"]));
        assert!(answer.code == 75 && answer.err.contains(words) && answer.out.is_empty(), "{asked:?}: {answer:?}");
    }
    for (asked, code, words) in [
        (["run", "--dry-run", "--vram", "2Gi"], 0, "granted at once on gpu0:2Gi"),
        (["run", "--dry-run", "--vram", "20Gi"], 75, "it would wait"),
        (["run", "--dry-run", "--vram", "100Gi"], 75, "could never be granted"),
        (["run", "--dry-run", "--ram", "100Ti"], 75, "could never be granted"),
    ] {
        let answer = bed.ask(&asked);
        assert!(answer.code == code && answer.out.contains(words), "{asked:?}: {answer:?}");
    }
    let mut waits = bed.start(&with(&["--vram", "20Gi", "--name", "waits"], &["echo", "never"]));
    waits.says("place 1");
    waits.signal(Signal::SIGINT);
    assert_eq!(waits.ends().0, 128 + 2);
    until("nobody waits any more", || bed.lease(&Bed::mine("waits")).is_none().then_some(()));
}

#[test]
fn memory_comes_free_when_the_command_is_killed() {
    let bed = Bed::new(1);
    let workload = built("memboss-workload");
    let alloc = [workload.to_str().unwrap(), "--alloc", "18Gi", "--on-notice", "ignore"];
    let mut holder = bed.start(&with(&["--vram", "20Gi", "--name", "holds"], &alloc));
    holder.says("\"allocated\"");
    until("its use is seen to be its own", || {
        let used = bed.lease(&Bed::mine("holds"))?["holder"]["used_mib"].as_u64();
        (used == Some(18 * 1024)).then_some(())
    });
    let pid = child_of(holder.pid(), "memboss-workloa");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    assert_eq!(holder.ends().0, 128 + 9);
    let next = bed.ask(&with(&["--vram", "22Gi"], &["echo", "mine now"]));
    assert_eq!((next.code, next.out.as_str(), bed.used_mib(0)), (0, "mine now\n", 0));
}

#[test]
fn nothing_goes_on_without_a_lease_when_run_itself_is_killed() {
    let bed = Bed::new(1);
    let workload = built("memboss-workload");
    let below = format!("echo below $$; exec {} --alloc 18Gi --on-notice ignore", workload.display());
    let nested = format!("sh -c '{below}' & wait");
    let mut holder = bed.start(&with(&["--vram", "20Gi"], &["sh", "-c", &nested]));
    let below: i32 = holder.says("below").rsplit_once(' ').unwrap().1.parse().unwrap();
    holder.says("\"allocated\"");
    holder.signal(Signal::SIGKILL);
    until("what the command started has ended too", || (!lives(below)).then_some(()));
    let next = bed.ask(&with(&["--vram", "22Gi"], &["echo", "mine now"]));
    assert_eq!((next.code, bed.used_mib(0)), (0, 0), "{next:?}");

    let mut stubborn = bed.start(&with(&["--vram", "20Gi", "--kill-after", "200ms"], &STUBBORN));
    stubborn.says("there");
    let pid = child_of(stubborn.pid(), "sh");
    stubborn.signal(Signal::SIGKILL);
    stubborn.says("no");
    until("it was asked, and then killed", || (!lives(pid)).then_some(()));
}

#[test]
fn what_a_command_leaves_behind_ends_with_its_lease() {
    let bed = Bed::new(1);
    let mut leaves = bed.start(&with(&["--vram", "1Gi"], &["sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo left $!"]));
    let left: i32 = leaves.says("left").rsplit_once(' ').unwrap().1.parse().unwrap();
    assert_eq!(leaves.ends().0, 0);
    until("it is gone", || (!lives(left)).then_some(()));
}

#[test]
fn what_left_the_commands_process_group_ends_with_it_too() {
    let bed = Bed::new(1);
    let asked = ["--vram", "1Gi", "--kill-after", "300ms", "--name", "job"];
    // It outlives its parent, does not go, and is found all the same; the exit code is the command's.
    let told = bed.path().join("told");
    let leaves = format!("({APART_STUBBORN} &); until [ -e {} ]; do sleep 0.05; done; exit 3", told.display());
    let mut command = bed.start(&with(&asked, &["sh", "-c", &leaves]));
    let apart: i32 = command.says("apart").rsplit_once(' ').unwrap().1.parse().unwrap();
    std::fs::write(&told, "").unwrap();
    command.says("what the command left behind did not go");
    assert_eq!(command.ends().0, 3);
    assert!(!lives(apart));

    // When its lease is over, all of it is asked, and then killed.
    let both = format!("{APART_SAVES} & {}", STUBBORN[2]);
    let mut command = bed.start(&with(&asked, &["sh", "-c", &both]));
    let apart: i32 = command.says("apart").rsplit_once(' ').unwrap().1.parse().unwrap();
    command.says("there");
    assert_eq!(bed.ask(&["lease", "release", "--yes", &Bed::mine("job")]).code, 0);
    command.says("apart: saved");
    assert_eq!(command.ends().0, 128 + 9);
    assert!(!lives(apart));

    // And when `run` itself is killed.
    let both = format!("{APART_STUBBORN} & {}", STUBBORN[2]);
    let mut command = bed.start(&with(&asked, &["sh", "-c", &both]));
    let apart: i32 = command.says("apart").rsplit_once(' ').unwrap().1.parse().unwrap();
    command.says("there");
    command.signal(Signal::SIGKILL);
    until("what left the group is gone too", || (!lives(apart)).then_some(()));
}

#[test]
fn whoever_was_there_before_the_command_is_left_alone() {
    let bed = Bed::new(1);
    let script = format!("sleep 1000 >/dev/null 2>&1 & echo before $!; exec {MEMBOSS} run --vram 1Gi -- true");
    let mut running = Running::start(&mut bed.program("sh", &["-c", &script]));
    let before: i32 = running.says("before ").trim_start_matches("before ").parse().unwrap();
    assert_eq!(running.ends().0, 0, "it is not waited for");
    assert!(lives(before), "nor ended");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(before), Signal::SIGKILL).unwrap();
}

#[test]
fn what_was_ignored_from_the_beginning_stays_so_for_the_command_too() {
    let bed = Bed::new(1);
    let command = "trap 'echo heard' USR1; echo there; while :; do sleep 0.05; done";
    let run = "trap '' HUP; exec \"$0\" run --vram 1Gi -- sh -c \"$1\"";
    let mut nohup = bed::Running::start(&mut bed.program("sh", &["-c", run, bed::MEMBOSS, command]));
    nohup.says("there");
    nohup.signal(Signal::SIGHUP);
    nohup.signal(Signal::SIGUSR1);
    nohup.says("heard");
    let pid = child_of(nohup.pid(), "sh");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGHUP).unwrap();
    nohup.signal(Signal::SIGUSR1);
    nohup.says("heard");
    nohup.signal(Signal::SIGTERM);
    assert_eq!(nohup.ends().0, 128 + 15);
}

#[test]
fn after_a_notice_was_withdrawn_a_signal_is_passed_on_like_any_other() {
    let bed = Bed::new(1);
    let command = "trap 'echo notice' USR1; trap 'echo asked' TERM; echo there; while :; do sleep 0.05; done";
    let asked = ["--vram", "20Gi", "--class", "batch", "--protection", "1ms", "--notice", "5m"];
    let mut holder = bed.start(&with(&[&asked[..], &["--notice-signal", "USR1"]].concat(), &["sh", "-c", command]));
    holder.says("there");
    let urgent = bed.start(&with(&["--vram", "20Gi", "--class", "urgent"], &["echo", "never"]));
    holder.says("has to go within");
    holder.says("notice");
    urgent.signal(Signal::SIGINT);
    assert_eq!(urgent.ends().0, 128 + 2);
    holder.says("the notice is withdrawn");
    // Whoever is asked because its time is up is asked once.
    for _ in 0..2 {
        holder.signal(Signal::SIGTERM);
        holder.says("asked");
    }
}

#[test]
fn a_holder_is_told_for_whom_it_has_to_go_and_can_save_its_work() {
    let bed = Bed::new(1);
    // Long enough that it goes by the notice, not by what comes after it.
    let asked = ["--vram", "20Gi", "--class", "batch", "--protection", "1ms", "--notice", "5m"];
    let mut holder = bed.start(&with(&asked, &SAVES));
    holder.says("there");
    let mut urgent = bed.start(&with(&["--vram", "20Gi", "--class", "urgent", "--name", "vip"], &["echo", "ran"]));
    let told = holder.says("has to go within");
    for words in ["Preempted", &Bed::mine("vip"), "(urgent)", "are needed"] {
        assert!(told.contains(words), "{words}: {told}");
    }
    let (code, said) = holder.ends();
    assert_eq!((code, said.iter().filter(|line| *line == "saved").count()), (5, 1), "{said:#?}");
    urgent.says("ran");
    assert_eq!(urgent.ends().0, 0);
}

#[test]
fn a_notice_can_be_another_signal_and_who_does_not_go_is_ended() {
    let bed = Bed::new(1);
    let command = "trap 'echo heard' USR1; trap 'echo no' TERM; echo there; while :; do sleep 0.05; done";
    let asked = ["--vram", "20Gi", "--class", "batch", "--protection", "1ms", "--notice", "300ms"];
    let more = ["--notice-signal", "USR1", "--kill-after", "300ms"];
    let mut holder = bed.start(&with(&[&asked[..], &more[..]].concat(), &["sh", "-c", command]));
    holder.says("there");
    let mut urgent = bed.start(&with(&["--vram", "20Gi", "--class", "urgent"], &["echo", "ran"]));
    holder.says("has to go within");
    holder.says("heard");
    holder.says("no");
    assert_eq!(holder.ends().0, 128 + 9);
    urgent.says("ran");
    assert_eq!(urgent.ends().0, 0);
}

#[test]
fn an_agent_that_restarts_is_not_noticed_by_the_command() {
    let mut bed = Bed::new(1);
    let mut holder = bed.start(&with(&["--vram", "20Gi", "--name", "stays"], &SAVES));
    holder.says("there");
    let before = bed.lease(&Bed::mine("stays")).unwrap();
    bed.kill_agent();
    holder.says("the agent is gone; the command goes on");
    bed.start_agent();
    holder.says("the lease goes on");
    let after = bed.lease(&Bed::mine("stays")).unwrap();
    assert_eq!(
        (&after["token"], &after["gpus"], &after["state"]),
        (&before["token"], &before["gpus"], &"Active".into())
    );
    holder.signal(Signal::SIGTERM);
    let (code, said) = holder.ends();
    assert!(code == 5 && said.iter().any(|line| line == "saved"), "{code}: {said:#?}");
}

#[test]
fn a_waiter_keeps_its_place_while_the_agent_restarts() {
    let mut bed = Bed::new(1);
    let mut holder = bed.start(&with(&["--vram", "20Gi"], &STAYS));
    holder.says("there");
    let mut waits = bed.start(&with(&["--vram", "20Gi"], &["echo", "mine now"]));
    waits.says("place 1");
    bed.kill_agent();
    waits.says("the agent is gone");
    bed.start_agent();
    holder.says("the lease goes on");
    holder.signal(Signal::SIGTERM);
    waits.says("mine now");
    assert_eq!(waits.ends().0, 0);
}

#[test]
fn a_command_whose_lease_is_lost_for_good_is_asked_to_end() {
    let mut bed = Bed::new(1);
    let mut holder = bed.start(&with(&["--vram", "20Gi", "--kill-after", "200ms"], &STUBBORN));
    holder.says("there");
    bed.kill_agent();
    bed.forget();
    bed.start_agent();
    holder.says("the lease is lost");
    holder.says("no");
    assert_eq!(holder.ends().0, 128 + 9, "it did not go, and was killed");
}

#[test]
fn a_name_that_is_in_use_is_refused_and_its_holder_left_alone() {
    let bed = Bed::new(1);
    let mut holder = bed.start(&with(&["--vram", "2Gi", "--name", "job"], &SAVES));
    holder.says("there");
    let second = bed.ask(&with(&["--vram", "2Gi", "--name", "job"], &["echo", "never"]));
    assert!(second.code == 2 && second.err.contains(&Bed::mine("job")) && second.out.is_empty(), "{second:?}");
    assert_eq!(bed.lease(&Bed::mine("job")).unwrap()["state"], "Active");
    holder.signal(Signal::SIGTERM);
    assert_eq!(holder.ends().0, 5);
    assert_eq!(bed.ask(&with(&["--vram", "2Gi", "--name", "job"], &["echo", "now"])).out, "now\n");
}

/// The child of that process that runs that program.
fn child_of(parent: i32, program: &str) -> i32 {
    until("the command is there", || {
        let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
        children.split_whitespace().find_map(|pid| {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
            (name.trim() == program).then(|| pid.parse().unwrap())
        })
    })
}
