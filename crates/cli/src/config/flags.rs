//! Every setting as a flag and as an environment variable, made from the table of settings.

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};

use super::load::Origin;
use super::settings::{SETTING_NAMES, SETTINGS, Setting};

/// A setting given by flag or variable.
#[derive(Clone)]
pub struct Given {
    pub setting: &'static Setting,
    pub text: String,
    pub origin: Origin,
}

/// The settings given by flag or environment variable, a flag going over a variable.
#[derive(Clone, Default)]
pub struct SettingFlags(pub Vec<Given>);

impl std::fmt::Debug for SettingFlags {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|given| (given.setting.name(), &given.text))).finish()
    }
}

impl FromArgMatches for SettingFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut given = Vec::new();
        for (setting, names) in SETTINGS.iter().zip(SETTING_NAMES.iter()) {
            let Some(text) = matches.get_one::<String>(&names.flag) else { continue };
            let origin = match matches.value_source(&names.flag) {
                Some(ValueSource::EnvVariable) => Origin::Environment { variable: names.env.clone() },
                _ => Origin::Flag { flag: names.flag.clone() },
            };
            given.push(Given { setting, text: text.clone(), origin });
        }
        Ok(Self(given))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for SettingFlags {
    fn augment_args(command: Command) -> Command {
        let args = SETTINGS.iter().zip(SETTING_NAMES.iter()).map(|(setting, names)| {
            Arg::new(names.flag.as_str())
                .long(names.flag.as_str())
                .env(names.env.as_str())
                .hide_env_values(true)
                .value_name(setting.placeholder)
                .help(setting.help)
                .help_heading("Settings (over the file)")
        });
        command.args(args)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load;

    fn flags(args: &[&str]) -> SettingFlags {
        let command = SettingFlags::augment_args(Command::new("test"));
        let matches = command.try_get_matches_from([&["test"], args].concat()).unwrap();
        SettingFlags::from_arg_matches(&matches).unwrap()
    }

    #[test]
    fn flags_go_over_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "[broker]\nid = 7\nrack = \"a\"\n").unwrap();
        let config =
            load(Some(file.path()), &flags(&["--broker-id", "8", "--node-roles", "broker,controller"])).unwrap();
        assert_eq!(config.broker.id.get(), 8);
        assert_eq!(config.broker.rack.as_deref(), Some("a"));
    }

    #[test]
    fn a_wrong_flag_is_named() {
        let error = load(None, &flags(&["--broker-id", "x"])).unwrap_err().to_string();
        assert!(error.starts_with("--broker-id: broker.id must be a whole number"), "{error}");
    }

    #[test]
    fn every_setting_has_its_own_flag_and_variable() {
        let mut seen = std::collections::BTreeSet::new();
        for names in SETTING_NAMES.iter() {
            assert!(seen.insert(names.flag.clone()) && seen.insert(names.env.clone()), "{}", names.flag);
        }
        assert!(seen.contains("HIGHWATER_BROKER_DATA_DIRS") && seen.contains("broker-data-dirs"));
    }
}
