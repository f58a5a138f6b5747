//! From a base model's tensors to the reference model: which tensors its architecture has, by
//! their names in the GGUF, and what they become.

use std::path::Path;

use tch::{Device, Tensor};

use super::config::{Config, ExpertCount};
use super::decoder::{Model, Output};
use super::devices::Devices;
use super::feed_forward::FeedForward;
use super::layer::Layer;
use super::linear::Linear;
use super::precision::Precision;
use super::rope::Rope;
use super::rotation::Frequencies;
use super::tensor_reader::{part_names, TensorReader};
use super::weight::Weight;
use crate::base::{open, Base};
use crate::gpu;
use crate::Error;

impl Model {
    /// Opens, checks and loads a base model.
    ///
    /// # Errors
    /// As [`Config::read`]; [`Error::Tensor`] names a tensor that is missing, misshapen or
    /// not part of the reference model.
    pub fn load(path: &Path, precision: Precision, device: Device) -> Result<Model, Error> {
        Model::from_base(&*open(path)?, precision, device)
    }

    /// Loads the weights of an open base onto one device or several.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn from_base(
        base: &dyn Base,
        precision: Precision,
        devices: impl Into<Devices>,
    ) -> Result<Model, Error> {
        let devices = devices.into();
        let config = Config::read(base)?;
        let on_gpu = devices.iter().any(Device::is_cuda);
        if on_gpu {
            gpu::load();
        }
        let d = config.n_embd;
        let biases = config.architecture.biases;
        let mut loader = Loader {
            config: &config,
            reader: TensorReader::new(base, precision, devices.first(), biases),
        };
        let token_embd = loader.token_embd()?;
        let frequencies = loader.frequencies()?;
        let mut layers = Vec::with_capacity(config.n_layer);
        for (l, device) in devices.of_layers(config.n_layer).into_iter().enumerate() {
            loader.reader.read_to(device);
            layers.push(loader.layer(l)?);
        }
        let tied = !loader.reader.holds(OUTPUT);
        let last = if tied {
            devices.first()
        } else {
            devices.last()
        };
        loader.reader.read_to(last);
        let output = loader.output()?;
        let output_norm = loader.reader.vector("output_norm.weight", d)?;
        loader.reader.refuse_unused()?;
        Ok(Model {
            config,
            precision,
            token_embd,
            layers,
            output_norm,
            output,
            frequencies,
            together: on_gpu,
        })
    }
}

/// The matrix behind the last layer, where it is not the token embeddings.
const OUTPUT: &str = "output.weight";

/// Puts the model's parts together.
struct Loader<'a> {
    config: &'a Config,
    reader: TensorReader<'a>,
}

