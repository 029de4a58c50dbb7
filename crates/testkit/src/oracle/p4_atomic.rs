//! P4: a transaction is visible to readers of what is committed wholly or not at all, over all its partitions, as its producer was
//! told; and with it the offsets of what was consumed.
//!
//! Transactions are lists of records appended to several partitions, and one producer's follow one another: so in each
//! partition they lie in the order in which they began (an order that all partitions share, as Elle asks of list-append). What is
//! given to a reader of committed records *while* things break is held against the producer's word too: what is given once can't
//! be taken back. (That all such readers are given the same is checked with P2.)

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use highwater_types::Offset;

use super::facts::{Copies, Facts, TransactionFacts};
use super::{Anomaly, Violation};
use crate::history::{Event, Place, RecordId, Removal, Told, TransactionId};

pub fn check(facts: &Facts<'_>, violations: &mut Vec<Violation>) {
    let let_in = let_in(facts);
    for (id, transaction) in &facts.transactions {
        whole(facts, *id, transaction, violations);
        fenced(facts, &let_in, *id, transaction, violations);
    }
    order(facts, violations);
    for copies in &facts.copies {
        copied(facts, copies, violations);
    }
}

/// Where, and when, a reader of committed records was given it first.
fn visible<'f>(facts: &'f Facts<'_>, id: RecordId, topic: &str) -> Vec<(&'f Place, Offset, Duration)> {
    let places = facts.stored.get(&id).map_or(&[][..], Vec::as_slice);
    let of_topic = places.iter().filter(|(place, _)| &*place.topic == topic);
    let seen = of_topic.filter_map(|(place, offset)| {
        let committed_at = facts.places.get(place)?.seen.get(offset)?.committed_at?;
        Some((*place, *offset, committed_at))
    });
    seen.collect()
}

/// Whether a reader of committed records has read all partitions of the topic whole, beginning after `since`.
fn is_due(facts: &Facts<'_>, topic: &Arc<str>, since: Duration) -> bool {
    let mut places = facts.places.iter().filter(|(place, _)| &place.topic == topic).peekable();
    places.peek().is_some()
        && places.all(|(_, known)| facts.last_whole(known, true).is_some_and(|whole| whole.began >= since))
}

fn whole(facts: &Facts<'_>, id: TransactionId, transaction: &TransactionFacts<'_>, violations: &mut Vec<Violation>) {
    let Some(ended) = &transaction.ended else { return };
    let fates: Vec<_> = transaction.records.iter().filter_map(|id| Some((*id, facts.fates.get(id)?))).collect();
    let found: Vec<_> = fates
        .iter()
        .filter_map(|(id, fate)| {
            visible(facts, *id, fate.topic).first().map(|(place, offset, at)| (*id, *place, *offset, *at))
        })
        .collect();
    if ended.told == Told::Aborted
        && let Some((record, place, offset, at)) = found.first()
    {
        let what = format!(
            "{record} at {place}@{offset} was given to a reader of committed records; {id} was aborted, as its producer was \
             told at {:?}",
            ended.at
        );
        violations.push(Violation::new(Anomaly::ReadOfAborted, *at, what));
    }
    if !fates.iter().all(|(_, fate)| is_due(facts, fate.topic, ended.at)) {
        return;
    }
    if fates.iter().any(|(id, fate)| may_be_gone(facts, *id, fate.topic)) {
        return;
    }
    let (there, of) = (found.len(), fates.len());
    if there != 0 && there != of {
        let missing = fates.iter().find(|(id, _)| found.iter().all(|(found, ..)| found != id)).map(|(id, _)| *id);
        let missing = missing.map_or(String::new(), |id| format!(", and not {id}"));
        let what = format!(
            "of {id}, of which its producer was told {:?} at {:?}, {there} of {of} records are there{missing}",
            ended.told, ended.at
        );
        violations.push(Violation::new(Anomaly::Torn, ended.at, what));
    }
    if ended.told == Told::Committed && there == 0 && of > 0 {
        let what =
            format!("{id} was committed, as its producer was told at {:?}, and nothing of it is there", ended.at);
        violations.push(Violation::new(Anomaly::CommitLost, ended.at, what));
    }
}

/// Whether the record may have been let go of before a reader of committed records came to it: no acknowledgement says where it was.
fn may_be_gone(facts: &Facts<'_>, id: RecordId, topic: &Arc<str>) -> bool {
    let is_there = |(place, offset): &(&Place, Offset)| facts.places.get(place).is_some_and(|it| *offset >= it.start);
    let lets_go = || facts.places.iter().any(|(place, it)| &place.topic == topic && it.start > Offset::ZERO);
    facts.removal(topic) == Removal::Retention
        && visible(facts, id, topic).is_empty()
        && lets_go()
        && !facts.stored.get(&id).is_some_and(|places| places.iter().any(is_there))
}

type LetIn<'a> = BTreeMap<&'a Arc<str>, Vec<(u32, Duration)>>;

fn let_in<'a>(facts: &Facts<'a>) -> LetIn<'a> {
    let mut all = LetIn::new();
    for timed in facts.events {
        if let Event::LetIn { producer, instance } = &timed.event {
            all.entry(producer).or_default().push((*instance, timed.at));
        }
    }
    all
}

