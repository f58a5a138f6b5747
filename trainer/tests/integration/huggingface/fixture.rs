//! Small models of golden/, written as directories, and the GGUF files made of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jola_edit::gguf::{Array, GgufWriter, Metadata, Value, F32};
use jola_trainer::base::Base;
use safetensors::tensor::TensorView;
use safetensors::Dtype;
use serde_json::{json, Value as Json};
use sha2::{Digest, Sha256};
use testkit::Random;

/// Size of every vocabulary here.
pub const VOCABULARY: usize = 96;

/// Names of stored tensors and their dimensions, slowest first.
pub type Shapes = Vec<(String, Vec<usize>)>;

/// Every model of golden/.
pub const CASES: &[&str] = &[
    "llama",
    "llama-tied",
    "llama3",
    "llama-linear",
    "llama-yarn",
    "mistral",
    "qwen2",
    "qwen3",
    "qwen3moe",
    "gemma2",
    "gemma3",
    "phi3",
    "phi3-longrope",
    "olmo2",
    "smollm3",
    "granite",
];

/// The tokens that the golden logits are of.
pub fn tokens() -> Vec<i64> {
    (0..40)
        .map(|i: i64| (7 * i * i + 11 * i + 5) % VOCABULARY as i64)
        .collect()
}

/// A model as golden/ describes it.
pub struct Golden {
    /// config.json
    pub config: Json,
    /// Tensors of the safetensors file, dimensions slowest first.
    pub shapes: BTreeMap<String, Vec<usize>>,
    /// What llama.cpp's converter wrote.
    pub metadata: BTreeMap<String, Json>,
    /// GGUF dimensions and SHA-256 of the tensors that it wrote.
    pub tensors: BTreeMap<String, (Vec<u64>, String)>,
    /// What transformers computed for [`tokens`].
    pub logits: Vec<f32>,
}

impl Golden {
    /// Reads a case.
    pub fn read(case: &str) -> Golden {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/integration/huggingface/golden")
            .join(case);
        let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
        let json = |name: &str| -> Json { serde_json::from_slice(&read(name)).unwrap() };
        let mut golden = json("golden.json");
        let floats = read("logits.f32");
        let floats = floats
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()));
        Golden {
            config: json("config.json"),
            shapes: serde_json::from_value(golden["shapes"].take()).unwrap(),
            metadata: serde_json::from_value(golden["metadata"].take()).unwrap(),
            tensors: serde_json::from_value(golden["tensors"].take()).unwrap(),
            logits: floats.collect(),
        }
    }

    /// Writes the model into `folder` as float32 in one file, and a small tokenizer.
    pub fn write(&self, folder: &Path) {
        self.write_config(folder);
        write_weights(
            &folder.join("model.safetensors"),
            &self.tensors_of(|_| true),
            Dtype::F32,
        );
    }

    /// As [`Self::write`], in two files with an index.
    pub fn write_sharded(&self, folder: &Path, dtype: Dtype) {
        self.write_config(folder);
        let mut map = serde_json::Map::new();
        for (half, number) in [(0, "00001"), (1, "00002")] {
            let file = format!("model-{number}-of-00002.safetensors");
            let names: Vec<&String> = self.shapes.keys().skip(half).step_by(2).collect();
            for name in &names {
                map.insert((*name).clone(), json!(file));
            }
            let tensors = self.tensors_of(|name| names.iter().any(|other| *other == name));
            write_weights(&folder.join(file), &tensors, dtype);
        }
        let index = json!({ "metadata": {}, "weight_map": map });
        std::fs::write(
            folder.join("model.safetensors.index.json"),
            index.to_string(),
        )
        .unwrap();
    }

    fn write_config(&self, folder: &Path) {
        std::fs::write(folder.join("config.json"), self.config.to_string()).unwrap();
        std::fs::write(folder.join("tokenizer.json"), tokenizer().to_string()).unwrap();
    }

    fn tensors_of(&self, wanted: impl Fn(&str) -> bool) -> Shapes {
        let all = self.shapes.iter().filter(|(name, _)| wanted(name));
        all.map(|(name, shape)| (name.clone(), shape.clone()))
            .collect()
    }
}

