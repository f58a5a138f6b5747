//! Tokens as text while they come: whole characters, up to a text that ends the answer.

/// Joins the pieces of tokens to text, holding back bytes of unfinished characters.
#[derive(Debug, Default)]
pub struct Utf8Stream {
    bytes: Vec<u8>,
}

impl Utf8Stream {
    /// Takes a piece and returns the text that is complete now.
    pub fn push(&mut self, piece: &[u8]) -> String {
        self.bytes.extend_from_slice(piece);
        let mut text = String::new();
        loop {
            match std::str::from_utf8(&self.bytes) {
                Ok(valid) => {
                    text.push_str(valid);
                    self.bytes.clear();
                    return text;
                }
                Err(error) => {
                    let rest = self.bytes.split_off(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(&self.bytes));
                    self.bytes = rest;
                    match error.error_len() {
                        None => return text,
                        Some(bad) => {
                            self.bytes.drain(..bad);
                            text.push('\u{fffd}');
                        }
                    }
                }
            }
        }
    }

    /// The text of what is left, with U+FFFD for an unfinished character.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// The text of an answer, without the stop text that ends it and what follows.
#[derive(Debug)]
pub(super) struct AnswerText {
    characters: Utf8Stream,
    stops: Vec<String>,
    /// Text that may be the beginning of a stop text.
    held: String,
    stopped: bool,
}

impl AnswerText {
    /// An answer that ends before the first of `stops`; empty ones are none.
    pub(super) fn new(stops: &[String]) -> Self {
        Self {
            characters: Utf8Stream::default(),
            stops: stops.iter().filter(|s| !s.is_empty()).cloned().collect(),
            held: String::new(),
            stopped: false,
        }
    }

    /// Whether a stop text has come.
    pub(super) fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Takes a token's piece and returns the text that certainly belongs to the answer.
    pub(super) fn push(&mut self, piece: &[u8]) -> String {
        let text = self.characters.push(piece);
        self.take(&text)
    }

    fn take(&mut self, text: &str) -> String {
        if self.stopped {
            return String::new();
        }
        self.held.push_str(text);
        let found = self
            .stops
            .iter()
            .filter_map(|stop| self.held.find(stop.as_str()));
        if let Some(at) = found.min() {
            self.stopped = true;
            self.held.truncate(at);
            return std::mem::take(&mut self.held);
        }
        let may_stop = |from: usize| self.stops.iter().any(|s| s.starts_with(&self.held[from..]));
        let starts = self.held.char_indices().map(|(i, _)| i);
        let safe = starts
            .clone()
            .find(|i| may_stop(*i))
            .unwrap_or(self.held.len());
        let rest = self.held.split_off(safe);
        std::mem::replace(&mut self.held, rest)
    }

    /// What is left when no more tokens come.
    pub(super) fn finish(&mut self) -> String {
        let rest = std::mem::take(&mut self.characters).finish();
        let text = self.take(&rest);
        match self.stopped {
            true => text,
            false => text + &std::mem::take(&mut self.held),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_characters_come_out_whole() {
        let mut stream = Utf8Stream::default();
        let text = "Grüße 🦙";
        let out: String = text.bytes().map(|b| stream.push(&[b])).collect();
        assert_eq!(out + &stream.finish(), text);
    }

    /// What comes out for each piece, with what is left at the end, and whether it stopped.
    fn answer(stops: &[&str], pieces: &[&str]) -> (Vec<String>, bool) {
        let stops: Vec<String> = stops.iter().map(|s| s.to_string()).collect();
        let mut text = AnswerText::new(&stops);
        let mut out: Vec<String> = pieces.iter().map(|p| text.push(p.as_bytes())).collect();
        out.push(text.finish());
        (out, text.is_stopped())
    }

    #[test]
    fn answers_end_before_a_stop_text() {
        let (out, stopped) = answer(&["\n\n"], &["one\n", "two\n", "\nthree"]);
        assert_eq!((out.concat(), stopped), ("one\ntwo".into(), true));
        assert_eq!(out, ["one", "\ntwo", "", ""]);
        let (out, stopped) = answer(&["END", "\n"], &["aEN", "D\n", "b"]);
        assert_eq!((out.concat(), stopped), ("a".into(), true));
        let (out, stopped) = answer(&["END", ""], &["aEN", "d", "EN"]);
        assert_eq!((out.concat(), stopped), ("aENdEN".into(), false));
        let (out, _) = answer(&[], &["a", "b"]);
        assert_eq!(out, ["a", "b", ""]);
    }

    #[test]
    fn broken_bytes_become_replacement_characters() {
        let mut stream = Utf8Stream::default();
        assert_eq!(stream.push(b"a\xffb"), "a\u{fffd}b");
        assert_eq!(stream.push(b"\xf0\x9f"), "");
        assert_eq!(stream.finish(), "\u{fffd}");
    }
}
