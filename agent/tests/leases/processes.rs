//! Leases and real processes: their end, the wrong one under a pid, those that do not go or stand still.

use std::process::Stdio;

use memboss_agent::node::Input;
use memboss_agent::node::clients::{ClientInput, Push, Pushed};
use memboss_agent::probes::pidfd::{Sentinels, push};
use memboss_agent::probes::processes::{Process, lives, process};
use memboss_agent_api::v1::{AcquireRequest, Phase};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::sync::mpsc;

use crate::bed::{Bed, acquire, lease, until_phase, vram};
use crate::part::{Part, Role};

#[tokio::test]
async fn the_end_of_a_process_is_noticed_at_once_and_another_with_its_pid_is_not_taken_for_it() {
    let (inputs, mut heard) = mpsc::channel(8);
    let sentinels = Sentinels::new("/proc".into(), inputs);
    let mut child = tokio::process::Command::new("sleep").arg("1000").spawn().unwrap();
    let there = process("/proc".as_ref(), child.id().unwrap()).unwrap();
    sentinels.watch(there);
    child.kill().await.unwrap();
    let gone = |input: Option<Input>| match input {
        Some(Input::Client(ClientInput::Gone(process))) => process,
        other => panic!("{other:?}"),
    };
    assert_eq!(gone(heard.recv().await), there);
    let mut mine = process("/proc".as_ref(), std::process::id()).unwrap();
    mine.started += 1;
    sentinels.watch(mine);
    assert_eq!(gone(heard.recv().await), mine, "that one has ended already");
}

#[tokio::test]
async fn who_is_ended_takes_along_all_that_it_began_but_for_those_that_lease_for_themselves() {
    // Its name is its own to choose, and need not be text.
    let script = r"printf '\377' > /proc/$$/comm
        setsid sleep 1000 & echo its $!; sh -c 'sleep 1000 & echo other $$ $!; wait' & wait";
    let mut command = tokio::process::Command::new("sh");
    let mut first = command.args(["-c", script]).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let there = |pid: &str| process("/proc".as_ref(), pid.parse().unwrap()).unwrap();
    let mut lines = BufReader::new(first.stdout.take().unwrap()).lines();
    // Whichever speaks first.
    let mut said = [lines.next_line().await.unwrap().unwrap(), lines.next_line().await.unwrap().unwrap()];
    said.sort();
    let [its, other] = said.each_ref().map(|line| line.split(' ').skip(1).map(there).collect::<Vec<_>>());
    let (ended, holder, left_alone) = (its[0], other[0], other[1]);

    let (inputs, mut heard) = mpsc::channel(8);
    Sentinels::new("/proc".into(), inputs).watch(ended);
    let kill = |process, others: &[Process]| {
        let pushed = Pushed { process, push: Push::Kill, others: others.iter().copied().collect() };
        push("/proc".as_ref(), &pushed);
    };
    kill(there(&first.id().unwrap().to_string()), &[holder]);
    assert!(!first.wait().await.unwrap().success());
    assert!(matches!(heard.recv().await, Some(Input::Client(ClientInput::Gone(gone))) if gone == ended));
    assert!(lives("/proc".as_ref(), holder).unwrap() && lives("/proc".as_ref(), left_alone).unwrap());
    kill(holder, &[]);
}

#[tokio::test]
async fn an_agent_that_was_begun_by_who_is_ended_goes_on() {
    let mut command = tokio::process::Command::new("sh");
    let script = r#""$0" --exact processes::ends_its_parent --ignored --nocapture; :"#;
    command.args(["-c", script]).arg(std::env::current_exe().unwrap()).env(ENDS_ITS_PARENT, "");
    let mut parent = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut said = String::new();
    parent.stdout.take().unwrap().read_to_string(&mut said).await.unwrap();
    assert!(!parent.wait().await.unwrap().success() && said.contains(STILL_HERE), "{said}");
}

const ENDS_ITS_PARENT: &str = "ENDS_ITS_PARENT";
const STILL_HERE: &str = "it goes on";

#[test]
#[ignore = "another test starts it"]
fn ends_its_parent() {
    // Whoever runs all that is ignored is not to be ended.
    if std::env::var_os(ENDS_ITS_PARENT).is_none() {
        return;
    }
    let parent = process("/proc".as_ref(), std::os::unix::process::parent_id()).unwrap();
    push("/proc".as_ref(), &Pushed { process: parent, push: Push::Kill, others: [].into() });
    println!("{STILL_HERE}");
}

#[tokio::test]
async fn a_holder_that_does_not_go_is_asked_and_then_ended() {
    let bed = Bed::new().await;
    let asked = bed.dir.path().join("asked");
    let role = Role { class: "batch", gib: 20, stubborn: Some(asked.clone()), ..Role::default() };
    let mut holder = Part::begin(&bed.socket(), &role);
    holder.until_active().await;
    bed.is_used_by(holder.pid(), 18);
    let mut urgent = acquire(&bed, AcquireRequest { class: "urgent".into(), ..vram(20) }).await;
    holder.until("REVOKING").await;
    let ended = holder.process.wait().await.unwrap();
    assert!(!ended.success() && asked.exists(), "it was asked first");
    let waits = until_phase(&mut urgent, Phase::Waiting).await;
    assert_eq!(waits.queue.unwrap().reason, "Claimed", "its memory is not seen free yet");
    bed.uses(0);
    until_phase(&mut urgent, Phase::Active).await;
}

