use super::super::made::{Made, id, place, sum};
use super::*;

const READER: u32 = 5;

fn number(number: u64) -> TransactionId {
    TransactionId { writer: 1, number }
}

fn other() -> Place {
    Place::new("t", 1)
}

fn begin(made: Made, transaction: u64, instance: u32) -> Made {
    made.event(Event::Began { transaction: number(transaction), producer: "p".into(), instance })
}

fn send(made: Made, transaction: u64, record: u64) -> Made {
    let id = id(1, record);
    made.event(Event::sent_in(Some(number(transaction)), id, &"t".into(), sum(id)))
}

fn end(made: Made, transaction: u64, told: Told) -> Made {
    let asked = made.0.last().map(|timed| timed.at).unwrap_or_default();
    made.event(Event::Ended { transaction: number(transaction), told, asked, why: "so it was".to_owned() })
}

/// A transaction of two records, `2 * n - 1` and `2 * n`.
fn transaction(made: Made, n: u64, told: Told) -> Made {
    end(send(send(begin(made, n, 1), n, 2 * n - 1), n, 2 * n), n, told)
}

fn made() -> Made {
    let topic =
        Event::Topic { topic: "t".into(), synced: true, removal: crate::history::Removal::OnRequest, dense: false };
    Made::default().event(topic).event(Event::ReadsCommitted { reader: READER })
}

/// The reader of committed records is given these records, the first half of each transaction from one partition and the second
/// from another, and has then read both whole.
fn given(made: Made, records: &[u64]) -> Made {
    let began = made.0.last().map(|timed| timed.at + Duration::from_secs(1)).unwrap_or_default();
    let mut made = made;
    for record in records {
        let place = if record % 2 == 1 { place() } else { other() };
        made = made.read_at(READER, place, id(1, *record), i64::try_from(*record).unwrap());
    }
    made.whole_at(READER, place(), 0, 100, began).whole_at(READER, other(), 0, 100, began)
}

#[test]
fn whole_or_not_at_all_is_fine_as_told() {
    let all = [(1, Told::Committed), (2, Told::Aborted), (3, Told::Unknown), (4, Told::Unknown)];
    let made = all.into_iter().fold(made(), |made, (n, told)| transaction(made, n, told));
    assert_eq!(given(made.clone(), &[1, 2, 5, 6]).found(), []);
    let report = given(made, &[1, 2, 5, 6]).report();
    assert_eq!(report.transactions, [1, 1, 2]);
}

#[test]
fn a_torn_transaction_is_found_whatever_its_producer_was_told() {
    for told in [Told::Committed, Told::Unknown] {
        assert_eq!(given(transaction(made(), 1, told), &[1]).found(), [Anomaly::Torn]);
    }
}

#[test]
fn a_committed_transaction_of_which_nothing_is_there_is_found() {
    assert_eq!(given(transaction(made(), 1, Told::Committed), &[]).found(), [Anomaly::CommitLost]);
    // Only once the reading began after it was told.
    let read_before = given(made(), &[]);
    assert_eq!(transaction(read_before, 1, Told::Committed).found(), []);
}

#[test]
fn a_read_of_an_aborted_transaction_is_found_while_it_happens() {
    let read = |made: Made| made.read_at(READER, place(), id(1, 1), 1);
    assert_eq!(read(transaction(made(), 1, Told::Aborted)).found(), [Anomaly::ReadOfAborted]);
    // Before its producer was told; readers of everything may.
    let early = end(read(send(begin(made(), 1, 1), 1, 1)), 1, Told::Aborted);
    assert_eq!(early.found(), [Anomaly::ReadOfAborted]);
    let of_all = transaction(made(), 1, Told::Aborted).read_at(9, place(), id(1, 1), 1);
    assert_eq!(of_all.found(), []);
}

