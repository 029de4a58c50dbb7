//! A header that parsed must be safe to compute with.
#![no_main]

use highwater_record::{BatchHeader, HEADER_LEN};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(header) = BatchHeader::parse(data) {
        assert!(header.total_len() >= HEADER_LEN);
        assert!(header.next_offset() > header.base_offset);
    }
});
