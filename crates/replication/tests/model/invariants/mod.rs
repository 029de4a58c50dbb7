//! What must hold after every step, one promise a file.

mod committed_is_never_lost;
mod high_watermark_is_certain_when_it_says_so;
mod high_watermark_waits_for_the_isr;
mod isr_joins_are_safe;
mod logs_agree_below_the_high_watermark;
mod shown_never_changes;

use crate::world::World;

pub fn check(world: &World) -> Result<(), String> {
    committed_is_never_lost::check(world)?;
    high_watermark_is_certain_when_it_says_so::check(world)?;
    high_watermark_waits_for_the_isr::check(world)?;
    isr_joins_are_safe::check(world)?;
    logs_agree_below_the_high_watermark::check(world)?;
    shown_never_changes::check(world)
}
