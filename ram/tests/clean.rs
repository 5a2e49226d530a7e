//! Cleaning of real files in this machine's page cache. On a file system that does not tell what is in the cache these tests can show nothing.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use memboss_core::Mib;
use memboss_ram::cache::{Residency, residency};
use memboss_ram::clean::{Ask, Kept, Mode, Outcome};
use memboss_ram::report::Machine;
use tempfile::TempDir;

const SIZE: u64 = 16 << 20;

/// On the disk of the build, unless that tells nothing.
fn directory() -> Option<TempDir> {
    let directory = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let probe = cached(directory.path(), "probe");
    let tells = in_cache(&probe) == Some(SIZE);
    std::fs::remove_file(probe).unwrap();
    tells.then_some(directory)
}

/// A file that is in the cache and written.
fn cached(directory: &Path, name: &str) -> PathBuf {
    let path = directory.join(name);
    let mut file = File::create(&path).unwrap();
    file.write_all(&vec![7; usize::try_from(SIZE).unwrap()]).unwrap();
    file.sync_all().unwrap();
    path
}

fn in_cache(path: &Path) -> Option<u64> {
    match residency(&File::open(path).unwrap()) {
        Residency::Known { cached, .. } => Some(cached),
        Residency::Unknown | Residency::InMemory => None,
    }
}

/// Cleans as if so many minutes had passed.
fn clean(mode: Mode, minutes: u64, root: &Path, change: impl FnOnce(&mut Ask)) -> Outcome {
    let mut ask = Ask { mode, roots: vec![root.to_owned()], target: None, dry_run: false, whole_machine: false };
    change(&mut ask);
    Machine::default().clean(&ask, SystemTime::now() + Duration::from_secs(minutes * 60)).unwrap()
}

#[test]
fn what_nobody_uses_goes_and_what_somebody_has_open_stays() {
    let Some(directory) = directory() else { return };
    let (idle, open) = (cached(directory.path(), "idle"), cached(directory.path(), "open"));
    let _held = File::open(&open).unwrap();
    let outcome = clean(Mode::Aggressive, 0, directory.path(), |_| {});
    assert_eq!((in_cache(&idle), in_cache(&open)), (Some(0), Some(SIZE)), "{outcome:?}");
    assert_eq!((outcome.dropped, outcome.kept[&Kept::InUse]), (Mib::from_bytes_floor(SIZE), 1));
    assert_eq!(outcome.came_back(), Some(Mib::ZERO));
    // Somebody needs it after all.
    std::fs::read(&idle).unwrap();
    assert_eq!(outcome.came_back(), Some(Mib::from_bytes_ceil(SIZE)));
}

#[test]
fn each_mode_spares_what_changed_lately_for_its_time() {
    let Some(directory) = directory() else { return };
    for (mode, spares, drops) in [(Mode::Conservative, 29, 31), (Mode::Balanced, 9, 11)] {
        let path = cached(directory.path(), "file");
        let spared = clean(mode, spares, directory.path(), |_| {});
        assert_eq!((in_cache(&path), spared.kept[&Kept::ChangedLately]), (Some(SIZE), 1), "{mode:?}");
        clean(mode, drops, directory.path(), |_| {});
        assert_eq!(in_cache(&path), Some(0), "{mode:?}");
    }
}

#[test]
fn a_dry_run_touches_nothing_and_a_target_ends_it() {
    let Some(directory) = directory() else { return };
    let (one, two) = (cached(directory.path(), "one"), cached(directory.path(), "two"));
    let told = clean(Mode::Aggressive, 0, directory.path(), |ask| ask.dry_run = true);
    assert_eq!((told.files.len(), told.dropped), (2, Mib::from_bytes_floor(2 * SIZE)));
    assert_eq!((in_cache(&one), in_cache(&two)), (Some(SIZE), Some(SIZE)));
    let done = clean(Mode::Aggressive, 0, directory.path(), |ask| ask.target = Some(Mib::from_mib(8)));
    assert_eq!(done.kept[&Kept::NotReached], 1, "{done:?}");
    assert!(done.files[0].partly && done.dropped >= Mib::from_mib(8), "half of a file was enough: {done:?}");
}

#[test]
fn what_lies_in_memory_itself_is_left_alone() {
    let Ok(directory) = TempDir::new_in("/dev/shm") else { return };
    let path = cached(directory.path(), "file");
    if residency(&File::open(&path).unwrap()) != Residency::InMemory {
        return;
    }
    // A process that another test has just begun may have it open for a moment, until it is a program of its own.
    let outcome = (0..1000)
        .map(|_| clean(Mode::Aggressive, 60, directory.path(), |_| {}))
        .find(|outcome| !outcome.kept.contains_key(&Kept::InUse))
        .unwrap();
    assert_eq!((outcome.kept.get(&Kept::InMemory), outcome.files.len()), (Some(&1), 0), "{outcome:?}");
}