/// A producer that asks for a commit after its successor was let in must not get it.
fn fenced(
    facts: &Facts<'_>,
    let_in: &LetIn<'_>,
    id: TransactionId,
    transaction: &TransactionFacts<'_>,
    violations: &mut Vec<Violation>,
) {
    let (Some((producer, instance)), Some(ended)) = (transaction.producer, &transaction.ended) else { return };
    let successors = let_in.get(producer).map_or(&[][..], Vec::as_slice);
    let Some((successor, since)) = successors.iter().find(|(other, at)| *other > instance && *at < ended.asked) else {
        return;
    };
    let is_visible = || {
        let topic_of = |id: &RecordId| Some((*id, facts.fates.get(id)?.topic));
        transaction.records.iter().filter_map(topic_of).any(|(id, topic)| !visible(facts, id, topic).is_empty())
    };
    if ended.told == Told::Committed || is_visible() {
        let what = format!(
            "{id} is committed (its producer was told {:?}): it is of instance {instance} of {producer:?}, which asked at \
             {:?}, and instance {successor} had been let in at {since:?}",
            ended.told, ended.asked
        );
        violations.push(Violation::new(Anomaly::CommitOfFenced, ended.at, what));
    }
}

/// In each partition the transactions of a producer follow one another in the order in which they began.
fn order(facts: &Facts<'_>, violations: &mut Vec<Violation>) {
    for (place, known) in &facts.places {
        let mut newest: BTreeMap<u32, (TransactionId, Offset)> = BTreeMap::new();
        let mut instances: BTreeMap<&Arc<str>, (u32, TransactionId, Offset)> = BTreeMap::new();
        for (offset, seen) in &known.seen {
            let fate = seen.id.and_then(|id| facts.fates.get(&id)).filter(|fate| *fate.topic == place.topic);
            let Some(transaction) = fate.and_then(|fate| fate.transaction) else { continue };
            let before = newest.entry(transaction.writer).or_insert((transaction, *offset));
            if before.0 > transaction {
                let what = format!("in {place}, {transaction} has offset {offset}, after {} at {}", before.0, before.1);
                violations.push(Violation::new(Anomaly::Interleaved, seen.at, what));
            } else {
                *before = (transaction, *offset);
            }
            let producer = facts.transactions.get(&transaction).and_then(|known| known.producer);
            let Some((producer, instance)) = producer.filter(|_| seen.committed_at.is_some()) else { continue };
            let before = instances.entry(producer).or_insert((instance, transaction, *offset));
            if before.0 > instance {
                let what = format!(
                    "in {place}, {transaction} of instance {instance} of {producer:?} has offset {offset}, after {} of its \
                     successor at {}",
                    before.1, before.2
                );
                violations.push(Violation::new(Anomaly::Interleaved, seen.at, what));
            } else {
                *before = (instance, transaction, *offset);
            }
        }
    }
}

/// What a pipeline gave out is what went in, each record once, and its group's offsets go with it.
fn copied(facts: &Facts<'_>, copies: &Copies<'_>, violations: &mut Vec<Violation>) {
    let mut outputs: BTreeSet<RecordId> = BTreeSet::new();
    for (place, known) in facts.places.iter().filter(|(place, _)| place.topic == *copies.to) {
        for (offset, seen) in known.seen.iter().filter(|(_, seen)| seen.committed_at.is_some()) {
            let Some(id) = seen.id else { continue };
            let went_in = facts.fates.get(&id).filter(|fate| fate.topic == copies.from && fate.refused.is_none());
            if went_in.is_none() {
                let what = format!("{id} came out at {place}@{offset}, and never went into {}", copies.from);
                violations.push(Violation::new(Anomaly::CopiedFromNothing, seen.at, what));
            }
            if !outputs.insert(id) {
                let places: Vec<_> = visible(facts, id, copies.to)
                    .iter()
                    .map(|(place, offset, _)| format!("{place}@{offset}"))
                    .collect();
                let what = format!("{id} came out more than once: at {}", places.join(" "));
                violations.push(Violation::new(Anomaly::CopiedTwice, seen.at, what));
            }
        }
    }
    for (id, fate) in facts.fates.iter().filter(|(_, fate)| fate.topic == copies.from && fate.transaction.is_none()) {
        let Some(ack) = &fate.acknowledged else { continue };
        if !outputs.contains(id) && is_due(facts, copies.to, ack.at) {
            let what = format!(
                "{id}, acknowledged at {}@{} at {:?}, did not come out in {}",
                ack.place, ack.offset, ack.at, copies.to
            );
            violations.push(Violation::new(Anomaly::NotCopied, ack.at, what));
        }
    }
    for timed in facts.events {
        if let Event::GroupIsAt { group, place, offset } = &timed.event
            && group == copies.group
            && place.topic == *copies.from
            && is_due(facts, copies.to, timed.at)
            && let Some(known) = facts.places.get(place)
        {
            for (at, seen) in &known.seen {
                let Some(id) = seen.id else { continue };
                let (anomaly, is, came_out) = match (at < offset, outputs.contains(&id)) {
                    (true, false) => (Anomaly::OffsetsWithoutRecords, "past", "did not come out"),
                    (false, true) => (Anomaly::RecordsWithoutOffsets, "not past", "came out"),
                    _ => continue,
                };
                let what = format!("group {group} is at {place}@{offset}, {is} {id} at {at}, which {came_out}");
                violations.push(Violation::new(anomaly, timed.at, what));
            }
        }
    }
}

#[cfg(test)]
mod tests;
