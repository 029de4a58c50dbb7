mod crashes;
mod driver;
mod effects;
mod interleavings;
