//! Every Markdown file of the repository: its links lead somewhere, and what it shows can be
//! typed or compiled as it stands.

mod commands;
mod links;
mod markdown;
mod snippets;
