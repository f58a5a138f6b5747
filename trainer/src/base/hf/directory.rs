//! A base model in a directory: every tensor of the GGUF has its place in the files, or is
//! computed from config.json.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use jola_edit::gguf::{Metadata, F32};
use llama_jola::Vocabulary;

use crate::architectures::{Architecture, ARCHITECTURES};
use crate::base::source::Base;
use crate::base::tensor::{BaseTensor, RowOrder, StoredRows};
use crate::error::{HfError, HfErrorKind};
use crate::Error;

use super::config::HfConfig;
use super::json::Object;
use super::names::{Layout, Target};
use super::shards::{self, Shard};
use super::tokenizer::HfVocabulary;

/// A base model in a directory. Its files must not change while it is open.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    config: HfConfig,
    layout: Layout,
    shards: Vec<Shard>,
    /// Tensors by their names in the GGUF.
    tensors: HashMap<String, Entry>,
    /// Numbers of tensors that are computed from config.json, as stored bytes.
    computed: Vec<Vec<u8>>,
}

/// A tensor of the GGUF.
#[derive(Debug)]
enum Entry {
    /// From the files: one part, or one per expert.
    Stored(Vec<Piece>),
    /// From config.json: the place in `computed`.
    Computed(usize),
}

/// A tensor of a file.
#[derive(Clone, Debug)]
struct Piece {
    shard: usize,
    name: String,
    expert: Option<usize>,
    order: RowOrder,
    plus: f32,
}

impl Directory {
    /// Reads config.json, maps the weights and checks that every tensor has its place.
    ///
    /// # Errors
    /// [`Error::HuggingFace`] with the file, the tensor or key, what was expected and found.
    pub fn open(path: &Path) -> Result<Directory, Error> {
        let name = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        let name = name
            .file_name()
            .map_or("".into(), |name| name.to_string_lossy());
        let config = Object::read(&path.join("config.json"))?;
        let config = HfConfig::new(&config, &name)?;
        let layout = Layout {
            architecture: row(config.architecture),
            n_head: config.n_head as usize,
            n_head_kv: config.n_head_kv as usize,
        };
        let shards = shards::open(path)?;
        let mut directory = Directory {
            path: path.to_path_buf(),
            config,
            layout,
            tensors: HashMap::new(),
            shards,
            computed: Vec::new(),
        };
        directory.place_stored()?;
        directory.place_computed();
        directory.check_output()?;
        Ok(directory)
    }

    /// Gives every stored tensor its place.
    fn place_stored(&mut self) -> Result<(), HfError> {
        for (index, shard) in self.shards.iter().enumerate() {
            for stored in shard.tensors.keys() {
                let error = |reason: &str| tensor_error(&shard.path, stored, reason.to_owned());
                let Some(target) = self.layout.target(stored) else {
                    return Err(error("is not part of the model that the trainer knows"));
                };
                let Target::Tensor {
                    name,
                    expert,
                    order,
                    plus,
                } = target
                else {
                    continue;
                };
                let name_of = stored.clone();
                let piece = Piece {
                    shard: index,
                    name: name_of,
                    expert,
                    order,
                    plus,
                };
                let entry = self.tensors.entry(name);
                match entry.or_insert_with(|| Entry::Stored(Vec::new())) {
                    Entry::Stored(pieces) if pieces.is_empty() || expert.is_some() => {
                        pieces.push(piece);
                    }
                    _ => return Err(error("is there twice")),
                }
            }
        }
        let experts = self.tensors.values_mut().filter_map(|entry| match entry {
            Entry::Stored(pieces) => Some(pieces),
            Entry::Computed(_) => None,
        });
        for pieces in experts {
            pieces.sort_by_key(|piece| piece.expert);
            check_pieces(&self.shards, pieces)?;
        }
        Ok(())
    }

    fn place_computed(&mut self) {
        for (name, values) in &self.config.rope_factors {
            let entry = Entry::Computed(self.computed.len());
            self.tensors.insert((*name).to_owned(), entry);
            let bytes = values.iter().flat_map(|value| value.to_le_bytes());
            self.computed.push(bytes.collect());
        }
    }

