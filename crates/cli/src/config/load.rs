//! Reads the settings: defaults, then the file, then environment variables and flags. All that is wrong is reported at
//! once, each with the place where it stands.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::check::check;
use super::settings::{SETTINGS, Setting};
use super::values::Raw;
use super::{Config, SettingFlags};

/// Where a setting came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    File { path: PathBuf, line: usize },
    Environment { variable: String },
    Flag { flag: String },
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{}:{line}: ", path.display()),
            Self::Environment { variable } => write!(f, "environment variable {variable}: "),
            Self::Flag { flag } => write!(f, "--{flag}: "),
            Self::Default => Ok(()),
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigProblem {
    pub origin: Origin,
    pub message: String,
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.message)
    }
}

/// All that is wrong; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigProblems(pub Vec<ConfigProblem>);

impl fmt::Display for ConfigProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(ConfigProblem::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

/// The settings from `file` (if any) with `flags` (which hold environment variables too) over it.
pub fn load(file: Option<&Path>, flags: &SettingFlags) -> Result<Config, ConfigProblems> {
    let mut loader = Loader::default();
    if let Some(path) = file {
        match std::fs::read_to_string(path) {
            Ok(text) => loader.file(path, &text),
            Err(error) => {
                let message = format!("can't read the configuration file {}: {error}", path.display());
                return Err(ConfigProblems(vec![ConfigProblem { origin: Origin::Default, message }]));
            }
        }
    }
    loader.flags(flags);
    loader.finish()
}

#[derive(Default)]
struct Loader {
    config: Config,
    origins: BTreeMap<String, Origin>,
    problems: Vec<ConfigProblem>,
}

impl Loader {
    fn problem(&mut self, origin: Origin, message: String) {
        self.problems.push(ConfigProblem { origin, message });
    }

    fn file(&mut self, path: &Path, text: &str) {
        let at = |span: std::ops::Range<usize>| Origin::File { path: path.to_owned(), line: line_of(text, span.start) };
        let table = match DeTable::parse(text) {
            Ok(table) => table,
            Err(error) => {
                let what = error.message().lines().next().unwrap_or_default().to_owned();
                return self.problem(at(error.span().unwrap_or_default()), format!("this is not TOML: {what}"));
            }
        };
        for (section, value) in table.get_ref() {
            let name = section.get_ref().as_ref();
            let Some(keys) = value.get_ref().as_table().filter(|_| SETTINGS.iter().any(|s| s.section == name)) else {
                let sections = super::settings::SECTIONS.iter().map(|(name, _)| format!("[{name}]"));
                let known = sections.collect::<Vec<_>>().join(", ");
                self.problem(at(section.span()), format!("there is no section {name:?}; known are {known}"));
                continue;
            };
            for (key, value) in keys {
                let key_name = key.get_ref().as_ref();
                match SETTINGS.iter().find(|s| s.section == name && s.key == key_name) {
                    None => self.problem(at(key.span()), unknown_key(name, key_name)),
                    Some(setting) => match raw_of(value.get_ref()) {
                        Ok(raw) => self.set(setting, &raw, at(key.span())),
                        Err(what) => self.problem(at(key.span()), format!("{} {what}", setting.name())),
                    },
                }
            }
        }
    }

    fn flags(&mut self, flags: &SettingFlags) {
        for given in &flags.0 {
            self.set(given.setting, &Raw::Text(given.text.clone()), given.origin.clone());
        }
    }

    fn set(&mut self, setting: &'static Setting, raw: &Raw, origin: Origin) {
        match setting.set(&mut self.config, raw) {
            Ok(()) => {
                self.origins.insert(setting.name(), origin);
            }
            Err(what) => self.problem(origin, format!("{} {what}", setting.name())),
        }
    }

    fn finish(mut self) -> Result<Config, ConfigProblems> {
        // What is wrong with single values often makes what they are together wrong too: one thing at a time.
        if self.problems.is_empty() {
            for (setting, what) in check(&self.config) {
                let origin = self.origins.get(setting).cloned().unwrap_or(Origin::Default);
                self.problem(origin, format!("{setting} {what}"));
            }
        }
        if self.problems.is_empty() { Ok(self.config) } else { Err(ConfigProblems(self.problems)) }
    }
}

fn line_of(text: &str, position: usize) -> usize {
    text.bytes().take(position).filter(|&byte| byte == b'\n').count() + 1
}

fn raw_of(value: &DeValue<'_>) -> Result<Raw, String> {
    match value {
        DeValue::String(text) => Ok(Raw::Text(text.to_string())),
        DeValue::Boolean(flag) => Ok(Raw::Flag(*flag)),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map(Raw::Number)
            .map_err(|_| format!("must be smaller than {}", number.as_str())),
        DeValue::Array(items) => {
            let text = |item: &DeValue<'_>| match item {
                DeValue::String(text) => Some(text.to_string()),
                _ => None,
            };
            let items: Option<Vec<String>> = items.iter().map(|item| text(item.get_ref())).collect();
            items.map(Raw::List).ok_or_else(|| "must be a list of text in quotes".to_owned())
        }
        other => Err(format!("can't be a {}", other.type_str())),
    }
}

