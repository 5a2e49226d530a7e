//! The plugin against a kubelet and an agent over real sockets: registration, allocation, binding, health, and what survives what.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may end where it stands")]

mod node;

use std::fs;
use std::time::Duration;

use memboss_agent_api::v1::Health;
use node::{Agent, Kubelet, Node, Running, lease, plugin_sockets, two_gpus, until};
use tonic::{Code, Status};

/// A node with everything up and two GPUs advertised.
async fn whole() -> (Node, Kubelet, Agent, Running) {
    let node = Node::new();
    let (kubelet, agent) = (node.start_kubelet().await, node.start_agent().await);
    agent.has_gpus(two_gpus(Health::Healthy));
    let plugin = node.start_plugin();
    kubelet.devices(16, 16).await;
    (node, kubelet, agent, plugin)
}

/// The CDI file of all GPUs.
fn all_gpus(node: &Node) -> Option<serde_json::Value> {
    serde_json::from_str(&fs::read_to_string(node.path("cdi/memboss-agent-gpus.json")).ok()?).ok()
}

fn has(env: Option<Vec<String>>, variable: &str) -> bool {
    env.is_some_and(|env| env.iter().any(|present| present == variable))
}

#[tokio::test]
async fn registers_anew_with_each_kubelet_and_when_its_socket_is_deleted() {
    let (node, first, _agent, plugin) = whole().await;
    let one = first.registration(1).await;
    first.kill();
    let second = node.start_kubelet().await;
    let two = second.registration(1).await;
    second.devices(16, 16).await;
    fs::remove_file(node.path("plugins").join(&two)).unwrap();
    let three = second.registration(2).await;
    assert!(one != two && two != three && one != three, "a socket name was used twice: {one} {two} {three}");
    node.until_report("kubelet: ready").await;
    plugin.stop();
    assert_eq!(plugin_sockets(&node.path("plugins")), Vec::<std::path::PathBuf>::new());
}

#[tokio::test]
async fn registers_anew_when_the_kubelet_stops_listening() {
    let mut node = Node::new();
    node.timing.pace.stream = Duration::from_millis(100);
    let (kubelet, agent) = (node.start_kubelet().await, node.start_agent().await);
    agent.has_gpus(two_gpus(Health::Healthy));
    let _plugin = node.start_plugin();
    kubelet.devices(16, 16).await;
    kubelet.drop_stream();
    kubelet.registration(2).await;
}

#[tokio::test]
async fn waits_for_a_kubelet_and_removes_sockets_of_dead_instances_only() {
    let node = Node::new();
    let _plugin = node.start_plugin();
    node.until_report("kubelet: not ready: waiting for").await;
    let kubelet = node.start_kubelet().await;
    kubelet.registration(1).await;
    let (dead, alive) = (node.path("plugins/memboss-1-1.sock"), node.path("plugins/memboss-2-2.sock"));
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    let _listening = std::os::unix::net::UnixListener::bind(&alive).unwrap();
    let own = kubelet.registration(1).await;
    fs::remove_file(node.path("plugins").join(own)).unwrap();
    kubelet.registration(2).await;
    assert!(!dead.exists() && alive.exists());
}

#[tokio::test]
async fn a_container_is_bound_to_the_gpu_of_its_lease_and_again_after_the_plugin_was_killed() {
    let (node, kubelet, agent, plugin) = whole().await;
    let device = kubelet.allocate(&["s0003", "s0002"]).await;
    assert!(device.starts_with("memboss.dev/lease=s0002-"), "{device}");
    assert_eq!(node.inject(&device), None, "nothing may be bound before the start");
    kubelet.admit("p1", &[("main", &["s0002", "s0003"])]);
    agent.has_lease("p1", Ok(lease("p1", "GPU-b", 1)));
    kubelet.pre_start(&["s0003", "s0002"]).await.unwrap();
    assert!(has(node.inject(&device), "MEMBOSS_GPUS=GPU-b"));
    let edits = node.cdi_files()[0].1["devices"][0]["containerEdits"].clone();
    assert_eq!(edits["deviceNodes"][0]["path"], "/dev/nvidiactl");
    assert_eq!(edits["deviceNodes"][1]["path"], "/dev/nvidia1");
    assert!(edits["deviceNodes"].as_array().unwrap().len() == 2);

    plugin.kill();
    // A reboot: the CDI directory is empty, the kubelet asks for the start only.
    for (file, _) in node.cdi_files() {
        fs::remove_file(node.path("cdi").join(file)).unwrap();
    }
    let registrations = 2;
    let _plugin = node.start_plugin();
    kubelet.registration(registrations).await;
    agent.has_lease("p1", Ok(lease("p1", "GPU-a", 0)));
    kubelet.pre_start(&["s0002", "s0003"]).await.unwrap();
    assert!(has(node.inject(&device), "MEMBOSS_GPUS=GPU-a"), "the name that the kubelet remembers must work");
}

