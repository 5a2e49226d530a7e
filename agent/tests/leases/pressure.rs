//! RAM under pressure on the real socket: the machine's figures fall, and holders of RAM hear of it.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use memboss_agent::cleaner::Cleaner;
use memboss_agent::node::Input;
use memboss_agent::node::relief::CleanOrder;
use memboss_agent_api::v1::{AcquireRequest, LeaseEvent, Phase};
use memboss_core::{Cleaning, Mib};

use crate::bed::{Bed, acquire, lease, until, until_phase};

fn ram(mib: u64, class: &str) -> AcquireRequest {
    AcquireRequest { ram_mib: mib, class: class.into(), ..AcquireRequest::default() }
}

impl Bed {
    fn available(&self, mib: u64) {
        let text = format!("MemTotal: 16777216 kB\nMemAvailable: {} kB\n", mib * 1024);
        // In one step, so that no look sees half of it.
        let new = self.dir.path().join("meminfo.new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.dir.path().join("meminfo")).unwrap();
    }
}

#[tokio::test]
async fn when_available_ram_falls_a_holder_is_asked_to_go_and_nobody_else_is_granted_any() {
    let bed = Bed::new().await;
    let mut held = acquire(&bed, ram(16, "batch")).await;
    until_phase(&mut held, Phase::Active).await;
    bed.available(500);
    let told = until_phase(&mut held, Phase::Revoking).await;
    let notice = lease(&told).notice.as_ref().unwrap();
    assert_eq!((notice.reason.as_str(), notice.preemptor.as_str()), ("NodePressure", ""));
    let mut late = acquire(&bed, ram(16, "high")).await;
    let why = |event: &LeaseEvent| event.queue.as_ref().is_some_and(|queue| queue.reason == "NodePressure");
    let waits = until(&mut late, why).await;
    assert!(waits.queue.unwrap().message.contains("under pressure"));
    let said = bed.status().await.ram.unwrap();
    assert_eq!((said.pressure.as_str(), said.pressure_sign.as_str()), ("high", "LittleAvailable"));
}

#[tokio::test]
async fn cleaning_drops_what_nobody_uses_below_its_directories_and_leaves_the_rest() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = |name: &str| {
        let mut file = std::fs::File::create(dir.path().join(name)).unwrap();
        file.write_all(&vec![1; 8 << 20]).unwrap();
        file.sync_all().unwrap();
        file
    };
    drop(file("idle"));
    let _in_use = file("in-use");
    let cleaner = Cleaner::new(Path::new("/proc"), vec![dir.path().to_owned(), "/nowhere".into()]);
    let cleaner = cleaner.checking_after(Duration::ZERO);
    let order = CleanOrder { how: Cleaning::Aggressive, target: Mib::from_mib(1024) };
    let mut running = cleaner.begin(order);
    let Some(Input::Cleaned(cleaned)) = running.next().await else { panic!("it tells what came of it") };
    assert_eq!((cleaned.failed.as_deref(), cleaned.files), (None, 1), "{cleaned}");
    // Where the kernel does not tell what is in the cache, nothing is told of what came back.
    let back = running.next().await;
    assert!(matches!(back, None | Some(Input::CameBack(Mib::ZERO))), "nobody reads it: {back:?}");
    assert!(running.next().await.is_none());
}
