//! What the quick start says at its end.

use std::collections::BTreeMap;

use super::Stage;
use super::group::{Grouped, MEMBERS};
use super::input::Input;
use super::stream::Streamed;
use super::transaction::Transacted;
use super::verify::Verified;
use crate::failure::Outcome;
use crate::output::{facts, line, list, thousands};

pub fn print(stage: &Stage, input: &Input, streamed: &Streamed, verified: &Verified) -> Outcome {
    let report = &verified.report;
    let ms = |quantile: f64| {
        let micros = streamed.latency.value_at_quantile(quantile);
        format!("{:.1}", micros as f64 / 1000.0)
    };
    let rate = |bytes: u64, seconds: f64| bytes as f64 / 1e6 / seconds.max(1e-9);
    let mut leads: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for (partition, leader) in stage.leaders() {
        let leader = leader.map_or("nobody".to_owned(), |leader| format!("broker {leader}"));
        leads.entry(leader).or_default().push(partition);
    }
    let leads = leads.into_iter().map(|(leader, partitions)| format!("{leader}: {}", list(partitions)));
    let written = streamed.took.as_secs_f64();
    let read = verified.took.as_secs_f64();
    let key = input
        .key_field
        .as_ref()
        .map_or("no key".to_owned(), |field| format!("keyed by {field}, {} keys", thousands(verified.keys as u64)));
    line(format!(
        "\n{}",
        facts(&[
            (
                "written",
                format!(
                    "{} records ({key}), acks=all, {:.1} MB in {written:.1} s as paced, {:.1} MB/s",
                    thousands(report.acknowledged),
                    input.bytes() as f64 / 1e6,
                    rate(input.bytes(), written)
                ),
            ),
            (
                "latency",
                format!(
                    "p50 {} ms, p90 {} ms, p99 {} ms, max {} ms, the failover included",
                    ms(0.5),
                    ms(0.9),
                    ms(0.99),
                    ms(1.0)
                ),
            ),
            (
                "failover",
                format!(
                    "broker {} was killed (kill -9) half way; its partitions ({}) stood still for {:.2} s",
                    streamed.killed,
                    list(&streamed.killed_led),
                    streamed.stood_still.as_secs_f64()
                ),
            ),
            ("recovery", format!("started again, it was in sync after {:.1} s", streamed.back_in_sync.as_secs_f64()),),
            ("leads now", leads.collect::<Vec<_>>().join("; ")),
            (
                "read back",
                format!("{} records in {read:.2} s, {:.0} MB/s", thousands(report.read), rate(verified.bytes, read)),
            ),
            (
                "verified",
                match verified.kept() {
                    true =>
                        "every acknowledged record came back once, unchanged, in order by key; none lost".to_owned(),
                    false => "NO: see below".to_owned(),
                },
            ),
        ])
    ))
}

pub fn print_second_act(stage: &Stage, grouped: &Grouped, transacted: &Transacted) -> Outcome {
    line(format!(
        "\n{}",
        facts(&[
            (
                "group",
                format!(
                    "{MEMBERS} members, one killed (kill -9) on the way; its partitions ({}) {}",
                    list(&grouped.partitions),
                    match grouped.taken_over {
                        Some(after) => format!("went on at others after {:.1} s", after.as_secs_f64()),
                        None => "had nothing more for others".to_owned(),
                    }
                ),
            ),
            (
                "counted",
                format!(
                    "{} records once each, in order by partition; {} handed out again, as they were not committed",
                    thousands(grouped.records),
                    thousands(grouped.again)
                ),
            ),
            (
                "transactions",
                format!(
                    "one aborted, one committed, over {} partitions; a read_committed reader found {} of {} records",
                    transacted.partitions, transacted.committed, transacted.all
                ),
            ),
            ("in all", format!("{:.1} s", stage.began.elapsed().as_secs_f64())),
        ])
    ))
}
