//! What must hold after each event, one file each.

mod acknowledged_by_the_maximal_isr;
mod committed_never_changes;
mod committed_never_lost;
mod isr_members_are_safe;
mod logs_agree_below_the_high_watermark;
mod one_log_per_leader_epoch;

use crate::world::World;

pub fn check(world: &World) {
    committed_never_lost::check(world);
    isr_members_are_safe::check(world);
    logs_agree_below_the_high_watermark::check(world);
    one_log_per_leader_epoch::check(world);
}

/// The high watermark of the leader at `at` has just moved.
pub fn on_commit(world: &World, at: usize) {
    acknowledged_by_the_maximal_isr::check(world, at);
    committed_never_changes::check(world, at);
}
