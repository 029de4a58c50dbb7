//! How a partition's batches are numbered, so that its leader stores each of them once and in order (KIP-98, KIP-360).
//!
//! Invariants: a batch that may be in the log keeps its number, so that whatever is sent again is recognised; numbers of
//! batches that are surely not there are given out again, or, once one is in doubt, left behind with their session.

use highwater_types::{ProducerEpoch, ProducerId, Sequence};

/// Who numbers: a producer id, in one of its epochs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Session {
    pub id: ProducerId,
    pub epoch: ProducerEpoch,
}

impl Session {
    pub const NONE: Self = Self { id: ProducerId::NONE, epoch: ProducerEpoch::NONE };

    /// `None` if it is none.
    pub fn from_wire(id: i64, epoch: i32) -> Option<Self> {
        let epoch = i16::try_from(epoch).ok().filter(|epoch| *epoch >= 0)?;
        (id >= 0).then(|| Self { id: ProducerId::new(id), epoch: ProducerEpoch::new(epoch) })
    }
}

/// What a leader knows a batch by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Number {
    pub session: Session,
    /// Of its first record.
    pub first: Sequence,
}

/// One partition's numbering.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Numbering {
    current: Option<(Session, i32)>,
}

/// How a producer's sessions come about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Batches are not numbered.
    Plain,
    /// A partition whose numbering broke off goes on in a new session.
    Idempotent,
    /// The session is the transaction's: a numbering that breaks off ends it.
    Transactional,
}

impl Numbering {
    pub fn session(&self) -> Option<Session> {
        self.current.map(|(session, _)| session)
    }

    /// Numbers from 0 in `session`, unless a session goes on.
    pub fn adopt(&mut self, session: Session) {
        self.current.get_or_insert((session, 0));
    }

    /// The number of a batch of so many records.
    pub fn next(&mut self, records: u32) -> Option<Number> {
        let (session, next) = self.current.as_mut()?;
        let first = Sequence::new(*next);
        *next = (*next).wrapping_add_unsigned(records) & i32::MAX;
        Some(Number { session: *session, first })
    }

    /// Gives `number` out again, and all after it, as it is surely not in the log.
    pub fn rewind(&mut self, number: Number) {
        if let Some((session, next)) = &mut self.current
            && *session == number.session
            // Numbers wrap: what lies less than half the range behind is older.
            && next.wrapping_sub(number.first.get()) & i32::MAX < i32::MAX / 2
        {
            *next = number.first.get();
        }
    }

    /// Leaves `session` behind.
    pub fn leave(&mut self, session: Session) {
        if self.session() == Some(session) {
            self.current = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(id: i64) -> Session {
        Session { id: ProducerId::new(id), epoch: ProducerEpoch::FIRST }
    }

    fn first(numbering: &mut Numbering, records: u32) -> i32 {
        numbering.next(records).unwrap().first.get()
    }

    #[test]
    fn numbers_follow_each_other_and_wrap_to_zero() {
        let mut numbering = Numbering::default();
        assert!(numbering.next(1).is_none());
        numbering.adopt(session(1));
        assert_eq!([first(&mut numbering, 3), first(&mut numbering, 2), first(&mut numbering, 1)], [0, 3, 5]);
        let mut late = Numbering { current: Some((session(1), i32::MAX - 1)) };
        assert_eq!([first(&mut late, 2), first(&mut late, 5), first(&mut late, 1)], [i32::MAX - 1, 0, 5]);
    }

    #[test]
    fn a_number_is_given_out_again_only_back_in_its_own_session() {
        let mut numbering = Numbering::default();
        numbering.adopt(session(1));
        let (one, two) = (numbering.next(3).unwrap(), numbering.next(3).unwrap());
        numbering.rewind(one);
        // It lies ahead now.
        numbering.rewind(two);
        assert_eq!(first(&mut numbering, 1), 0);
        numbering.leave(session(2));
        numbering.adopt(session(2));
        assert_eq!(numbering.session(), Some(session(1)));
        numbering.leave(session(1));
        numbering.adopt(session(2));
        numbering.next(7);
        numbering.rewind(one);
        assert_eq!(first(&mut numbering, 1), 7);
    }
}
