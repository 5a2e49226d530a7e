//! Dropping page cache that nobody needs: how much each mode may touch, for how long, and what came of it. Nothing that a process is seen to have open or
//! mapped is touched in any mode; where processes may not be looked into, only the caller's own files are. The cache of the whole machine is dropped only
//! where that is asked for by name. Dropping clean cache makes memory *free*, which the kernel counted as *available* before: both are told.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant, SystemTime};

use memboss_core::{Cause, Mib, Pressure};
use serde::Serialize;

use crate::Failure;
use crate::cache::{Bounds, Residency, drop_pages, residency};
use crate::candidates::{Candidate, Found, InUse, below};
use crate::report::Machine;

/// How far to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Files that have not changed for half an hour; at most 0.2 s of dropping.
    Conservative,
    /// Files that have not changed for ten minutes; at most 2 s of dropping.
    Balanced,
    /// Any file that nobody uses; at most 10 s of dropping.
    Aggressive,
    /// As the pressure is: nothing where there is none or where dropping cache would not help.
    Auto,
}

impl Mode {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Conservative => "conservative",
            Self::Balanced => "balanced",
            Self::Aggressive => "aggressive",
            Self::Auto => "auto",
        }
    }
}

/// What is no mode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no mode {0:?}: conservative, balanced, aggressive and auto are")]
pub struct UnknownMode(String);

impl FromStr for Mode {
    type Err = UnknownMode;

    fn from_str(name: &str) -> Result<Self, UnknownMode> {
        match name {
            "conservative" => Ok(Self::Conservative),
            "balanced" => Ok(Self::Balanced),
            "aggressive" => Ok(Self::Aggressive),
            "auto" => Ok(Self::Auto),
            other => Err(UnknownMode(other.to_owned())),
        }
    }
}

/// The limits of one mode.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Unchanged for so long.
    unchanged: Duration,
    /// After a call to the kernel that takes longer nothing more is dropped.
    stall: Duration,
    /// All of the dropping.
    pass: Duration,
}

impl Mode {
    /// What an automatic mode comes to.
    fn resolve(self, pressure: Pressure, cause: Cause) -> Result<Self, Refrain> {
        match (self, pressure, cause) {
            (Self::Auto, Pressure::Low, _) => Err(Refrain::NoPressure),
            (Self::Auto, _, Cause::InUse) => Err(Refrain::InUse),
            (Self::Auto, _, Cause::Stalls) => Err(Refrain::Stalls),
            (Self::Auto, Pressure::Moderate, _) => Ok(Self::Balanced),
            (Self::Auto, ..) => Ok(Self::Aggressive),
            (mode, ..) => Ok(mode),
        }
    }

    const fn limits(self) -> Limits {
        let (minutes, stall, pass) = match self {
            Self::Conservative => (30, 50, 200),
            Self::Balanced | Self::Auto => (10, 250, 2_000),
            Self::Aggressive => (0, 1_000, 10_000),
        };
        Limits {
            unchanged: Duration::from_secs(minutes * 60),
            stall: Duration::from_millis(stall),
            pass: Duration::from_millis(pass),
        }
    }
}

/// Why an automatic mode does nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Refrain {
    /// There is no pressure.
    NoPressure,
    /// What presses is in use and cannot be dropped: its users have to give it back.
    InUse,
    /// Tasks wait although enough is available: reclaiming more would make them wait longer.
    Stalls,
}

impl Refrain {
    /// In a sentence.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::NoPressure => "there is no pressure: nothing need be dropped",
            Self::InUse => {
                "what presses is in use by processes and cannot be dropped: only they can give it back (memboss ram analyze shows them)"
            }
            Self::Stalls => "tasks wait although enough is available: reclaiming more would make them wait longer",
        }
    }
}

/// Where it cannot be known whether a file has pages that are not written yet, they surely are after that time.
const SURELY_WRITTEN: Duration = Duration::from_secs(10 * 60);

/// Why a file was left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Kept {
    /// A process has it open or mapped.
    InUse,
    /// It is somebody else's, and not all processes may be looked into.
    UseUnknown,
    /// It changed a short while ago.
    ChangedLately,
    /// It has pages that must be written first.
    Dirty,
    /// It lies in memory itself (tmpfs): nothing of it can be dropped.
    InMemory,
    /// It is not in the cache.
    NotCached,
    /// It may not be read, or another one lies there by now.
    Unreadable,
    /// There was no time left, or enough was dropped.
    NotReached,
    /// It is too small to be worth it.
    Small,
    /// A link, or another file system.
    NotFollowed,
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct Ask {
    /// How far to go.
    pub mode: Mode,
    /// Files and directories whose files may be dropped.
    pub roots: Vec<PathBuf>,
    /// Enough; nothing for as much as the mode allows.
    pub target: Option<Mib>,
    /// Only tell what would be done.
    pub dry_run: bool,
    /// Drop the clean cache of the whole machine as well, everybody's and not to be stopped. Needs root.
    pub whole_machine: bool,
}