#[tokio::test]
async fn the_same_slots_get_a_new_name_each_time_and_an_old_file_goes() {
    let (node, kubelet, agent, plugin) = whole().await;
    let old = kubelet.allocate(&["s0001"]).await;
    kubelet.admit("p1", &[("main", &["s0001"])]);
    agent.has_lease("p1", Ok(lease("p1", "GPU-a", 0)));
    kubelet.pre_start(&["s0001"]).await.unwrap();
    kubelet.remove("p1");
    plugin.kill();
    let _plugin = node.start_plugin();
    kubelet.registration(2).await;
    let new = kubelet.allocate(&["s0001", "s0002"]).await;
    assert_ne!(old, new);
    kubelet.admit("p2", &[("main", &["s0001", "s0002"])]);
    agent.has_lease("p2", Ok(lease("p2", "GPU-b", 1)));
    kubelet.pre_start(&["s0001", "s0002"]).await.unwrap();
    assert!(has(node.inject(&new), "MEMBOSS_LEASE=team/p2"));
    assert_eq!(node.inject(&old), None);
}

#[tokio::test]
async fn init_containers_sidecars_and_several_containers_reach_their_pod() {
    let (node, kubelet, agent, _plugin) = whole().await;
    // As a kubelet gives them: the init container's slots go on to later containers.
    let init = kubelet.allocate(&["s0001", "s0002", "s0003"]).await;
    let side = kubelet.allocate(&["s0001"]).await;
    let second_init = kubelet.allocate(&["s0002", "s0003"]).await;
    let main = kubelet.allocate(&["s0002", "s0003"]).await;
    let other = kubelet.allocate(&["s0004"]).await;
    kubelet.admit("p1", &[("side", &["s0001"]), ("main", &["s0002", "s0003"]), ("other", &["s0004"])]);
    agent.has_lease("p1", Ok(lease("p1", "GPU-a", 0)));
    for (device, ids) in [
        (&init, vec!["s0003", "s0001", "s0002"]),
        (&side, vec!["s0001"]),
        (&second_init, vec!["s0002", "s0003"]),
        (&main, vec!["s0003", "s0002"]),
        (&other, vec!["s0004"]),
    ] {
        kubelet.pre_start(&ids).await.unwrap();
        assert!(has(node.inject(device), "MEMBOSS_LEASE=team/p1"), "{device}");
    }
    let asked: Vec<_> = agent.asked().borrow().iter().map(|(_, container)| container.clone()).collect();
    assert_eq!(asked, ["", "side", "main", "main", "other"]);
}

#[tokio::test]
async fn forty_allocations_at_once_get_forty_names_that_survive_a_kill() {
    let (node, kubelet, agent, plugin) = whole().await;
    let ids: Vec<String> = (1..=40).map(|n| format!("s{n:04}")).collect();
    let calls = ids.iter().map(|id| async { kubelet.allocate(&[id.as_str()]).await });
    let mut names = futures::future::join_all(calls).await;
    plugin.kill();
    let _plugin = node.start_plugin();
    kubelet.registration(2).await;
    for (id, name) in ids.iter().zip(&names) {
        kubelet.admit(id, &[("main", &[id.as_str()])]);
        agent.has_lease(id, Ok(lease(id, "GPU-a", 0)));
        kubelet.pre_start(&[id]).await.unwrap();
        assert!(has(node.inject(name), &format!("MEMBOSS_LEASE=team/{id}")));
    }
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 40);
}

#[tokio::test]
async fn a_corrupt_checkpoint_is_set_aside_and_what_was_started_is_still_known() {
    let (node, kubelet, agent, plugin) = whole().await;
    let started = kubelet.allocate(&["s0001"]).await;
    kubelet.allocate(&["s0002"]).await;
    kubelet.admit("p1", &[("main", &["s0001"])]);
    kubelet.admit("p2", &[("main", &["s0002"])]);
    agent.has_lease("p1", Ok(lease("p1", "GPU-a", 0)));
    agent.has_lease("p2", Ok(lease("p2", "GPU-a", 0)));
    kubelet.pre_start(&["s0001"]).await.unwrap();
    plugin.kill();
    fs::write(node.path("state/device-plugin.checkpoint"), "rubbish").unwrap();

    let _plugin = node.start_plugin();
    kubelet.registration(2).await;
    assert_eq!(fs::read_to_string(node.path("state/device-plugin.checkpoint.corrupt")).unwrap(), "rubbish");
    kubelet.pre_start(&["s0001"]).await.unwrap();
    assert!(node.inject(&started).is_some());
    let refusal = kubelet.pre_start(&["s0002"]).await.unwrap_err();
    assert!(refusal.message().contains("delete the pod"), "{refusal}");
}

