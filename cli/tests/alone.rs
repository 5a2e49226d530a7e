//! What the command line does without an agent, with wrong arguments, and about itself: its sentences, its exit codes, its manual, completion, the doctor.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "what a failing test shows")]

mod bed;

use std::io::Write as _;
use std::process::{Command, Stdio};

use bed::{Answer, Bed, MEMBOSS};
use serde_json::Value;

fn memboss(words: &[&str]) -> Answer {
    let mut command = Command::new(MEMBOSS);
    command.args(words).env_remove("KUBERNETES_SERVICE_HOST").stdin(Stdio::null());
    Answer::of(command.output().unwrap())
}

#[test]
fn without_an_agent_it_says_where_it_looked_and_what_to_do() {
    let files = tempfile::tempdir().unwrap();
    let nowhere = files.path().join("agent.sock");
    let nowhere = nowhere.to_str().unwrap();
    for words in [
        &["vram", "status"][..],
        &["vram", "top"],
        &["vram", "cleanup"],
        &["vram", "drain", "--node", "--yes"],
        &["lease", "list"],
        &["lease", "list", "--watch"],
        &["lease", "why", "a/b"],
        &["lease", "release", "--yes", "a/b"],
        &["lease", "preempt", "--yes", "a/b"],
        &["run", "--vram", "1Gi", "--", "true"],
        &["run", "--vram", "1Gi", "--dry-run"],
    ] {
        let answer = memboss(&[&["--socket", nowhere, "--node-socket", nowhere], words].concat());
        let told = answer.err.contains(nowhere) && answer.err.contains("start memboss-agent");
        assert!(answer.code == 69 && told && answer.out.is_empty(), "{words:?}: {answer:?}");
    }
    drop(std::os::unix::net::UnixListener::bind(nowhere).unwrap());
    let ended = memboss(&["--socket", nowhere, "vram", "status"]);
    assert!(ended.code == 69 && ended.err.contains("has ended"), "{ended:?}");
}

#[test]
fn wrong_arguments_are_told_the_right_ones() {
    for (words, told) in [
        (&["run", "--vram", "8Gb", "--", "true"][..], "8Gi"),
        (&["run", "--vram", "0", "--", "true"], "8Gi"),
        (&["run", "--vram", "120%", "--", "true"], "1% to 100%"),
        (&["run", "--", "true"], "--vram <SIZE>|--ram <SIZE>"),
        (&["run", "--vram", "-5Gi", "--", "true"], "8Gi"),
        (&["run", "--vram", "1Gi", "--name", "", "--", "true"], "--name"),
        (&["run", "--vram", "1Gi"], "COMMAND"),
        (&["run", "--vram", "1Gi", "--gpus", "0", "--", "true"], "1..=64"),
        (&["run", "--vram", "1Gi", "--class", "top", "--", "true"], "urgent"),
        (&["run", "--vram", "1Gi", "--timeout", "soon", "--", "true"], "30s and 5m"),
        (&["run", "--vram", "1Gi", "--timeout", "1s", "--no-wait", "--", "true"], "cannot be used with"),
        (&["run", "--vram", "1Gi", "--notice", "10m", "--", "true"], "more than 5m"),
        (&["run", "--vram", "1Gi", "--notice-signal", "LOUD", "--", "true"], "USR1"),
        (&["vram", "drain", "0", "--undo", "--dry-run"], "cannot be used with"),
        (&["lease", "why"], "<LEASE>"),
        (&["vram", "status", "-o", "xml"], "yaml"),
        (&["vram", "status", "--by", "socket", "--on", "a"], "leave them out"),
        (&["run", "--by", "api", "--vram", "1Gi", "--", "true"], "run it on the node"),
    ] {
        let answer = memboss(words);
        assert!(answer.code == 2 && answer.err.contains(told), "{words:?}: {answer:?}");
    }
}

#[test]
fn the_manual_is_what_the_command_line_says() {
    let manual = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cli.md");
    let answer = memboss(&["docs", "--check", manual]);
    assert_eq!(answer.code, 0, "{answer:?}");
    let files = tempfile::tempdir().unwrap();
    let old = files.path().join("cli.md");
    std::fs::write(&old, "old").unwrap();
    assert_eq!(memboss(&["docs", "--check", old.to_str().unwrap()]).code, 1);
    let written = std::fs::read_to_string(manual).unwrap();
    for words in ["memboss vram drain", "memboss run", "| 75 |", "--notice-signal"] {
        assert!(written.contains(words), "{words}");
    }
    assert!(!written.contains("memboss guard"), "what is not for people is not in it");
}

