//! Looking at a machine's leases and steering them: lists and forms, draining, cleaning up, preempting, giving back, and the screens of a terminal.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "what a failing test shows")]

mod bed;

use std::path::Path;
use std::process::Stdio;

use bed::{Bed, MEMBOSS, Running, Terminal};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// A command that says that it is there and saves its work when it is asked to go.
const SAVES: &str = "trap 'echo saved; exit 5' TERM; echo there; while :; do sleep 0.05; done";

/// Holds so much under that name.
fn holder(bed: &Bed, name: &str, more: &[&str]) -> Running {
    let named = ["run", "--name", name, "--label", "nightly run"];
    let mut holder = bed.start(&[&named, more, &["--", "sh", "-c", SAVES]].concat());
    holder.says("there");
    holder
}

/// A terminal on which a command runs; its exit code is the command's.
fn on_terminal(bed: &Bed, command: &str) -> Terminal {
    let mut script = bed.program("script", &["--quiet", "--return", "--flush", "--command", command, "/dev/null"]);
    Terminal::start(&mut script)
}

#[test]
fn everybody_sees_the_machine_in_every_form() {
    let bed = Bed::new(2);
    let _first = holder(&bed, "first", &["--vram", "20Gi", "--gpu", &bed.uuid(0), "--ram", "1Gi"]);
    let mut second = bed.start(&["run", "--name", "second", "--vram", "20Gi", "--gpu", &bed.uuid(0), "--", "true"]);
    second.says("place 1");

    let machine = bed.json(&["vram", "status"]);
    let gpu = &machine["gpus"][0];
    assert_eq!(
        (&machine["node"], &gpu["leased_mib"], &gpu["free_mib"]),
        (&"desk".into(), &20_480.into(), &3456.into())
    );
    assert_eq!((&machine["gpus"][1]["leased_mib"], &machine["ram"]["leased_mib"]), (&0.into(), &1024.into()));
    let text = bed.ask(&["vram", "status"]).out;
    assert!(
        text.contains("[####################....]") && text.contains("23936Mi") && !text.contains('\x1b'),
        "{text}"
    );
    assert!(!text.contains(&bed.uuid(0)) && bed.ask(&["vram", "status", "-o", "wide"]).out.contains(&bed.uuid(0)));

    let (first, waits) = (bed.lease(&Bed::mine("first")).unwrap(), bed.lease(&Bed::mine("second")).unwrap());
    assert_eq!((&first["state"], &first["gpus"][0]["uuid"]), (&"Active".into(), &bed.uuid(0).into()));
    assert_eq!(first["holder"]["label"], "nightly run");
    assert_eq!((&waits["state"], &waits["queue"]["position"]), (&"Waiting".into(), &1.into()));
    let yaml = bed.ask(&["lease", "list", "-o", "yaml"]).out;
    let same: Vec<Value> = serde_saphyr::from_str(&yaml).unwrap();
    assert_eq!(same.len(), 2, "{yaml}");
    assert_eq!(same.iter().find(|lease| lease["state"] == "Active").unwrap()["gpus"], first["gpus"]);
    let table = bed.ask(&["lease", "list"]).out;
    assert!(table.contains("gpu0:20Gi") && table.contains("#1 NoRoom") && !table.contains("UID"), "{table}");
    assert!(bed.ask(&["lease", "list", "-o", "wide"]).out.contains("UID"));

    let why = bed.ask(&["lease", "why", &Bed::mine("second")]);
    assert!(why.out.contains("is Waiting") && why.out.contains("NoRoom"), "{why:?}");
    let nobody = bed.ask(&["lease", "why", &Bed::mine("nobody")]);
    assert!(nobody.code == 1 && nobody.err.contains("no lease"), "{nobody:?}");
    let top = bed.ask(&["vram", "top"]);
    assert!(
        top.code == 0 && top.out.contains("23936Mi") && top.out.contains("#1 NoRoom"),
        "once, without a terminal: {top:?}"
    );
    assert_eq!(bed.json(&["vram", "top"])["leases"].as_array().unwrap().len(), 2);
}