    /// Without an output matrix the token embeddings are taken, which config.json may deny.
    fn check_output(&self) -> Result<(), HfError> {
        let denied = self.config.tied == Some(false) && self.layout.reads_output();
        if denied && !self.tensors.contains_key("output.weight") {
            let reason = "is missing, and `tie_word_embeddings` is false".to_owned();
            return Err(tensor_error(&self.path, "lm_head.weight", reason));
        }
        Ok(())
    }

    fn part(&self, piece: &Piece) -> StoredRows<'_> {
        let shard = &self.shards[piece.shard];
        let stored = &shard.tensors[&piece.name];
        // The rows of a vector whose order changes are single numbers.
        let columns = match (piece.order, stored.shape.as_slice()) {
            (RowOrder::Stored, [len]) => *len,
            (_, [_, columns]) => *columns,
            _ => 1,
        };
        StoredRows {
            ggml_type: stored.ggml_type,
            bytes: shard.bytes(stored),
            rows: stored.shape.iter().product::<usize>() / columns.max(1),
            columns,
            order: piece.order,
            plus: piece.plus,
        }
    }
}

/// Checks that experts are numbered without a gap and of one shape.
fn check_pieces(shards: &[Shard], pieces: &[Piece]) -> Result<(), HfError> {
    let stored = |piece: &Piece| &shards[piece.shard].tensors[&piece.name];
    let shape = &stored(&pieces[0]).shape;
    for (index, piece) in pieces.iter().enumerate() {
        let found = &stored(piece).shape;
        let reason = match piece.expert {
            Some(expert) if expert != index => format!("follows no expert {index}"),
            _ if found != shape => format!("has shape {found:?}, expected {shape:?}"),
            _ if found.is_empty() || found.len() > 2 || found.contains(&0) => {
                format!("has shape {found:?}, expected one or two dimensions")
            }
            _ => continue,
        };
        return Err(tensor_error(&shards[piece.shard].path, &piece.name, reason));
    }
    Ok(())
}

fn tensor_error(path: &Path, name: &str, reason: String) -> HfError {
    let name = name.to_owned();
    HfError::new(path, HfErrorKind::Tensor { name, reason })
}

/// The row of an architecture in the trainer's table.
fn row(name: &str) -> &'static Architecture {
    let row = ARCHITECTURES.iter().find(|row| row.name == name);
    row.expect("the names of config.json lead to rows of the table")
}

impl Base for Directory {
    fn path(&self) -> &Path {
        &self.path
    }

    fn metadata(&self) -> &Metadata {
        &self.config.metadata
    }

    fn tensor_names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    fn tensor(&self, name: &str) -> Option<BaseTensor<'_>> {
        let (name, entry) = self.tensors.get_key_value(name)?;
        match entry {
            Entry::Computed(index) => {
                let bytes = &self.computed[*index];
                let len = bytes.len() / size_of::<f32>();
                let part = StoredRows {
                    ggml_type: F32,
                    bytes,
                    rows: 1,
                    columns: len,
                    order: RowOrder::Stored,
                    plus: 0.0,
                };
                Some(BaseTensor {
                    file: &self.path,
                    name,
                    reversed: true,
                    dims: vec![len as u64],
                    parts: vec![part],
                })
            }
            Entry::Stored(pieces) => {
                let first = &pieces[0];
                let shard = &self.shards[first.shard];
                let shape = &shard.tensors[&first.name].shape;
                let mut dims: Vec<u64> = shape.iter().rev().map(|&dim| dim as u64).collect();
                if first.expert.is_some() {
                    dims.push(pieces.len() as u64);
                }
                Some(BaseTensor {
                    file: &shard.path,
                    name: &first.name,
                    reversed: true,
                    dims,
                    parts: pieces.iter().map(|piece| self.part(piece)).collect(),
                })
            }
        }
    }

    fn describe(&self, name: &str) -> String {
        self.layout.stored(name).unwrap_or_else(|| name.to_owned())
    }

    fn vocabulary(&self) -> Result<Box<dyn Vocabulary>, Error> {
        let vocabulary = HfVocabulary::open(&self.path, self.config.n_vocab)?;
        Ok(Box::new(vocabulary))
    }

    fn gguf_sha256(&self) -> Result<Option<String>, Error> {
        Ok(None)
    }
}
