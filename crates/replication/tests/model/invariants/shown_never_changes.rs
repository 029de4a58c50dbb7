//! An offset below any high watermark ever shown by a leader holds the same record for ever, in whatever leader epoch,
//! and no replica believes in a high watermark that no leader has shown.

use crate::log::index;
use crate::world::World;

pub fn check(world: &World) -> Result<(), String> {
    if let Some(rewritten) = &world.rewritten {
        return Err(rewritten.clone());
    }
    for node in &world.nodes {
        let high_watermark = index(node.high_watermark());
        if high_watermark > world.shown.len() {
            let shown = world.shown.len();
            return Err(format!("broker {} believes in high watermark {high_watermark} of {shown} shown", node.id));
        }
    }
    Ok(())
}
