//! Every member of ISR ∪ ELR has, as durably as promised, all that is committed: any of them may lead (P1, T8, T12, T17).

use highwater_types::Durability;

use crate::node::Power;
use crate::world::World;

pub fn check(world: &World) {
    let view = &world.controller.now().view;
    for id in view.isr.iter().chain(&view.elr) {
        let node = world.node(*id);
        if world.durability == Durability::Replicated && matches!(node.power, Power::Crashed) {
            // It leaves ISR and ELR when it registers, before it can be elected (T17).
            continue;
        }
        assert!(
            node.promised(world.durability).starts_with(&world.committed),
            "broker {id} is eligible and lacks committed records: {view:?}"
        );
    }
}
