//! The high watermark moves no further than what every member of the maximal ISR has acknowledged in this epoch, and only
//! while the ISR is not too small (T11, T14).

use highwater_types::Durability;

use crate::world::World;

pub fn check(world: &World, at: usize) {
    let leader = world.nodes[at].leader().expect("only leaders commit");
    assert!(leader.has_min_isr());
    let maximal = leader.maximal_isr();
    for progress in leader.progress().iter().filter(|p| maximal.contains(&p.broker)) {
        let acknowledged = match world.durability {
            Durability::Sync => progress.durable,
            Durability::Replicated => progress.log_end,
        };
        assert!(acknowledged.is_some_and(|a| a >= leader.high_watermark()), "{progress:?}");
    }
}
