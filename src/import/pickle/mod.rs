//! The part of Python's pickle that `torch.save` uses for dictionaries of tensors, read without
//! running any of it.
//!
//! A pickle is a program. This reader knows the instructions that put data together, and of the
//! functions a program may name only those in `Callable`: building a tensor or a parameter from
//! its storage and an empty ordered dictionary. Anything else is refused by name before it could
//! mean something.

mod machine;

use std::rc::Rc;

use super::element::ElementType;
pub use machine::read;

/// Why a pickle is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PickleError {
    /// It ends in the middle of an instruction, or uses values that are not there.
    #[error("the pickle is damaged at byte {at}: {what}")]
    Damaged {
        /// Byte at which it shows.
        at: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// An instruction that dictionaries of tensors do not need.
    #[error("the pickle uses instruction {code:#04x} at byte {at}, which is not read here")]
    Instruction {
        /// Number of the instruction.
        code: u8,
        /// Byte at which it stands.
        at: usize,
    },
    /// A class or function that is not data.
    #[error("the pickle names `{name}`: only tensors are read, nothing is run")]
    Global {
        /// Module and name.
        name: String,
    },
    /// Data nested or repeated beyond what a checkpoint needs.
    #[error("the pickle is too large or too deeply nested ({what}, the limit is {limit})")]
    Limit {
        /// What is counted.
        what: &'static str,
        /// Most of it that is read.
        limit: usize,
    },
}

/// Most bytes of a pickle; the tensors' data lie outside.
pub const MAX_PICKLE: usize = 16 << 20;
/// Deepest nesting of tuples, lists and dictionaries.
const MAX_DEPTH: u32 = 32;
/// Most values, marks and stored values that one pickle may make: some twenty for a tensor.
const MAX_BUILT: usize = 1 << 21;
/// Most bytes of names, of tensors and of what is around them. A tensor's has the keys of all
/// dictionaries around it, so that a few kilobytes could name terabytes.
const MAX_NAMES: usize = 16 << 20;

/// Functions that a pickle may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Callable {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(ElementType),
}

impl Callable {
    fn find(module: &str, name: &str) -> Option<Self> {
        Some(match (module, name) {
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Self::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Self::RebuildParameter,
            ("torch", "DoubleStorage") => Self::Storage(ElementType::F64),
            ("torch", "FloatStorage") => Self::Storage(ElementType::F32),
            ("torch", "HalfStorage") => Self::Storage(ElementType::F16),
            ("torch", "BFloat16Storage") => Self::Storage(ElementType::Bf16),
            ("torch", "LongStorage") => Self::Storage(ElementType::Other("int64")),
            ("torch", "IntStorage") => Self::Storage(ElementType::Other("int32")),
            ("torch", "ShortStorage") => Self::Storage(ElementType::Other("int16")),
            ("torch", "CharStorage") => Self::Storage(ElementType::Other("int8")),
            ("torch", "ByteStorage") => Self::Storage(ElementType::Other("uint8")),
            ("torch", "BoolStorage") => Self::Storage(ElementType::Other("bool")),
            _ => return None,
        })
    }
}

/// Where a tensor's values lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorRef {
    /// Name of the storage in the archive.
    pub storage: Rc<str>,
    /// Type of its elements.
    pub element: ElementType,
    /// Position of the first element in the storage.
    pub offset: u64,
    /// Dimensions, the slowest first.
    pub shape: Vec<u64>,
    /// Elements between neighbours in each dimension.
    pub stride: Vec<u64>,
}

/// What a pickle holds.
#[derive(Debug, Clone)]
pub enum Value {
    /// Numbers that are not whole, and what else is only passed over.
    Other,
    /// A whole number.
    Int(i64),
    /// Text, such as a key.
    Text(Rc<str>),
    /// A tensor, whose values lie in a storage.
    Tensor(Rc<TensorRef>),
    /// A tuple or list, and its depth.
    Sequence(Rc<Vec<Value>>, u32),
    /// A dictionary, and its depth.
    Dict(Rc<Vec<(Value, Value)>>, u32),
    /// A function that may be called.
    Function(FunctionName),
    /// A storage: name and element type.
    Storage(Rc<str>, ElementType),
}

/// A function that may be called; opaque outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FunctionName(Callable);

impl Value {
    fn depth(&self) -> u32 {
        match self {
            Self::Sequence(_, depth) | Self::Dict(_, depth) => *depth,
            _ => 0,
        }
    }

    /// All tensors with their names, keys of nested dictionaries joined by dots.
    ///
    /// # Errors
    /// [`PickleError::Limit`] when the names are together longer than any checkpoint's.
    pub fn tensors(&self) -> Result<Vec<(String, Rc<TensorRef>)>, PickleError> {
        let mut found = Named::default();
        self.collect(String::new(), &mut found)?;
        Ok(found.tensors)
    }

