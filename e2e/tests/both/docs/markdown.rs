//! The Markdown files, read once into what the tests ask of them.

use std::path::{Path, PathBuf};

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};
use testkit::repository;

/// A Markdown file.
pub struct Page {
    /// Where it lies, from the root of the repository.
    pub path: PathBuf,
    /// Where its links and images lead.
    pub links: Vec<At<String>>,
    /// What a link can name after `#`.
    pub anchors: Vec<String>,
    /// What it writes as code within a line.
    pub code: Vec<At<String>>,
    /// Its code blocks.
    pub blocks: Vec<At<Block>>,
}

/// Something and its line.
pub struct At<T> {
    pub line: usize,
    pub what: T,
}

/// A code block.
pub struct Block {
    /// What stands behind the fence; none where the block is only indented.
    pub language: Option<String>,
    pub text: String,
}

impl Page {
    /// `path:line`, as editors jump to it.
    pub fn place(&self, line: usize) -> String {
        format!("{}:{line}", self.path.display())
    }

    /// Whether it lies in a folder of dated measurements: those stay as they were written.
    pub fn is_record(&self) -> bool {
        self.path.iter().any(|part| part == "runs")
    }
}

/// All Markdown files of the repository.
pub fn pages() -> Vec<Page> {
    let root = repository("");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    let pages: Vec<Page> = files
        .iter()
        .map(|file| {
            let text = std::fs::read_to_string(file).expect("Markdown is UTF-8");
            read(file.strip_prefix(&root).expect("in the repository"), &text)
        })
        .collect();
    assert!(pages.iter().any(|page| page.path == Path::new("README.md")));
    pages
}

/// Markdown files below `folder`, except in hidden folders and in what tools can make again
/// (cargo marks its target folder).
fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder of the repository") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') || path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            if !path.join("CACHEDIR.TAG").exists() && name != "node_modules" {
                collect(&path, files);
            }
        } else if path.extension().is_some_and(|extension| extension == "md") {
            files.push(path);
        }
    }
}

fn read(path: &Path, text: &str) -> Page {
    let mut page = Page {
        path: path.to_owned(),
        links: Vec::new(),
        anchors: Vec::new(),
        code: Vec::new(),
        blocks: Vec::new(),
    };
    let options = Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH | Options::ENABLE_GFM;
    let (mut heading, mut block): (Option<String>, Option<Block>) = (None, None);
    for (event, span) in Parser::new_ext(text, options).into_offset_iter() {
        let line = text[..span.start].matches('\n').count() + 1;
        match event {
            Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                let what = dest_url.into_string();
                page.links.push(At { line, what });
            }
            Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
            Event::End(TagEnd::Heading(_)) => {
                let anchor = anchor(&heading.take().unwrap_or_default());
                let same = |known: &&String| {
                    known
                        .strip_prefix(&anchor)
                        .is_some_and(|rest| rest.is_empty() || rest[1..].parse::<usize>().is_ok())
                };
                page.anchors
                    .push(match page.anchors.iter().filter(same).count() {
                        0 => anchor,
                        n => format!("{anchor}-{n}"),
                    });
            }
            Event::Start(Tag::CodeBlock(kind)) => {
                let language = match kind {
                    CodeBlockKind::Fenced(info) => Some(info.into_string()),
                    CodeBlockKind::Indented => None,
                };
                let text = String::new();
                block = Some(Block { language, text });
            }
            Event::End(TagEnd::CodeBlock) => {
                let what = block.take().expect("a block that began");
                page.blocks.push(At { line, what });
            }
            Event::Text(part) | Event::Code(part) => {
                if text[span].starts_with('`') {
                    let what = part.to_string();
                    page.code.push(At { line, what });
                }
                if let Some(block) = &mut block {
                    block.text.push_str(&part);
                } else if let Some(heading) = &mut heading {
                    heading.push_str(&part);
                }
            }
            Event::Html(html) | Event::InlineHtml(html) => {
                for what in ["src", "href"]
                    .iter()
                    .flat_map(|name| attributes(&html, name))
                {
                    page.links.push(At { line, what });
                }
            }
            _ => {}
        }
    }
    page
}

/// The values of an attribute in HTML.
fn attributes(html: &str, name: &str) -> Vec<String> {
    let start = format!("{name}=\"");
    let parts = html.split(&start).skip(1);
    parts
        .filter_map(|rest| Some(rest.split_once('"')?.0.to_owned()))
        .collect()
}

/// How GitHub names a heading.
fn anchor(heading: &str) -> String {
    let kept = heading
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    let lower: String = kept.flat_map(char::to_lowercase).collect();
    lower.replace(' ', "-")
}

#[test]
fn a_page_is_read_as_github_reads_it() {
    let text = "# What is `it`?\n\nA [link](a.md#b).\n\n## Twice\n\n## Twice\n\n\
                <img src=\"c.svg\">\n\n```sh\nls\n```\n\n    indented\n";
    let page = read(Path::new("page.md"), text);
    assert_eq!(page.anchors, ["what-is-it", "twice", "twice-1"]);
    let links: Vec<(usize, &str)> = page
        .links
        .iter()
        .map(|link| (link.line, link.what.as_str()))
        .collect();
    assert_eq!(links, [(3, "a.md#b"), (9, "c.svg")]);
    let code: Vec<&str> = page.code.iter().map(|code| code.what.as_str()).collect();
    assert_eq!(code, ["it"]);
    let blocks: Vec<(usize, Option<&str>, &str)> = page
        .blocks
        .iter()
        .map(|block| {
            (
                block.line,
                block.what.language.as_deref(),
                block.what.text.as_str(),
            )
        })
        .collect();
    assert_eq!(blocks, [(11, Some("sh"), "ls\n"), (15, None, "indented\n")]);
}
