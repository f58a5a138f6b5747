//! What is known of an edit: from its file, from the run directory where that still lies beside
//! it, and from evaluations.

use std::fs;
use std::path::Path;

use anyhow::{bail, Context as _, Result};
use jola_edit::gguf::{Metadata, Value as GgufValue};
use jola_edit::sidecar::{sha256, RowFormat};
use jola_edit::Sidecar;
use llama_jola::stats::wilson;
use serde_json::{json, Value};

use super::CardArgs;

/// What the page says as sentences or rows of their own, and not among the settings.
const TOLD: [&str; 3] = ["unedited", "validation", "path"];

/// A row of the table of scores.
pub struct Score {
    /// On which rows, by which metric.
    pub what: String,
    /// Without the edit.
    pub unedited: Option<String>,
    /// With it.
    pub edited: String,
}

/// Everything that the page tells.
pub struct Facts {
    pub title: String,
    /// File name of the sidecar.
    pub file: String,
    pub bytes: u64,
    pub sha256: String,
    /// Name of the base, on the hub or in the sidecar.
    pub base_model: String,
    pub base_sha256: Option<String>,
    pub architecture: String,
    pub method: String,
    pub license: Option<String>,
    pub data_sha256: Option<String>,
    /// Whether the rows were conversations.
    pub chat: bool,
    /// Names and values.
    pub settings: Vec<(String, String)>,
    /// The options of the run, without what follows from them; empty when they are not known.
    pub command: Vec<String>,
    pub scores: Vec<Score>,
}

impl Facts {
    /// Reads all that there is.
    ///
    /// # Errors
    /// A file that was named and cannot be read.
    pub fn gather(args: &CardArgs, sidecar: &Sidecar) -> Result<Facts> {
        let path = &args.edit;
        let reading = || format!("reading {}", path.display());
        let text = |key: &str| Some(sidecar.train.get(key)?.as_str()?.to_owned());
        let config = run_config(args, text("data_sha256").as_deref())?;
        let valid_rows = config
            .as_ref()
            .and_then(|config| config["valid_rows"].as_u64());
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        let mut scores = validation(&sidecar.train, valid_rows.map(|rows| rows as usize));
        for path in &args.eval {
            scores.push(evaluation(path)?);
        }
        let title = match sidecar.name.trim() {
            "" => path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            name => one_line(name),
        };
        let format = sidecar.training().format;
        Ok(Facts {
            title,
            file: file.into_owned(),
            bytes: fs::metadata(path).with_context(reading)?.len(),
            sha256: sha256(path).with_context(reading)?,
            base_model: args
                .base_model
                .clone()
                .unwrap_or_else(|| one_line(&sidecar.base_model_name)),
            base_sha256: sidecar.base_sha256.clone(),
            architecture: one_line(&sidecar.architecture),
            method: one_line(&sidecar.method),
            license: args.license.clone(),
            data_sha256: text("data_sha256"),
            chat: matches!(format, Some(RowFormat::Chat | RowFormat::Mixed)),
            settings: settings(&sidecar.train),
            command: config.map_or(Vec::new(), |config| command(&config)),
            scores,
        })
    }
}

/// Text of a stranger's file, which may hold anything, as part of a line of Markdown.
fn one_line(text: &str) -> String {
    let plain = text.chars().map(|c| match c {
        '|' | '`' | '<' | '>' | '[' | ']' => ' ',
        c if c.is_control() => ' ',
        c => c,
    });
    plain.collect::<String>().trim().to_owned()
}

/// The configuration of the run that made the edit, if its directory is there.
fn run_config(args: &CardArgs, data_sha256: Option<&str>) -> Result<Option<Value>> {
    let beside = args.edit.with_extension("run");
    let (folder, named) = match &args.run_dir {
        Some(folder) => (folder, true),
        None => (&beside, false),
    };
    let path = folder.join("config.json");
    if !named && !path.is_file() {
        return Ok(None);
    }
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let config: Value =
        serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))?;
    if config["data_sha256"].as_str() == data_sha256 && data_sha256.is_some() {
        return Ok(Some(config));
    }
    let text = format!(
        "{} is of another run than {}",
        folder.display(),
        args.edit.display()
    );
    if named {
        bail!(text);
    }
    eprintln!("warning: {text}: left out");
    Ok(None)
}

/// The options that the run was given, paths without their folders.
fn command(config: &Value) -> Vec<String> {
    let Some(options) = config["options"].as_object() else {
        return Vec::new();
    };
    let paths = ["model", "data", "valid", "output"];
    let words = options.iter().map(|(name, value)| {
        let text = match value {
            Value::String(text) if paths.contains(&name.as_str()) => {
                let file = Path::new(text).file_name().unwrap_or_default();
                file.to_string_lossy().into_owned()
            }
            Value::String(text) => text.clone(),
            _ => return format!("--{name}"),
        };
        format!("--{name} {}", quoted(&text))
    });
    words.collect()
}

