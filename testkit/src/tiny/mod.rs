//! Small seeded random models, written as GGUF files that llama.cpp loads.

pub mod forms;

use std::path::{Path, PathBuf};

use jola_edit::gguf::{Array, GgufWriter, Metadata, Value, F32};

use crate::Random;

/// Size of every vocabulary here.
pub const VOCABULARY: usize = 96;

/// A GGUF file in the making.
#[derive(Clone)]
pub struct Tiny {
    /// `general.architecture`.
    pub architecture: String,
    metadata: Vec<(String, Value)>,
    tensors: Vec<(String, Vec<u64>, Vec<f32>)>,
    random: Random,
}

impl Tiny {
    /// A file of `architecture` with a vocabulary and no tensors.
    pub fn new(architecture: &str, seed: u64) -> Self {
        let mut tiny = Self {
            architecture: architecture.to_owned(),
            metadata: Vec::new(),
            tensors: Vec::new(),
            random: Random::new(seed),
        };
        tiny.set_key("general.architecture", text(architecture));
        tiny.set_key("general.alignment", Value::U32(32));
        let tokens: Vec<String> = ["<unk>", "<s>", "</s>", "<0x0A>"]
            .map(str::to_owned)
            .into_iter()
            .chain((4..VOCABULARY).map(|i| format!("t{i}")))
            .collect();
        let (unknown, control, byte, normal) = (2, 3, 6, 1);
        let mut types = vec![normal; VOCABULARY];
        types[..4].copy_from_slice(&[unknown, control, control, byte]);
        tiny.set_key("tokenizer.ggml.model", text("llama"));
        tiny.set_key("tokenizer.ggml.tokens", Value::Array(Array::String(tokens)));
        let scores = vec![0.0; VOCABULARY];
        tiny.set_key("tokenizer.ggml.scores", Value::Array(Array::F32(scores)));
        tiny.set_key("tokenizer.ggml.token_type", Value::Array(Array::I32(types)));
        tiny
    }

    /// Sets `key`, anew or in place of its former value.
    pub fn set_key(&mut self, key: &str, value: Value) {
        match self.metadata.iter_mut().find(|(name, _)| name == key) {
            Some((_, old)) => *old = value,
            None => self.metadata.push((key.to_owned(), value)),
        }
    }

    /// Sets `<architecture>.<name>`.
    pub fn set(&mut self, name: &str, value: Value) {
        self.set_key(&format!("{}.{name}", self.architecture), value);
    }

    /// Sets an integer key under the architecture.
    pub fn count(&mut self, name: &str, value: usize) {
        self.set(name, Value::U32(value as u32));
    }

    /// Sets a float key under the architecture.
    pub fn float(&mut self, name: &str, value: f32) {
        self.set(name, Value::F32(value));
    }

    /// Sets a text key under the architecture.
    pub fn text(&mut self, name: &str, value: &str) {
        self.set(name, text(value));
    }

    /// Takes a key under the architecture out.
    pub fn without(&mut self, name: &str) {
        let key = format!("{}.{name}", self.architecture);
        self.metadata.retain(|(found, _)| *found != key);
    }

    /// Adds a tensor of given values.
    pub fn values(&mut self, name: &str, dims: &[usize], values: Vec<f32>) {
        let dims = dims.iter().map(|&dim| dim as u64).collect();
        self.tensors.push((name.to_owned(), dims, values));
    }

    /// Adds a random matrix: for an input of unit variance, outputs of variance gain².
    pub fn weight(&mut self, name: &str, dims: &[usize], gain: f32) {
        let scale = gain / (dims[0] as f32).sqrt();
        self.random_values(name, dims, 0.0, scale);
    }

    /// Adds a random tensor of the given mean and standard deviation.
    pub fn random_values(&mut self, name: &str, dims: &[usize], mean: f32, deviation: f32) {
        let len = dims.iter().product();
        let values = (0..len).map(|_| mean + deviation * self.random.normal());
        let values = values.collect();
        self.values(name, dims, values);
    }

    /// Adds the weight of a norm.
    pub fn norm(&mut self, name: &str, len: usize) {
        self.random_values(name, &[len], 1.0, 0.3);
    }

    /// Adds a bias.
    pub fn bias(&mut self, name: &str, len: usize) {
        self.random_values(name, &[len], 0.0, 0.5);
    }

    /// Multiplies all tensors whose name ends in `suffix`.
    pub fn scale(&mut self, suffix: &str, factor: f32) {
        let hits = self
            .tensors
            .iter_mut()
            .filter(|(name, _, _)| name.ends_with(suffix));
        hits.for_each(|(_, _, values)| values.iter_mut().for_each(|value| *value *= factor));
    }

    /// Takes a tensor out.
    pub fn drop_tensor(&mut self, name: &str) {
        self.tensors.retain(|(found, _, _)| found != name);
    }

    /// Writes `<name>.gguf` into `folder`.
    pub fn write(&self, folder: &Path, name: &str) -> PathBuf {
        let mut metadata = Metadata::new();
        for (key, value) in &self.metadata {
            metadata.insert(key.clone(), value.clone()).unwrap();
        }
        let mut writer = GgufWriter::new(metadata).unwrap();
        for (name, dims, values) in &self.tensors {
            let bytes: Vec<u8> = values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect();
            writer.add_tensor(name, F32, dims, bytes).unwrap();
        }
        let path = folder.join(format!("{name}.gguf"));
        writer.write(&path).unwrap();
        path
    }
}

fn text(value: &str) -> Value {
    Value::String(value.to_owned())
}
