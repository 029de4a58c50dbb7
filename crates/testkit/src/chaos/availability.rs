//! How long writers had to wait, and for which fault: from what was acknowledged when.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::driver::Struck;
use super::fault::FaultKind;
use crate::history::{Event, Place, Timed};

/// A partition that is written to all the time and acknowledges nothing for longer than this stands still. Well above what a
/// busy machine's fsyncs take.
pub const STALL_MIN: Duration = Duration::from_millis(250);
/// What a fault has brought about shows itself by then.
const SHOWS_WITHIN: Duration = Duration::from_secs(1);

/// A time without an acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Gap {
    from: Duration,
    to: Duration,
}

impl Gap {
    fn lasted(self) -> Duration {
        self.to - self.from
    }
}

/// What one fault did to the writers. Faults overlap: what another one did at the same time is counted for both.
#[derive(Debug, Clone, Serialize)]
pub struct Impact {
    pub kind: &'static str,
    pub what: String,
    /// Since the round began, in seconds.
    pub from: f64,
    pub to: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
    /// Other faults went on at the same time.
    pub overlapped: bool,
    /// Partitions that stood still, and how many there are.
    pub partitions_stalled: usize,
    pub partitions: usize,
    /// The longest time that a partition acknowledged nothing, in seconds.
    pub stall: f64,
    /// The longest time that no partition acknowledged anything.
    pub stall_overall: f64,
    /// From the fault's begin to the first write acknowledged after the stall that it began, the slowest partition's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery: Option<f64>,
}

/// Of a whole run.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Stalls {
    /// How often a partition stood still.
    pub count: usize,
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

/// When each partition acknowledged.
pub struct Availability {
    gaps: BTreeMap<Place, Vec<Gap>>,
    overall: Vec<Gap>,
}

impl Availability {
    /// Of the writes to `topic` between two moments, both of which count as acknowledgements: before and after them nobody wrote.
    pub fn of(events: &[Timed], topic: &str, partitions: u32, from: Duration, to: Duration) -> Self {
        let places = (0..partitions).map(|partition| (Place::new(topic, partition), vec![from]));
        let mut times: BTreeMap<Place, Vec<Duration>> = places.collect();
        let mut all = vec![from];
        for timed in events.iter().filter(|timed| timed.at >= from && timed.at <= to) {
            if let Event::Acknowledged { place, .. } = &timed.event
                && let Some(times) = times.get_mut(place)
            {
                times.push(timed.at);
                all.push(timed.at);
            }
        }
        let gaps = |mut times: Vec<Duration>| -> Vec<Gap> {
            times.push(to);
            let gaps = times.windows(2).map(|pair| Gap { from: pair[0], to: pair[1] });
            gaps.filter(|gap| gap.lasted() >= STALL_MIN).collect()
        };
        Self { gaps: times.into_iter().map(|(place, times)| (place, gaps(times))).collect(), overall: gaps(all) }
    }

    /// What each of the faults did.
    pub fn impacts(&self, struck: &[Struck]) -> Vec<Impact> {
        let one = |(number, fault): (usize, &Struck)| {
            let others = struck.iter().enumerate().filter(|(other, it)| *other != number && it.skipped.is_none());
            let overlapped = others.map(|(_, it)| it).any(|it| it.from <= fault.to && it.to >= fault.from);
            self.impact(fault, overlapped)
        };
        struck.iter().enumerate().map(one).collect()
    }

    fn impact(&self, fault: &Struck, overlapped: bool) -> Impact {
        let until = fault.to + SHOWS_WITHIN;
        let hit = |gap: &&Gap| fault.skipped.is_none() && gap.to > fault.from && gap.from < until;
        let (mut stall, mut recovery, mut stalled) = (Duration::ZERO, None, 0);
        for gaps in self.gaps.values() {
            let own: Vec<&Gap> = gaps.iter().filter(hit).collect();
            let Some(first) = own.first() else { continue };
            stalled += 1;
            stall = own.iter().map(|gap| gap.lasted()).max().unwrap_or_default().max(stall);
            recovery = recovery.max(Some(first.to - fault.from));
        }
        let overall = self.overall.iter().filter(hit).map(|gap| gap.lasted()).max().unwrap_or_default();
        Impact {
            kind: fault.fault.kind().name(),
            what: fault.describe(),
            from: fault.from.as_secs_f64(),
            to: fault.to.as_secs_f64(),
            skipped: fault.skipped.clone(),
            overlapped,
            partitions_stalled: stalled,
            partitions: self.gaps.len(),
            stall: stall.as_secs_f64(),
            stall_overall: overall.as_secs_f64(),
            recovery: recovery.map(|it| it.as_secs_f64()),
        }
    }

    /// How long each stall of each partition lasted, in seconds.
    pub fn stalls(&self) -> Vec<f64> {
        self.gaps.values().flatten().map(|gap| gap.lasted().as_secs_f64()).collect()
    }

    /// The longest time without any acknowledgement, in seconds.
    pub fn stall_overall(&self) -> f64 {
        self.overall.iter().map(|gap| gap.lasted().as_secs_f64()).fold(0.0, f64::max)
    }
}

impl Stalls {
    pub fn of(mut seconds: Vec<f64>) -> Self {
        seconds.sort_by(f64::total_cmp);
        let max = seconds.last().copied().unwrap_or(0.0);
        Self { count: seconds.len(), p50: quantile(&seconds, 0.5), p99: quantile(&seconds, 0.99), max }
    }
}

