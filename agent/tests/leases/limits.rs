//! What nobody may have or ask for, and what is said to whoever tries.

use memboss_agent::node::Settings;
use memboss_agent::node::clients::{Ceilings, Limits};
use memboss_agent::serve::Quota;
use memboss_agent_api::v1::{AcquireRequest, Phase, SlotRequest, StatusRequest};
use memboss_core::Class;
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tonic::Code;

use crate::bed::{Bed, acquire, settings, until_phase, vram};
use crate::part::{Part, Role};

#[tokio::test]
async fn wrong_requests_say_what_would_be_right_and_nobody_has_more_than_anybody_may() {
    let bed = Bed::new().await;
    let slot = |memory_mib, percent| vec![SlotRequest { memory_mib, percent }];
    for (request, code, words) in [
        (AcquireRequest::default(), Code::InvalidArgument, "no memory"),
        (
            AcquireRequest { slots: slot(0, 0), ..AcquireRequest::default() },
            Code::InvalidArgument,
            "memory_mib or percent",
        ),
        (AcquireRequest { slots: slot(1, 1), ..AcquireRequest::default() }, Code::InvalidArgument, "not for both"),
        (AcquireRequest { slots: slot(0, 101), ..AcquireRequest::default() }, Code::InvalidArgument, "100%"),
        (AcquireRequest { class: "highest".into(), ..vram(1) }, Code::InvalidArgument, "urgent"),
        (AcquireRequest { uuids: vec!["a b".into()], ..vram(1) }, Code::InvalidArgument, "UUID"),
        (AcquireRequest { request_id: "a b".into(), ..vram(1) }, Code::InvalidArgument, "lease id"),
    ] {
        let refused = bed.client().await.acquire(request.clone()).await.unwrap_err();
        assert!(refused.code() == code && refused.message().contains(words), "{request:?}: {refused:?}");
    }
    let mut held = Vec::new();
    for _ in 0..4 {
        let mut stream = acquire(&bed, vram(1)).await;
        until_phase(&mut stream, Phase::Active).await;
        held.push(stream);
    }
    let refused = bed.client().await.acquire(vram(1)).await.unwrap_err();
    assert!(refused.code() == Code::ResourceExhausted && refused.message().contains("the most"), "{refused:?}");
}

#[tokio::test]
async fn what_must_be_remembered_of_a_request_stays_small() {
    let bed = Bed::new().await;
    let many = |count: usize| vec!["x".to_owned(); count];
    for (request, words) in [
        (AcquireRequest { models: many(65), ..vram(1) }, "64 are the most"),
        (AcquireRequest { uuids: many(65), ..vram(1) }, "64 are the most"),
        (AcquireRequest { slots: vec![SlotRequest { memory_mib: 1, percent: 0 }; 65], ..vram(1) }, "64 are the most"),
        (AcquireRequest { models: vec!["x".repeat(129)], ..vram(1) }, "1 to 128 characters"),
        (AcquireRequest { request_id: "x".repeat(254), ..vram(1) }, "lease id"),
    ] {
        let refused = bed.client().await.acquire(request).await.unwrap_err();
        assert!(refused.code() == Code::InvalidArgument && refused.message().contains(words), "{refused:?}");
    }
    let huge = AcquireRequest { label: "x".repeat(1 << 20), ..vram(1) };
    let refused = bed.client().await.acquire(huge).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused:?}");
    // Numbers as large as they come are numbers.
    let endless = AcquireRequest {
        timeout_ms: u64::MAX,
        notice_ms: u64::MAX,
        protection_ms: u64::MAX,
        ttl_ms: u64::MAX,
        ..vram(u64::MAX / 1024)
    };
    let all = AcquireRequest { ram_mib: u64::MAX, ..endless.clone() };
    let refused = bed.client().await.acquire(all).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    let mut waits = acquire(&bed, endless).await;
    let told = until_phase(&mut waits, Phase::Waiting).await;
    assert_eq!(told.queue.unwrap().reason, "Unsatisfiable");
}

#[tokio::test]
async fn classes_have_a_ceiling_and_waiters_a_number_and_both_say_so() {
    let settings = settings();
    let user = rustix::process::geteuid().as_raw();
    let ceilings = Ceilings { users: [(user, Class::Low)].into(), ..Ceilings::default() };
    let clients = Limits { waiting: 1, leases: 8, ceilings, ..settings.clients };
    let bed = Bed::with(Settings { clients, ..settings }, Quota::default()).await;
    let low = |gib| AcquireRequest { class: "low".into(), ..vram(gib) };
    let refused = bed.client().await.acquire(vram(1)).await.unwrap_err();
    assert!(refused.code() == Code::PermissionDenied && refused.message().contains("up to low"), "{refused:?}");
    assert_eq!(bed.client().await.dry_run(vram(1)).await.unwrap_err().code(), Code::PermissionDenied);
    let mut held = acquire(&bed, low(16)).await;
    until_phase(&mut held, Phase::Active).await;
    let mut waits = acquire(&bed, low(16)).await;
    until_phase(&mut waits, Phase::Waiting).await;
    let refused = bed.client().await.acquire(low(16)).await.unwrap_err();
    assert!(refused.code() == Code::ResourceExhausted && refused.message().contains("that wait"), "{refused:?}");
}

#[tokio::test]
async fn connections_above_the_number_are_closed_and_the_others_go_on() {
    let bed = Bed::with(settings(), Quota { connections: 2, watchers: 1 }).await;
    let first = UnixStream::connect(bed.socket()).await.unwrap();
    let mut client = bed.client().await;
    client.status(StatusRequest {}).await.unwrap();
    let mut third = UnixStream::connect(bed.socket()).await.unwrap();
    assert_eq!(third.read(&mut [0; 1]).await.unwrap_or(0), 0, "closed without a word");
    let watching = client.watch_status(StatusRequest {}).await.unwrap();
    assert_eq!(client.watch_status(StatusRequest {}).await.unwrap_err().code(), Code::ResourceExhausted);
    drop((first, watching));
    client.status(StatusRequest {}).await.unwrap();
}

#[tokio::test]
async fn one_name_is_one_lease_of_one_process() {
    let bed = Bed::new().await;
    let mut part = Part::begin(&bed.socket(), &Role { class: "normal", gib: 4, ..Role::default() });
    let (theirs, _) = part.until_active().await;
    let name = theirs.split_once('/').unwrap().1.to_owned();
    let refused = bed.client().await.acquire(AcquireRequest { request_id: name, ..vram(4) }).await.unwrap_err();
    assert!(refused.code() == Code::FailedPrecondition && refused.message().contains("Resume"), "{refused:?}");
}