/// A file that was dropped, or would be.
#[derive(Clone, Debug, Serialize)]
pub struct Cleaned {
    /// Which.
    #[serde(serialize_with = "in_words")]
    pub path: PathBuf,
    /// What of it was in the cache; nothing where that cannot be known.
    pub before: Option<Mib>,
    /// What of it still is.
    pub after: Option<Mib>,
    /// Not all of it was reached in time, or needed.
    pub partly: bool,
    #[serde(skip)]
    file: Candidate,
}

/// A name need not be text; what is told of it must.
fn in_words<S: serde::Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The mode that it came to; nothing where an automatic one did nothing.
    pub mode: Option<Mode>,
    /// Why it did nothing.
    pub refrained: Option<Refrain>,
    /// The pressure before.
    pub pressure: Pressure,
    /// File by file.
    pub files: Vec<Cleaned>,
    /// How many files were left alone, by reason.
    pub kept: BTreeMap<Kept, usize>,
    /// What was dropped of these files, as far as it is known.
    pub dropped: Mib,
    /// Of how many of them it is not known.
    pub unknown: usize,
    /// The whole machine's file cache before and after all of it was dropped.
    pub whole_machine: Option<(Mib, Mib)>,
    /// Free memory before and after: it rises by what was dropped.
    pub free: (Mib, Mib),
    /// Available memory before and after: dropping clean cache hardly changes it.
    pub available: (Mib, Mib),
    /// Processes that could not be looked into: what they use is not known.
    pub unseen_processes: usize,
    /// How long it took.
    #[serde(rename = "took_ms", serialize_with = "millis")]
    pub took: Duration,
    /// The longest that the kernel took for one piece.
    #[serde(rename = "longest_stall_ms", serialize_with = "millis")]
    pub longest_stall: Duration,
}

fn millis<S: serde::Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
}

impl Machine {
    /// Cleans. `now` is the moment by which a file's age is counted.
    ///
    /// # Errors
    /// When the machine or a path that was named cannot be read, or the whole machine's cache may not be dropped; nothing was done then.
    pub fn clean(&self, ask: &Ask, now: SystemTime) -> Result<Outcome, Failure> {
        let began = Instant::now();
        // Whoever may not open it is told before anything is done.
        let mut all = if ask.whole_machine && !ask.dry_run { Some(self.open_switch()?) } else { None };
        let before = self.report()?;
        let mut outcome = Outcome {
            mode: None,
            refrained: None,
            pressure: before.pressure,
            files: Vec::new(),
            kept: BTreeMap::new(),
            dropped: Mib::ZERO,
            unknown: 0,
            whole_machine: None,
            free: (before.figures.free, before.figures.free),
            available: (before.figures.available, before.figures.available),
            unseen_processes: 0,
            took: Duration::ZERO,
            longest_stall: Duration::ZERO,
        };
        match ask.mode.resolve(before.pressure, before.cause) {
            Ok(mode) => {
                outcome.mode = Some(mode);
                let found = below(&ask.roots)?;
                let in_use = self.in_use()?;
                outcome.unseen_processes = in_use.unseen;
                let limits = mode.limits();
                // Looking makes nobody wait; only dropping does.
                let bounds = Bounds { stall: limits.stall, deadline: Instant::now() + limits.pass };
                Pass { outcome: &mut outcome, ask, in_use: &in_use, limits, bounds, now }.run(found);
            }
            Err(refrain) => outcome.refrained = Some(refrain),
        }
        if let Some(switch) = &mut all {
            self.drop_everything(switch, &mut outcome)?;
        }
        let after = self.figures()?;
        (outcome.free.1, outcome.available.1) = (after.free, after.available);
        outcome.took = began.elapsed();
        Ok(outcome)
    }

    fn switch(&self) -> PathBuf {
        self.proc.join("sys/vm/drop_caches")
    }

    fn open_switch(&self) -> Result<File, Failure> {
        let path = self.switch();
        File::options().write(true).open(&path).map_err(|source| Failure::Drop { path, source })
    }

    /// Clean pages only: level 1. The higher levels cost a second to free what the kernel frees by itself when it must.
    fn drop_everything(&self, switch: &mut File, outcome: &mut Outcome) -> Result<(), Failure> {
        use std::io::Write as _;
        let before = self.figures()?.file_cache;
        let began = Instant::now();
        switch.write_all(b"1").map_err(|source| Failure::Drop { path: self.switch(), source })?;
        outcome.longest_stall = outcome.longest_stall.max(began.elapsed());
        outcome.whole_machine = Some((before, self.figures()?.file_cache));
        Ok(())
    }
}

/// One way through the files that were found.
struct Pass<'a> {
    outcome: &'a mut Outcome,
    ask: &'a Ask,
    in_use: &'a InUse,
    limits: Limits,
    bounds: Bounds,
    now: SystemTime,
}