#[test]
fn transactions_of_one_producer_that_lie_the_wrong_way_round_in_a_partition_are_found() {
    let both = || transaction(transaction(made(), 1, Told::Committed), 2, Told::Committed);
    // The records of one partition; the first at the higher offset.
    let read = |first: i64, second: i64| {
        let mut at = [(first, 1), (second, 3)];
        at.sort_unstable();
        at.iter().fold(both(), |made, (offset, record)| made.read_at(READER, place(), id(1, *record), *offset))
    };
    assert_eq!(read(1, 2).found(), []);
    assert!(read(2, 1).found().contains(&Anomaly::Interleaved));
}

#[test]
fn a_commit_of_a_producer_that_was_fenced_before_it_asked_is_found() {
    let open = || send(begin(made(), 1, 1), 1, 1);
    let fence = |made: Made| made.event(Event::LetIn { producer: "p".into(), instance: 2 }).later(1);
    let asked_after = |told| {
        let made = fence(open()).fault();
        end(made, 1, told)
    };
    assert_eq!(asked_after(Told::Committed).found(), [Anomaly::CommitOfFenced]);
    assert_eq!(asked_after(Told::Aborted).found(), []);
    assert_eq!(asked_after(Told::Unknown).found(), []);
    // Nobody was told, and it is there.
    assert_eq!(asked_after(Told::Unknown).read_at(READER, place(), id(1, 1), 1).found(), [Anomaly::CommitOfFenced]);
    // Asked for before the successor was let in, answered after.
    let asked = Duration::ZERO;
    let ended = Event::Ended { transaction: number(1), told: Told::Committed, asked, why: String::new() };
    assert_eq!(fence(open()).event(ended).found(), []);
}

#[test]
fn a_commit_of_a_predecessor_that_lies_after_its_successor_s_is_found() {
    let first = end(send(begin(made(), 1, 1), 1, 1), 1, Told::Unknown);
    let second = end(send(begin(first, 2, 2), 2, 3), 2, Told::Committed);
    let good = second.clone().read_at(READER, place(), id(1, 1), 1).read_at(READER, place(), id(1, 3), 2);
    assert_eq!(good.found(), []);
    let bad = second.read_at(READER, place(), id(1, 3), 1).read_at(READER, place(), id(1, 1), 2);
    assert!(bad.found().contains(&Anomaly::Interleaved));
}

/// Records 1 and 2 went in; these came out, and there the group is.
fn pipeline(out: &[(u64, i64)], group_at: i64) -> Made {
    let (to, out_place) = ("out".into(), Place::new("out", 0));
    let topic =
        Event::Topic { topic: "out".into(), synced: true, removal: crate::history::Removal::OnRequest, dense: false };
    let made = Made::default().event(topic).event(Event::Copies { group: "g".into(), from: "t".into(), to });
    let made = made.event(Event::ReadsCommitted { reader: READER }).stored(id(1, 1), 0).stored(id(1, 2), 1);
    let made = made.event(Event::GroupIsAt { group: "g".into(), place: place(), offset: Offset::new(group_at) });
    let began = made.0.last().map(|timed| timed.at + Duration::from_secs(1)).unwrap_or_default();
    let made = out
        .iter()
        .fold(made, |made, (record, offset)| made.read_at(READER, out_place.clone(), id(1, *record), *offset));
    made.whole_at(READER, out_place, 0, 100, began)
}

#[test]
fn what_a_pipeline_left_out_or_gave_out_twice_is_found() {
    assert_eq!(pipeline(&[(1, 0), (2, 2)], 2).found(), []);
    assert_eq!(pipeline(&[(1, 0), (2, 2), (2, 4)], 2).found(), [Anomaly::CopiedTwice]);
    assert_eq!(pipeline(&[(1, 0)], 1).found(), [Anomaly::NotCopied]);
    assert_eq!(pipeline(&[(1, 0), (2, 2), (7, 4)], 2).found(), [Anomaly::NeverSent, Anomaly::CopiedFromNothing]);
}

#[test]
fn offsets_of_a_pipeline_that_part_from_its_records_are_found() {
    assert_eq!(pipeline(&[(1, 0)], 2).found(), [Anomaly::NotCopied, Anomaly::OffsetsWithoutRecords]);
    assert_eq!(pipeline(&[(1, 0), (2, 2)], 1).found(), [Anomaly::RecordsWithoutOffsets]);
}
