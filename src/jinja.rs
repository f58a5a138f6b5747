//! What transformers adds to Jinja for chat templates: functions, `tojson` as Python writes it,
//! and the `generation` tag.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Value};
use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

/// Adds the functions and filters.
pub(crate) fn extend(environment: &mut Environment<'static>) {
    environment.add_function("raise_exception", |text: String| {
        Err::<String, _>(Error::new(ErrorKind::InvalidOperation, text))
    });
    environment.add_function("strftime_now", strftime_now);
    environment.add_filter("tojson", to_json);
    environment.add_test("iterable", is_iterable);
}

/// The source without `{% generation %}` and `{% endgeneration %}`, which mark what a
/// trainer may learn from and print nothing. Blocks that are always taken stand in for
/// them, so that white space is trimmed as around the tags.
pub(crate) fn without_generation(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        // Behind the two characters that begin the tag: in `{%}` none has ended yet.
        let begin = start + 2;
        let Some(end) = rest[begin..].find("%}").map(|end| begin + end) else {
            break;
        };
        let tag = &rest[begin..end];
        text.push_str(&rest[..begin]);
        let name = tag.trim_matches(|c: char| c.is_whitespace() || matches!(c, '-' | '+'));
        match name {
            "generation" => text.push_str(&tag.replace(name, "if true")),
            "endgeneration" => text.push_str(&tag.replace(name, "endif")),
            _ => text.push_str(tag),
        }
        rest = &rest[end..];
    }
    text + rest
}

/// Whether Python iterates over it: unlike minijinja, not over none.
fn is_iterable(value: &Value) -> bool {
    use ValueKind::{Bytes, Iterable, Map, Seq, String, Undefined};
    matches!(
        value.kind(),
        Bytes | Iterable | Map | Seq | String | Undefined
    )
}

/// The local time in a format of C's `strftime`.
fn strftime_now(format: &str) -> Result<String, Error> {
    use std::fmt::Write;
    let mut text = String::new();
    let written = write!(text, "{}", chrono::Local::now().format(format));
    written.map_err(|_| {
        let what = format!("strftime_now: unknown format {format:?}");
        Error::new(ErrorKind::InvalidOperation, what)
    })?;
    Ok(text)
}

/// Most spaces per level in `tojson`.
const MAX_INDENT: usize = 64;
/// Most levels that `tojson` writes, as JSON is read.
const MAX_DEPTH: usize = 128;
/// Most bytes that `tojson` writes: a template's fuel does not pay for them.
const MAX_JSON: usize = 16 << 20;

/// JSON as Python's `json.dumps` writes it, not escaped for HTML.
fn to_json(value: &Value, options: Kwargs) -> Result<String, Error> {
    let ascii = options
        .get::<Option<bool>>("ensure_ascii")?
        .unwrap_or(false);
    let sorted = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    let indent = options.get::<Option<usize>>("indent")?;
    if indent.is_some_and(|indent| indent > MAX_INDENT) {
        let what = format!("tojson: an indent of more than {MAX_INDENT}");
        return Err(Error::new(ErrorKind::InvalidOperation, what));
    }
    let separators = options.get::<Option<Vec<String>>>("separators")?;
    options.assert_all_used()?;
    let fail = |error: serde_json::Error| {
        Error::new(ErrorKind::BadSerialization, "cannot write as JSON").with_source(error)
    };
    let [item, key] = match separators.as_deref() {
        Some([item, key]) => [item.clone(), key.clone()],
        None if indent.is_some() => [",".to_owned(), ": ".to_owned()],
        None => [", ".to_owned(), ": ".to_owned()],
        Some(_) => {
            let what = "tojson: separators are two texts";
            return Err(Error::new(ErrorKind::InvalidOperation, what));
        }
    };
    let python = Python {
        item,
        key,
        indent,
        depth: 0,
        empty: true,
        ascii,
    };
    // A template makes sequences of any length and depth for nothing: only what has been
    // written within bounds is copied to be sorted.
    let text = python.clone().text(value).map_err(fail)?;
    if !sorted {
        return Ok(text);
    }
    let mut json = serde_json::to_value(value).map_err(fail)?;
    json.sort_all_objects();
    python.text(&json).map_err(fail)
}

/// At most [`MAX_JSON`] bytes.
#[derive(Default)]
struct Bounded(Vec<u8>);

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_JSON {
            let what = format!("more than {MAX_JSON} bytes");
            return Err(std::io::Error::other(what));
        }
        self.0.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The format of Python's `json.dumps`.
#[derive(Clone)]
struct Python {
    /// What stands between items.
    item: String,
    /// Between key and value.
    key: String,
    /// Spaces per depth, each item on its own line.
    indent: Option<usize>,
    depth: usize,
    /// Whether the innermost container has had no item yet.
    empty: bool,
    /// Whether other than ASCII characters are escaped.
    ascii: bool,
}

type Written = std::io::Result<()>;

impl Python {
    /// A value in this format.
    fn text(self, value: &impl Serialize) -> serde_json::Result<String> {
        let mut bytes = Bounded::default();
        value.serialize(&mut Serializer::with_formatter(&mut bytes, self))?;
        Ok(String::from_utf8(bytes.0).expect("JSON is UTF-8"))
    }

    fn line<W: ?Sized + std::io::Write>(&self, writer: &mut W) -> Written {
        match self.indent {
            Some(indent) => {
                writer.write_all(b"\n")?;
                (0..self.depth).try_for_each(|_| write!(writer, "{:indent$}", ""))
            }
            None => Ok(()),
        }
    }

