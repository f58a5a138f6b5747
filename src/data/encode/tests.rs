//! Rows as tokens, with a vocabulary made for the purpose.

use super::*;
use crate::data::parse_row;
use crate::Error;

/// A token a character, but for those that are named; like a SentencePiece vocabulary it
/// puts a space before a text.
struct Characters {
    space: bool,
    bos: bool,
}

const BOS: Token = -1;
const EOS: Token = -2;
const END: Token = -3;
/// Two letters that grow together.
const AB: Token = -4;

impl Vocabulary for Characters {
    fn tokenize(&self, text: &str, special: SpecialTokens) -> Result<Vec<Token>, Error> {
        let mut tokens = Vec::new();
        if special.add && self.bos {
            tokens.push(BOS);
        }
        let mut rest = match self.space && !text.is_empty() {
            true => format!(" {text}"),
            false => text.to_owned(),
        };
        while let Some(first) = rest.chars().next() {
            let named = [("<bos>", BOS), ("<end>", END), ("ab", AB)];
            let named = named
                .iter()
                .find(|(name, token)| rest.starts_with(name) && (special.parse || *token == AB));
            let (len, token) = named.map_or((first.len_utf8(), first as Token), |(name, token)| {
                (name.len(), *token)
            });
            tokens.push(token);
            rest.drain(..len);
        }
        Ok(tokens)
    }

    fn eos(&self) -> Option<Token> {
        Some(EOS)
    }

    fn is_eog(&self, token: Token) -> bool {
        [EOS, END].contains(&token)
    }

    fn adds_bos(&self) -> bool {
        self.bos
    }

    fn chat(&self) -> Result<ChatTemplate, Error> {
        template(TURNS)
    }
}

const TURNS: &str =
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}<end>/{% endfor %}\
    {% if add_generation_prompt %}[assistant]{% endif %}";

fn template(source: &str) -> Result<ChatTemplate, Error> {
    Ok(ChatTemplate::new(source, "<bos>".into(), String::new())?.with_bos_added(true))
}

fn letters(text: &str) -> Vec<Token> {
    text.chars().map(|c| c as Token).collect()
}

fn examples(
    row: &str,
    vocabulary: &Characters,
    source: &str,
    turns: Turns,
) -> Result<Vec<Example>, RowError> {
    let template = template(source).unwrap();
    encode(
        &parse_row(row, 1).unwrap(),
        vocabulary,
        Some(&template),
        turns,
    )
}

fn learned(example: &Example) -> Vec<Vec<Token>> {
    let targets = example.targets.iter();
    targets
        .map(|target| example.tokens[target.clone()].to_vec())
        .collect()
}

const SPM: Characters = Characters {
    space: true,
    bos: true,
};
const BPE: Characters = Characters {
    space: false,
    bos: false,
};

#[test]
fn a_sentencepiece_vocabulary_adds_no_second_space() {
    let row = r#"{"prompt": "x:", "completion": " red"}"#;
    let [example] = &examples(row, &SPM, TURNS, Turns::All).unwrap()[..] else {
        panic!("one example")
    };
    let expected = SPM.tokenize("x: red", SpecialTokens::PROMPT).unwrap();
    assert_eq!(example.tokens[..expected.len()], expected);
    assert_eq!(learned(example), [[letters(" red"), vec![EOS]].concat()]);
    assert_eq!(example.notes, []);
}

#[test]
fn where_prompt_and_response_grow_together_the_prompt_keeps_its_own_tokens() {
    let row = r#"{"prompt": "xa", "completion": "bc"}"#;
    for vocabulary in [SPM, BPE] {
        let example = &examples(row, &vocabulary, TURNS, Turns::All).unwrap()[0];
        let prompt = vocabulary.tokenize("xa", SpecialTokens::PROMPT).unwrap();
        assert!(example.tokens.starts_with(&prompt));
        assert_eq!(learned(example), [[letters("bc"), vec![EOS]].concat()]);
    }
}

#[test]
fn a_plain_response_that_spells_a_control_token_stays_text() {
    let row = r#"{"prompt": "x", "completion": "<end>"}"#;
    let example = &examples(row, &SPM, TURNS, Turns::All).unwrap()[0];
    assert_eq!(learned(example), [[letters("<end>"), vec![EOS]].concat()]);
}

