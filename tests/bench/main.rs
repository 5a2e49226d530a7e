//! Measures memboss on a running test bed and prints minimum, median, p99, and how many were measured. A goal stands beside its figure;
//! nothing is asserted, since a figure tells of the machine as much as of memboss. Run it by `make bench`.
#![expect(clippy::print_stdout, reason = "a benchmark speaks")]

mod admissions;
mod figures;
mod idle;
mod machine;
mod marks;
mod release;
mod starts;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use memboss_tests::bed::Bed;

const PARTS: [&str; 5] = ["starts", "crowd", "admissions", "release", "idle"];

#[tokio::main]
async fn main() -> Result<()> {
    let asked: Vec<String> = std::env::args().skip(1).collect();
    for part in &asked {
        ensure!(PARTS.contains(&part.as_str()), "there is no part {part:?}: the parts are {}", PARTS.join(", "));
    }
    let bed = Bed::connect().await?;
    println!("{}", machine::describe()?);
    println!("{}", figures::heading());
    let mut failed = Vec::new();
    for part in PARTS.into_iter().filter(|part| asked.is_empty() || asked.iter().any(|one| one == part)) {
        // One part's trouble does not cost the others their figures.
        if let Err(error) = measure(&bed, part).await {
            println!("  -> {part} could not be measured: {error:#}");
            failed.push(part);
            sweep(&bed).await?;
        }
    }
    println!("\nload averages at the end: {}", machine::load()?);
    ensure!(failed.is_empty(), "not measured: {}", failed.join(", "));
    Ok(())
}

async fn measure(bed: &Bed, part: &str) -> Result<()> {
    match part {
        "starts" => starts::one_at_a_time(bed).await,
        "crowd" => starts::at_once(bed).await,
        "admissions" => admissions::measure(bed).await,
        "release" => release::measure(bed).await,
        _ => idle::measure(bed).await,
    }
}

/// Removes what a part that failed left behind.
async fn sweep(bed: &Bed) -> Result<()> {
    let all = Api::<Namespace>::all(bed.client.clone()).list(&ListParams::default()).await?;
    for name in all.items.iter().map(ResourceExt::name_any).filter(|name| name.starts_with("bench-")) {
        bed.remove(&name).await?;
    }
    Ok(())
}
