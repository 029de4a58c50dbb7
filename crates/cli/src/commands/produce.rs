//! `highwater produce`: sends lines of a file or of standard input as records.

use std::io::{BufRead as _, BufReader, Read};
use std::path::PathBuf;

use bytes::Bytes;
use clap::Args;
use highwater_client::{Acks, Compression, Delivery, ProducerConfig, ProducerRecord, TopicRef};
use tokio::sync::mpsc;

use crate::args::{ConnectArgs, block_on, parse_pair, parse_separator, until_ended};
use crate::failure::{Failure, Outcome};
use crate::output::{line, thousands};

/// Send records to a topic: each line of standard input or of a file is one.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  highwater produce orders --file orders.jsonl
  highwater produce orders --key-separator : --header source=shop < orders.txt
  highwater produce orders --partition 3 --acks leader --compression zstd --report")]
pub struct Produce {
    /// The topic.
    topic: String,
    /// Read from this file instead of standard input.
    #[arg(long, short = 'f', value_name = "FILE")]
    file: Option<PathBuf>,
    /// What stands between key and value in each line (\t for a tab). Without it, records have no key.
    #[arg(long, short = 'k', value_parser = parse_separator, value_name = "TEXT")]
    key_separator: Option<String>,
    /// A header of every record; can be given several times.
    #[arg(long = "header", short = 'H', value_parser = parse_pair, value_name = "NAME=VALUE")]
    headers: Vec<(String, String)>,
    /// Send all to this partition, instead of by key (or, without keys, a batch to each in turn).
    #[arg(long, short = 'p')]
    partition: Option<u32>,
    /// When a record counts as written: none (0), leader (1) or all in-sync replicas (all).
    #[arg(long, default_value = "all")]
    acks: Acks,
    /// Codec of the batches: none, gzip, snappy, lz4 or zstd.
    #[arg(long, short = 'z', default_value = "none")]
    compression: Compression,
    /// Bytes at which a batch is sent.
    #[arg(long, value_name = "BYTES")]
    batch_bytes: Option<usize>,
    /// How long a batch that is not full waits for more records, in milliseconds.
    #[arg(long, default_value_t = 5)]
    linger_ms: u64,
    /// Print partition and offset of each record, in the order of the input.
    #[arg(long)]
    report: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

type Source = BufReader<Box<dyn Read + Send>>;

/// A line and its number, from 1.
type Line = (u64, Bytes);

impl Produce {
    pub fn run(self) -> Outcome {
        block_on(until_ended(self.produce()))
    }

    async fn produce(self) -> Outcome {
        let (lines_in, mut lines) = mpsc::channel(64);
        let source = self.open()?;
        let client = self.connect.connect().await?;
        let mut config = ProducerConfig { acks: self.acks, compression: self.compression, ..ProducerConfig::default() };
        config.linger = std::time::Duration::from_millis(self.linger_ms);
        config.batch_bytes = self.batch_bytes.unwrap_or(config.batch_bytes);
        config.delivery_timeout = self.connect.timeout;
        config.request_timeout = config.request_timeout.min(self.connect.timeout);
        let producer = client.producer(config).map_err(Failure::usage)?;
        // Reading standard input blocks, for as long as nobody types: not a task of the runtime's.
        std::thread::spawn(move || read_lines(source, &lines_in));

        let (settled_in, settled) = mpsc::channel(100_000);
        let settle = tokio::spawn(settle(settled, self.report));
        let topic = TopicRef::from(&self.topic);
        let mut stopped = None;
        while let Some(batch) = lines.recv().await {
            let batch: Vec<Line> = batch.map_err(|error: std::io::Error| Failure::failed(self.cant_read(&error)))?;
            for (number, text) in batch {
                let delivery = match self.record(&topic, number, &text) {
                    Ok(record) => producer.send(record).await.map_err(|error| at_line(number, error.into())),
                    Err(failure) => Err(failure),
                };
                match delivery {
                    // Closed: a record before this one failed, and says so below.
                    Ok(delivery) => {
                        if settled_in.send((number, delivery)).await.is_err() {
                            break;
                        }
                    }
                    Err(failure) => {
                        stopped = Some(failure);
                        break;
                    }
                }
            }
            if stopped.is_some() || settled_in.is_closed() {
                break;
            }
        }
        drop(settled_in);
        let settled = settle.await.map_err(Failure::failed)?;
        // What failed first is what the user must know.
        let written = settled?;
        if let Some(failure) = stopped {
            return Err(failure);
        }
        producer.close().await.map_err(|error| Failure::of_code(error.first.code, &error.to_string()))?;
        if !self.report {
            line(format!("{} record(s) written to {}", thousands(written), self.topic))?;
        }
        Ok(())
    }