impl Loader<'_> {
    /// The token embeddings; in the format of the arithmetic where they are the output matrix.
    fn token_embd(&mut self) -> Result<Weight, Error> {
        let Config {
            n_vocab, n_embd, ..
        } = *self.config;
        let tied = !self.reader.holds(OUTPUT);
        let read = |reader: &mut TensorReader| reader.matrix(&[("token_embd", n_vocab)], n_embd);
        match tied {
            true => self.reader.exactly(read),
            false => read(&mut self.reader),
        }
    }

    /// The output matrix, where it is not the token embeddings, in the format of the arithmetic.
    fn output(&mut self) -> Result<Output, Error> {
        let Config {
            n_vocab, n_embd, ..
        } = *self.config;
        let matrix = self.reader.holds(OUTPUT);
        self.reader.exactly(|reader| {
            if matrix {
                let output = reader.linear("output", n_vocab, n_embd)?;
                let (matrix, bias) = (Some(output.weight), output.bias);
                return Ok(Output { matrix, bias });
            }
            let bias = reader.bias(&[("output", n_vocab)])?;
            Ok(Output { matrix: None, bias })
        })
    }

    fn layer(&mut self, l: usize) -> Result<Layer, Error> {
        let config = self.config;
        let (row, d) = (config.architecture, config.n_embd);
        let name = |what: &str| format!("blk.{l}.{what}");
        let query = config.n_head * config.head_dim;
        let mut norm = |exists: bool, what: &str, width: usize| {
            let name = format!("blk.{l}.{what}.weight");
            exists.then(|| self.reader.vector(&name, width)).transpose()
        };
        let q_norm = row.qk_norm.width(config.n_head, config.head_dim);
        let k_norm = row.qk_norm.width(config.n_head_kv, config.head_dim);
        Ok(Layer {
            attn_norm: norm(row.pre_norm, "attn_norm", d)?,
            attn_q_norm: norm(q_norm.is_some(), "attn_q_norm", q_norm.unwrap_or(0))?,
            attn_k_norm: norm(k_norm.is_some(), "attn_k_norm", k_norm.unwrap_or(0))?,
            attn_post_norm: norm(row.post_norm, "post_attention_norm", d)?,
            ffn_norm: norm(row.pre_norm, "ffn_norm", d)?,
            ffn_post_norm: norm(row.post_norm, "post_ffw_norm", d)?,
            attn_qkv: self.query_key_value(l)?,
            attn_output: self.reader.linear(&name("attn_output"), d, query)?,
            ffn: match config.experts {
                None => self.feed_forward(l)?,
                Some(experts) => self.experts(experts, l)?,
            },
        })
    }

    /// Query, key and value heads: three matrices or one.
    fn query_key_value(&mut self, l: usize) -> Result<Linear, Error> {
        let config = self.config;
        let name = |what: &str| format!("blk.{l}.{what}");
        let [query, key_value] = [config.n_head, config.n_head_kv].map(|n| n * config.head_dim);
        let joined = name("attn_qkv");
        let joined = [(joined.as_str(), query + 2 * key_value)];
        let (q, k, v) = (name("attn_q"), name("attn_k"), name("attn_v"));
        let parts = [(q.as_str(), query), (&k, key_value), (&v, key_value)];
        let one = self.reader.has(joined[0].0, "weight");
        let stored: &[(&str, usize)] = if one { &joined } else { &parts };
        let weight = self.reader.matrix(stored, config.n_embd)?;
        let bias = match one && self.reader.has(joined[0].0, "bias") {
            true => self.reader.bias(&joined)?,
            false => self.reader.bias(&parts)?,
        };
        Ok(Linear {
            weight,
            bias,
            parts: part_names(stored),
        })
    }

    fn feed_forward(&mut self, l: usize) -> Result<FeedForward, Error> {
        let config = self.config;
        let (d, f) = (config.n_embd, config.n_ff);
        let name = |what: &str| format!("blk.{l}.{what}");
        let (gate, up) = (name("ffn_gate"), name("ffn_up"));
        let (both, apart) = ([(up.as_str(), 2 * f)], [(gate.as_str(), f), (&up, f)]);
        let parts: &[(&str, usize)] = match config.architecture.fused_gate_up {
            true => &both,
            false => &apart,
        };
        Ok(FeedForward::Dense {
            gate_up: Linear {
                weight: self.reader.matrix(parts, d)?,
                bias: self.reader.allowed_bias(parts)?,
                parts: part_names(parts),
            },
            down: self.reader.linear(&name("ffn_down"), d, f)?,
        })
    }

    fn experts(&mut self, experts: ExpertCount, l: usize) -> Result<FeedForward, Error> {
        let config = self.config;
        let (d, f, e) = (config.n_embd, config.n_ff, experts.all);
        let name = |what: &str| format!("blk.{l}.{what}");
        let router = format!("blk.{l}.ffn_gate_inp.weight");
        Ok(FeedForward::Experts {
            router: self
                .reader
                .exactly(|reader| reader.tensor(&router, &[d, e]))?,
            used: experts.used,
            gate: self.reader.experts(&name("ffn_gate_exps"), [d, f, e])?,
            up: self.reader.experts(&name("ffn_up_exps"), [d, f, e])?,
            down: self.reader.experts(&name("ffn_down_exps"), [f, d, e])?,
        })
    }

    /// The angles of rotary embedding, divided by the factors that the file may hold.
    fn frequencies(&mut self) -> Result<Frequencies, Error> {
        let config = self.config;
        let half = config.rope.dim / 2;
        let tensor =
            |rope: &Rope| Tensor::from_slice(&rope.frequencies()).to_device(self.reader.device());
        let (plain, local) = (tensor(&config.rope), tensor(&config.local_rope));
        let mut divided = |name: &str| -> Result<Option<Tensor>, Error> {
            if !config.architecture.rope_factors || !self.reader.holds(name) {
                return Ok(None);
            }
            Ok(Some(&plain / self.reader.vector(name, half)?))
        };
        let any = divided("rope_freqs.weight")?;
        let long = divided("rope_factors_long.weight")?;
        let short = divided("rope_factors_short.weight")?;
        let context = config.rope.n_context;
        Ok(Frequencies {
            short: any.or(short).unwrap_or(plain),
            long,
            local,
            served_context: context,
            short_context: context,
        })
    }
}
