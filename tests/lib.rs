//! Tests that need the whole system; see the files beside this one.
