//! `memboss-sim` as people use it: the program and the libraries as built, in a directory of their own.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may end where it stands")]

use std::path::PathBuf;
use std::process::Command;

use memboss_sim_state::{Health, MIB, SimDir};
use nvml_wrapper::Nvml;
use tempfile::TempDir;

struct Simulator {
    files: TempDir,
    dir: SimDir,
}

impl Simulator {
    fn new() -> Self {
        let files = TempDir::new().unwrap();
        let bin = files.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        std::fs::copy(env!("CARGO_BIN_EXE_memboss-sim"), bin.join("memboss-sim")).unwrap();
        let test = std::env::current_exe().unwrap();
        for library in ["libmemboss_sim_nvml.so", "libmemboss_sim_cuda.so"] {
            std::fs::copy(test.parent().unwrap().join(library), bin.join(library)).unwrap();
        }
        let dir = SimDir::new(files.path().join("sim"));
        Self { files, dir }
    }

    /// What it says; panics with its complaint when it fails.
    fn run(&self, arguments: &[&str]) -> String {
        self.try_run(arguments).unwrap_or_else(|complaint| panic!("{arguments:?}: {complaint}"))
    }

    fn try_run(&self, arguments: &[&str]) -> Result<String, String> {
        let program = self.files.path().join("bin/memboss-sim");
        let output = Command::new(program).arg("--dir").arg(self.dir.path()).args(arguments).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    fn nvml_path(&self) -> PathBuf {
        self.dir.lib_dir().join("libnvidia-ml.so.1")
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        for gpu in self.dir.gpus().unwrap_or_default() {
            let _ = self.try_run(&["foreign", "remove", "--gpu", &gpu.uuid()]);
        }
    }
}

#[test]
fn gpus_outlive_the_command_that_made_them() {
    let simulator = Simulator::new();
    simulator.run(&["create", "--seed", "a", "--gpu", "t4", "--gpu", "h100x2", "--gpu", "SIM-24G:24576"]);
    let gpus = simulator.dir.gpus().unwrap();
    let seen: Vec<_> = gpus.iter().map(|gpu| (gpu.index(), gpu.name(), gpu.total() / MIB)).collect();
    let h100 = "NVIDIA H100 80GB HBM3".to_owned();
    assert_eq!(
        seen,
        [
            (0, "Tesla T4".to_owned(), 15_360),
            (1, h100.clone(), 81_559),
            (2, h100, 81_559),
            (3, "SIM-24G".to_owned(), 24_576)
        ]
    );
    assert!(simulator.run(&["status"]).contains(&gpus[3].uuid()));
}

#[test]
fn the_container_specification_names_each_gpu_twice_and_mounts_only_its_file() {
    let simulator = Simulator::new();
    simulator.run(&["create", "--gpu", "t4x2"]);
    let out = simulator.files.path().join("nvidia.json");
    simulator.run(&["cdi", "--out", out.to_str().unwrap()]);
    let specification: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&out).unwrap()).unwrap();
    assert_eq!(specification["kind"], "nvidia.com/gpu");
    let uuids: Vec<_> = simulator.dir.gpus().unwrap().iter().map(|gpu| gpu.uuid()).collect();
    let devices = specification["devices"].as_array().unwrap();
    let names: Vec<_> = devices.iter().map(|device| device["name"].as_str().unwrap()).collect();
    assert_eq!(names, [uuids[0].as_str(), "0", uuids[1].as_str(), "1"]);
    for (device, uuid) in devices.iter().zip([&uuids[0], &uuids[0], &uuids[1], &uuids[1]]) {
        let mounts = device["containerEdits"]["mounts"].as_array().unwrap();
        assert_eq!(mounts.len(), 1);
        assert_eq!(mounts[0]["hostPath"], simulator.dir.gpu_path(uuid).to_str().unwrap());
    }
    assert_eq!(specification["containerEdits"]["mounts"][0]["containerPath"], "/usr/lib/libcuda.so.1");
}

#[test]
fn a_foreign_process_holds_until_it_is_removed() {
    let simulator = Simulator::new();
    simulator.run(&["create", "--gpu", "SIM:4096"]);
    let pid = simulator.run(&["foreign", "add", "--gpu", "0", "--mib", "2000"]);
    let gpu = simulator.dir.gpus().unwrap()[0];
    let holders = gpu.holders().unwrap();
    assert_eq!(holders.len(), 1);
    assert_eq!((holders[0].pid, holders[0].bytes / MIB), (pid.trim().parse().ok(), 2000));
    assert!(simulator.run(&["status"]).contains(pid.trim()));

    let complaint = simulator.try_run(&["foreign", "add", "--gpu", "0", "--mib", "3000"]).unwrap_err();
    assert!(complaint.contains("3000 MiB") && complaint.contains("free"), "{complaint}");

    assert_eq!(simulator.run(&["foreign", "remove", "--gpu", "0"]).trim(), "1");
    // Orphans are reaped by somebody else; the kernel frees the slot before, but not before `kill` comes back.
    while !gpu.holders().unwrap().is_empty() {
        std::thread::yield_now();
    }
    assert_eq!(gpu.usage().unwrap().used, 0);
}

#[test]
fn faults_reach_the_gpu_that_is_named_by_index_or_uuid() {
    let simulator = Simulator::new();
    simulator.run(&["create", "--gpu", "t4x2"]);
    let gpus = simulator.dir.gpus().unwrap();
    simulator.run(&["fault", "--gpu", "1", "lost"]);
    assert_eq!((gpus[0].health(), gpus[1].health()), (Health::Ok, Health::Lost));
    assert_eq!(gpus[1].xid_at(0), Some((79, 1)));
    simulator.run(&["fault", "--gpu", &gpus[1].uuid(), "hang"]);
    assert_eq!(gpus[1].health(), Health::Hung);
    simulator.run(&["fault", "--gpu", "1", "ok"]);
    simulator.run(&["xid", "--gpu", "1", "48"]);
    assert_eq!((gpus[1].health(), gpus[1].xid_at(1)), (Health::Ok, Some((48, 2))));
    assert!(simulator.try_run(&["xid", "--gpu", "7", "48"]).unwrap_err().contains("status"));
}

#[test]
fn nvml_can_be_absent_and_come_back() {
    let simulator = Simulator::new();
    simulator.run(&["create", "--gpu", "t4"]);
    simulator.run(&["install"]);
    let load = || Nvml::builder().lib_path(simulator.nvml_path().as_os_str()).init();
    assert!(simulator.nvml_path().exists() && simulator.dir.lib_dir().join("libcuda.so.1").exists());
    simulator.run(&["nvml", "absent"]);
    assert!(load().is_err());
    simulator.run(&["nvml", "absent"]);
    simulator.run(&["nvml", "present"]);
    assert!(load().unwrap().sys_driver_version().unwrap().starts_with("580."));
}
