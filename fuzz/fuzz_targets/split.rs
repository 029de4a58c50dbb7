//! What is split off must cover the input from its start, whole.
#![no_main]

use bytes::Bytes;
use highwater_record::{split, split_prefix};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let bytes = Bytes::copy_from_slice(data);
    let prefix = split_prefix(bytes.clone());
    if let Ok(batches) = split(bytes) {
        assert_eq!(batches.iter().map(|batch| batch.bytes().len()).sum::<usize>(), data.len());
        assert_eq!(prefix.as_ref(), Ok(&batches));
    }
});
