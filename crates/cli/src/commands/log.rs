//! `highwater log`: looks into a partition's files.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use highwater_record::{Batch, BatchHeader, Record};
use highwater_storage::RealDisk;
use highwater_storage::dump::{self, DumpItem};
use highwater_types::TimestampType;
use serde_json::{Value, json};

use super::consume::format::json_bytes;
use super::consume::time;
use crate::failure::{Failure, Outcome};
use crate::output::{OutputArgs, OutputFormat, bytes};

/// To how much one batch may decompress when its records are shown.
const DECOMPRESSED_MAX: usize = 1 << 30;

/// Look into a partition's files.
#[derive(Debug, Args)]
pub struct Log {
    #[command(subcommand)]
    command: LogCommand,
}

#[derive(Debug, Subcommand)]
enum LogCommand {
    Dump(Dump),
}

/// Show segments and batches, and what is damaged in them; changes nothing, and works beside a running broker.
///
/// With --output json, each line is one object. Exit code 4 says that something is damaged. (The last batch of a log
/// that is being written may be seen cut.)
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  highwater log dump highwater-data/broker/4f1c...-0                   # a partition
  highwater log dump 00000000000000000000.log --records                # a segment file
  highwater log dump highwater-data/broker --output json               # all partitions")]
struct Dump {
    /// A segment file, a partition's folder, or a data folder with all its partitions.
    path: PathBuf,
    /// Show the records of each batch.
    #[arg(long, short = 'r')]
    records: bool,
    #[command(flatten)]
    output: OutputArgs,
}

impl Log {
    pub fn run(self) -> Outcome {
        match self.command {
            LogCommand::Dump(dump) => dump.run(),
        }
    }
}

/// What was found so far.
#[derive(Default)]
struct Found {
    segments: u64,
    damaged: u64,
}

impl Dump {
    fn run(self) -> Outcome {
        let mut out = std::io::BufWriter::new(std::io::stdout());
        let mut found = Found::default();
        self.any(&self.path, &mut out, &mut found)?;
        out.flush()?;
        match found {
            Found { segments: 0, .. } => {
                let path = self.path.display();
                Err(Failure::usage(format!("there is no log in {path}; name a .log file or a partition's folder")))
            }
            Found { damaged: 0, .. } => Ok(()),
            Found { damaged, .. } => Err(Failure::verification(format!(
                "{damaged} place(s) are damaged; a broker that finds them heals them from the leader"
            ))),
        }
    }

    fn any(&self, path: &Path, out: &mut impl std::io::Write, found: &mut Found) -> Outcome {
        let cant = |error| Failure::failed(format!("can't read {}: {error}", path.display()));
        if !path.is_dir() {
            return self.segment(path, out, found);
        }
        let folder = dump::folder(&RealDisk::new(), path).map_err(cant)?;
        if folder.partition.is_some() || !folder.segments.is_empty() {
            self.folder(path, &folder, out)?;
            return folder.segments.iter().try_for_each(|segment| self.segment(segment, out, found));
        }
        let mut inner: Vec<PathBuf> = Vec::new();
        for entry in std::fs::read_dir(path).map_err(cant)? {
            let entry = entry.map_err(cant)?.path();
            if entry.is_dir() {
                inner.push(entry);
            }
        }
        inner.sort();
        inner.iter().try_for_each(|entry| self.any(entry, out, found))
    }

    fn json(&self) -> bool {
        self.output.output == OutputFormat::Json
    }

    fn folder(&self, path: &Path, folder: &dump::FolderDump, out: &mut impl std::io::Write) -> Outcome {
        let partition = folder.partition.as_deref();
        let checkpoint = folder.checkpoint;
        if self.json() {
            let epochs = folder.epochs.iter().map(|(epoch, start)| json!({"epoch": epoch, "start_offset": start}));
            let checkpoint = checkpoint.map(|it| {
                json!({
                    "start_offset": it.start_offset,
                    "recovery_point": it.recovery_point,
                    "high_watermark": it.high_watermark,
                    "closed_at": it.closed_at,
                })
            });
            let line = json!({
                "kind": "partition",
                "path": path.display().to_string(),
                "partition": partition,
                "checkpoint": checkpoint,
                "leader_epochs": epochs.collect::<Vec<_>>(),
                "segments": folder.segments.len(),
            });
            return Ok(writeln!(out, "{line}")?);
        }
        writeln!(out, "\npartition {} in {}", partition.unwrap_or("(no topic-id file)"), path.display())?;
        match checkpoint {
            None => writeln!(out, "  no checkpoint")?,
            Some(it) => {
                let closed = match it.closed_at {
                    Some(at) => format!("closed in order at {at}"),
                    None => "open, or ended without being closed".to_owned(),
                };
                let (start, recovery, hw) = (it.start_offset, it.recovery_point, it.high_watermark);
                writeln!(out, "  start {start}, synced up to {recovery}, high watermark {hw}; {closed}")?;
            }
        }
        let epochs: Vec<String> = folder.epochs.iter().map(|(epoch, start)| format!("{epoch} from {start}")).collect();
        writeln!(out, "  leader epochs: {}", crate::output::list(epochs))?;
        Ok(())
    }

