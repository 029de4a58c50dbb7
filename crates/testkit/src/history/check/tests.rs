//! Bad histories, made by hand: each must be found out, and by its name.

use super::*;

/// Builds histories: a writer's records carry the checksum `100 * writer + number` unless said otherwise.
#[derive(Default)]
struct Made(Vec<Timed>);

fn id(writer: u32, number: u64) -> RecordId {
    RecordId { writer, number }
}

fn sum(id: RecordId) -> u32 {
    100 * id.writer + u32::try_from(id.number).unwrap()
}

fn place() -> Place {
    Place::new("t", 0)
}

impl Made {
    fn event(mut self, event: Event) -> Self {
        // A second passes between two events.
        let at = Duration::from_secs(self.0.len() as u64);
        self.0.push(Timed { at, event });
        self
    }
    fn sent(self, id: RecordId) -> Self {
        self.event(Event::Sent { id, topic: "t".into(), checksum: sum(id) })
    }
    fn acked(self, id: RecordId, offset: i64) -> Self {
        self.event(Event::Acknowledged { id, place: place(), offset: Offset::new(offset) })
    }
    fn unknown(self, id: RecordId) -> Self {
        self.event(Event::Unknown { id, why: "timed out".to_owned() })
    }
    fn fault(self) -> Self {
        self.event(Event::Fault { what: "kill".to_owned() })
    }
    fn read_by(self, reader: u32, id: RecordId, offset: i64) -> Self {
        let (place, offset) = (place(), Offset::new(offset));
        self.event(Event::Read { reader, place, offset, id: Some(id), checksum: sum(id) })
    }
    fn read(self, id: RecordId, offset: i64) -> Self {
        self.read_by(0, id, offset)
    }
    fn whole(self, from: i64, to: i64) -> Self {
        self.event(Event::ReadWhole { reader: 0, place: place(), from: Offset::new(from), to: Offset::new(to) })
    }
    /// Sent, acknowledged and read, at `offset`.
    fn stored(self, id: RecordId, offset: i64) -> Self {
        self.sent(id).acked(id, offset).read(id, offset)
    }
    fn violations(&self) -> Vec<Violation> {
        self.violations_by(&Rules::default())
    }
    fn violations_by(&self, rules: &Rules) -> Vec<Violation> {
        check(&self.0, rules).violations
    }
}

#[test]
fn a_good_history_has_no_violation_and_is_counted() {
    let good = Made::default().stored(id(1, 1), 0).stored(id(1, 2), 1).sent(id(2, 1)).unknown(id(2, 1)).whole(0, 2);
    let report = check(&good.0, &Rules::default());
    assert_eq!(report.violations, []);
    assert_eq!((report.sent, report.acknowledged, report.unknown, report.read), (3, 2, 1, 2));
}

#[test]
fn an_acknowledged_record_that_no_reader_was_given_is_lost() {
    let past_the_end = Made::default().stored(id(1, 1), 0).sent(id(1, 2)).acked(id(1, 2), 1).whole(0, 1);
    let lost = Violation::Lost { id: id(1, 2), place: place(), offset: Offset::new(1) };
    assert_eq!(past_the_end.violations(), [lost]);
}

#[test]
fn an_acknowledged_record_whose_offset_was_skipped_is_lost_and_the_gap_is_named() {
    let gap = Made::default().sent(id(1, 1)).acked(id(1, 1), 0).stored(id(1, 2), 1).whole(0, 2);
    let violations = gap.violations();
    assert!(violations.contains(&Violation::Lost { id: id(1, 1), place: place(), offset: Offset::ZERO }));
    assert!(violations.iter().any(|v| matches!(v, Violation::Skipped { .. })), "{violations:?}");
    assert_eq!(violations.len(), 2);
}

#[test]
fn what_lies_before_a_start_moved_on_purpose_may_be_gone() {
    let trimmed = Made::default().sent(id(1, 1)).acked(id(1, 1), 0).stored(id(1, 2), 1).whole(0, 2);
    let rules = Rules { starts: BTreeMap::from([(place(), Offset::new(1))]), ..Rules::default() };
    assert_eq!(trimmed.violations_by(&rules), []);
}

#[test]
fn of_a_partition_that_nobody_has_read_whole_nothing_is_said() {
    assert_eq!(Made::default().sent(id(1, 1)).acked(id(1, 1), 0).violations(), []);
}

#[test]
fn without_the_promise_an_acknowledged_record_may_go() {
    let gone = Made::default().sent(id(1, 1)).acked(id(1, 1), 0).whole(0, 0);
    assert_eq!(gone.violations_by(&Rules { acknowledged_stays: false, ..Rules::default() }), []);
    assert_eq!(gone.violations().len(), 1);
}

#[test]
fn an_offset_that_two_readers_saw_differently_has_changed() {
    let changed = Made::default().sent(id(1, 1)).unknown(id(1, 1)).sent(id(2, 1)).unknown(id(2, 1));
    let changed = changed.read_by(0, id(1, 1), 0).read_by(1, id(2, 1), 0);
    let violations = changed.violations();
    assert!(matches!(violations[..], [Violation::Changed { offset: Offset::ZERO, .. }]), "{violations:?}");
}

