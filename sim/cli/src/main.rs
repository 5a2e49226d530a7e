//! `memboss-sim`: makes simulated GPUs, breaks and mends them, and says what they hold. It speaks to nobody: everything is in the GPUs' files.
#![expect(clippy::print_stdout, reason = "a command speaks to its caller")]

mod cdi;
mod foreign;
mod install;

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use memboss_sim_state::{Gpu, Health, MIB, Profile, SimDir, gpu_uuid};

/// Simulated GPUs.
#[derive(Debug, Parser)]
#[command(name = "memboss-sim", version)]
struct Arguments {
    /// Where the simulator lives.
    #[arg(long, env = "MEMBOSS_SIM_DIR", global = true, default_value = memboss_sim_state::DEFAULT_DIR)]
    dir: PathBuf,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Adds GPUs: `--gpu t4 --gpu h100x2 --gpu SIM-24G:24576`.
    Create {
        /// UUIDs follow from it: two nodes need two seeds.
        #[arg(long, default_value = "node")]
        seed: String,
        /// A profile (t4, a100-80, h100, h200) or MODEL:MiB, with xN for several.
        #[arg(long = "gpu", required = true)]
        gpus: Vec<String>,
        /// What each context costs, in MiB.
        #[arg(long, default_value_t = 0)]
        context_mib: u64,
    },
    /// Puts the two libraries, which lie beside this program, where programs look for them.
    Install,
    /// Writes the CDI specification of the GPUs, as a driver's tool would.
    Cdi {
        /// The file.
        #[arg(long)]
        out: PathBuf,
    },
    /// Shows the GPUs and who holds what.
    Status,
    /// Breaks or mends a GPU.
    Fault {
        /// Index or UUID.
        #[arg(long)]
        gpu: String,
        /// What happens to it.
        fault: Fault,
    },
    /// Reports an XID.
    Xid {
        /// Index or UUID.
        #[arg(long)]
        gpu: String,
        /// The number.
        code: u64,
    },
    /// Processes that stand for somebody outside memboss.
    #[command(subcommand)]
    Foreign(Foreign),
    /// Takes NVML away, as if no driver were there, or brings it back.
    Nvml {
        /// Which.
        presence: Presence,
    },
    /// Removes all GPUs; whoever holds memory keeps the files until it ends.
    Destroy,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Fault {
    /// It works.
    Ok,
    /// It fell off the bus.
    Lost,
    /// Calls on it block.
    Hang,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Presence {
    /// No library.
    Absent,
    /// The library is there.
    Present,
}

#[derive(Debug, Subcommand)]
enum Foreign {
    /// Starts one; prints its pid.
    Add {
        /// Index or UUID.
        #[arg(long)]
        gpu: String,
        /// What it holds.
        #[arg(long)]
        mib: u64,
    },
    /// Ends all of a GPU; prints how many.
    Remove {
        /// Index or UUID.
        #[arg(long)]
        gpu: String,
    },
    /// Is one: holds until it is killed.
    #[command(hide = true)]
    Hold {
        /// Index or UUID.
        #[arg(long)]
        gpu: String,
        /// What it holds.
        #[arg(long)]
        mib: u64,
    },
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let dir = SimDir::new(arguments.dir);
    match arguments.what {
        What::Create { seed, gpus, context_mib } => create(&dir, &seed, &gpus, context_mib),
        What::Install => install::libraries(&dir),
        What::Cdi { out } => cdi::write(&dir, &out),
        What::Status => status(&dir),
        What::Fault { gpu, fault } => {
            let health = match fault {
                Fault::Ok => Health::Ok,
                Fault::Lost => Health::Lost,
                Fault::Hang => Health::Hung,
            };
            find(&dir, &gpu)?.set_health(health).context("failed to break or mend the GPU")
        }
        What::Xid { gpu, code } => find(&dir, &gpu)?.push_xid(code).context("failed to report the XID"),
        What::Foreign(Foreign::Add { gpu, mib }) => foreign::add(&dir, &gpu, mib),
        What::Foreign(Foreign::Remove { gpu }) => foreign::remove(find(&dir, &gpu)?),
        What::Foreign(Foreign::Hold { gpu, mib }) => foreign::hold(find(&dir, &gpu)?, mib),
        What::Nvml { presence } => install::nvml(&dir, matches!(presence, Presence::Present)),
        What::Destroy => std::fs::remove_dir_all(dir.gpus_dir()).context("failed to remove the GPUs"),
    }
}

fn create(dir: &SimDir, seed: &str, wanted: &[String], context_mib: u64) -> Result<()> {
    std::fs::create_dir_all(dir.gpus_dir()).with_context(|| format!("failed to make {}", dir.gpus_dir().display()))?;
    let mut index = dir.gpus()?.iter().map(|gpu| gpu.index() + 1).max().unwrap_or(0);
    for text in wanted {
        let (mut profile, count) = Profile::parse_many(text)?;
        profile.context_mib = context_mib;
        for _ in 0..count {
            let uuid = gpu_uuid(seed, index);
            Gpu::create(&dir.gpu_path(&uuid), index, &uuid, &profile)?;
            println!("{index} {uuid} {} {} MiB", profile.name, profile.total_mib);
            index += 1;
        }
    }
    Ok(())
}

/// A GPU by index or UUID.
fn find(dir: &SimDir, name: &str) -> Result<&'static Gpu> {
    let gpus = dir.gpus()?;
    let found = gpus.iter().find(|gpu| gpu.uuid() == name || name.parse() == Ok(gpu.index()));
    match found {
        Some(gpu) => Ok(gpu),
        None => {
            bail!("there is no GPU {name:?} in {}: `memboss-sim status` shows those that are", dir.path().display())
        }
    }
}

fn status(dir: &SimDir) -> Result<()> {
    println!(
        "{:<4} {:<40} {:<24} {:>9} {:>9} {:>9} {:<6} HOLDERS",
        "GPU", "UUID", "MODEL", "TOTAL MiB", "USED MiB", "FREE MiB", "HEALTH"
    );
    for gpu in dir.gpus()? {
        let usage = gpu.usage()?;
        let holders = gpu.holders()?.into_iter().map(|holder| {
            let pid = holder.pid.map_or_else(|| "elsewhere".to_owned(), |pid| pid.to_string());
            format!("{} {pid} ({}) {} MiB", holder.kind.label(), holder.name, holder.bytes / MIB)
        });
        println!(
            "{:<4} {:<40} {:<24} {:>9} {:>9} {:>9} {:<6} {}",
            gpu.index(),
            gpu.uuid(),
            gpu.name(),
            usage.total / MIB,
            usage.used / MIB,
            usage.free / MIB,
            gpu.health().label(),
            holders.collect::<Vec<_>>().join("; "),
        );
    }
    Ok(())
}