/// A tokenizer of one token per byte of text, for models that need any.
pub fn tokenizer() -> Json {
    let vocabulary: BTreeMap<String, usize> = (0..VOCABULARY)
        .map(|id| (char::from_u32(32 + id as u32).unwrap().to_string(), id))
        .collect();
    json!({
        "version": "1.0",
        "added_tokens": [],
        "normalizer": null,
        "pre_tokenizer": null,
        "post_processor": null,
        "decoder": null,
        "model": { "type": "BPE", "vocab": vocabulary, "merges": [] },
    })
}

/// The formula of make.py: numbers that bfloat16 and float16 hold exactly.
pub fn weights(name: &str, len: usize) -> Vec<f32> {
    let digest = Sha256::digest(name.as_bytes());
    let mut random = Random::new(u64::from_le_bytes(digest[..8].try_into().unwrap()));
    let mut next = || (random.bits() >> 58) as f32 - 32.0;
    let norm = if name.ends_with("norm.weight") {
        1.0
    } else {
        0.0
    };
    (0..len).map(|_| norm + next() / 128.0).collect()
}

/// Writes a safetensors file of these tensors, slowest dimension first.
pub fn write_weights(path: &Path, tensors: &[(String, Vec<usize>)], dtype: Dtype) {
    let stored: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, shape)| {
            let values = weights(name, shape.iter().product());
            let bytes = values
                .iter()
                .flat_map(|value| encode(*value, dtype))
                .collect();
            (name.clone(), shape.clone(), bytes)
        })
        .collect();
    let views = stored.iter().map(|(name, shape, bytes)| {
        (
            name.as_str(),
            TensorView::new(dtype, shape.clone(), bytes).unwrap(),
        )
    });
    safetensors::serialize_to_file(views, None, path).unwrap();
}

/// A number in a format that holds it exactly.
fn encode(value: f32, dtype: Dtype) -> Vec<u8> {
    let bits = value.to_bits();
    match dtype {
        Dtype::F64 => f64::from(value).to_le_bytes().to_vec(),
        Dtype::F32 => bits.to_le_bytes().to_vec(),
        Dtype::BF16 => ((bits >> 16) as u16).to_le_bytes().to_vec(),
        Dtype::F16 if value == 0.0 => vec![0, 0],
        Dtype::F16 => {
            let exponent = (((bits >> 23) & 0xff) + 15 - 127) << 10;
            let half = (bits >> 16 & 0x8000) | exponent | (bits >> 13 & 0x3ff);
            (half as u16).to_le_bytes().to_vec()
        }
        other => panic!("{other:?}"),
    }
}

/// All values of a tensor.
pub fn values(base: &dyn Base, name: &str) -> Vec<f32> {
    let mut values = Vec::new();
    base.tensor(name)
        .unwrap()
        .read(|_, part| values.extend_from_slice(part))
        .unwrap();
    values
}

/// Writes the GGUF that the converter makes of `base`, in float32.
pub fn write_gguf(base: &dyn Base, path: PathBuf) -> PathBuf {
    let mut metadata = Metadata::new();
    for (key, value) in base.metadata().iter() {
        metadata.insert(key, value.clone()).unwrap();
    }
    let tokens = ["<unk>", "<s>", "</s>", "<0x0A>"]
        .map(str::to_owned)
        .into_iter();
    let tokens = tokens
        .chain((4..VOCABULARY).map(|i| format!("t{i}")))
        .collect();
    let (unknown, control, byte, normal) = (2, 3, 6, 1);
    let mut types = vec![normal; VOCABULARY];
    types[..4].copy_from_slice(&[unknown, control, control, byte]);
    for (key, value) in [
        ("model", Value::String("llama".into())),
        ("tokens", Value::Array(Array::String(tokens))),
        ("scores", Value::Array(Array::F32(vec![0.0; VOCABULARY]))),
        ("token_type", Value::Array(Array::I32(types))),
    ] {
        metadata
            .insert(format!("tokenizer.ggml.{key}"), value)
            .unwrap();
    }
    let mut writer = GgufWriter::new(metadata).unwrap();
    let mut names = base.tensor_names();
    names.sort_unstable();
    for name in names {
        let dims = base.tensor(name).unwrap().dims;
        let bytes: Vec<u8> = values(base, name)
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect();
        writer.add_tensor(name, F32, &dims, bytes).unwrap();
    }
    writer.write(&path).unwrap();
    path
}
