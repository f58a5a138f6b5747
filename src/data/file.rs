//! From a file's bytes to rows: encodings, JSON Lines, arrays and pretty-printed objects.

use std::path::Path;

use serde::de::IgnoredAny;

use super::json::{list, parse};
use super::row::row_of;
use super::{parse_row, DataError, Row, RowError};

/// First bytes of files that are no text, and what to do about them.
const OTHER_KINDS: &[(&[u8], &str, &str)] = &[
    (
        b"\x1f\x8b",
        "compressed by gzip",
        "unpack it with gunzip first",
    ),
    (
        b"\x28\xb5\x2f\xfd",
        "compressed by zstd",
        "unpack it with unzstd first",
    ),
    (b"PK\x03\x04", "a zip archive", "unpack it first"),
    (
        b"PAR1",
        "a Parquet file",
        "write its rows as JSON Lines first",
    ),
    (
        b"GGUF",
        "a GGUF file",
        "data is JSON Lines; a model goes behind -m, a sidecar behind --jola",
    ),
    (
        b"SQLite format 3",
        "an SQLite database",
        "write its rows as JSON Lines first",
    ),
];

/// How the first line of a table begins.
const HEADINGS: [&str; 6] = [
    "prompt,",
    "prompt\t",
    "instruction,",
    "instruction\t",
    "\"prompt\",",
    "text,",
];

/// Reads a text file as UTF-8, or as UTF-16 where it begins with that byte order mark; the
/// mark itself is dropped.
///
/// # Errors
/// [`DataError::Io`], [`DataError::Kind`] for folders and files that are no text, and
/// [`DataError::Encoding`].
pub fn read_text(path: &Path) -> Result<String, DataError> {
    let kind = |what, remedy| DataError::Kind {
        path: path.to_path_buf(),
        what,
        remedy,
    };
    if path.is_dir() {
        return Err(kind("a folder", "name a file in it"));
    }
    let bytes = std::fs::read(path).map_err(|error| DataError::Io {
        path: path.to_path_buf(),
        error,
    })?;
    for (magic, what, remedy) in OTHER_KINDS {
        if bytes.starts_with(magic) {
            return Err(kind(what, remedy));
        }
    }
    let utf16 = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let units = bytes.chunks_exact(2).map(|pair| unit([pair[0], pair[1]]));
        let text: Result<String, _> = char::decode_utf16(units).collect();
        text.ok().filter(|_| bytes.len().is_multiple_of(2))
    };
    let text = match bytes.as_slice() {
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes),
        [0xef, 0xbb, 0xbf, rest @ ..] => std::str::from_utf8(rest).ok().map(str::to_owned),
        all => std::str::from_utf8(all).ok().map(str::to_owned),
    };
    text.ok_or_else(|| {
        let valid = match std::str::from_utf8(&bytes) {
            Ok(_) => bytes.len(),
            Err(error) => error.valid_up_to(),
        };
        let breaks = bytes[..valid].iter().filter(|byte| **byte == b'\n').count();
        DataError::Encoding {
            path: path.to_path_buf(),
            line: breaks + 1,
        }
    })
}

/// Reads the first `limit` rows of a file: JSON Lines, a JSON array of rows, or objects that
/// are spread over several lines. Empty lines are skipped.
///
/// # Errors
/// [`DataError`], naming the file, the line and what is missing.
pub fn read_rows(path: &Path, limit: Option<usize>) -> Result<Vec<Row>, DataError> {
    let text = read_text(path)?;
    let limit = limit.unwrap_or(usize::MAX);
    let fail = |(line, kind)| DataError::Row {
        path: path.to_path_buf(),
        line,
        kind,
    };
    let first = text.lines().find(|line| !line.trim().is_empty());
    let Some(first) = first else {
        return Err(DataError::Empty {
            path: path.to_path_buf(),
        });
    };
    let opens = first.trim_start();
    let extension = path.extension().unwrap_or_default();
    let table =
        extension == "csv" || extension == "tsv" || HEADINGS.iter().any(|h| opens.starts_with(h));
    if table && !opens.starts_with(['{', '[']) {
        return Err(DataError::Kind {
            path: path.to_path_buf(),
            what: "not JSON; it looks like a table (CSV)",
            remedy: "write each of its rows as a line such as {\"prompt\": \"…\", \"completion\": \"…\"}",
        });
    }
    let rows = if opens.starts_with('[') && is_json(&text) {
        array(&text, limit)
    } else if opens.starts_with('{') && !is_json(first) && stream(&text, 1).is_ok() {
        stream(&text, limit)
    } else {
        lines(&text, limit)
    };
    let rows = rows.map_err(fail)?;
    if rows.is_empty() {
        return Err(DataError::Empty {
            path: path.to_path_buf(),
        });
    }
    Ok(rows)
}

