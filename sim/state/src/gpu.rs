//! One simulated GPU: who holds how much of it, and how it feels.
//!
//! A file that was opened is never closed again by this process (see `locks.rs` for why), so a `Gpu` lives for ever.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use crate::StateError;
use crate::layout::{Health, HolderKind, Layout, MAGIC, MIB, SLOTS, VERSION, XIDS};
use crate::locks;
use crate::profile::Profile;

/// XID that a driver reports when a GPU falls off the bus.
const XID_LOST: u64 = 79;

/// A GPU's file, opened and mapped.
pub struct Gpu {
    file: File,
    map: &'static Layout,
    path: PathBuf,
    access: Access,
    own: Mutex<Own>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    ReadWrite,
    ReadOnly,
}

/// This process's own account.
#[derive(Default)]
struct Own {
    slot: Option<usize>,
    /// The process that took the slot: a forked child does not have it.
    pid: u32,
    joined: u32,
}

/// Bytes of a GPU at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// All there is.
    pub total: u64,
    /// What the driver keeps.
    pub reserved: u64,
    /// What living processes hold.
    pub used: u64,
    /// What is left.
    pub free: u64,
}

/// A living process on a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its pid in the reader's pid namespace; `None` if it is not visible there.
    pub pid: Option<u32>,
    /// What it holds.
    pub bytes: u64,
    /// What it is.
    pub kind: HolderKind,
    /// The name of its program, cut to 16 bytes.
    pub name: String,
}

/// What a charge is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Charge {
    /// Exactly these bytes.
    Bytes(u64),
    /// The fixed cost of one context on this GPU.
    Context,
}

/// Every file opened by this process, by device and inode; the open file keeps the inode from being reused.
static OPEN: LazyLock<Mutex<HashMap<(u64, u64), &'static Gpu>>> = LazyLock::new(Mutex::default);

/// A panic while a lock of ours is held leaves nothing half done that matters.
fn enter<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError::Io { what, path, source }
}