    fn collect(&self, name: String, found: &mut Named) -> Result<(), PickleError> {
        // Nothing that has been built can be used twice, so this visits each value once.
        match self {
            Self::Tensor(tensor) => found.tensors.push((name, Rc::clone(tensor))),
            Self::Sequence(items, _) => {
                let items = items.iter().enumerate();
                for (index, item) in items.filter(|(_, item)| item.holds_tensors()) {
                    item.collect(found.join(&name, &index.to_string())?, found)?;
                }
            }
            Self::Dict(entries, _) => {
                for (key, value) in entries.iter().filter(|(_, value)| value.holds_tensors()) {
                    let name = match key {
                        Self::Text(key) => found.join(&name, key)?,
                        Self::Int(key) => found.join(&name, &key.to_string())?,
                        _ => continue,
                    };
                    value.collect(name, found)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether tensors may be in it: what else there is needs no name.
    fn holds_tensors(&self) -> bool {
        match self {
            Self::Tensor(_) => true,
            Self::Sequence(items, _) => !items.is_empty(),
            Self::Dict(entries, _) => !entries.is_empty(),
            _ => false,
        }
    }
}

/// The tensors that were found, with their names.
#[derive(Default)]
struct Named {
    tensors: Vec<(String, Rc<TensorRef>)>,
    /// Bytes of all names that were made, those of dictionaries around tensors included.
    len: usize,
}

impl Named {
    /// The name of what stands under `key` in the container `name`.
    fn join(&mut self, name: &str, key: &str) -> Result<String, PickleError> {
        self.len += name.len() + key.len();
        if self.len > MAX_NAMES {
            return Err(PickleError::Limit {
                what: "bytes of names",
                limit: MAX_NAMES,
            });
        }
        Ok(match name {
            "" => key.to_owned(),
            _ => format!("{name}.{key}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tensors_and_dictionaries_are_built() {
        let refused = read(b"cos\nsystem\nX\x02\0\0\0ls\x85R.").unwrap_err();
        assert_eq!(
            refused,
            PickleError::Global {
                name: "os.system".into()
            }
        );
        let refused = read(b"\x80\x02}(i").unwrap_err();
        assert_eq!(refused, PickleError::Instruction { code: b'i', at: 4 });
    }

    #[test]
    fn nothing_short_or_deep_or_cyclic_gets_through() {
        for bytes in [
            &b""[..],
            b"\x80",
            b"}",
            b"h\0.",
            b"(t",
            b"R.",
            b"X\xff\xff\xff\xff",
            b"}K\x01s.",
        ] {
            assert!(
                matches!(read(bytes), Err(PickleError::Damaged { .. })),
                "{bytes:?}"
            );
        }
        let mut deep = vec![b')'];
        deep.extend([0x85; 100_000]);
        deep.push(b'.');
        assert!(matches!(read(&deep), Err(PickleError::Limit { .. })));
        let itself = read(b"}q\0X\x01\0\0\0ah\0s.").unwrap_err();
        assert!(matches!(
            itself,
            PickleError::Damaged {
                what: "a container is used twice",
                ..
            }
        ));
    }

    #[test]
    fn no_more_is_built_than_a_checkpoint_needs() {
        let nothings = |n: usize| [vec![b'N'; n], vec![b'.']].concat();
        assert!(read(&nothings(MAX_BUILT)).is_ok());
        let limit = PickleError::Limit {
            what: "values",
            limit: MAX_BUILT,
        };
        assert_eq!(read(&nothings(MAX_BUILT + 1)).unwrap_err(), limit);
        // Marks and the memory for reuse count as values do.
        assert_eq!(read(&vec![b'('; MAX_BUILT + 1]).unwrap_err(), limit);
        let remembered = [vec![b'N'], vec![0x94; MAX_BUILT]].concat();
        assert_eq!(read(&remembered).unwrap_err(), limit);
        let large = vec![b'N'; MAX_PICKLE + 1];
        assert!(matches!(
            read(&large),
            Err(PickleError::Limit { what: "bytes", .. })
        ));
    }

    #[test]
    fn names_are_made_up_to_their_limit() {
        // {key: [tensor; 4]}; the tensor has no dimensions.
        let pickle = |key: usize| {
            let mut bytes = b"ctorch._utils\n_rebuild_tensor_v2\nq\0".to_vec();
            bytes.extend(b"(\x8c\x07storagectorch\nFloatStorage\n\x8c\x010tQq\x01".as_slice());
            bytes.extend(b"}X".as_slice());
            bytes.extend((key as u32).to_le_bytes());
            bytes.extend(vec![b'k'; key]);
            bytes.push(b'(');
            for _ in 0..4 {
                bytes.extend(b"h\0(h\x01K\0))tR".as_slice());
            }
            bytes.extend(b"ts.".as_slice());
            bytes
        };
        // The key itself, and four times the key and a number.
        let longest = MAX_NAMES / 5 - 1;
        let tensors = read(&pickle(longest)).unwrap().tensors().unwrap();
        assert_eq!(tensors.len(), 4);
        assert!(tensors[3].0.ends_with("k.3"));
        assert!(5 * longest + 4 <= MAX_NAMES && 5 * (longest + 1) + 4 > MAX_NAMES);
        let error = read(&pickle(longest + 1)).unwrap().tensors().unwrap_err();
        let what = "bytes of names";
        let limit = MAX_NAMES;
        assert_eq!(error, PickleError::Limit { what, limit });
    }

    #[test]
    fn numbers_keep_their_sign() {
        let Value::Int(value) = read(b"\x8a\x02\x00\xff.").unwrap() else {
            panic!()
        };
        assert_eq!(value, -256);
    }
}
