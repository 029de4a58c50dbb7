//! What a producer gets past the checks must be readable to the last record. The CRC is made right first, since no
//! fuzzer guesses it.
#![no_main]

use bytes::Bytes;
use highwater_record::{HEADER_LEN, LENGTH_PREFIX, ProduceLimits, validate_produce};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut data = data.to_vec();
    if data.len() >= HEADER_LEN {
        let length = (data.len() - LENGTH_PREFIX) as i32;
        data[8..12].copy_from_slice(&length.to_be_bytes());
        data[16] = 2;
        let crc = crc32c::crc32c(&data[21..]);
        data[17..21].copy_from_slice(&crc.to_be_bytes());
    }
    let limits = ProduceLimits { batch_bytes_max: 1 << 20, record_bytes_max: 1 << 20, decompressed_bytes_max: 4 << 20, keys_required: false };
    if let Ok(batches) = validate_produce(Bytes::from(data), &limits) {
        for batch in batches {
            let records = batch.records(limits.decompressed_bytes_max).expect("it was decompressed before");
            let found = records.map(|record| record.expect("it was checked before")).count();
            assert_eq!(found, batch.header().record_count as usize);
        }
    }
});