impl Gpu {
    /// Makes the file of a GPU; it must not exist.
    ///
    /// # Errors
    /// When the file exists or cannot be written.
    pub fn create(path: &Path, index: u32, uuid: &str, profile: &Profile) -> Result<&'static Self, StateError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o666)
            .custom_flags(libc::O_CLOEXEC)
            .open(path)
            .map_err(failed("create", path))?;
        // Containers run as any user, and taking a slot needs a writable file, whatever the umask says.
        file.set_permissions(std::fs::Permissions::from_mode(0o666)).map_err(failed("open up", path))?;
        file.set_len(size_of::<Layout>() as u64).map_err(failed("size", path))?;
        let map = map_file(&file, Access::ReadWrite).map_err(failed("map", path))?;
        let header = &map.header;
        header.version.store(VERSION, Relaxed);
        header.index.store(index, Relaxed);
        header.total.store(profile.total_mib * MIB, Relaxed);
        header.reserved.store(profile.reserved_mib * MIB, Relaxed);
        header.context.store(profile.context_mib * MIB, Relaxed);
        header.capability_major.store(profile.capability.0, Relaxed);
        header.capability_minor.store(profile.capability.1, Relaxed);
        header.pci_device_id.store(profile.pci_device_id, Relaxed);
        header.power_limit_milliwatts.store(profile.power_limit_watts * 1000, Relaxed);
        header.name.store(&profile.name);
        header.uuid.store(uuid);
        header.magic.store(MAGIC, Release);
        Self::keep(file, map, path, Access::ReadWrite)
    }

    /// Opens the file of a GPU, or finds it again when this process has it open.
    ///
    /// # Errors
    /// When it cannot be read, or is not the state of a GPU.
    pub fn open(path: &Path) -> Result<&'static Self, StateError> {
        let data = std::fs::metadata(path).map_err(failed("look at", path))?;
        if let Some(gpu) = enter(&OPEN).get(&(data.dev(), data.ino())) {
            return Ok(gpu);
        }
        let open = |write| OpenOptions::new().read(true).write(write).custom_flags(libc::O_CLOEXEC).open(path);
        let (file, access) = match open(true) {
            Ok(file) => (file, Access::ReadWrite),
            Err(_) => (open(false).map_err(failed("open", path))?, Access::ReadOnly),
        };
        let length = file.metadata().map_err(failed("look at", path))?.len();
        if length != size_of::<Layout>() as u64 {
            return Err(StateError::NotAGpu(path.to_owned()));
        }
        let map = map_file(&file, access).map_err(failed("map", path))?;
        if map.header.magic.load(Acquire) != MAGIC || map.header.version.load(Relaxed) != VERSION {
            return Err(StateError::NotAGpu(path.to_owned()));
        }
        Self::keep(file, map, path, access)
    }

    fn keep(file: File, map: &'static Layout, path: &Path, access: Access) -> Result<&'static Self, StateError> {
        let data = file.metadata().map_err(failed("look at", path))?;
        // When two threads opened it at once, the later one's file stays open too: closing it would drop locks.
        let gpu: &'static Self =
            Box::leak(Box::new(Self { file, map, path: path.to_owned(), access, own: Mutex::default() }));
        Ok(enter(&OPEN).entry((data.dev(), data.ino())).or_insert(gpu))
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its place on the node, counted from 0; also its minor number.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.map.header.index.load(Relaxed)
    }

    /// Its UUID, `GPU-…`.
    #[must_use]
    pub fn uuid(&self) -> String {
        self.map.header.uuid.load()
    }

    /// The product's name.
    #[must_use]
    pub fn name(&self) -> String {
        self.map.header.name.load()
    }

    /// CUDA compute capability, major and minor.
    #[must_use]
    pub fn capability(&self) -> (u32, u32) {
        (self.map.header.capability_major.load(Relaxed), self.map.header.capability_minor.load(Relaxed))
    }

    /// PCI device id, vendor in the low half.
    #[must_use]
    pub fn pci_device_id(&self) -> u32 {
        self.map.header.pci_device_id.load(Relaxed)
    }

    /// PCI bus number; domain, device and function are 0.
    #[must_use]
    pub fn pci_bus(&self) -> u32 {
        // Real boards start behind the root ports; a bus number has 8 bits.
        (0x04 + self.index() * 0x11) & 0xff
    }

    /// Power limit in milliwatts.
    #[must_use]
    pub fn power_limit_milliwatts(&self) -> u32 {
        self.map.header.power_limit_milliwatts.load(Relaxed)
    }

    /// Bytes that the driver keeps.
    #[must_use]
    pub fn reserved(&self) -> u64 {
        self.map.header.reserved.load(Relaxed)
    }

    /// All bytes of the GPU.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.map.header.total.load(Relaxed)
    }

    /// How it feels.
    #[must_use]
    pub fn health(&self) -> Health {
        Health::from_word(self.map.header.health.load(Acquire))
    }

    /// Injects or clears a fault. Losing a GPU also reports the XID that a driver reports then.
    ///
    /// # Errors
    /// When the file is read-only.
    pub fn set_health(&self, health: Health) -> Result<(), StateError> {
        self.check_writable()?;
        let before = Health::from_word(self.map.header.health.swap(health.to_word(), Release));
        if health == Health::Lost && before != Health::Lost {
            self.push_xid(XID_LOST)?;
        }
        Ok(())
    }

    /// Reports an XID to whoever listens.
    ///
    /// # Errors
    /// When the file is read-only or cannot be locked.
    pub fn push_xid(&self, xid: u64) -> Result<(), StateError> {
        self.check_writable()?;
        let _own = enter(&self.own);
        let _accounts = locks::lock_accounts(self.file.as_fd()).map_err(StateError::Lock)?;
        let count = self.map.header.xid_count.load(Relaxed);
        self.map.header.xids[xid_place(count)].store(xid, Relaxed);
        self.map.header.xid_count.store(count + 1, Release);
        Ok(())
    }

    /// XIDs reported until now: where a new listener starts.
    #[must_use]
    pub fn xid_count(&self) -> u64 {
        self.map.header.xid_count.load(Acquire)
    }

    /// The first XID at or behind `position` that is still kept, and the position behind it.
    #[must_use]
    pub fn xid_at(&self, position: u64) -> Option<(u64, u64)> {
        let count = self.xid_count();
        let oldest = count.saturating_sub(XIDS as u64);
        let at = position.max(oldest);
        (at < count).then(|| (self.map.header.xids[xid_place(at)].load(Relaxed), at + 1))
    }

    /// Everybody who holds memory of this GPU and lives.
    ///
    /// # Errors
    /// When the kernel cannot tell the locks.
    pub fn holders(&self) -> Result<Vec<Holder>, StateError> {
        let high_water = self.map.header.high_water.load(Acquire) as usize;
        let held = locks::held_slots(self.file.as_fd(), high_water.min(SLOTS)).map_err(StateError::Lock)?;
        Ok(held
            .into_iter()
            .map(|held| {
                let slot = &self.map.slots[held.slot];
                Holder {
                    pid: held.pid,
                    bytes: slot.bytes.load(Acquire),
                    kind: HolderKind::from_word(slot.kind.load(Relaxed)),
                    name: slot.name.load(),
                }
            })
            .collect())
    }

    /// The GPU's memory now.
    ///
    /// # Errors
    /// When the kernel cannot tell the locks.
    pub fn usage(&self) -> Result<Usage, StateError> {
        let used = self.holders()?.iter().map(|holder| holder.bytes).sum();
        let (total, reserved) = (self.total(), self.reserved());
        Ok(Usage { total, reserved, used, free: total.saturating_sub(reserved).saturating_sub(used) })
    }

    /// Takes a slot for this process, or counts one more user of the one it has.
    ///
    /// # Errors
    /// When the GPU is lost, all slots are taken or the file is read-only.
    pub fn join(&self, kind: HolderKind) -> Result<(), StateError> {
        self.check_writable()?;
        let mut own = self.own();
        if own.slot.is_some() {
            own.joined += 1;
            return Ok(());
        }
        self.check_present()?;
        let file = self.file.as_fd();
        let _accounts = locks::lock_accounts(file).map_err(StateError::Lock)?;
        let held = locks::held_slots(file, SLOTS).map_err(StateError::Lock)?;
        // Held slots come in order: the first whose place does not match its number leaves a gap before it.
        let free = held.iter().enumerate().find(|(at, held)| *at != held.slot).map_or(held.len(), |(at, _)| at);
        let Some(slot) = self.map.slots.get(free) else { return Err(StateError::NoSlot(SLOTS)) };
        // Before the lock shows the slot to readers: what a dead process left must not be seen as ours.
        slot.bytes.store(0, Relaxed);
        slot.kind.store(kind.to_word(), Relaxed);
        slot.own_pid.store(std::process::id(), Relaxed);
        slot.name.store(&program_name());
        locks::take_slot(file, free).map_err(StateError::Lock)?;
        self.map.header.high_water.fetch_max(u32::try_from(free + 1).unwrap_or(u32::MAX), Release);
        *own = Own { slot: Some(free), pid: std::process::id(), joined: 1 };
        Ok(())
    }

    /// Takes back one `join`; the last one gives the slot and all its bytes back.
    ///
    /// # Errors
    /// When the kernel refuses to unlock.
    pub fn leave(&self) -> Result<(), StateError> {
        let mut own = self.own();
        let Some(slot) = own.slot else { return Ok(()) };
        own.joined = own.joined.saturating_sub(1);
        if own.joined > 0 {
            return Ok(());
        }
        self.map.slots[slot].bytes.store(0, Release);
        *own = Own::default();
        locks::release_slot(self.file.as_fd(), slot).map_err(StateError::Lock)
    }

    /// Charges memory to this process, if it is free; answers how many bytes.
    ///
    /// # Errors
    /// When the GPU is lost or full, or this process has not joined.
    pub fn charge(&self, charge: Charge) -> Result<u64, StateError> {
        let wanted = match charge {
            Charge::Bytes(bytes) => bytes,
            Charge::Context => self.map.header.context.load(Relaxed),
        };
        let own = self.own();
        let Some(slot) = own.slot else { return Err(StateError::NotJoined) };
        self.check_present()?;
        let _accounts = locks::lock_accounts(self.file.as_fd()).map_err(StateError::Lock)?;
        let free = self.usage()?.free;
        if wanted > free {
            return Err(StateError::OutOfMemory { wanted, free });
        }
        self.map.slots[slot].bytes.fetch_add(wanted, Release);
        Ok(wanted)
    }

    /// Takes bytes off this process's account.
    pub fn credit(&self, bytes: u64) {
        let own = self.own();
        if let Some(slot) = own.slot {
            let account = &self.map.slots[slot].bytes;
            // Only this process writes its account, under `own`.
            account.store(account.load(Relaxed).saturating_sub(bytes), Release);
        }
    }

    /// This process's account; empty in a child that was forked from the process that had it.
    fn own(&self) -> MutexGuard<'_, Own> {
        let mut own = enter(&self.own);
        if own.slot.is_some() && own.pid != std::process::id() {
            *own = Own::default();
        }
        own
    }

    fn check_writable(&self) -> Result<(), StateError> {
        match self.access {
            Access::ReadWrite => Ok(()),
            Access::ReadOnly => Err(StateError::ReadOnly(self.path.clone())),
        }
    }

    fn check_present(&self) -> Result<(), StateError> {
        if self.health() == Health::Lost { Err(StateError::Lost) } else { Ok(()) }
    }
}

fn xid_place(position: u64) -> usize {
    usize::try_from(position % XIDS as u64).unwrap_or(0)
}

fn program_name() -> String {
    std::env::current_exe()
        .ok()
        .and_then(|path| path.file_name().map(|name| name.to_string_lossy().into_owned()))
        .unwrap_or_else(|| "unknown".to_owned())
}

fn map_file(file: &File, access: Access) -> io::Result<&'static Layout> {
    use std::os::fd::AsRawFd;
    let protection = match access {
        Access::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
        Access::ReadOnly => libc::PROT_READ,
    };
    // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours; the length is that of the
    // layout, which the callers have checked or set.
    let address = unsafe {
        libc::mmap(std::ptr::null_mut(), size_of::<Layout>(), protection, libc::MAP_SHARED, file.as_raw_fd(), 0)
    };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping is page-aligned, as long as a `Layout`, and never unmapped. `Layout` is made of integers that
    // any bit pattern fits and that are atomics, so other processes may write them; only code that has checked `access`
    // writes.
    Ok(unsafe { &*address.cast::<Layout>() })
}
