//! What is in a log's files, as `highwater log dump` shows it: reads them as they are, also those of a running broker or
//! damaged ones, and changes nothing. Blocking.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use highwater_record::{Batch, BatchHeader};
use highwater_types::{LeaderEpoch, Offset};

pub use crate::checkpoint::Checkpoint;
use crate::checkpoint::CheckpointFile;
use crate::disk::{Disk, OpenMode};
use crate::epoch_file::EpochFile;
pub use crate::index::OffsetEntry;
use crate::index::OffsetIndex;
use crate::log_folder::{TOPIC_ID_FILE, segment_paths};
pub use crate::scan::Fault;
use crate::scan::{Found, Scanner};
use crate::time_index;
pub use crate::time_index::TimeEntry;

/// One partition folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FolderDump {
    /// The content of its `topic-id` file.
    pub partition: Option<String>,
    pub checkpoint: Option<Checkpoint>,
    pub epochs: Vec<(LeaderEpoch, Offset)>,
    /// Its `.log` files, in order.
    pub segments: Vec<PathBuf>,
}

/// What stands at a position of a segment file.
#[derive(Debug, Clone)]
pub enum DumpItem {
    Batch {
        position: u64,
        header: BatchHeader,
        /// Whether the CRC that it states is that of its bytes.
        crc_ok: bool,
        bytes: Bytes,
    },
    /// Bytes that are no batch, up to the next batch or the end.
    Bad { position: u64, len: u64, fault: Fault },
}

/// Everything of a folder but its batches.
pub fn folder(disk: &dyn Disk, dir: &Path) -> io::Result<FolderDump> {
    let partition = crate::disk::read_small_file(disk, &dir.join(TOPIC_ID_FILE), 4096)?;
    Ok(FolderDump {
        partition: partition.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned()),
        checkpoint: CheckpointFile::load(disk, dir)?,
        epochs: EpochFile::load(disk, dir)?.history.entries().to_vec(),
        segments: segment_paths(disk, dir)?,
    })
}

/// The base offset that a segment's file name states.
pub fn base_offset(path: &Path) -> Option<Offset> {
    path.file_stem()?.to_str()?.parse().ok().map(Offset::new)
}

/// Goes through a `.log` file; `visit` returns whether to go on. Does not need the name to be that of a segment.
pub fn segment(disk: &dyn Disk, path: &Path, mut visit: impl FnMut(DumpItem) -> bool) -> io::Result<()> {
    let file = disk.open(path, OpenMode::Read)?;
    let len = file.len()?;
    let first = match BatchHeader::parse(&file.read_at(0, highwater_record::HEADER_LEN)?) {
        Ok(header) => header.base_offset,
        Err(_) => Offset::ZERO,
    };
    let mut scanner = Scanner::new(&*file, 0, base_offset(path).unwrap_or(first), len).headers_only();
    loop {
        let at = scanner.position();
        let item = match scanner.next()? {
            Found::End => return Ok(()),
            Found::Batch { header, position } => {
                let bytes = scanner.batch_bytes(position, &header)?;
                let crc_ok = Batch::from_bytes(bytes.clone()).is_ok();
                DumpItem::Batch { position, header, crc_ok, bytes }
            }
            Found::Bad(fault) => {
                let next = scanner.resync(Offset::MAX)?;
                let end = next.map_or(len, |(position, _)| position);
                let offset = next.map_or(scanner.expected(), |(_, offset)| offset);
                scanner.jump(end, offset);
                DumpItem::Bad { position: at, len: end - at, fault }
            }
        };
        if !visit(item) {
            return Ok(());
        }
    }
}

/// The entries of the `.index` file beside a segment.
pub fn offset_index(disk: &dyn Disk, segment: &Path) -> io::Result<Vec<OffsetEntry>> {
    let index = OffsetIndex::load(disk, &segment.with_extension(crate::index::EXTENSION), u64::MAX)?;
    Ok(index.entries().to_vec())
}

/// The entries of the `.timeindex` file beside a segment.
pub fn time_index(disk: &dyn Disk, segment: &Path) -> io::Result<Vec<TimeEntry>> {
    let index = time_index::TimeIndex::load(disk, &segment.with_extension(time_index::EXTENSION))?;
    Ok(index.entries().to_vec())
}
