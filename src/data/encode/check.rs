//! Nothing of a conversation is left out in silence: what a chat template writes nothing of is
//! found by rendering without it.

use serde_json::Value;

use crate::chat::{ChatTemplate, Message};
use crate::data::RowError;

/// Refuses a conversation of which the template leaves something out: tools, calls of them,
/// the last message's thoughts, or what somebody other than the assistant says.
///
/// # Errors
/// [`RowError::NotRendered`], naming key and message, and what the template refuses.
pub fn check_rendered(
    messages: &[Message],
    tools: Option<&Value>,
    template: &ChatTemplate,
) -> Result<(), RowError> {
    let full = template.render_with(messages, tools, false)?;
    if tools.is_some() && template.render(messages, false)? == full {
        return Err(RowError::NotRendered {
            key: "tools".into(),
        });
    }
    // The whole conversation with another message in one place.
    let with = |index: usize, message: Message| {
        let mut changed = messages.to_vec();
        changed[index] = message;
        template.render_with(&changed, tools, false)
    };
    for (index, message) in messages.iter().enumerate() {
        let named = |key: &str| RowError::NotRendered {
            key: format!("{key} of message {}", index + 1),
        };
        // Thoughts of earlier turns are left out on purpose by many templates.
        let keys = ["tool_calls", "reasoning_content"];
        let last = index + 1 == messages.len();
        for key in keys.iter().take(if last { 2 } else { 1 }) {
            let Some(less) = message.without(key) else {
                continue;
            };
            if with(index, less)? == full {
                return Err(named(key));
            }
        }
        let spoken = !message.content().trim().is_empty() && message.role() != "assistant";
        if spoken {
            let mut other = message.clone();
            other.set_content(&format!("{} {}", message.content(), message.role()));
            if with(index, other)? == full {
                return Err(named("content"));
            }
        }
    }
    Ok(())
}
