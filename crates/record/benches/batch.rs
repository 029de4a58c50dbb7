//! What building, checking and reading a batch costs, beside the CRC that every check includes.

#![allow(clippy::unwrap_used, reason = "a test or bench fails by panicking")]

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use highwater_record::*;
use highwater_types::TimestampMs;

const BATCH_BYTES: usize = 256 << 10;
const LIMITS: ProduceLimits = ProduceLimits {
    batch_bytes_max: 1 << 20,
    record_bytes_max: 1 << 20,
    decompressed_bytes_max: 64 << 20,
    keys_required: false,
};

/// Text that packs by about 4 to 1, as logs do.
fn value(size: usize, seed: usize) -> Vec<u8> {
    let words = ["departure", "arrival", "delayed", "carrier", "origin", "tailnum", "cancelled", "distance"];
    let mut state = seed as u32 ^ 0x9e37_79b9;
    let mut out = Vec::with_capacity(size + 32);
    while out.len() < size {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        out.extend_from_slice(words[(state >> 29) as usize].as_bytes());
        out.extend_from_slice((state >> 20 & 0xff).to_string().as_bytes());
    }
    out.truncate(size);
    out
}

fn build(codec: Compression, values: &[Vec<u8>]) -> Bytes {
    let mut builder = BatchBuilder::with_capacity(codec, None, BATCH_BYTES);
    for (index, value) in values.iter().enumerate() {
        let key = (index as u64).to_be_bytes();
        builder.append(TimestampMs::new(1000 + index as i64), Some(&key), Some(value), &[]).unwrap();
    }
    builder.build().unwrap()
}

fn values(size: usize) -> Vec<Vec<u8>> {
    (0..BATCH_BYTES / (size + 20)).map(|seed| value(size, seed)).collect()
}

fn benches(c: &mut Criterion) {
    for size in [100, 1024] {
        let values = values(size);
        let plain = build(Compression::None, &values);
        let bytes = Throughput::Bytes(plain.len() as u64);

        let mut group = c.benchmark_group(format!("crc32c/{size}B"));
        group.throughput(bytes.clone());
        group.bench_function("none", |b| b.iter(|| crc32c::crc32c(black_box(&plain[21..]))));
        group.finish();

        for (name, run) in [
            ("encode", encode as fn(&mut criterion::Bencher<'_>, Compression, &[Vec<u8>])),
            ("validate", validate),
            ("split", cut),
            ("decode", decode),
        ] {
            let mut group = c.benchmark_group(format!("{name}/{size}B"));
            group.throughput(bytes.clone());
            for codec in Compression::ALL {
                group.bench_with_input(BenchmarkId::from_parameter(codec), &codec, |b, &codec| run(b, codec, &values));
            }
            group.finish();
        }
    }

    let key = b"N12345-a-key";
    c.bench_function("partition_for_key/12B", |b| b.iter(|| partition_for_key(black_box(key), 6)));
}

fn encode(b: &mut criterion::Bencher<'_>, codec: Compression, values: &[Vec<u8>]) {
    b.iter_batched(|| (), |()| build(codec, values), BatchSize::LargeInput);
}

fn validate(b: &mut criterion::Bencher<'_>, codec: Compression, values: &[Vec<u8>]) {
    let bytes = build(codec, values);
    b.iter(|| validate_produce(black_box(bytes.clone()), &LIMITS).unwrap());
}

fn cut(b: &mut criterion::Bencher<'_>, codec: Compression, values: &[Vec<u8>]) {
    let bytes = build(codec, values);
    b.iter(|| split(black_box(bytes.clone())).unwrap());
}

fn decode(b: &mut criterion::Bencher<'_>, codec: Compression, values: &[Vec<u8>]) {
    let batch = split(build(codec, values)).unwrap().remove(0);
    b.iter(|| batch.records(usize::MAX).unwrap().map(|record| record.unwrap().offset.get()).sum::<i64>());
}

criterion_group!(all, benches);
criterion_main!(all);
