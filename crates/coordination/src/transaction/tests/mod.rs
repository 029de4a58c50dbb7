mod crashes;
mod driver;
mod effects;
mod interleavings;
mod kept_epoch;
