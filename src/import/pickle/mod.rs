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
/// Most values on the stack.
const MAX_STACK: usize = 1 << 20;

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
    pub storage: String,
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
    pub fn tensors(&self) -> Vec<(String, Rc<TensorRef>)> {
        let mut found = Vec::new();
        self.collect("", &mut found);
        found
    }

    fn collect(&self, name: &str, found: &mut Vec<(String, Rc<TensorRef>)>) {
        let join = |key: &str| match name {
            "" => key.to_owned(),
            _ => format!("{name}.{key}"),
        };
        // Nothing that has been built can be used twice, so this visits each value once.
        match self {
            Self::Tensor(tensor) => found.push((name.to_owned(), Rc::clone(tensor))),
            Self::Sequence(items, _) => {
                for (index, item) in items.iter().enumerate() {
                    item.collect(&join(&index.to_string()), found);
                }
            }
            Self::Dict(entries, _) => {
                for (key, value) in entries.iter() {
                    match key {
                        Self::Text(key) => value.collect(&join(key), found),
                        Self::Int(key) => value.collect(&join(&key.to_string()), found),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
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
    fn numbers_keep_their_sign() {
        let Value::Int(value) = read(b"\x8a\x02\x00\xff.").unwrap() else {
            panic!()
        };
        assert_eq!(value, -256);
    }
}
