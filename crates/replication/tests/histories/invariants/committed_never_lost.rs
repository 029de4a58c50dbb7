//! The leader of the newest epoch has every record that was ever committed (P1).

use crate::world::World;

pub fn check(world: &World) {
    let view = &world.controller.now().view;
    let Some(id) = view.leader else { return };
    let node = world.node(id);
    if node.leader().is_some_and(|leader| leader.leader_epoch() == view.leader_epoch) {
        assert!(node.log.starts_with(&world.committed), "broker {id} leads and lacks committed records");
    }
}
