//! The ledger's file on tmpfs: the whole ledger, and behind it what has changed since, frame by frame, so that a change costs the same however many
//! leases there are. It may not know what a ledger means.
//!
//! A frame is one line: the length of its content, a check of that length, a sum over all frames up to this one, and the content. A frame that was not
//! written to its end was told to nobody: it is cut off. One that is there as a whole and does not add up is damage: nothing of the file is believed then.
//! Whenever the changes have become several times the whole, a new whole takes the file's place, in one step.
//!
//! Nothing is synchronised to a disk: what is here is worth nothing after the next boot, and the end of the process loses nothing that was written.

mod change;

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};

pub(crate) use self::change::Replay;
pub use self::change::{Change, Head};
use crate::store::{Failure, Ledger, hex, replace};

/// The version of the file's form.
const VERSION: u32 = 2;
/// The length in 8 digits, its check in 8, the sum in 64, each followed by a space.
const HEADER: usize = 8 + 1 + 8 + 1 + 64 + 1;
/// Changes may take so many times the space of the whole, and this much in any case.
const CHANGES: u64 = 4;
const LEAST: u64 = 1 << 20;

type Sum = [u8; 32];

/// The file's first content.
#[derive(Serialize, Deserialize)]
struct Whole<T> {
    version: u32,
    ledger: T,
}

/// A ledger that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// It.
    pub ledger: Ledger,
    /// How many bytes of a change that was not written to its end were cut off.
    pub cut: usize,
}

/// The file of a ledger.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    /// The device and the number by which it is told from every other file while it is open.
    identity: (u64, u64),
    length: u64,
    /// From which length on a new whole is worth it.
    limit: u64,
    sum: Sum,
}

impl Journal {
    /// The file of that name. It is to be begun before anything is added.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), open: None }
    }

    /// The ledger that it holds; nothing if there is no file.
    ///
    /// # Errors
    /// [`Failure::Damaged`] when it holds anything but what was written.
    pub fn read(&self) -> Result<Option<Found>, Failure> {
        let bytes = match std::fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Failure::Read { path: self.path.clone(), source }),
        };
        replay(&bytes).map(Some).map_err(|what| Failure::Damaged { path: self.path.clone(), what })
    }

    /// Whether a whole is to be written: nothing has been written yet, the changes have become long, or somebody has removed or changed the file.
    #[must_use]
    pub fn wants_whole(&self) -> bool {
        let Some(open) = &self.open else { return true };
        open.length >= open.limit || !open.is_at(&self.path)
    }

    /// Replaces what the file holds by that ledger, in one step. Returns the sum.
    ///
    /// # Errors
    /// [`Failure::Write`]; the old content is still there then, and can be added to.
    pub fn begin(&mut self, ledger: &Ledger) -> Result<Sum, Failure> {
        let whole = self.encode(&Whole { version: VERSION, ledger })?;
        let (frame, sum) = frame(&whole, &[0; 32]);
        match replace(&self.path, |temporary| write_new(temporary, &frame)) {
            Ok((file, identity)) => {
                let length = frame.len() as u64;
                self.open = Some(Open { file, identity, length, limit: (length * CHANGES).max(LEAST), sum });
                Ok(sum)
            }
            Err(source) => {
                if let Some(open) = &mut self.open {
                    // Not with every change again.
                    open.limit = open.limit.saturating_mul(2);
                }
                Err(Failure::Write { path: self.path.clone(), source })
            }
        }
    }

    /// Adds a change. Returns the sum.
    ///
    /// # Errors
    /// [`Failure::Write`]; nothing was added then.
    pub fn add(&mut self, change: &Change) -> Result<Sum, Failure> {
        let content = self.encode(change)?;
        let failed = |source| Failure::Write { path: self.path.clone(), source };
        let Some(open) = &mut self.open else { return Err(failed(ErrorKind::NotFound.into())) };
        let (frame, sum) = frame(&content, &open.sum);
        if let Err(source) = open.file.write_all(&frame) {
            // A part of it would stand before the next one.
            if open.file.set_len(open.length).is_err() {
                self.open = None;
            }
            return Err(failed(source));
        }
        open.length += frame.len() as u64;
        open.sum = sum;
        Ok(sum)
    }

    /// Whether changes can be added to what is there.
    #[must_use]
    pub fn can_add(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.is_at(&self.path))
    }

    /// Moves a file that cannot be used out of the way, for people to look at.
    ///
    /// # Errors
    /// [`Failure::Write`].
    pub fn set_aside(&self) -> Result<PathBuf, Failure> {
        crate::store::Store::new(&self.path).set_aside()
    }

    fn encode(&self, content: &impl Serialize) -> Result<Vec<u8>, Failure> {
        serde_json::to_vec(content).map_err(|source| Failure::Encode { path: self.path.clone(), source })
    }
}