#[test]
fn shells_are_told_how_to_complete_its_words() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let answer = memboss(&["completion", shell]);
        assert!(answer.code == 0 && answer.out.contains("preempt") && answer.out.contains("memboss"), "{shell}");
        assert!(!answer.out.contains("guard"), "what is not for people is not completed: {shell}");
    }
    let script = memboss(&["completion", "bash"]).out;
    let mut bash = Command::new("bash").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let ask = "\nCOMP_WORDS=(memboss lease pre); COMP_CWORD=2; _memboss memboss pre lease; echo \"${COMPREPLY[@]}\"\n";
    bash.stdin.take().unwrap().write_all((script + ask).as_bytes()).unwrap();
    let answer = Answer::of(bash.wait_with_output().unwrap());
    assert_eq!((answer.code, answer.out.trim()), (0, "preempt"));
}

#[test]
fn in_a_pod_the_doctor_looks_at_what_a_pod_has_and_says_who_looks_at_the_rest() {
    let bed = Bed::new(1);
    let mut pod = bed.memboss(&["--node-socket", "/nowhere/node.sock", "doctor"]);
    let well = Answer::of(pod.env("KUBERNETES_SERVICE_HOST", "10.0.0.1").output().unwrap());
    let silent = ["root's socket", "ledger", "state"].iter().all(|about| !well.out.contains(about));
    assert!(well.code == 0 && silent && well.out.contains("kubectl memboss doctor"), "{well:?}");
    let mut pod = bed.memboss(&["--socket", "/nowhere/agent.sock", "--node-socket", "/nowhere/node.sock", "doctor"]);
    let ill = Answer::of(pod.env("KUBERNETES_SERVICE_HOST", "10.0.0.1").output().unwrap());
    assert!(ill.code == 1 && ill.out.contains("memboss.dev/agent"), "{ill:?}");
}

#[test]
fn the_doctor_finds_a_well_machine_well_and_says_what_is_wrong_with_another() {
    let bed = Bed::new(1);
    let state = bed.path().join("state");
    let well = |more: &[&str]| bed.ask(&[&["doctor", "--state-dir", state.to_str().unwrap()], more].concat());
    let answer = well(&["-o", "json"]);
    let found: Value = serde_json::from_str(&answer.out).unwrap();
    let verdict = |found: &Value, about: &str| {
        let finding = found.as_array().unwrap().iter().find(|finding| finding["about"] == about);
        finding.unwrap_or_else(|| panic!("{about}: {found:#}")).clone()
    };
    assert_eq!(answer.code, 0, "{answer:?}");
    for about in ["agent's socket", "agent", "root's socket", "boot", "driver", "GPUs", "processes", "clock"] {
        assert_eq!(verdict(&found, about)["verdict"], "ok", "{about}: {found:#}");
    }

    let cdi = bed.path().join("cdi");
    std::fs::create_dir(&cdi).unwrap();
    std::fs::write(cdi.join("nvidia.json"), "{\"kind\": \"nvidia.com/gpu\"}").unwrap();
    let answer = well(&["-o", "json", "--cdi-dir", cdi.to_str().unwrap(), "--nvml-library", "/nowhere.so"]);
    let found: Value = serde_json::from_str(&answer.out).unwrap();
    assert_eq!(verdict(&found, "CDI")["verdict"], "ok");
    let driver = verdict(&found, "driver");
    assert!(driver["verdict"] == "warn" && driver["advice"].as_str().unwrap().contains("--nvml-library"), "{driver}");

    let nowhere = bed.path().join("nowhere/x/agent.sock");
    let nowhere = nowhere.to_str().unwrap();
    let ill = well(&["--socket", nowhere, "--node-socket", nowhere]);
    assert!(ill.code == 1 && ill.err.contains("do not work"), "{ill:?}");
    for words in ["fail  agent's socket", "-> start it", "fail  ledger"] {
        assert!(ill.out.contains(words), "{words}: {ill:?}");
    }
}