/// A word for a shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./,:=+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// What the trainer noted, but digests and what has a place of its own.
fn settings(train: &Metadata) -> Vec<(String, String)> {
    let told = |key: &str| TOLD.contains(&key) || key.ends_with("sha256") && key != "merged_sha256";
    let entries = train.iter().filter(|(key, _)| !told(key));
    let entries = entries.map(|(key, value)| {
        let text = match value {
            GgufValue::String(text) => text.clone(),
            value => json!(value).to_string(),
        };
        (one_line(key), one_line(&text))
    });
    entries.collect()
}

/// What the run measured on its validation rows.
fn validation(train: &Metadata, rows: Option<usize>) -> Vec<Score> {
    let text = |key: &str| train.get(key).and_then(GgufValue::as_str).map(one_line);
    let (Some(unedited), Some(edited)) = (text("unedited"), text("validation")) else {
        return Vec::new();
    };
    let parts = unedited.split(", ").zip(edited.split(", "));
    let scores = parts.map(|(unedited, edited)| Score {
        what: match rows {
            Some(rows) => format!("{rows} validation rows of the training"),
            None => "validation rows of the training".to_owned(),
        },
        unedited: Some(with_interval(unedited, rows)),
        edited: with_interval(edited, rows),
    });
    scores.collect()
}

/// A share as the trainer writes it, `89.6 % of rows exact`, with its interval.
fn with_interval(text: &str, rows: Option<usize>) -> String {
    let percent = text
        .split_once(" %")
        .and_then(|(number, _)| number.parse::<f64>().ok());
    let (Some(percent), Some(rows)) = (percent, rows.filter(|rows| *rows > 0)) else {
        return text.to_owned();
    };
    let right = (percent.clamp(0.0, 100.0) / 100.0 * rows as f64).round() as usize;
    let [low, high] = wilson(right, rows).map(|bound| bound * 100.0);
    format!("{text} ({right} of {rows}, 95 % interval {low:.1} to {high:.1})")
}

/// The result in a file that `llama-jola eval --json` wrote: an object on its last line.
fn evaluation(path: &Path) -> Result<Score> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let last = text.trim_end().lines().last().unwrap_or_default();
    let result: Value = serde_json::from_str(last).unwrap_or_default();
    let (unedited, edited) = match result.get("edited") {
        Some(edited) => (result.get("unedited"), edited),
        None => (None, &result),
    };
    let (Some(metric), Some(n), Some(edited)) = (
        edited["metric"].as_str(),
        edited["n"].as_u64(),
        score(edited),
    ) else {
        bail!(
            "{} is no result of `llama-jola eval --json`",
            path.display()
        );
    };
    let p = result["test"]["p"].as_f64();
    let p = p.map_or(String::new(), |p| format!(", p = {p:.2e}"));
    Ok(Score {
        what: format!("{n} test rows, {}", one_line(metric)),
        unedited: unedited.and_then(score),
        edited: edited + &p,
    })
}

/// `0.8529 (95 % interval 0.7715 to 0.9088)`
fn score(result: &Value) -> Option<String> {
    let (score, interval) = (result["score"].as_f64()?, &result["ci95"]);
    let (low, high) = (interval[0].as_f64()?, interval[1].as_f64()?);
    Some(format!("{score:.4} (95 % interval {low:.4} to {high:.4})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_get_their_interval() {
        assert_eq!(
            with_interval("89.6 % of rows exact", Some(48)),
            "89.6 % of rows exact (43 of 48, 95 % interval 77.8 to 95.5)"
        );
        assert_eq!(with_interval("loss 0.1132", Some(48)), "loss 0.1132");
        assert_eq!(
            with_interval("89.6 % of rows exact", None),
            "89.6 % of rows exact"
        );
    }

    #[test]
    fn the_command_of_a_run_has_no_folders() {
        let config = json!({"options": {
            "model": "/home/me/base model.gguf", "lr": "0.1", "chat": true, "valid": "../v.jsonl"
        }});
        let expected = [
            "--model 'base model.gguf'",
            "--lr 0.1",
            "--chat",
            "--valid v.jsonl",
        ];
        assert_eq!(command(&config), expected);
        assert!(command(&json!({"lr": 0.1})).is_empty());
    }

    #[test]
    fn texts_of_strangers_stay_in_their_line() {
        assert_eq!(one_line("a\n---\n| <b>`x`"), "a ---    b  x");
    }
}