    fn open(&self) -> Outcome<Source> {
        let source: Box<dyn Read + Send> = match &self.file {
            None => Box::new(std::io::stdin()),
            Some(path) => Box::new(std::fs::File::open(path).map_err(|error| Failure::usage(self.cant_read(&error)))?),
        };
        Ok(BufReader::with_capacity(256 << 10, source))
    }

    fn cant_read(&self, error: &std::io::Error) -> String {
        let from = self.file.as_ref().map_or("standard input".to_owned(), |path| path.display().to_string());
        format!("can't read {from}: {error}")
    }

    fn record(&self, topic: &TopicRef, number: u64, text: &Bytes) -> Outcome<ProducerRecord> {
        let mut record = ProducerRecord::new(topic);
        record = match &self.key_separator {
            None => record.value(text.clone()),
            Some(separator) => {
                let Some(at) = find(text, separator.as_bytes()) else {
                    let why = format!("there is no {separator:?} between key and value");
                    return Err(at_line(number, Failure::failed(why)));
                };
                record.key(text.slice(..at)).value(text.slice(at + separator.len()..))
            }
        };
        for (name, value) in &self.headers {
            record = record.header(name.clone(), value.clone());
        }
        Ok(match self.partition {
            Some(partition) => record.partition(partition),
            None => record,
        })
    }
}

fn at_line(number: u64, failure: Failure) -> Failure {
    failure.with_context(&format!("line {number}"))
}

/// Awaits the records in order; stops at the first that failed. Returns how many were written.
async fn settle(mut settled: mpsc::Receiver<(u64, Delivery)>, report: bool) -> Outcome<u64> {
    let mut written = 0;
    while let Some((number, delivery)) = settled.recv().await {
        let at = delivery.await.map_err(|error| at_line(number, error.into()))?;
        written += 1;
        if report {
            let offset = at.offset.map_or("-".to_owned(), |offset| offset.to_string());
            line(format!("{}\t{offset}", at.partition))?;
        }
    }
    Ok(written)
}

/// Sends the lines, without their ends, a buffer's worth at a time; ends at the end of input or when nobody listens.
fn read_lines(mut source: Source, lines: &mpsc::Sender<std::io::Result<Vec<Line>>>) {
    let mut number = 0;
    loop {
        let mut batch = Vec::new();
        let read = read_batch(&mut source, &mut number, &mut batch);
        let ended = batch.is_empty() || read.is_err();
        if !batch.is_empty() && lines.blocking_send(Ok(batch)).is_err() {
            return;
        }
        if let Err(error) = read {
            // Nobody listens: then nobody needs to know.
            let _ = lines.blocking_send(Err(error));
        }
        if ended {
            return;
        }
    }
}

/// Waits for one line, and takes the others that are there already: a typed line must not wait for the next.
fn read_batch(source: &mut Source, number: &mut u64, batch: &mut Vec<Line>) -> std::io::Result<()> {
    let mut size = 0;
    while batch.is_empty() || (size < 64 << 10 && source.buffer().contains(&b'\n')) {
        let mut text = Vec::new();
        let read = source.read_until(b'\n', &mut text)?;
        if read == 0 {
            break;
        }
        *number += 1;
        size += read;
        if text.last() == Some(&b'\n') {
            text.pop();
        }
        batch.push((*number, Bytes::from(text)));
    }
    Ok(())
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(text: &'static str) -> Vec<String> {
        let (sender, mut receiver) = mpsc::channel(1000);
        read_lines(BufReader::new(Box::new(text.as_bytes())), &sender);
        drop(sender);
        let mut lines = Vec::new();
        while let Some(batch) = receiver.blocking_recv() {
            lines.extend(batch.unwrap().into_iter().map(|(n, text)| format!("{n}:{}", String::from_utf8_lossy(&text))));
        }
        lines
    }

    #[test]
    fn every_line_is_read_once_with_its_number_and_without_its_end() {
        assert_eq!(lines_of("a\n\nb"), ["1:a", "2:", "3:b"]);
        assert_eq!(lines_of("a\n"), ["1:a"]);
        assert!(lines_of("").is_empty());
    }
}
