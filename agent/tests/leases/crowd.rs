//! A thousand clients at once: each is served in its turn, and none is lost.

use memboss_agent::node::Settings;
use memboss_agent::node::clients::Limits;
use memboss_agent::serve::Quota;
use memboss_agent_api::v1::{AcquireRequest, LeaseRequest, Phase};
use tokio::task::JoinSet;

use crate::bed::{Bed, acquire, lease, settings, until_phase, vram};

const CLIENTS: usize = 1000;

#[tokio::test]
async fn a_thousand_clients_at_once_all_get_their_turn_and_leave_nothing_behind() {
    let settings = settings();
    let clients = Limits { leases: CLIENTS, ..Limits::default() };
    let bed = Bed::with(Settings { clients, ..settings }, Quota::default()).await;
    let mut crowd = JoinSet::new();
    for _ in 0..CLIENTS {
        let mut client = bed.client().await;
        crowd.spawn(async move {
            // Twenty-three of them fit at once.
            let mut stream = client.acquire(AcquireRequest { ram_mib: 1, ..vram(1) }).await.unwrap().into_inner();
            let held = until_phase(&mut stream, Phase::Active).await;
            client.release(LeaseRequest { lease: lease(&held).lease.clone() }).await.unwrap();
            lease(&until_phase(&mut stream, Phase::Ended).await).reason.clone()
        });
    }
    let reasons = crowd.join_all().await;
    assert!(reasons.len() == CLIENTS && reasons.iter().all(|reason| reason == "Released"), "{reasons:?}");
    assert!(bed.status().await.leases.is_empty());
    let mut next = acquire(&bed, vram(23)).await;
    until_phase(&mut next, Phase::Active).await;
}
