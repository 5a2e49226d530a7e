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
    for part in PARTS {
        if !asked.is_empty() && !asked.iter().any(|one| one == part) {
            continue;
        }
        match part {
            "starts" => starts::one_at_a_time(&bed).await?,
            "crowd" => starts::at_once(&bed).await?,
            "admissions" => admissions::measure(&bed).await?,
            "release" => release::measure(&bed).await?,
            _ => idle::measure(&bed).await?,
        }
    }
    println!("\nload averages at the end: {}", machine::load()?);
    Ok(())
}
