//! Leases of host RAM: alone, and in one grant with GPU memory.

use super::*;

/// Of 32 GiB that are available on a machine of 64 one fiftieth stays for the system.
const LEASABLE_RAM: u64 = 32 * 1024 - 64 * 1024 / 50;

pub(super) fn gib(gib: u64) -> Mib {
    Mib::from_mib(gib * 1024)
}

pub(super) fn ram_id(pod: &str) -> LeaseId {
    LeaseId::new(format!("ns/ram:{pod}")).unwrap()
}

pub(super) fn ram_order(pod: &str, class: Class, ram: u64) -> Order {
    let demand = Demand { slots: vec![], ram: gib(ram) };
    let node = NodeName::new("n1").unwrap();
    Order {
        request: Request::new(ram_id(pod), class, demand, Moment::default()),
        placement: Placement { node, gpus: vec![], ram: gib(ram) },
        containers: BTreeMap::new(),
        ..order(pod, class, 1)
    }
}

impl Play {
    fn state_of(&self, lease: &LeaseId) -> State {
        self.snapshot().leases[lease].state
    }

    /// Its pod's cgroup appears, and it uses so much.
    pub(super) fn ram_starts(&mut self, pod: &str, used: u64) {
        self.pods.insert(uid(pod));
        self.ram_used.insert(ram_id(pod), gib(used));
        self.look();
    }

    pub(super) fn ram_ends(&mut self, pod: &str) {
        self.pods.remove(&uid(pod));
        self.ram_used.remove(&ram_id(pod));
        self.look();
        self.look();
    }
}

#[test]
fn a_lease_of_ram_is_active_when_its_pod_is_seen_and_over_when_that_is_gone() {
    let mut play = Play::ready();
    play.order(ram_order("a", Class::Normal, 8));
    assert_eq!(play.state_of(&ram_id("a")), State::Reserved);
    play.ram_starts("a", 3);
    assert_eq!(play.state_of(&ram_id("a")), State::Active);
    assert_eq!(play.snapshot().ram.leased, gib(8));
    play.ram_ends("a");
    assert_eq!((play.state_of(&ram_id("a")), play.snapshot().ram.leased), (State::Ended, Mib::ZERO));
}

#[test]
fn more_ram_than_is_there_is_refused_and_gpus_have_no_part_in_it() {
    let mut play = Play::ready();
    play.order(ram_order("a", Class::Normal, 40));
    let seen = play.snapshot().leases[&ram_id("a")].clone();
    assert_eq!((seen.state, seen.reason.as_deref()), (State::Refused, Some("NoRoom")), "{seen:?}");
}

#[test]
fn a_lost_gpu_stops_no_lease_of_ram() {
    let mut play = Play::ready();
    play.order(ram_order("a", Class::Normal, 8));
    play.ram_starts("a", 3);
    play.gpu = Err("fell off the bus".into());
    play.ram_ends("a");
    assert_eq!(play.state_of(&ram_id("a")), State::Ended);
}

#[test]
fn ram_in_use_by_those_who_leased_it_is_not_counted_twice() {
    let mut play = Play::ready();
    let leasable = |play: &Play| play.snapshot().ram.leasable.mib();
    assert!(leasable(&play).abs_diff(LEASABLE_RAM) <= 64, "{}", leasable(&play));
    let before = leasable(&play);
    play.order(ram_order("a", Class::Normal, 8));
    play.ram_starts("a", 8);
    // The machine says the same is available; 8 GiB of it would be there without the lease.
    assert_eq!(leasable(&play), before + 8 * 1024);
    assert!(!play.snapshot().leases[&ram_id("a")].over);
    play.ram_starts("a", 9);
    assert!(play.snapshot().leases[&ram_id("a")].over);
    assert_eq!(leasable(&play), before + 8 * 1024, "what is above its lease is nobody's gift");
}

#[test]
fn a_higher_class_gets_ram_from_a_lower_one_after_a_notice_and_once_its_pod_is_gone() {
    let mut play = Play::ready();
    play.order(ram_order("low", Class::Batch, 24));
    play.ram_starts("low", 4);
    play.order(ram_order("high", Class::Urgent, 24));
    let told = play.snapshot().leases[&ram_id("low")].clone();
    assert_eq!((told.state, told.notice.unwrap().needed_ram > Mib::ZERO), (State::Revoking, true));
    assert_eq!(play.state_of(&ram_id("high")), State::Claimed);
    play.later(60);
    assert_eq!(play.state_of(&ram_id("low")), State::Stopping);
    assert_eq!(play.state_of(&ram_id("high")), State::Claimed, "not before the memory is seen free");
    play.ram_ends("low");
    assert_eq!(play.state_of(&ram_id("high")), State::Reserved);
}

