//! A leader that calls its high watermark certain, and still is the one that the controller means, has not fallen behind
//! what any leader before it has shown (T6, KIP-207).

use crate::log::index;
use crate::world::World;

pub fn check(world: &World) -> Result<(), String> {
    for node in &world.nodes {
        let Some(reign) = node.reign() else { continue };
        let is_current = reign.leader.leader_epoch() == world.controller.view.leader_epoch;
        let high_watermark = index(reign.leader.high_watermark());
        if is_current && reign.leader.high_watermark_is_certain() && high_watermark < world.shown.len() {
            let shown = world.shown.len();
            return Err(format!("leader {} is certain of high watermark {high_watermark}; {shown} was shown", node.id));
        }
    }
    Ok(())
}
