//! What was acknowledged with `acks=all`, or shown below a high watermark, is in the log of everybody who could lead: who is
//! in the ISR or the ELR, and whose copy did not lose its power since. (Deleted by retention counts as had.) Under
//! durability `sync` it survives even if all of them lose power now.

use highwater_types::Durability;

use crate::world::World;

pub fn check(world: &World) -> Result<(), String> {
    for node in &world.nodes {
        if !world.controller.is_electable(node.id) || node.lost_power {
            continue;
        }
        let safe_below = match world.setup.durability {
            Durability::Sync => node.log.durable(),
            Durability::Replicated => node.log.end(),
        };
        let shown = world.shown.iter().copied().enumerate();
        for (at, entry) in world.acknowledged.iter().copied().chain(shown) {
            let has = at < node.log.start() || at < safe_below && node.log.get(at) == Some(entry);
            if !has {
                return Err(format!(
                    "broker {} may lead ({:?}) without {entry:?}, committed at {at}; its log: {:?}",
                    node.id, world.controller.view, node.log
                ));
            }
        }
    }
    Ok(())
}
