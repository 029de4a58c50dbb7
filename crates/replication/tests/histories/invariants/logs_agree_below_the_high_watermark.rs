//! Below what two replicas each believe to be committed, they have the same records.

use crate::node::index;
use crate::world::World;

pub fn check(world: &World) {
    for (i, a) in world.nodes.iter().enumerate() {
        for b in &world.nodes[i + 1..] {
            let both = index(a.high_watermark.min(b.high_watermark)).min(a.log.len()).min(b.log.len());
            assert_eq!(a.log[..both], b.log[..both], "brokers {} and {}", a.id, b.id);
        }
    }
}