#[test]
fn one_beginning_of_sequence_and_targets_to_the_first_end() {
    let row = r#"{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "r"}]}"#;
    let example = &examples(row, &SPM, TURNS, Turns::All).unwrap()[0];
    assert_eq!(example.tokens.iter().filter(|t| **t == BOS).count(), 1);
    assert_eq!(learned(example), [vec!['r' as Token, END]]);
    assert_eq!(
        (example.lead.as_str(), example.notes.as_slice()),
        ("", &[][..])
    );
}

const TWO: &str = r#"{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "r"},
    {"role": "user", "content": "s"}, {"role": "assistant", "content": "t"}]}"#;

#[test]
fn all_turns_of_a_conversation_or_the_last() {
    let all = examples(TWO, &BPE, TURNS, Turns::All).unwrap();
    assert_eq!(all.len(), 1);
    assert_eq!(
        learned(&all[0]),
        [vec!['r' as Token, END], vec!['t' as Token, END]]
    );
    let last = examples(TWO, &BPE, TURNS, Turns::Last).unwrap();
    assert_eq!(last[0].tokens, all[0].tokens);
    assert_eq!(learned(&last[0]), [vec!['t' as Token, END]]);
    let empty = TWO.replacen(r#""r""#, r#""""#, 1);
    let taught = examples(&empty, &BPE, TURNS, Turns::All).unwrap();
    assert_eq!(learned(&taught[0]), [vec!['t' as Token, END]]);
    let weighed = TWO.replacen(r#""r""#, r#""r", "weight": 0"#, 1);
    assert_eq!(
        learned(&examples(&weighed, &BPE, TURNS, Turns::All).unwrap()[0]).len(),
        1
    );
}

#[test]
fn a_turn_that_is_written_otherwise_later_is_an_example_of_its_own() {
    let source = "{% for m in messages %}[{{ m.role }}]{% if m.role == 'assistant' and loop.last %}<t>{% endif %}\
        {{ m.content }}<end>/{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}";
    let all = examples(TWO, &BPE, source, Turns::All).unwrap();
    assert_eq!(all.len(), 2);
    assert_eq!(learned(&all[0]), [[letters("<t>r"), vec![END]].concat()]);
    assert_eq!(learned(&all[1]), [[letters("<t>t"), vec![END]].concat()]);
    assert_eq!(all[1].lead, "<t>");
}

#[test]
fn what_is_not_learned_is_noted() {
    let notes = |row: &str, source: &str| {
        examples(row, &BPE, source, Turns::All).unwrap()[0]
            .notes
            .clone()
    };
    let one = |answer: &str| {
        format!(
            r#"{{"messages": [{{"role": "user", "content": "q"}}, {{"role": "assistant", "content": "{answer}"}}]}}"#
        )
    };
    assert_eq!(notes(&one("r"), &TURNS.replace("<end>", "")), [Note::NoEnd]);
    assert_eq!(notes(&one("r<end>s"), TURNS), [Note::EndInside]);
    let strip = TURNS.replace("m.content", "m.content.split('|')[-1]");
    assert_eq!(notes(&one("thought|r"), &strip), [Note::LeftOut]);
    assert_eq!(
        notes(r#"{"prompt": "", "completion": "x"}"#, TURNS),
        [Note::NothingBefore]
    );
}

#[test]
fn what_the_template_has_no_place_for_is_refused() {
    let error = |row: &str, source: &str| {
        examples(row, &BPE, source, Turns::All)
            .unwrap_err()
            .to_string()
    };
    let called = r#"{"messages": [{"role": "user", "content": "q"},
        {"role": "assistant", "content": "r", "tool_calls": [{"id": 1}]}]}"#;
    assert!(error(called, TURNS).contains("`tool_calls of message 2`"));
    let tools = r#"{"tools": [{}], "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "r"}]}"#;
    assert!(error(tools, TURNS).contains("`tools`"));
    let system = r#"{"system": "s", "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "r"}]}"#;
    let deaf = TURNS.replace(
        "[{{ m.role }}]{{ m.content }}",
        "{% if m.role != 'system' %}{{ m.content }}{% endif %}",
    );
    assert!(error(system, &deaf).contains("`content of message 1`"));
    let opened = TURNS.replace("[assistant]", "[assistant]<think>");
    let said = error(TWO, &opened);
    assert!(
        said.contains(r#"turn with "<think>", but writes"#),
        "{said}"
    );
}