#[tokio::test]
async fn a_holder_of_ram_alone_that_does_not_go_is_asked_and_ended_too_and_charged_until_then() {
    let bed = Bed::new().await;
    let asked = bed.dir.path().join("asked");
    let role = Role { class: "batch", gib: 5, ram: true, stubborn: Some(asked.clone()), ..Role::default() };
    let mut holder = Part::begin(&bed.socket(), &role);
    holder.until_active().await;
    let ram = AcquireRequest { class: "urgent".into(), ram_mib: 5 * 1024, ..AcquireRequest::default() };
    let mut urgent = acquire(&bed, ram).await;
    holder.until("STOPPING").await;
    assert_eq!(bed.status().await.ram.unwrap().leased_mib, 5 * 1024, "it has it still");
    assert!(!holder.process.wait().await.unwrap().success() && asked.exists(), "it was asked first");
    until_phase(&mut urgent, Phase::Active).await;
}

#[tokio::test]
async fn a_holder_that_stands_still_keeps_its_lease_until_somebody_higher_needs_it_and_is_ended_then() {
    let bed = Bed::new().await;
    let mut holder = Part::begin(&bed.socket(), &Role { class: "batch", gib: 20, ..Role::default() });
    holder.until_active().await;
    let pid = rustix::process::Pid::from_raw(holder.pid().try_into().unwrap()).unwrap();
    bed.is_used_by(holder.pid(), 18);
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let mut equal = acquire(&bed, AcquireRequest { class: "batch".into(), timeout_ms: 600, ..vram(20) }).await;
    assert_eq!(lease(&until_phase(&mut equal, Phase::Ended).await).reason, "Expired", "its silence frees nothing");
    let mut urgent = acquire(&bed, AcquireRequest { class: "urgent".into(), ..vram(20) }).await;
    assert!(!holder.process.wait().await.unwrap().success(), "it is ended though it stands still");
    bed.uses(0);
    until_phase(&mut urgent, Phase::Active).await;
}

#[tokio::test]
async fn the_end_of_its_process_ends_a_lease_at_once_also_one_that_waits() {
    let bed = Bed::new().await;
    let mut holder = Part::begin(&bed.socket(), &Role { class: "normal", gib: 20, ..Role::default() });
    holder.until_active().await;
    let mut waiter = Part::begin(&bed.socket(), &Role { class: "normal", gib: 20, ..Role::default() });
    waiter.until("WAITING").await;
    bed.is_used_by(holder.pid(), 18);
    bed.until(|status| status.gpus.as_ref().unwrap().gpus[0].used_mib == 18 * 1024).await;
    waiter.process.kill().await.unwrap();
    bed.until(|status| status.leases.len() == 1).await;
    holder.process.kill().await.unwrap();
    let gone = bed.until(|status| status.leases.is_empty()).await;
    assert_eq!(gone.gpus.unwrap().gpus[0].foreign_mib, 18 * 1024, "what the GPU still shows is leased to nobody");
    let mut next = acquire(&bed, vram(20)).await;
    until_phase(&mut next, Phase::Waiting).await;
    bed.uses(0);
    until_phase(&mut next, Phase::Active).await;
}

#[tokio::test]
async fn another_process_of_the_same_user_takes_a_lease_up_with_its_secret_and_another_user_cannot() {
    let bed = Bed::new().await;
    let mut first = Part::begin(&bed.socket(), &Role { class: "normal", gib: 20, ..Role::default() });
    let (lease, secret) = first.until_active().await;
    let resumes = Some((lease.clone(), secret.clone()));
    if rustix::process::geteuid().is_root() {
        let stranger = Role { user: Some(65_534), resumes: resumes.clone(), ..Role::default() };
        let refused = Part::begin(&bed.socket(), &stranger).until("REFUSED").await;
        assert_eq!(refused[1], "PermissionDenied", "{refused:?}");
    }
    let wrong = Role { resumes: Some((lease.clone(), "0123".into())), ..Role::default() };
    let refused = Part::begin(&bed.socket(), &wrong).until("REFUSED").await;
    assert_eq!(refused[1], "PermissionDenied", "{refused:?}");
    let mut second = Part::begin(&bed.socket(), &Role { resumes, ..Role::default() });
    assert_eq!(second.until_active().await.0, lease);
    first.process.kill().await.unwrap();
    let held = bed.status().await.leases;
    assert_eq!((held[0].phase(), held[0].holder.as_ref().unwrap().pid), (Phase::Active, second.pid()));
}

#[tokio::test]
async fn an_agent_that_comes_back_goes_on_with_waiters_and_ends_the_leases_of_those_who_ended_meanwhile() {
    let bed = Bed::patient().await;
    let mut holder = Part::begin(&bed.socket(), &Role { class: "normal", gib: 20, ..Role::default() });
    let (held, secret) = holder.until_active().await;
    let mut waiter = Part::begin(&bed.socket(), &Role { class: "normal", gib: 20, ..Role::default() });
    let waiting = waiter.until("WAITING").await;
    let bed = bed.crash().await;
    holder.until("ALONE").await;
    waiter.until("ALONE").await;
    let resumes = Some((waiting[1].clone(), waiting[2].clone()));
    let mut again = Part::begin(&bed.socket(), &Role { resumes, ..Role::default() });
    again.until("WAITING").await;
    let mut keeper = Part::begin(&bed.socket(), &Role { resumes: Some((held, secret)), ..Role::default() });
    keeper.until_active().await;
    keeper.process.kill().await.unwrap();
    again.until_active().await;
}