#[test]
fn gpu_memory_and_ram_of_one_lease_come_together_or_not_at_all() {
    let mut play = Play::ready();
    let both = |pod: &str, vram: u64, ram: u64| {
        let mut order = order(pod, Class::Normal, vram);
        order.request.demand.ram = gib(ram);
        order.placement.ram = gib(ram);
        order
    };
    play.order(both("a", 4, 20));
    assert_eq!((play.state_of(&id("a")), play.snapshot().ram.leased), (State::Reserved, gib(20)));
    play.order(both("b", 4, 20));
    assert_eq!(play.state_of(&id("b")), State::Refused, "the GPU has room, the host has not");
    assert_eq!(play.snapshot().gpus[0].leased, gib(4));
}

#[test]
fn nothing_is_granted_before_the_leases_of_both_kinds_are_known() {
    let mut play = Play::begin(Start::First);
    play.look();
    play.step(Input::Incarnation("i".into()));
    play.step(Input::Pods(vec![]));
    play.step(Input::Orders(LeaseKind::Vram, vec![]));
    assert_ne!(play.node.hold, Hold::Open);
    play.step(Input::Orders(LeaseKind::Ram, vec![]));
    assert_eq!(play.node.hold, Hold::Open);
    // Told anew, one kind says nothing of the other.
    play.order(ram_order("a", Class::Normal, 8));
    play.step(Input::Orders(LeaseKind::Ram, vec![ram_order("a", Class::Normal, 8)]));
    play.step(Input::Orders(LeaseKind::Vram, vec![]));
    assert_eq!(play.state_of(&ram_id("a")), State::Reserved);
}

#[test]
fn what_pods_request_beside_their_leases_is_not_granted_though_it_seems_to_be_there() {
    let mut play = Play::ready();
    play.order(Order { ram_room: Some(gib(28)), ..ram_order("low", Class::Batch, 20) });
    play.ram_starts("low", 1);
    // The machine has 11 GiB more; its kubelet would give 8.
    let urgent = Order { ram_room: Some(gib(28)), ..ram_order("urgent", Class::Urgent, 10) };
    play.order(urgent);
    assert_eq!(play.state_of(&ram_id("urgent")), State::Claimed);
    assert_eq!(play.state_of(&ram_id("low")), State::Revoking);
}

#[test]
fn a_pod_that_was_there_before_its_grant_holds_it_at_the_next_look() {
    let mut play = Play::ready();
    play.order(ram_order("first", Class::Normal, 24));
    play.ram_starts("first", 1);
    // Its pod is here already, as after a reservation that timed out while its image was fetched.
    play.pods.insert(uid("late"));
    play.order(ram_order("late", Class::Urgent, 24));
    play.look();
    assert_eq!(play.state_of(&ram_id("late")), State::Claimed);
    play.later(60);
    play.ram_ends("first");
    play.look();
    assert_eq!(play.state_of(&ram_id("late")), State::Active);
}

#[test]
fn a_driver_that_hangs_holds_up_no_lease_of_ram() {
    let mut play = Play::ready();
    play.order(ram_order("a", Class::Normal, 8));
    play.pods.insert(uid("a"));
    play.silent();
    assert_eq!(play.state_of(&ram_id("a")), State::Active);
    play.pods.remove(&uid("a"));
    play.silent();
    play.silent();
    assert_eq!(play.state_of(&ram_id("a")), State::Ended);
}

#[test]
fn without_the_machines_figures_no_ram_is_granted_and_none_is_taken_away() {
    let mut play = Play::ready();
    play.order(ram_order("a", Class::Normal, 8));
    play.ram_starts("a", 1);
    let blind = Observation { ram: None, ..play.observation() };
    play.step(Input::Seen(Box::new(blind)));
    play.order(ram_order("b", Class::Normal, 1));
    assert_eq!((play.state_of(&ram_id("a")), play.state_of(&ram_id("b"))), (State::Active, State::Refused));
}

#[test]
fn what_a_holder_of_gpu_memory_has_in_ram_anyway_frees_none_of_what_it_moves_there() {
    let mut play = Play::ready();
    play.order(order("a", Class::Normal, 8));
    play.start("a", 7, 8);
    let before = play.snapshot().ram.leasable;
    let (reply, _answer) = oneshot::channel();
    let what = GiveBack { memory: vec![gib(0)], ram: RamWish::More(gib(8)), notice: String::new() };
    play.step(Input::Ask(Ask::GiveBack { pod: uid("a"), what, reply }));
    // Its heap is no use of what it is about to move.
    assert!(play.node.wants_ram_of().is_empty());
    play.ram_used.insert(id("a"), gib(15));
    play.look();
    assert_eq!((play.snapshot().ram.leasable, play.snapshot().ram.leased), (before, gib(8)));
    assert!(!play.snapshot().leases[&id("a")].over);
}
