//! What a node counts and measures: counters and histograms for hot paths, the one list of names, and Prometheus' text format
//! (version 0.0.4).
//!
//! **Invariants**: a counter or histogram is a handful of relaxed atomics: no lock, no allocation. A family is named in
//! [`families`] and nowhere else, and a [`Page`] states its help and type once, whoever contributes samples.

mod counter;
pub mod exposition;
pub mod families;
mod histogram;
mod page;

pub use counter::Counter;
pub use families::{Family, Kind};
pub use histogram::Histogram;
pub use page::Page;
