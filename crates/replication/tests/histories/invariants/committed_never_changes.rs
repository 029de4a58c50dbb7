//! An offset below a high watermark keeps its record, whoever leads (P2).

use crate::node::index;
use crate::world::World;

pub fn check(world: &World, at: usize) {
    let node = &world.nodes[at];
    let shown = &node.log[..index(node.high_watermark)];
    let both = shown.len().min(world.committed.len());
    assert_eq!(shown[..both], world.committed[..both], "broker {}", node.id);
}
