//! GPUs as people name them: by index or UUID. The agent knows them by UUID.

use memboss_agent_api::v1::GpuList;

use crate::agent::Sockets;
use crate::exit::Failure;

/// The UUIDs of GPUs that were named. The agent is only asked if any was.
pub(crate) async fn uuids(named: &[String], sockets: &Sockets) -> Result<Vec<String>, Failure> {
    if named.is_empty() {
        return Ok(Vec::new());
    }
    let list = sockets.status().await?.gpus.unwrap_or_default();
    named.iter().map(|name| uuid(name, &list)).collect()
}

fn uuid(name: &str, list: &GpuList) -> Result<String, Failure> {
    let found = list.gpus.iter().find(|gpu| gpu.uuid == name || gpu.index.to_string() == name);
    found.map(|gpu| gpu.uuid.clone()).ok_or_else(|| {
        let there: Vec<String> = list.gpus.iter().map(|gpu| format!("{} ({})", gpu.index, gpu.uuid)).collect();
        let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
        Failure::Usage(format!("no GPU {name:?} is here: there is {there}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use memboss_agent_api::v1::Gpu;

    #[test]
    fn gpus_are_named_by_index_or_uuid_and_a_wrong_name_is_told_the_right_ones() {
        let gpu = |index: u32| Gpu { index, uuid: format!("GPU-{index}"), ..Gpu::default() };
        let list = GpuList { gpus: vec![gpu(0), gpu(1)], ..GpuList::default() };
        assert_eq!((uuid("1", &list).unwrap(), uuid("GPU-0", &list).unwrap()), ("GPU-1".into(), "GPU-0".into()));
        let wrong = uuid("2", &list).unwrap_err().to_string();
        assert!(wrong.contains("1 (GPU-1)"), "{wrong}");
    }
}
