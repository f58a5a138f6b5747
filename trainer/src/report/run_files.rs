//! What lies in a run directory, and whose it is: a run replaces its own files and nobody
//! else's.

use std::fs;
use std::path::{Path, PathBuf};

use jola_edit::output::{is_temporary, Output};

use super::run_config::RunConfig;
use crate::Error;

/// Everything that was set.
pub const CONFIG: &str = "config.json";
/// One line per step and per validation.
pub const METRICS: &str = "metrics.jsonl";
/// Where the run stands.
pub const CHECKPOINT: &str = "checkpoint.safetensors";

/// Picture of the loss of steps and validations.
pub const LOSS: &str = "loss.svg";
/// Picture of the open gates over the steps, and of when each closed.
pub const GATES: &str = "gates.svg";

/// Folder of the sidecars of a path's stages, with the table of what they came to.
pub const PATH: &str = "path";
/// In that folder, what each stage came to.
pub const PATH_TABLE: &str = "path.md";
/// An edit that is no better than none.
pub const REFUSED: &str = "refused.gguf";

/// What the edits of a run do on its test rows.
pub const TEST: &str = "test.md";
/// The same row by row.
pub const TEST_ROWS: &str = "test.jsonl";

/// All files that a run writes itself.
const OWN: [&str; 8] = [
    CONFIG, METRICS, CHECKPOINT, LOSS, GATES, REFUSED, TEST, TEST_ROWS,
];

/// The name of a stage's sidecar in [`PATH`].
pub fn stage_file(stage: usize) -> String {
    format!("stage-{stage}.gguf")
}

/// Finds out before the work whether a run that reads `inputs` and writes `output` can be
/// written down in `folder`, which need not be there.
///
/// # Errors
/// [`Error::FileAsFolder`], [`Error::RunDirIsOutput`], [`Error::Foreign`] for a folder with
/// files of others, [`Error::Write`], and [`Error::Output`] for a file of the run that is an
/// input or cannot be written.
pub fn check(folder: &Path, output: &Path, inputs: &[PathBuf]) -> Result<(), Error> {
    let own = OWN.map(|name| folder.join(name));
    if output == folder || own.iter().any(|path| path == output) {
        return Err(Error::RunDirIsOutput {
            path: output.to_path_buf(),
        });
    }
    let Some(found) = folder.ancestors().find(|above| above.exists()) else {
        return Ok(()); // relative to the folder that it is run in
    };
    if !found.is_dir() {
        return Err(Error::FileAsFolder {
            folder: folder.to_path_buf(),
            file: found.to_path_buf(),
        });
    }
    tempfile::tempfile_in(found).map_err(|error| Error::Write {
        path: folder.to_path_buf(),
        error,
    })?;
    if found == folder {
        refuse_foreign(folder)?;
        for path in own {
            Output::new(path, inputs)?;
        }
    }
    Ok(())
}

/// Refuses a folder in which something lies, but no run.
fn refuse_foreign(folder: &Path) -> Result<(), Error> {
    let entries = fs::read_dir(folder).map_err(|error| Error::Read {
        path: folder.to_path_buf(),
        error,
    })?;
    if holds_config(folder) {
        return Ok(());
    }
    // A run that was killed at its very start has no configuration, and nothing to lose.
    let begun = |path: &Path, name: &str| {
        is_temporary(name) || (name == METRICS && path.metadata().is_ok_and(|file| file.len() == 0))
    };
    for entry in entries.flatten() {
        let found = entry.file_name().to_string_lossy().into_owned();
        if !begun(&entry.path(), &found) {
            return Err(Error::Foreign {
                folder: folder.to_path_buf(),
                found,
            });
        }
    }
    Ok(())
}

/// Whether the folder holds the configuration of a run, and not of a model, say.
fn holds_config(folder: &Path) -> bool {
    let text = fs::read(folder.join(CONFIG)).unwrap_or_default();
    serde_json::from_slice(&text).is_ok_and(|config: RunConfig| config.is_of_a_run())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_files_of_others_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("edit.run");
        let check = |inputs: &[PathBuf]| {
            let checked = check(&folder, Path::new("edit.gguf"), inputs);
            checked.map_err(|error| error.to_string())
        };
        assert_eq!(check(&[]), Ok(()));
        assert!(!folder.exists(), "nothing is made before the work");
        fs::create_dir(&folder).unwrap();
        assert_eq!(check(&[]), Ok(()));
        // What a run that was killed at its start leaves.
        fs::write(folder.join(METRICS), "").unwrap();
        fs::write(folder.join(".jola-abc.tmp"), "half").unwrap();
        assert_eq!(check(&[]), Ok(()));
        let refused = |name: &str, contents: &str| {
            fs::write(folder.join(name), contents).unwrap();
            let text = check(&[]).unwrap_err();
            assert!(text.contains("edit.run is no run directory"), "{text}");
            assert!(text.contains(name) && text.contains("--run-dir"), "{text}");
            fs::remove_file(folder.join(name)).unwrap();
        };
        refused("notes.txt", "mine");
        refused(CONFIG, r#"{"model_type": "llama"}"#);
        refused(CHECKPOINT, "mine");
        refused(METRICS, "{\"mine\": 1}\n");
        // In a run's folder its user may keep notes, but no input that the run replaces.
        let config = r#"{"version": "0", "base_sha256": "a", "data_sha256": "b"}"#;
        fs::write(folder.join(CONFIG), config).unwrap();
        fs::write(folder.join("notes.txt"), "mine").unwrap();
        assert_eq!(check(&[]), Ok(()));
        fs::write(folder.join(METRICS), "rows").unwrap();
        let text = check(&[folder.join(METRICS)]).unwrap_err();
        assert!(text.contains("is an input of this command"), "{text}");
    }

    #[test]
    fn files_in_the_way_are_named() {
        let parent = tempfile::tempdir().unwrap();
        let file = parent.path().join("file");
        fs::write(&file, "").unwrap();
        for folder in [file.clone(), file.join("edit.run")] {
            let text = check(&folder, Path::new("edit.gguf"), &[]).unwrap_err();
            assert!(matches!(text, Error::FileAsFolder { .. }), "{text}");
        }
        let folder = parent.path().join("edit.run");
        for output in [folder.clone(), folder.join(CHECKPOINT)] {
            let text = check(&folder, &output, &[]).unwrap_err();
            assert!(matches!(text, Error::RunDirIsOutput { .. }), "{text}");
        }
    }
}