#[test]
fn a_watcher_is_told_each_change() {
    let bed = Bed::new(1);
    let mut watcher = bed.start(&["lease", "list", "--watch", "-o", "json"]);
    let held = holder(&bed, "one", &["--vram", "2Gi"]);
    let told: Value = serde_json::from_str(&watcher.says("\"Active\"")).unwrap();
    assert_eq!(told[0]["lease"], Bed::mine("one"));
    held.signal(Signal::SIGTERM);
    let told: Value = serde_json::from_str(&watcher.says("\"Ended\"")).unwrap();
    assert_eq!(told[0]["lease"], Bed::mine("one"));
}

#[test]
fn a_watcher_to_which_nobody_listens_any_more_ends() {
    let bed = Bed::new(1);
    let watch = format!("{MEMBOSS} lease list --watch -o json | head -1");
    let mut watcher = Running::start(&mut bed.program("sh", &["-c", &watch]));
    let held = holder(&bed, "one", &["--vram", "2Gi"]);
    watcher.says("\"Active\"");
    held.signal(Signal::SIGTERM);
    assert_eq!(watcher.ends().0, 0);
}

#[test]
fn draining_asks_everybody_to_go_and_grants_nothing_until_it_is_undone() {
    let bed = Bed::new(2);
    let mut first = holder(&bed, "first", &["--vram", "2Gi", "--gpu", "0"]);
    let second = holder(&bed, "second", &["--vram", "2Gi", "--gpu", &bed.uuid(1)]);

    let would = bed.json(&["vram", "drain", "0", "--dry-run"]);
    assert_eq!(would["remaining"][0]["lease"], Bed::mine("first"), "{would}");
    assert_eq!((would["remaining"].as_array().unwrap().len(), &would["dry_run"]), (1, &true.into()));
    let nobody_asked = bed.ask(&["vram", "drain", "0"]);
    assert!(nobody_asked.code == 2 && nobody_asked.err.contains("--yes"), "{nobody_asked:?}");
    assert_eq!(bed.lease(&Bed::mine("first")).unwrap()["state"], "Active", "neither has changed anything");
    for wrong in [
        &["vram", "drain"][..],
        &["vram", "drain", "0", "--node"],
        &["vram", "drain", "7", "--yes"],
        &["vram", "drain", "0", "--yes", "--deadline", "0s"],
    ] {
        assert_eq!(bed.ask(wrong).code, 2, "{wrong:?}");
    }

    let mut drain = bed.start(&["vram", "drain", "0", "--yes", "--deadline", "1m"]);
    drain.says(&format!("0 gone, 1 still there: {}", Bed::mine("first")));
    first.says("has to go within");
    assert_eq!(first.ends().0, 5, "it had its notice");
    drain.says("empty: 1 gone");
    assert_eq!(drain.ends().0, 0);
    let on_first = ["run", "--vram", "1Gi", "--gpu", &bed.uuid(0), "--no-wait", "--", "true"];
    assert_eq!(bed.ask(&on_first).code, 75);
    let other = bed.ask(&["vram", "drain", "--node", "--undo"]);
    assert!(other.code != 0 && other.err.contains(&bed.uuid(0)), "that GPU is closed still: {other:?}");
    assert_eq!(bed.lease(&Bed::mine("second")).unwrap()["state"], "Active", "the other GPU is not concerned");
    assert_eq!(bed.json(&["vram", "drain", "0", "--undo"]), json!({ "node": false, "all": false, "gpus": ["0"] }));
    let everything = bed.json(&["vram", "drain", "--all", "--dry-run"]);
    assert_eq!(everything["remaining"][0]["lease"], Bed::mine("second"), "{everything}");
    assert_eq!(bed.ask(&on_first).code, 0);
    drop(second);
}