    fn segment(&self, path: &Path, out: &mut impl std::io::Write, found: &mut Found) -> Outcome {
        let disk = RealDisk::new();
        let name = path.display().to_string();
        let cant = |error| Failure::failed(format!("can't read {name}: {error}"));
        let size = std::fs::metadata(path).map_err(cant)?.len();
        found.segments += 1;
        if self.json() {
            writeln!(out, "{}", json!({"kind": "segment", "path": name, "size_bytes": size}))?;
        } else {
            writeln!(out, "segment {name}, {}", bytes(size))?;
        }
        let mut written = Ok(());
        dump::segment(&disk, path, |item| {
            if matches!(item, DumpItem::Bad { .. } | DumpItem::Batch { crc_ok: false, .. }) {
                found.damaged += 1;
            }
            written = self.item(&item, out);
            written.is_ok()
        })
        .map_err(cant)?;
        written
    }

    fn item(&self, item: &DumpItem, out: &mut impl std::io::Write) -> Outcome {
        match item {
            DumpItem::Bad { position, len, fault } if self.json() => {
                let line = json!({"kind": "damage", "position": position, "length": len, "fault": fault.to_string()});
                writeln!(out, "{line}")?;
            }
            DumpItem::Bad { position, len, fault } => {
                writeln!(out, "  @{position:<10} DAMAGED, {len} bytes: {fault}")?;
            }
            DumpItem::Batch { position, header, crc_ok, bytes } => {
                if self.json() {
                    writeln!(out, "{}", batch_json(*position, header, *crc_ok))?;
                } else {
                    writeln!(out, "  @{position:<10} {}", batch_words(header, *crc_ok))?;
                }
                if self.records {
                    self.records_of(bytes.clone(), out)?;
                }
            }
        }
        Ok(())
    }

    fn records_of(&self, batch: bytes::Bytes, out: &mut impl std::io::Write) -> Outcome {
        let records = Batch::from_bytes_unchecked_crc(batch).and_then(|batch| batch.records(DECOMPRESSED_MAX));
        let fault = match records {
            Err(error) => Some(error),
            Ok(records) => {
                let mut fault = None;
                for record in records {
                    match record {
                        Ok(record) if self.json() => writeln!(out, "{}", record_json(&record))?,
                        Ok(record) => writeln!(out, "      {}", record_words(&record))?,
                        Err(error) => {
                            fault = Some(error);
                            break;
                        }
                    }
                }
                fault
            }
        };
        match fault {
            None => {}
            Some(error) if self.json() => {
                writeln!(out, "{}", json!({"kind": "damage", "fault": error.to_string()}))?;
            }
            Some(error) => writeln!(out, "      can't be read further: {error}")?,
        }
        Ok(())
    }
}

fn batch_words(header: &BatchHeader, crc_ok: bool) -> String {
    let attributes = header.attributes;
    let mut text = format!(
        "offsets {} to {}, {} record(s), {} bytes, {}, leader epoch {}, {}",
        header.base_offset,
        header.last_offset(),
        header.record_count,
        header.total_len(),
        attributes.compression(),
        header.leader_epoch,
        time::show(header.max_timestamp.get())
    );
    for (is, word) in [
        (attributes.timestamp_type() == TimestampType::LogAppendTime, "append time"),
        (attributes.is_transactional(), "transactional"),
        (attributes.is_control(), "control"),
        (!crc_ok, "CRC WRONG"),
    ] {
        if is {
            text.push_str(", ");
            text.push_str(word);
        }
    }
    text
}

fn batch_json(position: u64, header: &BatchHeader, crc_ok: bool) -> Value {
    json!({
        "kind": "batch",
        "position": position,
        "size_bytes": header.total_len(),
        "base_offset": header.base_offset,
        "last_offset": header.last_offset(),
        "records": header.record_count,
        "leader_epoch": header.leader_epoch,
        "compression": header.attributes.compression().to_string(),
        "log_append_time": header.attributes.timestamp_type() == TimestampType::LogAppendTime,
        "transactional": header.attributes.is_transactional(),
        "control": header.attributes.is_control(),
        "base_timestamp_ms": header.base_timestamp,
        "max_timestamp_ms": header.max_timestamp,
        "producer_id": header.producer_id,
        "producer_epoch": header.producer_epoch,
        "base_sequence": header.base_sequence,
        "crc": format!("{:08x}", header.crc),
        "crc_ok": crc_ok,
    })
}

fn record_words(record: &Record) -> String {
    let text = |bytes: Option<&bytes::Bytes>| match bytes {
        None => "null".to_owned(),
        Some(bytes) => format!("{:?}", String::from_utf8_lossy(bytes)),
    };
    let mut line = format!("{}: {} = {}", record.offset, text(record.key.as_ref()), text(record.value.as_ref()));
    for header in &record.headers {
        line.push_str(&format!(", {}={}", header.name_str(), text(header.value.as_ref())));
    }
    line
}

fn record_json(record: &Record) -> Value {
    let header = |it: &highwater_record::Header| json!({"name": it.name_str(), "value": json_bytes(it.value.as_ref())});
    json!({
        "kind": "record",
        "offset": record.offset,
        "timestamp_ms": record.timestamp,
        "key": json_bytes(record.key.as_ref()),
        "value": json_bytes(record.value.as_ref()),
        "headers": record.headers.iter().map(header).collect::<Vec<_>>(),
    })
}
