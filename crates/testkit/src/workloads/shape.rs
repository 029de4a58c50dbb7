//! The shape of a load, drawn from a seed.

use std::time::Duration;

use highwater_client::{Acks, Compression, ProducerConfig};
use highwater_seams::Entropy;

use super::appends::WritersConfig;

/// Some shape of writers: rates, sizes, codecs, batching, acknowledgement. Times are short, for a simulation must be fast.
pub fn draw(random: &dyn Entropy, topic: &str, partitions: u32, acks: Acks, delivery: Duration) -> WritersConfig {
    let one_of = |values: &[u64]| values[random.below(values.len() as u64) as usize];
    let codecs = [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
    let compression = codecs[random.below(codecs.len() as u64) as usize];
    // Few bytes often, or many seldom, up to what a message may have at most in topics of these tests.
    let (value_bytes, burst, every) = match random.below(8) {
        0 => (20_000, 1, 500),
        1 | 2 => (2_000, 2, 100),
        3 => (16, 20, 100),
        _ => (64, 5, 40),
    };
    let idempotence = Some(acks == Acks::All && random.below(4) > 0);
    let producer = ProducerConfig {
        acks,
        idempotence,
        compression,
        linger: Duration::from_millis(one_of(&[0, 0, 5, 50])),
        batch_bytes: one_of(&[200, 4_096, 65_536]) as usize,
        in_flight_max: one_of(&[1, 5, 20]) as usize,
        delivery_timeout: delivery,
        ..ProducerConfig::default()
    };
    let keys = one_of(&[0, 7, 1_000]);
    WritersConfig {
        writers: 1,
        value_bytes,
        burst,
        every: Duration::from_millis(every),
        keys,
        producer,
        ..WritersConfig::new(topic, partitions)
    }
}