#[tokio::test]
async fn a_lost_gpu_takes_only_its_slots_and_recovers() {
    let (_node, kubelet, agent, _plugin) = whole().await;
    for (pod, id, uuid, index) in [("p1", "s0016", "GPU-a", 0), ("p2", "s0001", "GPU-b", 1)] {
        kubelet.allocate(&[id]).await;
        kubelet.admit(pod, &[("main", &[id])]);
        agent.has_lease(pod, Ok(lease(pod, uuid, index)));
        kubelet.pre_start(&[id]).await.unwrap();
    }
    agent.has_gpus(two_gpus(Health::Degraded));
    kubelet.devices(16, 16).await;
    agent.has_gpus(two_gpus(Health::Lost));
    let devices = kubelet.devices(16, 8).await;
    assert_eq!((devices["s0016"].as_str(), devices["s0001"].as_str()), ("Healthy", "Unhealthy"));
    agent.has_gpus(two_gpus(Health::Healthy));
    kubelet.devices(16, 16).await;
}

#[tokio::test]
async fn without_an_agent_the_last_known_slots_are_there_and_starts_say_what_is_missing() {
    let node = Node::new();
    let kubelet = node.start_kubelet().await;
    let plugin = node.start_plugin();
    kubelet.registration(1).await;
    node.until_report("agent: not ready: failed to connect").await;
    let agent = node.start_agent().await;
    agent.has_gpus(two_gpus(Health::Lost));
    kubelet.devices(16, 8).await;
    let device = kubelet.allocate(&["s0001"]).await;
    kubelet.admit("p1", &[("main", &["s0001"])]);
    plugin.kill();
    fs::remove_file(node.path("agent/node.sock")).unwrap();

    let _plugin = node.start_plugin();
    kubelet.registration(2).await;
    kubelet.devices(16, 16).await;
    let refusal = kubelet.pre_start(&["s0001"]).await.unwrap_err();
    assert!(refusal.message().contains("is memboss-agent running"), "{refusal}");
    let agent = node.start_agent().await;
    agent.has_gpus(two_gpus(Health::Lost));
    agent.has_lease("p1", Ok(lease("p1", "GPU-a", 0)));
    kubelet.devices(16, 8).await;
    kubelet.pre_start(&["s0001"]).await.unwrap();
    assert!(node.inject(&device).is_some());
}

#[tokio::test]
async fn a_start_waits_for_the_lease_and_asks_the_kubelet_again_afterwards() {
    let (node, kubelet, agent, _plugin) = whole().await;
    let device = kubelet.allocate(&["s0001"]).await;
    kubelet.admit("p1", &[("main", &["s0001"])]);
    agent.has_lease("p1", Err(Status::failed_precondition("waiting for 512 MiB")));
    agent.has_lease("p2", Ok(lease("p2", "GPU-b", 1)));
    let mut asked = agent.asked();
    let (result, ()) = tokio::join!(kubelet.pre_start(&["s0001"]), async {
        asked.wait_for(|asked| asked.len() >= 2).await.unwrap();
        // Meanwhile the slots went to another pod.
        kubelet.remove("p1");
        kubelet.admit("p2", &[("main", &["s0001"])]);
    });
    result.unwrap();
    assert!(has(node.inject(&device), "MEMBOSS_LEASE=team/p2"));
}

#[tokio::test]
async fn a_pod_without_a_lease_and_one_that_is_unknown_are_refused_with_the_reason() {
    let (node, kubelet, _agent, _plugin) = whole().await;
    kubelet.allocate(&["s0001"]).await;
    let refusal = kubelet.pre_start(&["s0001"]).await.unwrap_err();
    assert!(refusal.message().contains("the kubelet lists none"), "{refusal}");
    kubelet.admit("p1", &[("main", &["s0001"])]);
    let refusal = kubelet.pre_start(&["s0001"]).await.unwrap_err();
    assert!(refusal.message().contains("no lease for team/p1"), "{refusal}");
    let refusal = kubelet.pre_start(&["bogus"]).await.unwrap_err();
    assert_eq!(refusal.code(), Code::InvalidArgument);
    assert!(node.cdi_files().is_empty());
}

