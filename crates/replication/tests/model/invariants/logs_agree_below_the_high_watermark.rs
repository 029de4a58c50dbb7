//! Below its own high watermark, every replica has what was shown there; so any two agree. And the high watermark is
//! within the log, whatever is cut off at either end (T4, T5).

use crate::log::index;
use crate::node::Role;
use crate::world::World;

pub fn check(world: &World) -> Result<(), String> {
    for node in &world.nodes {
        let high_watermark = index(node.high_watermark());
        let is_within = (node.log.start()..=node.log.end()).contains(&high_watermark);
        if !matches!(node.role, Role::None) && !is_within {
            return Err(format!("broker {} has its high watermark at {high_watermark} of {:?}", node.id, node.log));
        }
        let below = high_watermark.min(world.shown.len());
        for at in node.log.start()..below {
            let (own, shown) = (node.log.get(at), world.shown[at]);
            if own != Some(shown) {
                return Err(format!(
                    "broker {} has {own:?} at {at}, below its high watermark; shown: {shown:?}",
                    node.id
                ));
            }
        }
    }
    Ok(())
}
