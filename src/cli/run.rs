//! `llama-jola run`: text out of a prompt, streamed.

use std::io::{BufRead, IsTerminal};
use std::path::{Path, PathBuf};

use anyhow::{bail, Context as _, Result};
use clap::Args;
use llama_jola::chat::{ChatTemplate, Message, Prompt};
use llama_jola::data::{check_rendered, parse_messages, read_text};
use llama_jola::sampler::SamplerParams;
use llama_jola::{CompletionParams, Context, EditedTokens};
use serde_json::Value;

use super::args::{ModelArgs, TokensArgs};
use super::output::print;

#[derive(Args)]
#[command(
    after_help = "Chat: with --chat, -p is what the user says and the model's own chat \
    template is used; without -p, lines of standard input are the user's turns. --messages takes \
    a whole conversation as JSON: [{\"role\":\"user\",\"content\":\"Hello\"}]."
)]
pub struct RunArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    tokens: TokensArgs,
    /// Prompt, continued as it stands (\n, \t and \\ are escapes, as in llama.cpp)
    #[arg(short, long, conflicts_with = "messages")]
    prompt: Option<String>,
    /// Read the prompt from a file, without escapes and without a line break at its end
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["prompt", "messages"])]
    file: Option<PathBuf>,
    /// Take the prompt as the user's turn of a chat
    #[arg(long)]
    chat: bool,
    /// System message of a chat [-sys]
    #[arg(long, value_name = "TEXT", requires = "chat")]
    system_prompt: Option<String>,
    /// Conversation to answer, a JSON file of messages
    #[arg(long, value_name = "FILE", conflicts_with = "chat")]
    messages: Option<PathBuf>,
    /// Most tokens to generate; -1: until the model ends or the context is full
    #[arg(short, long, default_value = "256", value_name = "N", allow_negative_numbers = true, value_parser = tokens)]
    n_predict: usize,
    /// Temperature; 0 takes the most likely token
    #[arg(long, default_value_t = SamplerParams::default().temp)]
    temp: f32,
    /// Keep the k most likely tokens; 0: all
    #[arg(long, default_value_t = SamplerParams::default().top_k)]
    top_k: i32,
    /// Keep the most likely tokens that together reach this probability
    #[arg(long, default_value_t = SamplerParams::default().top_p)]
    top_p: f32,
    /// Drop tokens less likely than this share of the most likely one
    #[arg(long, default_value_t = SamplerParams::default().min_p)]
    min_p: f32,
    /// Seed of the random choice [default: a random one]
    #[arg(short, long)]
    seed: Option<u32>,
}

/// Runs the command.
pub fn run(args: &RunArgs) -> Result<()> {
    if args.prompt.is_none() && args.file.is_none() && args.messages.is_none() && !args.chat {
        bail!("nothing to continue: give -p PROMPT, -f FILE, --messages FILE or --chat");
    }
    let any_edit = args.model.sidecar_files().next().is_some();
    let edited = args.tokens.edited(any_edit)?;
    let conversation = args.messages.as_deref().map(read_messages).transpose()?;
    let text = match (&args.prompt, &args.file) {
        (Some(prompt), _) => Some(unescape(prompt)),
        (None, Some(path)) => Some(prompt_file(path)?),
        (None, None) => None,
    };
    let mut answerer = Answerer {
        params: args.completion(edited),
        context: args.model.open(1)?,
    };
    let context = &answerer.context;
    let chat = args.chat || conversation.is_some();
    let template = chat.then(|| ChatTemplate::from_model(context.model()));
    let template = template.transpose()?;
    args.model.warn_of_prompts(template.as_ref())?;
    if let Some(messages) = conversation {
        if let (Some(template), Some(path)) = (&template, &args.messages) {
            check_rendered(&messages, None, template)
                .with_context(|| path.display().to_string())?;
        }
        answerer.answer(messages)?;
    } else if !args.chat {
        answerer.answer(text.unwrap_or_default())?;
    } else {
        let mut messages = Vec::new();
        messages.extend(
            args.system_prompt
                .iter()
                .map(|text| Message::new("system", text)),
        );
        match text {
            Some(text) => {
                messages.push(Message::new("user", text));
                answerer.answer(messages)?;
            }
            None => answerer.converse(messages)?,
        }
    }
    Ok(())
}