type Rows = Result<Vec<Row>, (usize, RowError)>;

fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// One row a line.
fn lines(text: &str, limit: usize) -> Rows {
    let lines = text
        .lines()
        .enumerate()
        .map(|(index, text)| (index + 1, text));
    let rows = lines.filter(|(_, text)| !text.trim().is_empty());
    rows.take(limit)
        .map(|(line, text)| parse_row(text, line).map_err(|kind| (line, kind)))
        .collect()
}

/// The elements of one array. Their lines are not known: elements are counted instead.
fn array(text: &str, limit: usize) -> Rows {
    let line = |kind: RowError| match kind {
        RowError::Json(error) => (error.line(), RowError::Json(error)),
        other => (1, other),
    };
    let values = list("rows", parse(text).map_err(line)?).map_err(line)?;
    let rows = values.into_iter().enumerate().take(limit);
    rows.map(|(index, value)| row_of(value, index + 1).map_err(|kind| (index + 1, kind)))
        .collect()
}

/// Objects one after the other, over as many lines as they take.
fn stream(text: &str, limit: usize) -> Rows {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    let mut rows = Vec::new();
    while rows.len() < limit {
        let rest = &text[values.byte_offset()..];
        let begun = text.len() - rest.trim_start().len();
        let line = text[..begun].matches('\n').count() + 1;
        let Some(value) = values.next() else { break };
        value.map_err(|error| (error.line(), RowError::Json(error)))?;
        let object = &text[begun..values.byte_offset()];
        rows.push(parse_row(object, line).map_err(|kind| (line, kind))?);
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"prompt": "a", "completion": "b"}"#;

    fn written(contents: impl AsRef<[u8]>) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        std::fs::write(&path, contents).unwrap();
        (folder, path)
    }

    fn numbers(contents: impl AsRef<[u8]>) -> Vec<usize> {
        let (_folder, path) = written(contents);
        let rows = read_rows(&path, None).unwrap();
        rows.iter().map(|row| row.line).collect()
    }

    fn error(contents: impl AsRef<[u8]>) -> String {
        let (_folder, path) = written(contents);
        read_rows(&path, None).unwrap_err().to_string()
    }

    #[test]
    fn files_are_read_to_the_limit_and_errors_name_the_line() {
        let (_folder, path) = written(format!("{GOOD}\n\n{GOOD}\n{{\n"));
        let rows = read_rows(&path, Some(2)).unwrap();
        assert_eq!(rows.iter().map(|row| row.line).collect::<Vec<_>>(), [1, 3]);
        let text = read_rows(&path, None).unwrap_err().to_string();
        assert!(
            text.contains("rows.jsonl, line 4: not valid JSON"),
            "{text}"
        );

        std::fs::write(&path, "\n\n").unwrap();
        assert!(matches!(
            read_rows(&path, None),
            Err(DataError::Empty { .. })
        ));
        let missing = path.with_file_name("none");
        assert!(matches!(
            read_rows(&missing, None),
            Err(DataError::Io { .. })
        ));
    }

    #[test]
    fn byte_order_marks_line_ends_and_utf16_are_understood() {
        assert_eq!(numbers(format!("\u{feff}{GOOD}\r\n{GOOD}")), [1, 2]);
        let utf16 = format!("\u{feff}{GOOD}\n{GOOD}\n");
        let little: Vec<u8> = utf16.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let big: Vec<u8> = utf16.encode_utf16().flat_map(u16::to_be_bytes).collect();
        assert_eq!(numbers(little), [1, 2]);
        assert_eq!(numbers(big), [1, 2]);
    }

    #[test]
    fn arrays_and_objects_over_several_lines_are_rows() {
        assert_eq!(numbers(format!("[{GOOD},\n{GOOD}]")), [1, 2]);
        assert_eq!(
            numbers("[]\n".replace("[]", &format!("[\n {GOOD}\n]"))),
            [1]
        );
        let pretty = "{\n \"prompt\": \"a\",\n \"completion\": \"b\"\n}\n";
        assert_eq!(numbers(pretty.repeat(2)), [1, 5]);
    }

    #[test]
    fn other_kinds_of_files_are_named() {
        assert!(error(b"\x1f\x8b\x08rest").contains("gunzip"));
        assert!(error("prompt,completion\na,b\n").contains("CSV"));
        assert!(error(b"{\"prompt\": \"caf\xe9\"}").contains("line 1: not valid UTF-8"));
        assert!(error(format!("{GOOD}\n\u{0}")).contains("line 2"));
        let (folder, _) = written("");
        let text = read_rows(folder.path(), None).unwrap_err().to_string();
        assert!(text.contains("is a folder"), "{text}");
    }
}