#[test]
fn a_holder_is_asked_to_go_by_hand_with_notice_or_at_once() {
    let bed = Bed::new(1);
    let mut first = holder(&bed, "first", &["--vram", "20Gi"]);
    let name = Bed::mine("first");
    let mut waits = bed.start(&["run", "--name", "waits", "--vram", "20Gi", "--", "true"]);
    waits.says("place 1");
    let would = bed.json(&["lease", "preempt", &name, "--dry-run"]);
    assert_eq!(
        (&would["freed_gpus"][0]["memory_mib"], &would["waiting"][0]),
        (&20_480.into(), &Bed::mine("waits").into())
    );
    let nobody_asked = bed.ask(&["lease", "preempt", &name]);
    assert!(nobody_asked.code == 2 && nobody_asked.err.contains("--yes"), "{nobody_asked:?}");
    assert_eq!(bed.lease(&name).unwrap()["state"], "Active");

    let done = bed.json(&["lease", "preempt", &name, "--yes"]);
    assert_eq!(done["lease"]["state"], "Revoking", "{done}");
    first.says("has to go within");
    assert_eq!(first.ends().0, 5);
    assert_eq!(waits.ends().0, 0);

    let mut at_once = holder(&bed, "at-once", &["--vram", "20Gi", "--notice-signal", "none"]);
    let done = bed.ask(&["lease", "preempt", &Bed::mine("at-once"), "--yes", "--force"]);
    assert_eq!(done.code, 0, "{done:?}");
    at_once.says("saved");
    assert_eq!(at_once.ends().0, 5);
}

#[test]
fn what_is_yours_can_be_given_back_and_its_command_is_asked_to_end() {
    let bed = Bed::new(1);
    let mut held = holder(&bed, "mine", &["--vram", "20Gi"]);
    let nobody_asked = bed.ask(&["lease", "release", &Bed::mine("mine")]);
    assert!(nobody_asked.code == 2 && nobody_asked.err.contains("--yes"), "{nobody_asked:?}");
    let done = bed.ask(&["lease", "release", "--yes", &Bed::mine("mine")]);
    assert!(done.code == 0 && done.err.contains("is given back") && done.out.is_empty(), "{done:?}");
    held.says("the lease is over: Released");
    assert_eq!(held.ends().0, 5);
    let other = holder(&bed, "other", &["--vram", "20Gi"]);
    let done = bed.json(&["lease", "release", "--yes", "other"]);
    assert_eq!(done, json!({ "lease": Bed::mine("other"), "pod": null }));
    assert_eq!(other.ends().0, 5);
    let again = bed.ask(&["lease", "release", "--yes", &Bed::mine("mine")]);
    assert!(again.code == 1 && again.err.contains("no lease"), "{again:?}");
}