#[tokio::test]
async fn slots_of_ended_pods_are_free_again() {
    let (_node, kubelet, agent, _plugin) = whole().await;
    kubelet.allocate(&["s0016"]).await;
    kubelet.admit("other", &[("main", &["s0009"])]);
    kubelet.admit("p1", &[("main", &["s0016"])]);
    agent.has_lease("p1", Ok(lease("p1", "GPU-a", 0)));
    kubelet.pre_start(&["s0016"]).await.unwrap();
    agent.has_gpus(two_gpus(Health::Lost));
    assert_eq!(kubelet.devices(16, 8).await["s0016"], "Healthy");
    kubelet.remove("p1");
    // Now free, it is one of the highest, which are unhealthy first.
    kubelet.shows("s0016", "Unhealthy").await;
    kubelet.devices(16, 8).await;
}

#[tokio::test]
async fn a_runtime_that_reads_no_cdi_file_is_noticed_and_forgiven_when_it_does() {
    let mut node = Node::new();
    node.timing.unread = Duration::from_millis(50);
    let (kubelet, agent) = (node.start_kubelet().await, node.start_agent().await);
    agent.has_gpus(two_gpus(Health::Healthy));
    let _plugin = node.start_plugin();
    kubelet.devices(16, 16).await;
    kubelet.allocate(&["s0001"]).await;
    kubelet.admit("p1", &[("main", &["s0001"])]);
    agent.has_lease("p1", Ok(lease("p1", "GPU-a", 0)));
    kubelet.pre_start(&["s0001"]).await.unwrap();
    node.until_report("runtime-reads-cdi: not ready").await;
    // What a runtime with CDI on does.
    node.cdi_files();
    until(|| node.readiness.report().1.contains("runtime-reads-cdi: ready")).await;
}

#[tokio::test]
async fn whoever_leases_in_code_gets_the_agents_directory_and_if_asked_for_all_gpus() {
    let (node, kubelet, agent, plugin) = whole().await;
    kubelet.devices_of("memboss.dev/agent", 1024, 1024).await;
    kubelet.devices_of("memboss.dev/agent-gpus", 1024, 1024).await;
    let opened = kubelet.allocate_of("memboss.dev/agent", &["a0001"]).await;
    let directory = node.path("agent").display().to_string();
    let mount = &opened.mounts[0];
    assert_eq!((&mount.host_path, &mount.container_path, mount.read_only), (&directory, &directory, true));
    assert_eq!(opened.envs["MEMBOSS_SOCKET"], format!("{directory}/agent.sock"));
    assert!(opened.cdi_devices.is_empty());
    let with_gpus = kubelet.allocate_of("memboss.dev/agent-gpus", &["a0007"]).await;
    assert_eq!((&with_gpus.mounts, &with_gpus.envs), (&opened.mounts, &opened.envs));
    assert_eq!(with_gpus.cdi_devices[0].name, "memboss.dev/agent=gpus");

    let spec = all_gpus(&node).unwrap();
    assert_eq!((&spec["kind"], &spec["devices"][0]["name"]), (&"memboss.dev/agent".into(), &"gpus".into()));
    let paths = |spec: &serde_json::Value| -> Vec<String> {
        let nodes = spec["devices"][0]["containerEdits"]["deviceNodes"].as_array().unwrap().clone();
        nodes.iter().map(|node| node["path"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(paths(&spec), ["/dev/nvidiactl", "/dev/nvidia0", "/dev/nvidia1"]);
    // A lost GPU is not given out; the others are.
    agent.has_gpus(two_gpus(Health::Lost));
    until(|| all_gpus(&node).is_some_and(|spec| paths(&spec) == ["/dev/nvidiactl", "/dev/nvidia0"])).await;
    // A plugin that is started anew offers them at once, before the agent has told it anything.
    plugin.kill();
    fs::remove_file(node.path("agent/node.sock")).unwrap();
    let _plugin = node.start_plugin();
    kubelet.registration_of("memboss.dev/agent-gpus", 2).await;
    kubelet.devices_of("memboss.dev/agent-gpus", 1024, 1024).await;
}

#[tokio::test]
async fn gpus_that_no_cdi_spec_describes_are_offered_to_nobody_until_one_does() {
    let node = Node::new();
    let spec = node.path("etc-cdi/nvidia.yaml");
    fs::rename(&spec, node.path("nvidia.yaml")).unwrap();
    let (kubelet, agent) = (node.start_kubelet().await, node.start_agent().await);
    agent.has_gpus(two_gpus(Health::Healthy));
    let _plugin = node.start_plugin();
    kubelet.devices(16, 16).await;
    kubelet.devices_of("memboss.dev/agent", 1024, 1024).await;
    kubelet.devices_of("memboss.dev/agent-gpus", 0, 0).await;
    fs::rename(node.path("nvidia.yaml"), &spec).unwrap();
    kubelet.devices_of("memboss.dev/agent-gpus", 1024, 1024).await;
}