    fn begin<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, bracket: &[u8]) -> Written {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            let what = format!("more than {MAX_DEPTH} levels");
            return Err(std::io::Error::other(what));
        }
        self.empty = true;
        writer.write_all(bracket)
    }

    fn end<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, bracket: &[u8]) -> Written {
        self.depth -= 1;
        if !self.empty {
            self.line(writer)?;
        }
        self.empty = false;
        writer.write_all(bracket)
    }

    fn next<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> Written {
        if !first {
            writer.write_all(self.item.as_bytes())?;
        }
        self.empty = false;
        self.line(writer)
    }
}

impl Formatter for Python {
    fn begin_array<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> Written {
        self.begin(writer, b"[")
    }

    fn end_array<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> Written {
        self.end(writer, b"]")
    }

    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> Written {
        self.next(writer, first)
    }

    fn begin_object<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> Written {
        self.begin(writer, b"{")
    }

    fn end_object<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> Written {
        self.end(writer, b"}")
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> Written {
        self.next(writer, first)
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> Written {
        writer.write_all(self.key.as_bytes())
    }

    fn write_string_fragment<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> Written {
        if !self.ascii {
            return writer.write_all(fragment.as_bytes());
        }
        for unit in fragment.encode_utf16() {
            match u8::try_from(unit) {
                Ok(byte) if byte.is_ascii() => writer.write_all(&[byte])?,
                _ => write!(writer, "\\u{unit:04x}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str) -> String {
        let mut environment = Environment::new();
        extend(&mut environment);
        environment
            .render_str(&without_generation(source), ())
            .unwrap()
    }

    #[test]
    fn json_is_written_up_to_its_limits() {
        let length = |source: &str| {
            let mut environment = Environment::new();
            extend(&mut environment);
            let rendered = environment.render_str(source, ());
            rendered.map(|text| text.len()).map_err(|error| {
                let cause = std::error::Error::source(&error);
                cause.map_or(error.to_string(), |cause| cause.to_string())
            })
        };
        assert_eq!(length("{{ [1] | tojson(indent=64) }}"), Ok(4 + 64 + 1));
        let text = length("{{ [1] | tojson(indent=65) }}").unwrap_err();
        assert!(text.contains("an indent of more than 64"), "{text}");
        let deep = |levels: usize| {
            let nested = "{% set ns = namespace(x=1) %}{% for _ in range(LEVELS) %}\
                {% set ns.x = [ns.x] %}{% endfor %}{{ ns.x | tojson(sort_keys=true) }}";
            length(&nested.replace("LEVELS", &levels.to_string()))
        };
        assert_eq!(deep(MAX_DEPTH), Ok(2 * MAX_DEPTH + 1));
        for levels in [MAX_DEPTH + 1, 1_000] {
            let text = deep(levels).unwrap_err();
            assert!(text.contains("more than 128 levels"), "{text}");
        }
        let zeros = |n: usize| format!("{{{{ ([0] * {n}) | tojson(separators=(',', ':')) }}}}");
        let most = (MAX_JSON - 1) / 2;
        assert_eq!(length(&zeros(most)), Ok(2 * most + 1));
        let text = length(&zeros(most + 1)).unwrap_err();
        assert!(text.contains("more than 16777216 bytes"), "{text}");
        let text = length("{{ [0, 0] | tojson(separators=('x' * 20000000, ':')) }}").unwrap_err();
        assert!(text.contains("more than 16777216 bytes"), "{text}");
    }

    #[test]
    fn a_tag_that_never_ends_is_left_to_the_parser() {
        for source in ["{%}", "{%%}", "a{%}b{% generation %}", "{%"] {
            assert_eq!(without_generation(source).len(), source.len(), "{source}");
        }
    }

    #[test]
    fn json_is_pythons() {
        assert_eq!(
            render("{{ {'a': [1, 'é<'], 'b': {}} | tojson }}"),
            r#"{"a": [1, "é<"], "b": {}}"#
        );
        assert_eq!(
            render("{{ ['é'] | tojson(ensure_ascii=true) }}"),
            r#"["\u00e9"]"#
        );
        assert_eq!(
            render("{{ {'b': [1, 2], 'a': []} | tojson(indent=2, sort_keys=true) }}"),
            "{\n  \"a\": [],\n  \"b\": [\n    1,\n    2\n  ]\n}"
        );
        assert_eq!(
            render("{{ [1, 2] | tojson(separators=(',', ':')) }}"),
            "[1,2]"
        );
    }

    #[test]
    fn none_is_not_iterable() {
        let source = "{{ none is iterable }} {{ [] is iterable }} {{ 'a' is iterable }}";
        assert_eq!(render(source), "False True True");
    }

    #[test]
    fn generation_marks_print_nothing() {
        let source = "a {%- generation -%} b {% endgeneration %} c {% generation";
        let expected = "a {%- if true -%} b {% endif %} c {% generation";
        assert_eq!(without_generation(source), expected);
        assert_eq!(
            render("a {%- generation %} b{% endgeneration -%} c"),
            "a bc"
        );
    }

    #[test]
    fn time_has_its_format() {
        let year = render("{{ strftime_now('%Y') }}");
        assert!(
            year.len() == 4 && year.bytes().all(|byte| byte.is_ascii_digit()),
            "{year}"
        );
        assert!(strftime_now("%!").is_err());
    }
}
