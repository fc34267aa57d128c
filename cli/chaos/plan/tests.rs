use std::collections::BTreeMap;

use super::*;

const OURS: Ours = Ours { broker: true, store: true };
const MINUTE: u64 = 60_000;

#[test]
fn a_seed_has_one_plan_and_another_seed_another() {
    assert_eq!(plan(7, 10 * MINUTE, OURS), plan(7, 10 * MINUTE, OURS));
    assert_ne!(plan(7, 10 * MINUTE, OURS), plan(8, 10 * MINUTE, OURS));
}

#[test]
fn sixty_minutes_hold_more_than_three_hundred_kills_and_every_kind_of_fault() {
    for seed in 0..50 {
        let plan = plan(seed, 60 * MINUTE, OURS);
        let kills = plan.faults.iter().filter(|due| due.fault.kind().starts_with("kill")).count();
        assert!(kills >= 360, "seed {seed}: {kills} kills");
        let mut kinds: BTreeMap<String, u32> = BTreeMap::new();
        for due in &plan.faults {
            *kinds.entry(due.fault.kind()).or_default() += 1;
        }
        assert_eq!(kinds.len(), 17, "seed {seed}: {kinds:?}");
    }
}

#[test]
fn four_minutes_kill_both_servers_in_most_seeds() {
    let both = (0..100).filter(|seed| {
        let plan = plan(*seed, 4 * MINUTE, OURS);
        [Service::Broker, Service::Store].into_iter().all(|wanted| {
            plan.faults
                .iter()
                .any(|due| matches!(due.fault, Fault::KillService { service, .. } if service == wanted))
        })
    });
    let both = both.count();
    assert!(both > 60, "{both} of 100");
}

#[test]
fn faults_are_in_order_and_end_with_the_plan() {
    for seed in 0..200 {
        let plan = plan(seed, 4 * MINUTE, OURS);
        assert!(plan.faults.is_sorted_by_key(|due| due.at_ms), "seed {seed}");
        for Due { at_ms, fault } in plan.faults {
            let ends = match fault {
                Fault::Suspend { ms, .. }
                | Fault::Refuse { ms, .. }
                | Fault::Stall { ms, .. }
                | Fault::Mute { ms, .. } => at_ms + ms,
                Fault::KillService { down_ms, .. } => at_ms + down_ms,
                _ => at_ms,
            };
            assert!(ends <= plan.end_ms, "seed {seed}: {fault} at {at_ms} ends at {ends}");
        }
    }
}

#[test]
fn only_processes_that_are_there_are_killed_suspended_and_removed() {
    for seed in 0..200 {
        let mut there: BTreeSet<Instance> = Processor::ALL
            .into_iter()
            .flat_map(|processor| (0..STEADY).map(move |slot| Instance { processor, slot }))
            .collect();
        for Due { fault, .. } in plan(seed, 10 * MINUTE, OURS).faults {
            match fault {
                Fault::Add { instance } => {
                    assert!(there.insert(instance), "seed {seed}: {instance} is added twice");
                    assert!(instance.slot < INSTANCES_MAX, "{instance}");
                    let guests = there.iter().filter(|instance| instance.slot >= STEADY).count();
                    assert!(guests <= GUESTS_MAX, "seed {seed}: {guests} guests");
                }
                Fault::Remove { instance } => {
                    assert!(instance.slot >= STEADY && there.remove(&instance), "seed {seed}: {instance}");
                }
                Fault::Kill { instance, .. } | Fault::Suspend { instance, .. } => {
                    assert!(there.contains(&instance), "seed {seed}: {instance} is not there");
                }
                _ => {}
            }
        }
    }
}

#[test]
fn four_minutes_kill_processes_of_every_processor() {
    for seed in 0..100 {
        let plan = plan(seed, 4 * MINUTE, OURS);
        for processor in Processor::ALL {
            let kills = plan.faults.iter().filter(
                |due| matches!(due.fault, Fault::Kill { instance, .. } if instance.processor == processor),
            );
            assert!(kills.count() > 0, "seed {seed}: no {} is killed", processor.name());
        }
    }
}

#[test]
fn nothing_is_done_to_servers_of_somebody_else() {
    for seed in 0..50 {
        let plan = plan(seed, 10 * MINUTE, Ours { broker: false, store: false });
        assert!(plan.faults.len() > 50);
        for Due { fault, .. } in plan.faults {
            let of_process = matches!(
                fault,
                Fault::Kill { .. } | Fault::Suspend { .. } | Fault::Add { .. } | Fault::Remove { .. }
            );
            assert!(of_process, "{fault}");
        }
    }
}
