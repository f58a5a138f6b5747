//! Chat templates: Jinja out of a model file, over messages out of a data file. A zero byte
//! separates both.
#![no_main]

use libfuzzer_sys::fuzz_target;
use llama_jola::chat::{ChatTemplate, Message};
use llama_jola::data::parse_messages;

fuzz_target!(|text: &str| {
    let (source, messages) = text.split_once('\0').unwrap_or((text, ""));
    let Ok(template) = ChatTemplate::new(source, "<s>".into(), "</s>".into()) else { return };
    let messages = parse_messages(messages).unwrap_or_else(|_| vec![Message::new("user", "Hi")]);
    let _ = template.render(&messages, true);
});
