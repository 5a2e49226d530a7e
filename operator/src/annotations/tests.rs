//! Every wrong kind of request, and the right ones.

use super::*;
use proptest::prelude::*;
use serde_json::json;

/// Annotations, containers, and what comes of them.
type Case<'a, T> = (&'a [(&'a str, &'a str)], &'a [&'a str], T);

fn pod(annotations: &[(&str, &str)], containers: &[&str]) -> Pod {
    let annotations: std::collections::BTreeMap<_, _> =
        annotations.iter().map(|(k, v)| (format!("memboss.dev/{k}"), (*v).to_owned())).collect();
    let containers: Vec<_> = containers.iter().map(|name| json!({ "name": name })).collect();
    serde_json::from_value(json!({ "metadata": { "annotations": annotations }, "spec": { "containers": containers } }))
        .unwrap()
}

fn wrongs(annotations: &[(&str, &str)], containers: &[&str]) -> String {
    let wrong = read(&pod(annotations, containers)).expect_err("refused");
    wrong.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[test]
fn every_wrong_amount_is_refused_with_field_and_value() {
    for text in [
        "",
        "0",
        "0Gi",
        "-8Gi",
        "1.5Gi",
        "8Gb",
        "lots",
        "8 Gi",
        "0%",
        "101%",
        "5.5%",
        "0x8Gi",
        "17x1Gi",
        "x8Gi",
        "2x",
        "2x2x1Gi",
        "+8Gi",
        "99999999999999Gi",
    ] {
        let said = wrongs(&[("vram", text)], &["main"]);
        assert!(
            said.contains("memboss.dev/vram") && said.contains(&format!("{text:?}")) && said.contains("8Gi"),
            "{text}: {said}"
        );
    }
}

#[test]
fn ram_is_asked_for_alone_or_with_gpu_memory_and_carried_by_one_container() {
    let cases: &[Case<(&str, &str, usize)>] = &[
        (&[("ram", "16Gi")], &["main"], ("16Gi", "main", 0)),
        (&[("ram", "16Gi")], &["a", "b"], ("16Gi", "a", 0)),
        (&[("ram", "16Gi"), ("container", "b")], &["a", "b"], ("16Gi", "b", 0)),
        (&[("ram", "16Gi"), ("vram", "8Gi")], &["main"], ("8Gi", "main", 1)),
    ];
    for (annotations, containers, (display, carrier, slots)) in cases {
        let asked = read(&pod(annotations, containers)).unwrap().unwrap();
        assert_eq!((asked.display.as_str(), asked.carrier.as_str(), asked.slots.len()), (*display, *carrier, *slots));
        assert_eq!(asked.ram, Some(Mib::from_mib(16 * 1024)));
    }
}

#[test]
fn wrong_words_and_names_are_refused_with_what_would_be_right() {
    let cases: &[Case<&[&str]>] = &[
        (&[("vram", "1Gi"), ("priority", "highest")], &["main"], &["memboss.dev/priority", "highest", "urgent"]),
        (&[("vram", "1Gi"), ("priority", "HIGH")], &["main"], &["HIGH"]),
        (&[("vram.other", "1Gi")], &["main"], &["vram.other", "main"]),
        (&[("vram", "1Gi"), ("container", "other")], &["main"], &["memboss.dev/container", "other", "main"]),
        (&[("vram", "1Gi")], &["a", "b"], &["memboss.dev/vram", "a, b", "memboss.dev/container"]),
        (&[("vram", "1Gi"), ("vram.main", "1Gi")], &["main"], &["same container"]),
        (&[("vram", "1Gi"), ("gpus", "GPU-1")], &["main"], &["memboss.dev/gpus", "no such annotation"]),
        (&[("vram", "1Gi"), ("model", "m")], &["main"], &["memboss.dev/model", "this version"]),
        (&[("ram", "50%")], &["main"], &["memboss.dev/ram", "50%", "16Gi"]),
        (&[("ram", "0")], &["main"], &["memboss.dev/ram", "16Gi"]),
        (&[("ram", "1Gi"), ("layout", "spread")], &["main"], &["memboss.dev/layout", "RAM alone"]),
        (&[("ram", "1Gi"), ("container", "other")], &["main"], &["memboss.dev/container", "other", "main"]),
        (&[("vram", "1Gi"), ("notice", "301")], &["main"], &["memboss.dev/notice", "300"]),
        (&[("vram", "1Gi"), ("can-shrink", "yes")], &["main"], &["can-shrink", "true"]),
        (&[("vram.a", "60%"), ("vram.b", "60%")], &["a", "b"], &["memboss.dev/vram", "120%", "containers: separate"]),
        (&[("priority", "high")], &["main"], &["memboss.dev/priority", "memboss.dev/vram"]),
        (&[("vram", "1Gi"), ("gpu-model", "H100||A100")], &["main"], &["gpu-model"]),
        (&[("agent", "yes")], &["main"], &["memboss.dev/agent", "yes", "true, gpus"]),
        (&[("agent", "true"), ("notice", "5")], &["main"], &["memboss.dev/notice", "5", "memboss.dev/vram"]),
        (&[("agent", "gpus"), ("vram", "1Gi")], &["main"], &["memboss.dev/agent", "gpus", "write true"]),
        (&[("agent", "gpus"), ("ram", "1Gi")], &["main"], &["memboss.dev/agent", "gpus", "write true"]),
        (&[("agent", "true"), ("container", "other")], &["main"], &["memboss.dev/container", "other", "main"]),
    ];
    for (annotations, containers, words) in cases {
        let said = wrongs(annotations, containers);
        for word in *words {
            assert!(said.contains(word), "{annotations:?}: {said:?} lacks {word:?}");
        }
    }
}

#[test]
fn all_that_is_wrong_is_said_at_once() {
    let said = wrongs(&[("vram", "-1"), ("priority", "top"), ("layout", "pile")], &["main"]);
    assert!(said.contains("vram") && said.contains("priority") && said.contains("layout"), "{said}");
}

#[test]
fn init_containers_cannot_hold_a_lease_but_sidecars_can() {
    let with_init = |policy: Option<&str>| -> Pod {
        serde_json::from_value(json!({
            "metadata": { "annotations": { "memboss.dev/vram.setup": "1Gi" } },
            "spec": { "containers": [{ "name": "main" }], "initContainers": [{ "name": "setup", "restartPolicy": policy }] }
        }))
        .unwrap()
    };
    assert!(read(&with_init(None)).unwrap_err()[0].to_string().contains("init container"));
    assert_eq!(read(&with_init(Some("Always"))).unwrap().unwrap().containers[0].name, "setup");
}

#[test]
fn a_resource_is_units_or_bytes() {
    let with = |units: &str| -> Pod {
        serde_json::from_value(json!({ "spec": { "containers": [{ "name": "main", "resources": { "limits": { "memboss.dev/vram": units } } }] } })).unwrap()
    };
    for (units, display) in [("32", "8Gi"), ("8Gi", "8Gi"), ("8589934592", "8Gi"), ("8000Mi", "8Gi")] {
        assert_eq!(read(&with(units)).unwrap().unwrap().display, display, "{units}");
    }
    assert!(read(&with("0")).is_err() && read(&with("1500m")).is_err());
}

#[test]
fn right_requests_become_slots() {
    let cases: &[Case<(&str, usize)>] = &[
        (&[("vram", "8Gi")], &["main"], ("8Gi", 1)),
        (&[("vram", "8000Mi")], &["main"], ("8Gi", 1)),
        (&[("vram", "50%")], &["main"], ("50%", 1)),
        (&[("vram", "2x8Gi")], &["main"], ("2x8Gi", 2)),
        (&[("vram.a", "2Gi"), ("vram.b", "1Gi")], &["a", "b"], ("3Gi", 1)),
        (&[("vram.a", "2Gi"), ("vram.b", "1Gi"), ("containers", "separate")], &["a", "b"], ("2Gi+1Gi", 2)),
        (&[("vram.a", "60%"), ("vram.b", "40%")], &["a", "b"], ("100%", 1)),
        (&[("vram.a", "60%"), ("vram.b", "60%"), ("containers", "separate")], &["a", "b"], ("2x60%", 2)),
        (&[("vram.a", "2x8Gi"), ("vram.b", "4Gi")], &["a", "b"], ("12Gi+8Gi", 2)),
    ];
    for (annotations, containers, (display, slots)) in cases {
        let asked = read(&pod(annotations, containers)).unwrap().unwrap();
        assert_eq!((asked.display.as_str(), asked.slots.len()), (*display, *slots), "{annotations:?}");
    }
}

#[test]
fn a_pod_without_anything_of_ours_asks_nothing() {
    assert_eq!(read(&pod(&[], &["main"])), Ok(None));
    assert!(!asks(&pod(&[], &["main"])));
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(key in "[a-z.-]{0,12}", text in ".{0,24}") {
        let _ = read(&pod(&[(&key, &text), ("vram", &text)], &["main", "b"]));
    }
}
