//! Finds out which parts of something that fails it needs to fail.

use std::collections::BTreeSet;

/// The smallest part of `all` found that still `fails`: without any one of its members it does not. (Zeller's delta debugging,
/// by complements only.) `all` itself is taken to fail.
pub fn smallest(all: &BTreeSet<usize>, mut fails: impl FnMut(&BTreeSet<usize>) -> bool) -> BTreeSet<usize> {
    let mut left = all.clone();
    let mut size = left.len().div_ceil(2);
    while size > 0 {
        let mut is_smaller = false;
        let members: Vec<usize> = left.iter().copied().collect();
        for part in members.chunks(size) {
            let without: BTreeSet<usize> = left.iter().copied().filter(|member| !part.contains(member)).collect();
            if without.len() < left.len() && fails(&without) {
                left = without;
                is_smaller = true;
            }
        }
        // What is needed with others may not be needed without them.
        size = match size {
            1 if is_smaller => 1,
            1 => 0,
            size => size.div_ceil(2).min(left.len().max(1)),
        };
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(members: &[usize]) -> BTreeSet<usize> {
        members.iter().copied().collect()
    }

    #[test]
    fn what_is_left_fails_and_needs_every_member() {
        for needed in [set(&[]), set(&[0]), set(&[39]), set(&[3, 17]), set(&[1, 2, 3, 30, 31])] {
            let mut runs = 0;
            let found = smallest(&(0..40).collect(), |part| {
                runs += 1;
                needed.is_subset(part)
            });
            assert_eq!(found, needed);
            assert!(runs < 150, "{runs} runs for {needed:?}");
        }
    }

    #[test]
    fn one_of_several_reasons_is_enough() {
        let fails = |part: &BTreeSet<usize>| part.contains(&2) || (part.contains(&5) && part.contains(&6));
        let found = smallest(&(0..10).collect(), fails);
        assert!(found == set(&[2]) || found == set(&[5, 6]), "{found:?}");
        assert_eq!(smallest(&set(&[]), |_| true), set(&[]));
    }
}
