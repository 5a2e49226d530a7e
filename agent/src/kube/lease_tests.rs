//! Objects as orders and back.

use memboss_core::GpuUuid;
use serde_json::json;

use super::*;

fn object() -> serde_json::Value {
    json!({
        "apiVersion": "memboss.dev/v1alpha1", "kind": "VramLease",
        "metadata": {"name": "p-00001", "namespace": "team", "uid": "o1", "creationTimestamp": "2026-11-24T09:00:00Z"},
        "spec": {
            "subject": {"podName": "p", "podUid": "u1"}, "class": "high",
            "slots": [{"memory": "8Gi"}, {"percent": 50}],
            "containers": [{"name": "c", "slots": [1], "asks": [{"percent": 50}]}],
            "queuedAt": "2026-11-24T08:59:59.500000Z", "noticeSeconds": 20, "canShrink": true
        },
        "status": {"placement": {
            "node": "n1", "gpus": [{"uuid": "GPU-a", "memory": "8Gi"}, {"uuid": "GPU-b", "memory": "4000Mi"}],
            "epoch": {"incarnation": "i", "number": 3}, "attempt": 2, "victims": ["team/v"]
        }}
    })
}

fn parse(object: serde_json::Value) -> VramLease {
    serde_json::from_value(object).unwrap()
}

#[test]
fn a_placed_object_is_an_order_with_its_amounts_fixed() {
    let order = order(&parse(object()), "n1").unwrap().unwrap();
    assert_eq!(order.request.id.as_str(), "team/p-00001");
    assert_eq!(order.request.demand.slots[1], Slot::fixed(Mib::from_mib(4000)));
    assert_eq!(order.request.notice, Some(Span::from_secs(20)));
    assert!(order.request.flexibility.shrinks && order.may_preempt && order.unwanted.is_none());
    assert_eq!((order.attempt, order.epoch.number), (2, 3));
    assert_eq!(order.containers["c"].slots, [1]);
    let made = parse(object()).metadata.creation_timestamp.unwrap().0.as_millisecond();
    assert_eq!(i64::try_from(order.request.enqueued.millis()).unwrap(), made - 500);
}

#[test]
fn an_object_for_another_node_or_without_a_place_is_none() {
    assert!(order(&parse(object()), "n2").unwrap().is_none());
    let mut bare = object();
    bare["status"] = json!({});
    assert!(order(&parse(bare), "n1").unwrap().is_none());
}

#[test]
fn an_object_that_makes_no_sense_is_an_error() {
    for (path, value) in [
        ("/status/placement/gpus/0/memory", json!("eight")),
        ("/status/placement/gpus/0/uuid", json!("")),
        ("/status/placement/gpus", json!([])),
    ] {
        let mut bad = object();
        *bad.pointer_mut(path).unwrap() = value;
        assert!(order(&parse(bad), "n1").is_err(), "{path}");
    }
}

#[test]
fn a_withdrawn_or_deleted_object_is_an_unwanted_order() {
    let mut withdrawn = object();
    withdrawn["status"]["placement"]["withdrawn"] = json!("Preempted");
    assert_eq!(order(&parse(withdrawn), "n1").unwrap().unwrap().unwanted, Some(EndReason::Preempted));
    let mut deleted = object();
    deleted["metadata"]["deletionTimestamp"] = json!("2026-11-24T09:01:00Z");
    let order = order(&parse(deleted), "n1").unwrap().unwrap();
    assert_eq!((order.unwanted, order.deleting), (Some(EndReason::Deleted), true));
}

#[test]
fn what_was_published_is_read_back() {
    let answered = crate::order::Answered { object: "o1".into(), attempt: 2 };
    let seen = LeaseSeen {
        gpus: vec![(GpuUuid::new("GPU-a").unwrap(), 3, "NVIDIA-T4".into(), Mib::from_mib(8192))],
        token: Token { epoch: 1, sequence: 7 },
        reason: Some("Preempted".into()),
        used: vec![Mib::from_mib(10)],
        ..LeaseSeen::bare(answered, State::Stopping)
    };
    let allocation = allocation(&seen, None);
    assert_eq!(allocation.display.as_deref(), Some("gpu3"));
    let mut object = object();
    object["status"]["allocation"] = serde_json::to_value(&allocation).unwrap();
    let recorded = order(&parse(object), "n1").unwrap().unwrap().recorded.unwrap();
    assert_eq!((recorded.state, recorded.attempt, recorded.token), (State::Stopping, 2, seen.token));
    assert_eq!(recorded.reason, Some(EndReason::Preempted));
    assert_eq!(recorded.gpus[0].memory, Mib::from_mib(8192));
}
