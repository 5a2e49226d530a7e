//! A ledger that was damaged in any way is never taken for a ledger.

use super::*;

fn ledger() -> Ledger {
    Ledger {
        boot_id: "boot-1".into(),
        agent_epoch: 3,
        token: Token { epoch: 3, sequence: 9 },
        floor: Some(Epoch { incarnation: "i".into(), number: 7 }),
        ..Ledger::default()
    }
}

fn marker(boot: &str, epoch: u32) -> Marker {
    Marker { boot_id: boot.into(), agent_epoch: epoch, floor: None }
}

#[test]
fn what_is_written_is_read_back_and_nothing_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path().join("agent.json"));
    assert_eq!(store.read::<Marker>().unwrap(), None);
    store.write(&marker("boot-1", 3)).unwrap();
    assert_eq!(store.read::<Marker>().unwrap(), Some(marker("boot-1", 3)));
}

#[test]
fn a_torn_or_altered_file_is_never_read_as_another_marker() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.json");
    let store = Store::new(&path);
    store.write(&marker("boot-1", 3)).unwrap();
    let good = std::fs::read(&path).unwrap();
    for at in 0..good.len() {
        std::fs::write(&path, &good[..at]).unwrap();
        assert!(store.read::<Marker>().is_err(), "torn at {at}");
        let mut bad = good.clone();
        bad[at] ^= 1;
        std::fs::write(&path, &bad).unwrap();
        assert!(!matches!(store.read::<Marker>(), Ok(Some(read)) if read != marker("boot-1", 3)), "a bit at {at}");
    }
}

#[test]
fn a_file_that_cannot_be_used_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.json");
    std::fs::write(&path, "{").unwrap();
    let aside = Store::new(&path).set_aside().unwrap();
    assert!(!path.exists() && aside.exists());
    assert!(Store::new(&path).set_aside().is_ok(), "nothing there is no error");
}

#[test]
fn a_start_is_judged_by_both_files_and_the_boot() {
    let damaged = || Err(Failure::Damaged { path: "x".into(), what: "torn" });
    let cases = [
        (Ok(None), Ok(None), Start::First),
        (Ok(Some(ledger())), Ok(None), Start::Continue(Box::new(ledger()))),
        (Ok(None), Ok(Some(marker("boot-1", 4))), Start::Quarantine(marker("boot-1", 4))),
        (Ok(None), Ok(Some(marker("boot-0", 4))), Start::AfterReboot(marker("boot-0", 4))),
        (damaged(), Ok(Some(marker("boot-1", 4))), Start::Quarantine(marker("boot-1", 4))),
        (damaged(), Ok(Some(marker("boot-0", 4))), Start::AfterReboot(marker("boot-0", 4))),
    ];
    for (ledger, marker, expect) in cases {
        assert_eq!(judge(ledger, marker, "boot-1"), expect);
    }
    assert!(matches!(judge(damaged(), Ok(None), "boot-1"), Start::Quarantine(_)));
    assert!(matches!(judge(Ok(None), damaged_marker(), "boot-1"), Start::Quarantine(_)));
}

fn damaged_marker() -> Result<Option<Marker>, Failure> {
    Err(Failure::Damaged { path: "x".into(), what: "torn" })
}

#[test]
fn a_ledger_of_another_boot_gives_its_floor_and_epoch_but_no_lease() {
    let Start::AfterReboot(found) = judge(Ok(Some(ledger())), Ok(Some(marker("boot-1", 2))), "boot-2") else {
        panic!("a reboot")
    };
    assert_eq!((found.agent_epoch, found.floor), (3, ledger().floor));
}

#[test]
fn the_agents_epoch_never_falls() {
    let Start::Continue(found) = judge(Ok(Some(ledger())), Ok(Some(marker("boot-1", 5))), "boot-1") else {
        panic!("the same boot")
    };
    assert_eq!(found.agent_epoch, 5);
}