#[test]
fn cleaning_up_ends_what_nobody_keeps_and_nothing_else() {
    let bed = Bed::seeing(1, Path::new("proc"));
    // The agent sees the processes of this folder: those that are put there.
    let seen = bed.path().join("proc");
    let see = format!("ln -s /proc/$$ {}/$$ && exec \"$@\"", seen.display());
    let hold = |name: &str, what: &str| {
        let command = [MEMBOSS, "run", "--name", name, what, "64Mi", "--", "sh", "-c", SAVES];
        let mut held = Running::start(&mut bed.program("sh", &[&["-c", &see, "sh"], &command[..]].concat()));
        held.says("there");
        held
    };
    let (mut stale, kept) = (hold("stale", "--vram"), hold("kept", "--vram"));
    let (mut stale_ram, kept_ram) = (hold("stale-ram", "--ram"), hold("kept-ram", "--ram"));
    let sees_all = |words: &[&str]| {
        let command = [&[MEMBOSS], words].concat();
        let output = bed.program("sh", &[&["-c", &see, "sh"], &command[..]].concat()).stdin(Stdio::null()).output();
        bed::Answer::of(output.unwrap())
    };
    let nothing = sees_all(&["vram", "cleanup", "--yes"]);
    assert!(nothing.code == 0 && nothing.out.contains("nothing is stale"), "{nothing:?}");
    let nothing = sees_all(&["ram", "cleanup", "--yes"]);
    assert!(nothing.code == 0 && nothing.out.contains("every lease of RAM is kept"), "{nothing:?}");
    for gone in [&stale, &stale_ram] {
        std::fs::remove_file(seen.join(gone.pid().to_string())).unwrap();
    }
    let nobody_asked = sees_all(&["ram", "cleanup"]);
    assert!(nobody_asked.code == 2 && nobody_asked.err.contains(&Bed::mine("stale-ram")), "{nobody_asked:?}");
    // Those of RAM alone, though another one is stale too.
    let done = sees_all(&["ram", "cleanup", "--yes", "-o", "json"]);
    let told: Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!(
        (&told["ended"][0]["lease"], told["ended"].as_array().unwrap().len()),
        (&Bed::mine("stale-ram").into(), 1)
    );
    stale_ram.says("the lease is over: Exited");
    let would = sees_all(&["vram", "cleanup", "--dry-run", "-o", "json"]);
    let told: Value = serde_json::from_str(&would.out).unwrap();
    assert_eq!(
        (&told["ended"][0]["lease"], &told["ended"][0]["reason"]),
        (&Bed::mine("stale").into(), &"Exited".into())
    );
    assert_eq!((told["ended"].as_array().unwrap().len(), &told["dry_run"]), (1, &true.into()), "{told}");
    let nobody_asked = sees_all(&["vram", "cleanup"]);
    assert!(nobody_asked.code == 2 && nobody_asked.err.contains(&Bed::mine("stale")), "{nobody_asked:?}");
    let done = sees_all(&["vram", "cleanup", "--yes"]);
    assert!(done.code == 0 && done.out.contains("1 ended") && done.out.contains("its process is gone"), "{done:?}");
    stale.says("the lease is over: Exited");
    let list = sees_all(&["lease", "list"]).out;
    assert!(list.contains(&Bed::mine("kept")) && !list.contains(&Bed::mine("stale")), "{list}");
    assert!(list.contains(&Bed::mine("kept-ram")), "{list}");
    drop((kept, kept_ram));
}

#[test]
fn only_root_may_steer_and_others_are_told_so() {
    if !nix::unistd::geteuid().is_root() {
        println!("not root: root's socket is this user's own here, and there is nobody else to be");
        return;
    }
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::CommandExt as _;
    let bed = Bed::new(1);
    let open = std::fs::Permissions::from_mode(0o755);
    for folder in [bed.path().to_owned(), bed.path().join("run")] {
        std::fs::set_permissions(folder, open.clone()).unwrap();
    }
    let program = bed.path().join("memboss");
    std::fs::copy(MEMBOSS, &program).unwrap();
    let nobody = |words: &[&str]| {
        let mut command = bed.program(program.to_str().unwrap(), words);
        bed::Answer::of(command.uid(65_534).gid(65_534).stdin(Stdio::null()).output().unwrap())
    };
    let mut held = holder(&bed, "roots", &["--vram", "2Gi"]);
    let name = Bed::mine("roots");
    assert!(nobody(&["lease", "list"]).out.contains(&name), "everybody may look");
    assert_eq!(nobody(&["run", "--vram", "1Gi", "--", "sh", "-c", "exit 3"]).code, 3, "and lease");
    for steers in [
        &["vram", "drain", "--node", "--yes"][..],
        &["vram", "cleanup", "--yes"],
        &["ram", "cleanup", "--yes"],
        &["lease", "preempt", "--yes", &name],
    ] {
        let answer = nobody(steers);
        assert!(answer.code == 77 && answer.err.contains("node.sock is not for this user"), "{steers:?}: {answer:?}");
    }
    let anothers = nobody(&["lease", "release", "--yes", &name]);
    assert!(anothers.code == 77 && anothers.err.contains("lease preempt --force"), "{anothers:?}");
    held.signal(Signal::SIGTERM);
    held.says("saved");
}

