//! Reads Prometheus' text format, strictly: for tests and for tools that look at a node.

use std::collections::{BTreeMap, BTreeSet};

type Labels = BTreeMap<String, String>;

/// What a scrape says.
#[derive(Debug, Default)]
pub struct Exposition {
    /// Type by family.
    families: BTreeMap<String, String>,
    samples: BTreeMap<(String, Labels), f64>,
}

impl Exposition {
    /// Fails with the first line that breaks a rule: every sample belongs to the family above it, which has a help and a type
    /// and comes once; no sample comes twice; histograms are whole.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut this = Self::default();
        let mut helped = BTreeSet::new();
        let mut open = String::new();
        if !text.is_empty() && !text.ends_with('\n') {
            return Err("the last line does not end".to_owned());
        }
        for line in text.lines() {
            let wrong = |what: &str| format!("{what}: {line}");
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').ok_or_else(|| wrong("no help"))?;
                if help.is_empty() || !helped.insert(name.to_owned()) {
                    return Err(wrong("empty or second help"));
                }
                name.clone_into(&mut open);
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').ok_or_else(|| wrong("no type"))?;
                if name != open || !["counter", "gauge", "histogram"].contains(&kind) {
                    return Err(wrong("a type that is none, or not below its help"));
                }
                if this.families.insert(name.to_owned(), kind.to_owned()).is_some() {
                    return Err(wrong("second type"));
                }
            } else {
                let (name, labels, value) = sample(line).ok_or_else(|| wrong("no sample"))?;
                let suffixes: &[&str] = match this.families.get(&open).map(String::as_str) {
                    Some("histogram") => &["_bucket", "_sum", "_count"],
                    Some(_) => &[""],
                    None => return Err(wrong("a sample without a type")),
                };
                if !suffixes.iter().any(|suffix| name.strip_suffix(suffix) == Some(&*open)) {
                    return Err(wrong("not of the family above it"));
                }
                if this.samples.insert((name, labels), value).is_some() {
                    return Err(wrong("a second time"));
                }
            }
        }
        this.check_histograms()?;
        Ok(this)
    }

    fn check_histograms(&self) -> Result<(), String> {
        for family in self.families.iter().filter(|(_, kind)| *kind == "histogram").map(|(name, _)| name) {
            for ((_, labels), count) in self.samples.iter().filter(|((name, _), _)| *name == format!("{family}_count"))
            {
                let mut buckets = Vec::new();
                for ((name, of), value) in &self.samples {
                    let mut of = of.clone();
                    if let (true, Some(bound)) = (*name == format!("{family}_bucket"), of.remove("le"))
                        && of == *labels
                    {
                        buckets.push((number(&bound).ok_or_else(|| format!("{family}: le={bound}"))?, *value));
                    }
                }
                buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
                let grows = buckets.windows(2).all(|pair| pair[0].1 <= pair[1].1);
                if !grows || buckets.last() != Some(&(f64::INFINITY, *count)) {
                    return Err(format!("{family}{labels:?} is no histogram: {buckets:?}, {count} in all"));
                }
                if !self.samples.contains_key(&(format!("{family}_sum"), labels.clone())) {
                    return Err(format!("{family}{labels:?} has no sum"));
                }
            }
        }
        Ok(())
    }

    /// Names and types.
    pub fn families(&self) -> impl Iterator<Item = (&str, &str)> {
        self.families.iter().map(|(name, kind)| (name.as_str(), kind.as_str()))
    }

    /// Names of samples: of a histogram those of its parts.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.samples.keys().map(|(name, _)| name.as_str())
    }

    /// The sample with exactly these labels.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels: Labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.samples.get(&(name.to_owned(), labels)).copied()
    }

    /// All samples of a name, added up; `None`: there is none.
    pub fn sum(&self, name: &str) -> Option<f64> {
        self.samples.iter().filter(|((of, _), _)| of == name).map(|(_, value)| *value).reduce(|a, b| a + b)
    }
}

fn number(text: &str) -> Option<f64> {
    match text {
        "+Inf" => Some(f64::INFINITY),
        _ => text.parse().ok().filter(|value: &f64| value.is_finite()),
    }
}

fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn sample(line: &str) -> Option<(String, Labels, f64)> {
    let (head, value) = line.rsplit_once(' ')?;
    let (name, labels) = match head.split_once('{') {
        None => (head, Labels::new()),
        Some((name, rest)) => (name, label_pairs(rest.strip_suffix('}')?)?),
    };
    is_name(name).then_some((name.to_owned(), labels, number(value)?))
}

fn label_pairs(mut rest: &str) -> Option<Labels> {
    let mut labels = Labels::new();
    loop {
        let (name, after) = rest.split_once("=\"")?;
        let (mut value, mut chars) = (String::new(), after.char_indices());
        let end = loop {
            match chars.next()? {
                (_, '\\') => value.push(match chars.next()?.1 {
                    'n' => '\n',
                    plain @ ('\\' | '"') => plain,
                    _ => return None,
                }),
                (end, '"') => break end + 1,
                (_, plain) => value.push(plain),
            }
        };
        if !is_name(name) || labels.insert(name.to_owned(), value).is_some() {
            return None;
        }
        match &after[end..] {
            "" => return Some(labels),
            more => rest = more.strip_prefix(',')?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_breaks_a_rule_is_refused() {
        for bad in [
            "a 1\n",
            "# HELP a b\na 1\n",
            "# HELP a b\n# TYPE a gauge\na 1",
            "# HELP a b\n# TYPE a gauge\nb 1\n",
            "# HELP a b\n# TYPE a gauge\na 1\na 2\n",
            "# HELP a b\n# TYPE a gauge\na one\n",
            "# HELP a b\n# TYPE a gauge\na{x=\"1} 1\n",
            "# HELP a b\n# TYPE a gauge\na{x=\"1\",} 1\n",
            "# HELP a b\n# TYPE a summary\na 1\n",
            "# HELP a b\n# TYPE a histogram\na_bucket{le=\"+Inf\"} 1\na_sum 1\na_count 2\n",
            "# HELP a b\n# TYPE a gauge\na 1\n# HELP a b\n# TYPE a gauge\n",
        ] {
            assert!(Exposition::parse(bad).is_err(), "{bad}");
        }
    }
}