/// Of sorted numbers; 0 of none.
pub fn quantile(sorted: &[f64], q: f64) -> f64 {
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

/// All faults of one kind.
#[derive(Debug, Clone, Serialize)]
pub struct OfKind {
    pub kind: &'static str,
    pub faults: usize,
    /// Those after which some partition stood still.
    pub with_stall: usize,
    pub stall_p50: f64,
    pub stall_max: f64,
    pub recovery_p50: f64,
    pub recovery_p99: f64,
    pub recovery_max: f64,
    /// The same, of those that no other fault overlapped.
    pub alone: usize,
    pub alone_stall_max: f64,
    pub alone_recovery_max: f64,
}

impl OfKind {
    /// Of each kind that there was.
    pub fn summaries(impacts: &[Impact]) -> Vec<Self> {
        let of_kind = |kind: &FaultKind| {
            let those = || impacts.iter().filter(|it| it.kind == kind.name() && it.skipped.is_none());
            let sorted = |mut numbers: Vec<f64>| {
                numbers.sort_by(f64::total_cmp);
                numbers
            };
            let most = |numbers: &mut dyn Iterator<Item = f64>| numbers.fold(0.0, f64::max);
            let stalls = sorted(those().map(|it| it.stall).collect());
            let recoveries = sorted(those().filter_map(|it| it.recovery).collect());
            let alone = || those().filter(|it| !it.overlapped);
            (!stalls.is_empty()).then(|| Self {
                kind: kind.name(),
                faults: stalls.len(),
                with_stall: recoveries.len(),
                stall_p50: quantile(&stalls, 0.5),
                stall_max: quantile(&stalls, 1.0),
                recovery_p50: quantile(&recoveries, 0.5),
                recovery_p99: quantile(&recoveries, 0.99),
                recovery_max: quantile(&recoveries, 1.0),
                alone: alone().count(),
                alone_stall_max: most(&mut alone().map(|it| it.stall)),
                alone_recovery_max: most(&mut alone().filter_map(|it| it.recovery)),
            })
        };
        FaultKind::ALL.iter().filter_map(of_kind).collect()
    }
}

#[cfg(test)]
mod tests {
    use highwater_types::Offset;

    use super::super::fault::{Fault, Target};
    use super::*;
    use crate::RecordId;
    use crate::local_cluster::NodeId;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// Acknowledgements of partition 0 and 1 every 10 ms, but not in these times.
    fn events(standstills: [std::ops::Range<u64>; 2]) -> Vec<Timed> {
        let mut events = Vec::new();
        for at in (0..10_000).step_by(10) {
            for (partition, standstill) in standstills.iter().enumerate() {
                if !standstill.contains(&at) {
                    let place = Place::new("t", partition as u32);
                    let id = RecordId { writer: 1, number: at };
                    let event = Event::Acknowledged { id, place, offset: Offset::ZERO };
                    events.push(Timed { at: ms(at), event });
                }
            }
        }
        events
    }

    fn kill(from: u64, to: u64) -> Struck {
        let node = NodeId::broker(1);
        let fault = Fault::Kill(Target::Node(node));
        Struck { fault, nodes: vec![node], from: ms(from), to: ms(to), skipped: None }
    }

    #[test]
    fn a_stall_is_its_fault_s_and_recovery_counts_from_the_fault() {
        let events = events([2_010..3_000, 2_010..2_500]);
        let availability = Availability::of(&events, "t", 2, ms(0), ms(9_990));
        let impacts = availability.impacts(&[kill(1_900, 2_400), kill(5_000, 6_000)]);
        assert_eq!((impacts[0].partitions_stalled, impacts[0].stall, impacts[0].recovery), (2, 1.0, Some(1.1)));
        assert_eq!((impacts[0].stall_overall, impacts[0].overlapped), (0.5, false));
        assert_eq!((impacts[1].partitions_stalled, impacts[1].stall, impacts[1].recovery), (0, 0.0, None));
        let stalls = Stalls::of(availability.stalls());
        assert_eq!((stalls.count, stalls.p50, stalls.max), (2, 0.5, 1.0));
        let kinds = OfKind::summaries(&impacts);
        assert_eq!((kinds.len(), kinds[0].faults, kinds[0].with_stall, kinds[0].recovery_max), (1, 2, 1, 1.1));
    }

    #[test]
    fn a_partition_that_never_acknowledges_stands_still_all_the_time() {
        let mut none = events([0..10_000, 0..0]);
        let availability = Availability::of(&none, "t", 2, ms(0), ms(9_990));
        assert_eq!(availability.stalls(), [9.99]);
        none.clear();
        assert_eq!(Availability::of(&none, "t", 2, ms(0), ms(9_990)).stall_overall(), 9.99);
    }

    #[test]
    fn overlapping_faults_say_so_and_skipped_ones_count_for_nothing() {
        let events = events([2_010..3_000, 0..0]);
        let availability = Availability::of(&events, "t", 2, ms(0), ms(9_990));
        let skipped = Struck { skipped: Some("nobody led".to_owned()), ..kill(2_000, 2_000) };
        let impacts = availability.impacts(&[kill(2_000, 2_500), kill(2_400, 4_000), skipped]);
        assert_eq!(impacts.iter().map(|it| it.overlapped).collect::<Vec<_>>()[..2], [true, true]);
        assert_eq!((impacts[2].partitions_stalled, impacts[2].recovery), (0, None));
        assert_eq!(OfKind::summaries(&impacts)[0].faults, 2);
    }
}
