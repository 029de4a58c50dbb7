//! Writes a configuration file with every setting at its default, and what each is for.

use std::fmt::Write as _;

use super::Config;
use super::settings::{SECTIONS, SETTING_NAMES, SETTINGS};

const WIDTH: usize = 100;

/// The text of a configuration file that sets every setting to its default.
pub fn print_default() -> String {
    let default = Config::default();
    let mut text = String::from(
        "# Configuration of a Highwater server: every setting, at its default.\n\
         # Each can also be given by environment variable or flag, which go over this file: broker.id is\n\
         # HIGHWATER_BROKER_ID and --broker-id. `highwater config check --config FILE` says what is wrong with a file.\n",
    );
    for (section, about) in SECTIONS {
        // Writing to a String can't fail.
        let _ = writeln!(text, "\n# {about}\n[{section}]");
        for (setting, names) in SETTINGS.iter().zip(SETTING_NAMES.iter()).filter(|(s, _)| s.section == *section) {
            for line in wrap(&format!("{} ({})", setting.help, names.env)) {
                let _ = writeln!(text, "# {line}");
            }
            let _ = writeln!(text, "{} = {}", setting.key, setting.get(&default));
        }
    }
    text
}

fn wrap(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is always a line");
        if !line.is_empty() && line.len() + word.len() >= WIDTH {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_printed_with_a_comment_above_it() {
        let text = print_default();
        let lines: Vec<&str> = text.lines().collect();
        for setting in SETTINGS {
            let start = format!("{} = ", setting.key);
            let found = lines.iter().enumerate().filter(|(_, line)| line.starts_with(&start)).count();
            assert!(found >= 1, "{} is missing", setting.name());
        }
        for (index, line) in lines.iter().enumerate().filter(|(_, line)| line.contains(" = ") && !line.starts_with('#'))
        {
            assert!(lines[index - 1].starts_with("# "), "{line} has no comment");
        }
        assert!(lines.iter().all(|line| line.len() <= 120));
    }
}