#[test]
fn a_record_read_at_another_offset_than_acknowledged_has_changed_it() {
    let moved = Made::default().sent(id(1, 1)).sent(id(1, 2)).acked(id(1, 1), 0).acked(id(1, 2), 1);
    let moved = moved.read(id(1, 2), 0).read(id(1, 1), 1).whole(0, 2);
    let violations = moved.violations();
    assert_eq!(violations.iter().filter(|v| matches!(v, Violation::Changed { .. })).count(), 2, "{violations:?}");
}

#[test]
fn two_records_acknowledged_at_one_offset_are_found() {
    let twice = Made::default().sent(id(1, 1)).acked(id(1, 1), 0).sent(id(2, 1)).acked(id(2, 1), 0);
    assert!(matches!(twice.violations()[..], [Violation::Changed { .. }]));
}

#[test]
fn changed_content_is_found() {
    let record = id(1, 1);
    let read = Event::Read { reader: 0, place: place(), offset: Offset::ZERO, id: Some(record), checksum: 7 };
    let bad = Made::default().sent(record).acked(record, 0).event(read);
    assert!(matches!(bad.violations()[..], [Violation::NeverSent { .. }]));
}

#[test]
fn a_record_that_nobody_sent_is_found() {
    assert!(matches!(Made::default().read(id(9, 9), 0).violations()[..], [Violation::NeverSent { .. }]));
    let read = Event::Read { reader: 0, place: place(), offset: Offset::ZERO, id: None, checksum: 7 };
    assert!(matches!(Made::default().event(read).violations()[..], [Violation::NeverSent { .. }]));
}

#[test]
fn a_duplicate_without_a_fault_before_it_is_too_much() {
    let twice = Made::default().stored(id(1, 1), 0).read(id(1, 1), 1).whole(0, 2);
    assert!(matches!(twice.violations()[..], [Violation::Duplicated { .. }]));
}

#[test]
fn at_least_once_allows_a_duplicate_after_a_fault_or_an_unknown_outcome() {
    let after_fault = Made::default().sent(id(1, 1)).fault().acked(id(1, 1), 1).read(id(1, 1), 0).read(id(1, 1), 1);
    assert_eq!(after_fault.violations(), []);
    let forbidden = Rules { duplicates: Duplicates::Forbidden, ..Rules::default() };
    assert!(matches!(after_fault.violations_by(&forbidden)[..], [Violation::Duplicated { .. }]));
    let unknown = Made::default().sent(id(1, 1)).unknown(id(1, 1)).read(id(1, 1), 0).read(id(1, 1), 1);
    assert_eq!(unknown.violations(), []);
}

#[test]
fn a_duplicate_long_after_the_last_fault_is_too_much() {
    let late = Made::default().fault().sent(id(1, 1)).acked(id(1, 1), 0).read(id(1, 1), 0).read(id(1, 1), 1);
    let rules = Rules { duplicates: Duplicates::AfterFault { settle: Duration::from_secs(1) }, ..Rules::default() };
    assert!(matches!(late.violations_by(&rules)[..], [Violation::Duplicated { .. }]));
    assert_eq!(late.violations(), []);
}

#[test]
fn records_of_one_writer_out_of_order_are_found_also_when_not_acknowledged() {
    let swapped = Made::default().sent(id(1, 1)).sent(id(1, 2)).unknown(id(1, 1)).unknown(id(1, 2));
    let swapped = swapped.read(id(1, 2), 0).read(id(1, 1), 1).whole(0, 2);
    let (earlier, later) = ((id(1, 1), Offset::new(1)), (id(1, 2), Offset::ZERO));
    assert_eq!(swapped.violations(), [Violation::Reordered { place: place(), earlier, later }]);
}

#[test]
fn a_batch_sent_again_is_no_reordering_and_other_writers_do_not_matter() {
    let again = Made::default().sent(id(1, 1)).sent(id(1, 2)).sent(id(2, 1)).fault();
    let again = again.acked(id(1, 1), 3).acked(id(1, 2), 4).acked(id(2, 1), 2);
    let again = again.read(id(1, 1), 0).read(id(1, 2), 1).read(id(2, 1), 2).read(id(1, 1), 3).read(id(1, 2), 4);
    assert_eq!(again.whole(0, 5).violations(), []);
}

#[test]
fn a_refused_record_that_is_read_is_found() {
    let refused = Made::default().sent(id(1, 1)).event(Event::Refused { id: id(1, 1), why: "too large".to_owned() });
    assert_eq!(refused.violations(), []);
    let stored = Made(refused.0).read(id(1, 1), 0);
    assert!(matches!(stored.violations()[..], [Violation::RefusedButStored { .. }]));
}

#[test]
fn a_reader_that_is_given_an_older_offset_is_found() {
    let back = Made::default().stored(id(1, 1), 0).stored(id(1, 2), 1).read(id(1, 1), 0);
    assert!(matches!(back.violations()[..], [Violation::ReaderWentBack { .. }]));
}

#[test]
fn a_send_without_an_answer_is_found() {
    assert_eq!(Made::default().sent(id(1, 1)).violations(), [Violation::Unanswered { id: id(1, 1) }]);
}

#[test]
fn events_survive_being_written_as_json() {
    let made = Made::default().stored(id(1, 1), 0).fault().whole(0, 1);
    for timed in made.0 {
        let text = serde_json::to_string(&timed).unwrap();
        assert_eq!(serde_json::from_str::<Timed>(&text).unwrap(), timed);
    }
}
