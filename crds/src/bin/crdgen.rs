//! Writes the custom resources' YAML into the chart; with `--check` it only says whether what is there is up to date.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command speaks to its caller")]

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/memboss/files/crds");
    let check = std::env::args().any(|arg| arg == "--check");
    match run(&folder, check) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(stale) => {
            eprintln!("{stale} file(s) are not what the Rust types say: run `make crds`");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("failed to write the custom resources' YAML: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(folder: &Path, check: bool) -> Result<usize, Box<dyn std::error::Error>> {
    let mut stale = 0;
    for (name, text) in memboss_crds::definitions()? {
        let path = folder.join(name);
        if std::fs::read_to_string(&path).is_ok_and(|present| present == text) {
            continue;
        }
        stale += 1;
        if check {
            println!("{} is out of date", path.display());
        } else {
            std::fs::create_dir_all(folder)?;
            std::fs::write(&path, text)?;
        }
    }
    Ok(if check { stale } else { 0 })
}
