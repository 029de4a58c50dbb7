//! Two logs with a record of the same leader epoch at the same offset agree up to there: what truncation by epoch builds
//! on (T1); and the epoch history says of each record who wrote it (T3).

use crate::node::offset;
use crate::world::World;

pub fn check(world: &World) {
    for node in &world.nodes {
        for (i, record) in node.log.iter().enumerate() {
            assert_eq!(node.epochs.epoch_at(offset(i)), Some(record.epoch), "broker {} at {i}", node.id);
        }
    }
    for (i, a) in world.nodes.iter().enumerate() {
        for b in &world.nodes[i + 1..] {
            let last = a.log.iter().zip(&b.log).rposition(|(x, y)| x.epoch == y.epoch);
            if let Some(last) = last {
                assert_eq!(a.log[..=last], b.log[..=last], "brokers {} and {}", a.id, b.id);
            }
        }
    }
}
