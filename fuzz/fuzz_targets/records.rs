//! Records of a batch that nobody checked, as a damaged log or a wrong leader may give them.
#![no_main]

use bytes::Bytes;
use highwater_record::{Batch, EndTransactionMarker};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(batch) = Batch::from_bytes_unchecked_crc(Bytes::copy_from_slice(data)) else { return };
    let Ok(records) = batch.records(4 << 20) else { return };
    for record in records.flatten() {
        assert!(record.offset >= batch.header().base_offset && record.offset <= batch.header().last_offset());
        let _ = EndTransactionMarker::parse(&record);
    }
});
