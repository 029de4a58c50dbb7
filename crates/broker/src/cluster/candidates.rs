//! Which controller to try next. No I/O.

use std::collections::{BTreeMap, BTreeSet};

use highwater_metadata::{ClusterImage, ControllerState, Endpoint};

/// The controllers to try, in rounds: each once, hints first.
#[derive(Debug)]
pub(super) struct Candidates {
    configured: Vec<Endpoint>,
    known: Vec<Endpoint>,
    next: usize,
    hint: Option<Endpoint>,
    tried: BTreeSet<(String, u16)>,
}

impl Candidates {
    pub(super) fn new(configured: &[Endpoint]) -> Self {
        let configured = configured.to_vec();
        Self { known: configured.clone(), configured, next: 0, hint: None, tried: BTreeSet::new() }
    }

    /// Controllers that were added meanwhile count too, and those that moved.
    pub(super) fn learn(&mut self, image: &ClusterImage) {
        self.known.clone_from(&self.configured);
        let learned: &BTreeMap<_, ControllerState> = &image.controllers;
        for state in learned.values().filter(|state| !self.configured.contains(&state.endpoint)) {
            self.known.push(state.endpoint.clone());
        }
    }

    /// One controller says that this one is active.
    pub(super) fn hint(&mut self, endpoint: Endpoint) {
        self.hint = Some(endpoint);
    }

    /// Begins another round.
    pub(super) fn begin_round(&mut self) {
        self.tried.clear();
    }

    /// The next one to try in this round; `None`: all have been tried. A hint to one that was tried is no news.
    pub(super) fn next(&mut self) -> Option<Endpoint> {
        let hint = self.hint.take();
        let from = self.next;
        let in_turn = (0..self.known.len()).map(|i| self.known[(from + i) % self.known.len()].clone());
        let chosen = hint.into_iter().chain(in_turn).find(|e| !self.tried.contains(&(e.host.clone(), e.port)))?;
        self.tried.insert((chosen.host.clone(), chosen.port));
        if let Some(at) = self.known.iter().position(|e| *e == chosen) {
            self.next = at + 1;
        }
        Some(chosen)
    }
}

#[cfg(test)]
mod tests {
    use highwater_types::ControllerId;

    use super::*;

    fn at(port: u16) -> Endpoint {
        Endpoint::new("c", port)
    }

    fn round(candidates: &mut Candidates) -> Vec<u16> {
        candidates.begin_round();
        std::iter::from_fn(|| candidates.next()).map(|e| e.port).collect()
    }

    #[test]
    fn a_round_tries_each_once_and_the_next_goes_on_where_it_stopped() {
        let mut candidates = Candidates::new(&[at(1), at(2), at(3)]);
        assert_eq!(round(&mut candidates), [1, 2, 3]);
        candidates.begin_round();
        assert_eq!(candidates.next(), Some(at(1)));
        assert_eq!(round(&mut candidates), [2, 3, 1], "the one lost last comes last");
    }

    #[test]
    fn a_hint_comes_first_but_only_once_a_round() {
        let mut candidates = Candidates::new(&[at(1), at(2), at(3)]);
        candidates.begin_round();
        assert_eq!(candidates.next(), Some(at(1)));
        candidates.hint(at(3));
        assert_eq!(candidates.next(), Some(at(3)));
        candidates.hint(at(3));
        assert_eq!(candidates.next(), Some(at(2)));
        candidates.hint(at(9));
        assert_eq!(candidates.next(), Some(at(9)), "one that was not known");
        assert_eq!(candidates.next(), None);
    }

    #[test]
    fn controllers_in_the_metadata_are_tried_too() {
        let mut image = ClusterImage::default();
        for port in [2, 7] {
            let id = ControllerId::new(port.into());
            image.controllers.insert(id, ControllerState { id, endpoint: at(port) });
        }
        let mut candidates = Candidates::new(&[at(1), at(2)]);
        candidates.learn(&image);
        assert_eq!(round(&mut candidates), [1, 2, 7]);
    }
}
