//! A high watermark that moves goes no further than what every member of the maximal ISR has acknowledged in this
//! reign, as durably as promised; and the controller's ISR is never more than the leader's maximal ISR (T11).

use highwater_types::Durability;

use crate::log::index;
use crate::world::World;

pub fn check(world: &World) -> Result<(), String> {
    for node in &world.nodes {
        let Some(reign) = node.reign() else { continue };
        let leader = &reign.leader;
        let maximal = leader.maximal_isr();
        let committed = &world.controller.view;
        if committed.leader_epoch == leader.leader_epoch()
            && let Some(unknown) = committed.isr.iter().find(|b| !maximal.contains(b))
        {
            return Err(format!(
                "broker {unknown} is in the ISR {:?}, but leader {} counts {maximal:?} only",
                committed.isr, node.id
            ));
        }
        if !world.advanced.contains(&node.id) {
            continue;
        }
        let high_watermark = index(leader.high_watermark());
        for member in &maximal {
            let acknowledged = if *member == node.id {
                match world.setup.durability {
                    Durability::Sync => node.log.durable(),
                    Durability::Replicated => node.log.end(),
                }
            } else {
                reign.acknowledged.get(member).map_or(0, |(_, acknowledged)| *acknowledged)
            };
            if acknowledged < high_watermark {
                return Err(format!(
                    "leader {} moved its high watermark to {high_watermark}, but {member} acknowledged {acknowledged}",
                    node.id
                ));
            }
        }
    }
    Ok(())
}
