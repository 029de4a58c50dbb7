//! Below its own high watermark, every replica has what was shown there; so any two agree.

use crate::log::index;
use crate::world::World;

pub fn check(world: &World) -> Result<(), String> {
    for node in &world.nodes {
        // What a lost disk cache took is known to be gone.
        let below = index(node.high_watermark()).min(world.shown.len());
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
