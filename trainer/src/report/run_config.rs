//! What a run was told: every setting, what it trains on, and versions. Written to the run
//! directory, and compared before a run is continued.

use std::fmt::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::Error;

/// The options that the run was given, by their names: what `--config` reads.
pub const OPTIONS: &str = "options";
/// Entries that tell where things lie, what is done when the run has ended, or how it was said.
/// They may differ between the parts of one run.
const PLACES: [&str; 6] = ["base", "data", "valid", "test", "output", OPTIONS];
/// Entries without which it is another run.
const ESSENTIAL: [&str; 4] = ["base_sha256", "data_sha256", "rows", "method"];

/// The seed of the split into rows to train on and rows to validate with.
pub const SPLIT_SEED: &str = "split_seed";

/// Names and values, in order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunConfig(Map<String, Value>);

impl RunConfig {
    /// Adds an entry, or replaces it.
    pub fn set(&mut self, key: &str, value: impl Serialize) {
        let value = serde_json::to_value(value).expect("plain data");
        self.0.insert(key.to_owned(), value);
    }

    /// Adds the entries of a structure.
    pub fn set_all(&mut self, values: impl Serialize) {
        match serde_json::to_value(values).expect("plain data") {
            Value::Object(entries) => self.0.extend(entries),
            other => unreachable!("{other} is no structure"),
        }
    }

    /// Whether this is the configuration of a run, and not some other file of names and values.
    pub fn is_of_a_run(&self) -> bool {
        let keys = ["version", "base_sha256", "data_sha256"];
        keys.iter().all(|key| self.0.contains_key(*key))
    }

    /// The seed by which the run held rows back for validation; in a run of before it was
    /// noted, that of everything random.
    pub fn split_seed(&self) -> Option<u64> {
        let seed = self.0.get(SPLIT_SEED).or_else(|| self.0.get("seed"));
        seed?.as_u64()
    }

    /// Compares with what the run was told when it was saved. With `changes`, settings may
    /// differ, but not what is trained, nor on what.
    ///
    /// # Errors
    /// [`Error::Changed`] with each difference.
    pub fn check(&self, saved: &RunConfig, changes: bool, folder: &Path) -> Result<(), Error> {
        let keys = saved.0.keys().chain(self.0.keys());
        let mut differences = String::new();
        let mut seen = Vec::new();
        for key in keys {
            let place = PLACES.contains(&key.as_str());
            let allowed = changes && !ESSENTIAL.contains(&key.as_str());
            if place || allowed || seen.contains(&key) {
                continue;
            }
            seen.push(key);
            let shown = |config: &RunConfig| match config.0.get(key) {
                Some(value) => value.to_string(),
                None => "absent".to_owned(),
            };
            let (was, is) = (shown(saved), shown(self));
            if was != is {
                let _ = write!(differences, "\n  {key} was {was}, is {is}");
            }
        }
        match differences.is_empty() {
            true => Ok(()),
            false => Err(Error::Changed {
                folder: folder.to_path_buf(),
                differences,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(lr: f64, data: &str, path: &str) -> RunConfig {
        let mut config = RunConfig::default();
        config.set("data", path);
        config.set("data_sha256", data);
        config.set("lr", lr);
        config
    }

    #[test]
    fn differences_are_named_and_places_may_differ() {
        let folder = Path::new("edit.run");
        let saved = config(0.05, "aa", "here.jsonl");
        let check = |config: &RunConfig, changes| {
            let checked = config.check(&saved, changes, folder);
            checked.map_err(|error| error.to_string())
        };
        assert_eq!(check(&config(0.05, "aa", "there.jsonl"), false), Ok(()));
        let text = check(&config(0.01, "bb", "here.jsonl"), false).unwrap_err();
        assert!(text.contains("edit.run"), "{text}");
        assert!(text.contains("\n  lr was 0.05, is 0.01"), "{text}");
        assert!(
            text.contains("\n  data_sha256 was \"aa\", is \"bb\""),
            "{text}"
        );
        assert_eq!(check(&config(0.01, "aa", "here.jsonl"), true), Ok(()));
        let text = check(&config(0.01, "bb", "here.jsonl"), true).unwrap_err();
        assert!(
            text.contains("data_sha256") && !text.contains("lr was"),
            "{text}"
        );
        let mut more = saved.clone();
        more.set("gate_lr", 0.1);
        let text = check(&more, false).unwrap_err();
        assert!(text.contains("gate_lr was absent, is 0.1"), "{text}");
    }

    #[test]
    fn numbers_survive_the_file() {
        let mut config = RunConfig::default();
        config.set("x", 0.1f64 + 0.2);
        config.set("seed", u64::MAX);
        let text = serde_json::to_string(&config).unwrap();
        let again: RunConfig = serde_json::from_str(&text).unwrap();
        assert!(again.check(&config, false, Path::new("x")).is_ok());
        assert_eq!(again, config);
    }
}