#[test]
fn on_a_terminal_it_asks_and_goes_on_only_if_told_to() {
    let bed = Bed::new(1);
    let held = holder(&bed, "mine", &["--vram", "20Gi"]);
    let name = Bed::mine("mine");
    let ask = format!("{MEMBOSS} lease preempt {name}");
    let mut refused = on_terminal(&bed, &ask);
    refused.says("has to go, after its notice");
    refused.types(b"n\n");
    refused.says("nothing was done");
    assert_eq!(refused.ends(), 1);
    assert_eq!(bed.lease(&name).unwrap()["state"], "Active");
    let mut agreed = on_terminal(&bed, &ask);
    agreed.says("has to go, after its notice");
    agreed.types(b"y\n");
    agreed.says("Revoking");
    assert_eq!(agreed.ends(), 0);
    assert_eq!(held.ends().0, 5);
}

#[test]
fn a_command_has_the_terminal_and_an_interrupt_is_its_own() {
    let bed = Bed::new(1);
    let mut reads =
        on_terminal(&bed, &format!("{MEMBOSS} run --vram 1Gi -- sh -c 'read word; echo heard $word; exit 4'"));
    reads.says("gpu0:1Gi");
    reads.types(b"hello\n");
    reads.says("heard hello");
    assert_eq!(reads.ends(), 4);
    let waits = "trap 'echo interrupted; exit 6' INT; echo there; while :; do sleep 0.05; done";
    let mut interrupted = on_terminal(&bed, &format!("{MEMBOSS} run --vram 1Gi -- sh -c \"{waits}\""));
    interrupted.says("there");
    interrupted.types(b"\x03");
    interrupted.says("interrupted");
    assert_eq!(interrupted.ends(), 6);
}

#[test]
fn a_command_whose_input_comes_from_elsewhere_reads_the_terminal_too() {
    let bed = Bed::new(1);
    let asks = "echo asks; read word </dev/tty; echo heard $word";
    let mut reads = on_terminal(&bed, &format!("{MEMBOSS} run --vram 1Gi -- sh -c '{asks}' </dev/null"));
    reads.says("asks");
    reads.types(b"hello\n");
    reads.says("heard hello");
    assert_eq!(reads.ends(), 0);
}

#[test]
fn a_shell_stops_and_continues_it_with_its_command_as_one_job() {
    let bed = Bed::new(1);
    let mut shell = on_terminal(&bed, "bash --norc --noprofile -i");
    shell.types(format!("PS1=; {MEMBOSS} run --vram 1Gi --name job -- sed -u s/^/heard-/\n").as_bytes());
    shell.says("gpu0:1Gi");
    shell.types(b"first\n");
    shell.says("heard-first");
    shell.types(b"\x1a");
    shell.says("Stopped");
    shell.types(b"echo the shell is back: $((40 + 2))\n");
    shell.says("the shell is back: 42");
    assert_eq!(bed.lease(&Bed::mine("job")).unwrap()["state"], "Active", "its lease goes on");
    shell.types(b"fg\n");
    shell.types(b"second\n");
    shell.says("heard-second");
    shell.types(b"\x04");
    shell.types(b"echo ended: $?; exit 9\n");
    shell.says("ended: 0");
    assert_eq!(shell.ends(), 9);
}

#[test]
fn the_live_screen_shows_leases_as_they_come_and_goes_by_q() {
    let bed = Bed::new(1);
    let mut top = on_terminal(&bed, &format!("stty rows 30 columns 120; {MEMBOSS} vram top; echo over $?"));
    let held = holder(&bed, "seen", &["--vram", "20Gi"]);
    top.says(&Bed::mine("seen"));
    assert!(top.says("\x1b[?1049h").contains("SIM-24G"), "it has a screen of its own");
    top.types(b"q");
    top.says("\x1b[?1049l");
    top.says("over 0");
    drop(held);
}
