//! One scrape, as text.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};

use crate::{Family, Histogram, Kind};

/// Samples, gathered family by family from whoever has some. Shown, it is what Prometheus reads.
#[derive(Debug, Default)]
pub struct Page {
    families: BTreeMap<&'static str, (&'static Family, String)>,
}

impl Page {
    /// The media type of the text.
    pub const CONTENT_TYPE: &'static str = "text/plain; version=0.0.4; charset=utf-8";

    /// One sample of a counter or gauge. `labels` are the values, in the family's order.
    pub fn add(&mut self, family: &'static Family, labels: &[&str], value: impl Display) {
        debug_assert!(family.kind != Kind::Histogram, "{}", family.name);
        let labels = label_set(family, labels, None);
        // Writing to a String can't fail.
        let _ = writeln!(self.text_of(family), "{}{labels} {value}", family.name);
    }

    pub fn histogram(&mut self, family: &'static Family, labels: &[&str], histogram: &Histogram) {
        debug_assert!(family.kind == Kind::Histogram, "{}", family.name);
        let (name, mut count) = (family.name, 0);
        let text = self.text_of(family);
        for (bound, below) in histogram.cumulative() {
            let bound = if bound.is_infinite() { "+Inf".to_owned() } else { bound.to_string() };
            let _ = writeln!(text, "{name}_bucket{} {below}", label_set(family, labels, Some(&bound)));
            count = below;
        }
        let labels = label_set(family, labels, None);
        let _ = writeln!(text, "{name}_sum{labels} {}", histogram.sum());
        // Not asked anew: it must be what the last bucket says.
        let _ = writeln!(text, "{name}_count{labels} {count}");
    }

    fn text_of(&mut self, family: &'static Family) -> &mut String {
        &mut self.families.entry(family.name).or_insert_with(|| (family, String::new())).1
    }
}

impl Display for Page {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (name, (family, samples)) in &self.families {
            writeln!(f, "# HELP {name} {}\n# TYPE {name} {}", family.help, family.kind.name())?;
            f.write_str(samples)?;
        }
        Ok(())
    }
}

fn label_set(family: &Family, values: &[&str], bound: Option<&str>) -> String {
    debug_assert_eq!(family.labels.len(), values.len(), "{}", family.name);
    let pairs = family.labels.iter().copied().zip(values.iter().copied()).chain(bound.map(|bound| ("le", bound)));
    let pairs: Vec<String> = pairs.map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    if pairs.is_empty() { String::new() } else { format!("{{{}}}", pairs.join(",")) }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::exposition::Exposition;
    use crate::families;

    #[test]
    fn a_page_parses_and_says_what_was_put_in() {
        let mut page = Page::default();
        page.add(&families::DISK_FREE_BYTES, &["/a \"b\"\\c\nd"], 7_u64);
        page.add(&families::PARTITIONS, &[], 3);
        page.add(&families::DISK_FREE_BYTES, &["/e"], 8_u64);
        let histogram = Histogram::default();
        histogram.record(Duration::from_millis(3));
        page.histogram(&families::FSYNC_SECONDS, &["/e"], &histogram);
        let read = Exposition::parse(&page.to_string()).unwrap();
        assert_eq!(read.value("highwater_disk_free_bytes", &[("dir", "/a \"b\"\\c\nd")]), Some(7.0));
        assert_eq!(read.value("highwater_partitions", &[]), Some(3.0));
        assert_eq!(read.value("highwater_fsync_seconds_bucket", &[("dir", "/e"), ("le", "0.005")]), Some(1.0));
        assert_eq!(read.value("highwater_fsync_seconds_bucket", &[("dir", "/e"), ("le", "0.0025")]), Some(0.0));
        assert_eq!(read.value("highwater_fsync_seconds_count", &[("dir", "/e")]), Some(1.0));
        assert_eq!(read.families().count(), 3);
    }
}