impl RunArgs {
    fn completion(&self, edited: EditedTokens) -> CompletionParams {
        CompletionParams {
            n_predict: self.n_predict,
            sampling: SamplerParams {
                temp: self.temp,
                top_k: self.top_k,
                top_p: self.top_p,
                min_p: self.min_p,
                seed: self.seed.unwrap_or(SamplerParams::default().seed),
            },
            edited,
        }
    }
}

/// The model, and how it answers.
struct Answerer {
    params: CompletionParams,
    context: Context,
}

impl Answerer {
    /// Answers the user's lines one after the other until standard input ends.
    fn converse(&mut self, mut messages: Vec<Message>) -> Result<()> {
        let prompt_user = || {
            if std::io::stdin().is_terminal() {
                eprint!("> ");
            }
        };
        prompt_user();
        for line in std::io::stdin().lock().lines() {
            messages.push(Message::new(
                "user",
                line.context("reading standard input")?,
            ));
            let text = self.answer(messages.as_slice())?;
            messages.push(Message::new("assistant", text));
            prompt_user();
        }
        Ok(())
    }

    /// Streams the continuation of a text, or the assistant's next turn, and returns it.
    fn answer(&mut self, prompt: impl Into<Prompt>) -> Result<String> {
        let mut written = Ok(());
        let text = self.context.stream(prompt, &self.params, |piece| {
            written = print(|out| out.write_all(piece.as_bytes()));
            written.is_ok()
        })?;
        written?;
        print(|out| writeln!(out))?;
        Ok(text)
    }
}

/// The prompt in a file, without the line break that editors put at its end; llama.cpp drops
/// it, too. Line breaks of Windows are line breaks: models have hardly seen the others.
fn prompt_file(path: &Path) -> Result<String> {
    let text = read_text(path).context("reading the prompt")?;
    let text = text.replace("\r\n", "\n");
    Ok(text.strip_suffix('\n').map_or(text.clone(), str::to_owned))
}

fn read_messages(path: &Path) -> Result<Vec<Message>> {
    let mut text = read_text(path).context("reading messages")?;
    // A row of data, whose conversation is meant.
    if let Ok(Value::Object(mut row)) = serde_json::from_str(&text) {
        if row.get("tools").is_some_and(|tools| !tools.is_null()) {
            bail!(
                "{}: `tools` have no place here: write them into a system message, as the model \
                 expects them",
                path.display()
            );
        }
        text = row.remove("messages").map_or(text, |list| list.to_string());
    }
    let messages = parse_messages(&text).with_context(|| {
        format!(
            "{} is not a JSON list of {{\"role\", \"content\"}} objects",
            path.display()
        )
    })?;
    if messages.is_empty() {
        bail!("{} holds no message", path.display());
    }
    Ok(messages)
}

/// A number of tokens; -1 stands for no limit, as in llama.cpp.
fn tokens(text: &str) -> Result<usize, String> {
    match text.parse::<i64>() {
        Ok(-1) => Ok(usize::MAX),
        Ok(n) => {
            usize::try_from(n).map_err(|_| "give a number of tokens, or -1 for no limit".into())
        }
        Err(error) => Err(error.to_string()),
    }
}

/// llama.cpp's escapes in a prompt: `\n`, `\t`, `\r`, `\"`, `\'` and `\\`.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let escape = match (c, chars.peek()) {
            ('\\', Some('n')) => Some('\n'),
            ('\\', Some('t')) => Some('\t'),
            ('\\', Some('r')) => Some('\r'),
            ('\\', Some(&quoted @ ('"' | '\'' | '\\'))) => Some(quoted),
            _ => None,
        };
        match escape {
            Some(escape) => {
                chars.next();
                out.push(escape);
            }
            None => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_prompt_file_is_its_text_wherever_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prompt.txt");
        for bytes in [
            &b"Team:\nred"[..],
            b"Team:\nred\n",
            b"Team:\r\nred\r\n",
            b"\xef\xbb\xbfTeam:\r\nred",
            b"\xff\xfeT\0e\0a\0m\0:\0\r\0\n\0r\0e\0d\0",
        ] {
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(super::prompt_file(&path).unwrap(), "Team:\nred");
        }
        std::fs::write(&path, "two\n\n").unwrap();
        assert_eq!(super::prompt_file(&path).unwrap(), "two\n");
    }

    #[test]
    fn escapes_are_llama_cpps() {
        assert_eq!(super::unescape(r#"a\nb\\n\"\x"#), "a\nb\\n\"\\x");
        assert_eq!(super::unescape("end\\"), "end\\");
    }
}