impl Open {
    /// Whether the file of that name is this one, and holds what was written here.
    fn is_at(&self, path: &Path) -> bool {
        let named = std::fs::metadata(path);
        named.is_ok_and(|named| (named.dev(), named.ino()) == self.identity && named.len() == self.length)
    }
}

fn check(length: &str, before: &Sum) -> String {
    let digest = Sha256::new_with_prefix(length).chain_update(before).finalize();
    hex(&digest[..4])
}

fn sum(content: &[u8], before: &Sum) -> Sum {
    Sha256::new_with_prefix(before).chain_update(content).finalize().into()
}

fn frame(content: &[u8], before: &Sum) -> (Vec<u8>, Sum) {
    let (length, sum) = (format!("{:08x}", content.len()), sum(content, before));
    let mut frame = format!("{length} {} {} ", check(&length, before), hex(&sum)).into_bytes();
    frame.extend_from_slice(content);
    frame.push(b'\n');
    (frame, sum)
}

/// What stands at the beginning of those bytes.
enum Next<'a> {
    Frame {
        content: &'a [u8],
        sum: Sum,
        rest: &'a [u8],
    },
    /// It was not written to its end.
    Torn,
}

fn next<'a>(bytes: &'a [u8], before: &Sum) -> Result<Next<'a>, &'static str> {
    let Some((header, rest)) = bytes.split_at_checked(HEADER) else { return Ok(Next::Torn) };
    let header = std::str::from_utf8(header).map_err(|_| "a frame does not begin as frames do")?;
    let mut parts = header.split(' ');
    let (length, checked, said) = (parts.next(), parts.next(), parts.next());
    let length = length.filter(|length| checked == Some(check(length, before).as_str()));
    let size = length.and_then(|length| usize::from_str_radix(length, 16).ok());
    let size = size.ok_or("the length of a frame does not match its check")?;
    let Some((content, rest)) = rest.split_at_checked(size) else { return Ok(Next::Torn) };
    let Some((end, rest)) = rest.split_first() else { return Ok(Next::Torn) };
    let sum = sum(content, before);
    if *end != b'\n' || said != Some(hex(&sum).as_str()) {
        return Err("a frame does not match its checksum");
    }
    Ok(Next::Frame { content, sum, rest })
}

fn replay(bytes: &[u8]) -> Result<Found, &'static str> {
    // The whole came in one step: it is never torn.
    let Next::Frame { content, mut sum, mut rest } = next(bytes, &[0; 32])? else {
        return Err("it is torn, or of another form");
    };
    let version: Whole<serde::de::IgnoredAny> = parse(content)?;
    if version.version != VERSION {
        return Err("it is of another version");
    }
    let whole: Whole<Ledger> = parse(content)?;
    let mut replay = Replay::begin(whole.ledger);
    while !rest.is_empty() {
        let Next::Frame { content, sum: now, rest: behind } = next(rest, &sum)? else { break };
        replay.apply(parse(content)?);
        (sum, rest) = (now, behind);
    }
    Ok(Found { ledger: replay.finish(), cut: rest.len() })
}

fn parse<T: DeserializeOwned>(content: &[u8]) -> Result<T, &'static str> {
    serde_json::from_slice(content).map_err(|_| "the content of a frame is of another form")
}

/// Writes a new file, to be added to. Returns what it is told by, too.
fn write_new(path: &Path, bytes: &[u8]) -> std::io::Result<(File, (u64, u64))> {
    // Truncated by hand: what is appended to cannot be opened so.
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    file.set_len(0)?;
    file.write_all(bytes)?;
    let made = file.metadata()?;
    Ok((file, (made.dev(), made.ino())))
}

#[cfg(test)]
mod tests;
