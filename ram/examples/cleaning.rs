//! Measures cleaning of page cache: how fast it is, how long one call to the kernel takes, and what a neighbour that reads from the cache meanwhile feels
//! of it. It makes files below the directory that it is given, which should lie on a disk, asserts nothing, and leaves nothing behind.
//! Run it by `tests/bench.sh cleaning`.
#![expect(clippy::print_stdout, reason = "a benchmark speaks")]

use std::fs::File;
use std::io::{Result, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use memboss_core::Mib;
use memboss_ram::clean::{Ask, Mode, Outcome};
use memboss_ram::report::Machine;

const PIECE: usize = 1 << 20;
/// How often each figure is taken; the medians are told.
const TIMES: usize = 5;
/// The neighbour reads so much at a time.
const BLOCK: usize = 64 << 10;

fn main() -> Result<()> {
    let place = std::env::args().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let work = tempfile::tempdir_in(place)?;
    for (what, number, mib) in [("1 file of 2 GiB", 1, 2048), ("2,000 files of 1 MiB", 2000, 1)] {
        let files = written(&work.path().join(what.replace(' ', "-")), number, mib)?;
        for (name, mode) in
            [("conservative", Mode::Conservative), ("balanced", Mode::Balanced), ("aggressive", Mode::Aggressive)]
        {
            let outcomes = (0..TIMES).map(|_| cleaned(&files, mode)).collect::<Result<Vec<_>>>()?;
            println!("{what}, {name}: {}", told(&outcomes));
        }
    }
    beside(work.path())
}

/// New files of so many MiB each, on the disk.
fn written(directory: &Path, number: usize, mib: usize) -> Result<Vec<PathBuf>> {
    std::fs::create_dir(directory)?;
    let piece = vec![1; PIECE];
    let write = |at: usize| {
        let path = directory.join(at.to_string());
        let mut file = File::create(&path)?;
        for _ in 0..mib {
            file.write_all(&piece)?;
        }
        file.sync_all().map(|()| path)
    };
    (0..number).map(write).collect()
}

/// Reads them, so that they lie in the cache.
fn read(files: &[PathBuf]) -> Result<()> {
    files.iter().try_for_each(|path| std::io::copy(&mut File::open(path)?, &mut std::io::sink()).map(drop))
}

/// Lies in the cache, and is dropped from it.
fn cleaned(files: &[PathBuf], mode: Mode) -> Result<Outcome> {
    read(files)?;
    let ask = Ask { mode, roots: files.to_vec(), target: None, dry_run: false, whole_machine: false };
    // Old enough for every mode.
    let later = SystemTime::now() + Duration::from_secs(3600);
    Machine::default().clean(&ask, later).map_err(std::io::Error::other)
}

fn told(outcomes: &[Outcome]) -> String {
    let took = median(outcomes.iter().map(|outcome| outcome.took));
    let longest = outcomes.iter().map(|outcome| outcome.longest_stall).max().unwrap_or_default();
    let dropped = outcomes.iter().map(|outcome| outcome.dropped).min().unwrap_or(Mib::ZERO);
    let speed = (u128::from(dropped.mib()) * 1000).checked_div(took.as_micros().div_ceil(1000)).unwrap_or_default();
    format!("{dropped} dropped in {took:.1?} ({} GiB/s), the longest call to the kernel {longest:.1?}", speed / 1024)
}

fn median(times: impl Iterator<Item = Duration>) -> Duration {
    let mut times: Vec<Duration> = times.collect();
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// What a reader of another file that lies in the cache feels, alone and beside cleaning.
fn beside(work: &Path) -> Result<()> {
    let own = written(&work.join("neighbour"), 1, 256)?;
    let others = written(&work.join("others"), 4, 512)?;
    let neighbour = File::open(&own[0])?;
    let ended = AtomicBool::new(false);
    let alone = felt(&neighbour, || std::thread::sleep(Duration::from_secs(2)), &ended)?;
    // Reading the files into the cache is what takes most of that time, and is no part of cleaning.
    let again = |what: &dyn Fn() -> Result<()>| {
        if let Err(error) = (0..TIMES).try_for_each(|_| what()) {
            println!("it went on with nothing beside it: {error}");
        }
    };
    let reading = felt(&neighbour, || again(&|| read(&others)), &ended)?;
    let both = felt(&neighbour, || again(&|| cleaned(&others, Mode::Aggressive).map(drop)), &ended)?;
    println!("a neighbour that reads 64 KiB from the cache, again and again (p50, p99, longest):");
    for (what, [middle, most, longest]) in
        [("alone", alone), ("beside a reader of 2 GiB", reading), ("beside that and aggressive cleaning of them", both)]
    {
        println!("  {what}: {middle:.1?}, {most:.1?}, {longest:.1?}");
    }
    Ok(())
}

/// How long each read took while something went on: the middle one, the 99th of 100, the longest.
fn felt(file: &File, goes_on: impl FnOnce() + Send, ended: &AtomicBool) -> Result<[Duration; 3]> {
    ended.store(false, Ordering::Relaxed);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            goes_on();
            ended.store(true, Ordering::Relaxed);
        });
        let (mut block, mut times, mut at) = (vec![0; BLOCK], Vec::new(), 0);
        let length = file.metadata()?.len();
        while !ended.load(Ordering::Relaxed) {
            let began = Instant::now();
            file.read_exact_at(&mut block, at)?;
            times.push(began.elapsed());
            at = (at + BLOCK as u64) % length;
        }
        times.sort_unstable();
        let at = |part: usize| times.get((times.len() * part / 100).min(times.len().saturating_sub(1))).copied();
        Ok([at(50), at(99), times.last().copied()].map(Option::unwrap_or_default))
    })
}