fn unknown_key(section: &str, key: &str) -> String {
    let of_section = || SETTINGS.iter().filter(|s| s.section == section).map(|s| s.key);
    match of_section().min_by_key(|known| edit_distance(known, key)).filter(|known| edit_distance(known, key) <= 3) {
        Some(near) => format!("there is no setting {section}.{key}; did you mean {near}?"),
        None => {
            let known = of_section().collect::<Vec<_>>().join(", ");
            format!("there is no setting {section}.{key}; [{section}] has {known}")
        }
    }
}

/// Levenshtein's: how many characters must be put in, taken out or changed.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let change = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::print_default;

    fn parse(text: &str) -> Result<Config, String> {
        let mut loader = Loader::default();
        loader.file(Path::new("h.toml"), text);
        loader.finish().map_err(|problems| problems.to_string())
    }

    #[test]
    fn what_print_default_prints_is_the_default() {
        assert_eq!(parse(&print_default()).unwrap(), Config::default());
    }

    #[test]
    fn unknown_keys_are_refused_with_their_line_and_the_nearest_known() {
        let error = parse("[broker]\nid = 1\nrak = \"a\"\n").unwrap_err();
        assert_eq!(error, "h.toml:3: there is no setting broker.rak; did you mean rack?");
        let error = parse("\n[brokers]\nid = 1\n").unwrap_err();
        assert!(error.starts_with("h.toml:2: there is no section \"brokers\"; known are [node]"), "{error}");
        assert!(parse("id = 1\n").unwrap_err().starts_with("h.toml:1: there is no section"));
    }

    #[test]
    fn wrong_values_are_refused_with_their_line_all_at_once() {
        let error = parse("[broker]\nid = \"x\"\nlisten = \"here\"\ndata_dirs = [1]\n").unwrap_err();
        let lines: Vec<&str> = error.lines().collect();
        assert_eq!(lines.len(), 3, "{error}");
        for (n, start) in
            ["h.toml:4: broker.data_dirs must", "h.toml:2: broker.id must", "h.toml:3: broker.listen must"]
                .iter()
                .enumerate()
        {
            assert!(lines[n].starts_with(start), "{error}");
        }
    }

    #[test]
    fn settings_that_do_not_fit_together_name_the_line_of_one() {
        let error = parse("[controller]\nheartbeat_ms = 200\n").unwrap_err();
        assert!(error.starts_with("h.toml:2: controller.heartbeat_ms must be at most half"), "{error}");
    }

    #[test]
    fn text_that_is_not_toml_names_the_line() {
        assert!(parse("[node]\nroles = [\n").unwrap_err().starts_with("h.toml:"));
        assert!(parse("[node]\n\nroles ? 1\n").unwrap_err().starts_with("h.toml:3: this is not TOML"));
    }

    #[test]
    fn sizes_may_be_written_as_numbers() {
        assert_eq!(parse("[broker]\ncache_bytes = 8388608\n").unwrap().broker.cache_bytes.0, 8 << 20);
    }
}
