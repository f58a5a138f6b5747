//! A small model, its data and an observer that stays silent.

use std::path::{Path, PathBuf};

use jola_edit::gguf::Value;
use jola_trainer::base;
use jola_trainer::model::{Model, Precision, Sequence};
use jola_trainer::train::{Observer, Outcome};
use tch::Device;

use crate::decoder::{decoder, Shape};
use testkit::tiny::VOCABULARY;
use testkit::Random;

/// Writes the model into `folder`: two layers of four heads.
pub fn write_model(folder: &Path) -> PathBuf {
    let shape = Shape {
        n_layer: 2,
        ..Shape::GQA
    };
    let mut tiny = decoder("llama", shape, 5);
    for (key, on) in [("add_space_prefix", false), ("add_bos_token", true)] {
        tiny.set_key(&format!("tokenizer.ggml.{key}"), Value::Bool(on));
    }
    for (key, token) in [("bos_token_id", 1u32), ("eos_token_id", 2)] {
        tiny.set_key(&format!("tokenizer.ggml.{key}"), Value::U32(token));
    }
    tiny.write(folder, "tiny")
}

/// The model in memory. The test's thread computes alone from here on: threads that wait for
/// each other are slow where the machine is busy.
pub fn model(precision: Precision) -> Model {
    tch::set_num_threads(1);
    let folder = tempfile::tempdir().unwrap();
    let base = base::open(&write_model(folder.path())).unwrap();
    Model::from_base(&*base, precision, Device::Cpu).unwrap()
}

/// Random rows whose answer is a token that their first token decides.
pub fn rows(n: usize, seed: u64) -> Vec<Sequence> {
    let mut random = Random::new(seed);
    let row = |_| {
        let n_prompt = 3 + random.below(6);
        let mut tokens: Vec<i64> = (0..n_prompt)
            .map(|_| 4 + random.below(VOCABULARY - 4) as i64)
            .collect();
        tokens.extend([4 + tokens[0] % 3, 2]);
        Sequence::new(tokens, n_prompt)
    };
    (0..n).map(row).collect()
}

/// Rows of one token over and over, which decides between two answers: an edit can learn it
/// wholly, and who only knows that there are two answers has a loss of ln 2.
pub fn questions(n: usize, seed: u64) -> Vec<Sequence> {
    let row = |row: Sequence| {
        let kind = row.tokens[0] % 2;
        let mut tokens = vec![20 + kind; row.n_prompt()];
        tokens.extend([4 + kind, 2]);
        Sequence::new(tokens, row.n_prompt())
    };
    rows(n, seed).into_iter().map(row).collect()
}

/// That a run on [`questions`] learned which answer belongs to which: every row of its best
/// validation is answered exactly, and the loss is below half of what a constant answer has.
pub fn assert_learned(outcome: &Outcome) {
    let validation = outcome.validation().unwrap();
    assert_eq!(validation.exact, 1.0, "{validation:?}");
    let guessing = 2f64.ln();
    assert!(validation.loss < 0.5 * guessing, "{validation:?}");
}

/// Keeps the log.
#[derive(Default)]
pub struct Silent {
    /// Its lines.
    pub lines: Vec<String>,
}

impl Observer for Silent {
    fn log(&mut self, line: &str) {
        self.lines.push(line.to_owned());
    }
}