impl Pass<'_> {
    fn run(mut self, found: Found) {
        for file in found.files {
            if let Err(kept) = self.clean(file) {
                *self.outcome.kept.entry(kept).or_default() += 1;
            }
        }
        for (kept, number) in [(Kept::Small, found.small), (Kept::NotFollowed, found.not_followed)] {
            if number > 0 {
                self.outcome.kept.insert(kept, number);
            }
        }
    }

    /// What is still to be dropped; nothing for as much as there is.
    fn wanted(&self) -> Option<Mib> {
        self.ask.target.map(|target| target.minus(self.outcome.dropped))
    }

    fn clean(&mut self, candidate: Candidate) -> Result<(), Kept> {
        let age = self.now.duration_since(candidate.changed).unwrap_or_default();
        if self.in_use.has(&candidate) {
            return Err(Kept::InUse);
        }
        if self.in_use.unseen > 0 && candidate.owner != rustix::process::geteuid().as_raw() {
            return Err(Kept::UseUnknown);
        }
        if age < self.limits.unchanged {
            return Err(Kept::ChangedLately);
        }
        let late = Instant::now() >= self.bounds.deadline || self.outcome.longest_stall > self.bounds.stall;
        if late || self.wanted() == Some(Mib::ZERO) {
            return Err(Kept::NotReached);
        }
        let file = candidate.open().ok_or(Kept::Unreadable)?;
        let before = match residency(&file) {
            Residency::InMemory => return Err(Kept::InMemory),
            Residency::Known { cached: 0, .. } => return Err(Kept::NotCached),
            // Dropping would begin to write it for whoever owns it.
            Residency::Known { dirty, .. } if dirty > 0 => return Err(Kept::Dirty),
            Residency::Unknown if age < SURELY_WRITTEN => return Err(Kept::ChangedLately),
            known => cached(known),
        };
        self.drop_file(candidate, &file, before)
    }

    fn drop_file(&mut self, candidate: Candidate, file: &File, before: Option<Mib>) -> Result<(), Kept> {
        let path = candidate.path.clone();
        if self.ask.dry_run {
            self.outcome.dropped = self.outcome.dropped.plus(before.unwrap_or_default());
            self.outcome.unknown += usize::from(before.is_none());
            self.outcome.files.push(Cleaned { path, before, after: None, partly: false, file: candidate });
            return Ok(());
        }
        let length = self.wanted().map_or(candidate.length, |wanted| wanted.bytes().min(candidate.length));
        let done = drop_pages(file, length, self.bounds).map_err(|_| Kept::Unreadable)?;
        self.outcome.longest_stall = self.outcome.longest_stall.max(done.longest);
        let after = cached(residency(file));
        // Where it cannot be known, what was reached counts: a target must come to an end.
        let gone = before.zip(after).map_or(Mib::from_bytes_floor(done.reached), |(before, after)| before.minus(after));
        self.outcome.dropped = self.outcome.dropped.plus(gone);
        self.outcome.unknown += usize::from(after.is_none());
        let partly = done.reached < candidate.length;
        self.outcome.files.push(Cleaned { path, before, after, partly, file: candidate });
        Ok(())
    }
}

fn cached(residency: Residency) -> Option<Mib> {
    match residency {
        Residency::Known { cached, .. } => Some(Mib::from_bytes_ceil(cached)),
        Residency::Unknown | Residency::InMemory => None,
    }
}

impl Outcome {
    /// What of it is in the cache again: it was needed after all. Nothing where that cannot be known of any file.
    #[must_use]
    pub fn came_back(&self) -> Option<Mib> {
        let back = |file: &Cleaned| Some(cached(residency(&file.file.open()?))?.minus(file.after?));
        let known: Vec<Mib> = self.files.iter().filter_map(back).collect();
        (!known.is_empty()).then(|| known.into_iter().sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn automatic_cleaning_does_something_only_where_that_helps() {
        let cases = [
            (Pressure::Low, Cause::Nothing, Err(Refrain::NoPressure)),
            (Pressure::Critical, Cause::InUse, Err(Refrain::InUse)),
            (Pressure::High, Cause::Stalls, Err(Refrain::Stalls)),
            (Pressure::Moderate, Cause::Cache, Ok(Mode::Balanced)),
            (Pressure::High, Cause::Cache, Ok(Mode::Aggressive)),
        ];
        for (pressure, cause, expect) in cases {
            assert_eq!(Mode::Auto.resolve(pressure, cause), expect);
            assert_eq!(Mode::Conservative.resolve(pressure, cause), Ok(Mode::Conservative), "as asked");
        }
        assert!("gentle".parse::<Mode>().unwrap_err().to_string().contains("conservative"));
    }

    #[test]
    fn who_may_not_drop_the_whole_machines_cache_is_told_before_anything_is_done() {
        let proc = tempfile::tempdir().unwrap();
        let machine = Machine { proc: proc.path().to_owned(), ..Machine::default() };
        let ask = Ask { mode: Mode::Auto, roots: vec![], target: None, dry_run: false, whole_machine: true };
        let refused = machine.clean(&ask, SystemTime::now()).unwrap_err();
        assert!(matches!(refused, Failure::Drop { .. }), "{refused}");
    }
}
