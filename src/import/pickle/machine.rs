//! Pickle's stack machine, as far as tensors need it.

use std::collections::HashMap;
use std::rc::Rc;

use super::{Callable, FunctionName, PickleError, TensorRef, Value};
use super::{MAX_BUILT, MAX_DEPTH, MAX_PICKLE};

/// Reads a pickle.
///
/// # Errors
/// Any [`PickleError`].
pub fn read(bytes: &[u8]) -> Result<Value, PickleError> {
    if bytes.len() > MAX_PICKLE {
        return Err(PickleError::Limit {
            what: "bytes",
            limit: MAX_PICKLE,
        });
    }
    let mut machine = Machine {
        bytes,
        at: 0,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        built: 0,
    };
    loop {
        if let Some(value) = machine.step()? {
            return Ok(value);
        }
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    marks: Vec<usize>,
    /// Values that may be used again: scalars, functions, storages. Containers are not, since
    /// they may still be filled.
    memo: HashMap<u32, Option<Value>>,
    /// Values, marks and stored values so far.
    built: usize,
}

impl Machine<'_> {
    fn damaged(&self, what: &'static str) -> PickleError {
        PickleError::Damaged { at: self.at, what }
    }

    fn take(&mut self, len: usize) -> Result<&[u8], PickleError> {
        let end = self
            .at
            .checked_add(len)
            .filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| self.damaged("it ends early"))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N], PickleError> {
        let mut number = [0; N];
        number.copy_from_slice(self.take(N)?);
        Ok(number)
    }

    fn text(&mut self, len: usize) -> Result<Rc<str>, PickleError> {
        let text = std::str::from_utf8(self.take(len)?).map(Rc::from);
        text.map_err(|_| self.damaged("text that is not UTF-8"))
    }

    fn line(&mut self) -> Result<String, PickleError> {
        let rest = &self.bytes[self.at..];
        let len = rest.iter().position(|&byte| byte == b'\n');
        let len = len.ok_or_else(|| self.damaged("it ends early"))?;
        let line = self.text(len)?.to_string();
        self.at += 1;
        Ok(line)
    }

    fn pop(&mut self) -> Result<Value, PickleError> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err(self.damaged("a value is missing"));
        }
        self.stack
            .pop()
            .ok_or_else(|| self.damaged("a value is missing"))
    }

    fn pop_mark(&mut self) -> Result<Vec<Value>, PickleError> {
        let mark = self
            .marks
            .pop()
            .ok_or_else(|| self.damaged("a mark is missing"))?;
        Ok(self.stack.split_off(mark))
    }

    /// Counts something that takes memory.
    fn count(&mut self) -> Result<(), PickleError> {
        self.built += 1;
        if self.built > MAX_BUILT {
            return Err(PickleError::Limit {
                what: "values",
                limit: MAX_BUILT,
            });
        }
        Ok(())
    }

    fn push(&mut self, value: Value) -> Result<(), PickleError> {
        self.count()?;
        if value.depth() > MAX_DEPTH {
            return Err(PickleError::Limit {
                what: "levels",
                limit: MAX_DEPTH as usize,
            });
        }
        self.stack.push(value);
        Ok(())
    }

    fn sequence(&mut self, items: Vec<Value>) -> Result<(), PickleError> {
        let depth = 1 + items.iter().map(Value::depth).max().unwrap_or(0);
        self.push(Value::Sequence(Rc::new(items), depth))
    }

    /// The last `n` values as a tuple.
    fn tuple(&mut self, n: usize) -> Result<(), PickleError> {
        let mut items = Vec::with_capacity(n);
        for _ in 0..n {
            items.push(self.pop()?);
        }
        items.reverse();
        self.sequence(items)
    }

    /// Puts `items`, keys and values in turn, into the dictionary below them.
    fn set_items(&mut self, items: Vec<Value>) -> Result<(), PickleError> {
        let Value::Dict(entries, mut depth) = self.pop()? else {
            return Err(self.damaged("an entry for what is no dictionary"));
        };
        if !items.len().is_multiple_of(2) {
            return Err(self.damaged("a key without a value"));
        }
        let mut entries = Rc::try_unwrap(entries).unwrap_or_else(|shared| (*shared).clone());
        let mut items = items.into_iter();
        while let (Some(key), Some(value)) = (items.next(), items.next()) {
            depth = depth.max(1 + value.depth());
            entries.push((key, value));
        }
        self.push(Value::Dict(Rc::new(entries), depth))
    }

    /// Puts `items` at the end of the list below them.
    fn append(&mut self, new: Vec<Value>) -> Result<(), PickleError> {
        let Value::Sequence(items, mut depth) = self.pop()? else {
            return Err(self.damaged("an element for what is no list"));
        };
        for value in &new {
            depth = depth.max(1 + value.depth());
        }
        let mut items = Rc::try_unwrap(items).unwrap_or_else(|shared| (*shared).clone());
        items.extend(new);
        self.push(Value::Sequence(Rc::new(items), depth))
    }

    fn remember(&mut self, slot: u32) -> Result<(), PickleError> {
        self.count()?;
        let value = self
            .stack
            .last()
            .ok_or_else(|| self.damaged("a value is missing"))?;
        let reusable = match value {
            Value::Dict(..) => None,
            Value::Sequence(items, _) if !items.is_empty() => None,
            other => Some(other.clone()),
        };
        self.memo.insert(slot, reusable);
        Ok(())
    }

    fn recall(&mut self, slot: u32) -> Result<(), PickleError> {
        match self.memo.get(&slot) {
            Some(Some(value)) => {
                let value = value.clone();
                self.push(value)
            }
            // torch never does so; only data that refer to themselves would need it.
            Some(None) => Err(self.damaged("a container is used twice")),
            None => Err(self.damaged("a value that was never stored is used")),
        }
    }

    fn global(&mut self, module: &str, name: &str) -> Result<(), PickleError> {
        match Callable::find(module, name) {
            Some(callable) => self.push(Value::Function(FunctionName(callable))),
            None => Err(PickleError::Global {
                name: format!("{module}.{name}"),
            }),
        }
    }

    /// Runs one instruction; the result at the last one.
    fn step(&mut self) -> Result<Option<Value>, PickleError> {
        let at = self.at;
        let [code] = self.number()?;
        match code {
            // PROTO, FRAME: nothing to do.
            0x80 => drop(self.take(1)?),
            0x95 => drop(self.take(8)?),
            b'.' => return self.pop().map(Some),
            b'(' => {
                self.count()?;
                self.marks.push(self.stack.len());
            }
            b'}' => self.push(Value::Dict(Rc::default(), 1))?,
            b']' | b')' => self.sequence(Vec::new())?,
            b'N' | 0x88 | 0x89 => self.push(Value::Other)?,
            b'G' => {
                self.take(8)?;
                self.push(Value::Other)?;
            }
            b'K' => {
                let [byte] = self.number()?;
                self.push(Value::Int(byte.into()))?;
            }
            b'M' => {
                let value = u16::from_le_bytes(self.number()?);
                self.push(Value::Int(value.into()))?;
            }
            b'J' => {
                let value = i32::from_le_bytes(self.number()?);
                self.push(Value::Int(value.into()))?;
            }
            0x8a => self.long()?,
            b'X' => {
                let len = u32::from_le_bytes(self.number()?) as usize;
                let text = self.text(len)?;
                self.push(Value::Text(text))?;
            }
            0x8c => {
                let [len] = self.number()?;
                let text = self.text(len.into())?;
                self.push(Value::Text(text))?;
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(&module, &name)?;
            }
            0x93 => match (self.pop()?, self.pop()?) {
                (Value::Text(name), Value::Text(module)) => self.global(&module, &name)?,
                _ => return Err(self.damaged("a function without a name")),
            },
            b'q' => {
                let [slot] = self.number()?;
                self.remember(slot.into())?;
            }
            b'r' => {
                let slot = u32::from_le_bytes(self.number()?);
                self.remember(slot)?;
            }
            0x94 => self.remember(self.memo.len() as u32)?,
            b'h' => {
                let [slot] = self.number()?;
                self.recall(slot.into())?;
            }
            b'j' => {
                let slot = u32::from_le_bytes(self.number()?);
                self.recall(slot)?;
            }
            b't' => {
                let items = self.pop_mark()?;
                self.sequence(items)?;
            }
            0x85..=0x87 => self.tuple(usize::from(code - 0x84))?,
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set_items(vec![key, value])?;
            }
            b'u' => {
                let items = self.pop_mark()?;
                self.set_items(items)?;
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' => {
                let items = self.pop_mark()?;
                self.append(items)?;
            }
            // BUILD: attributes of the object below, such as a state dictionary's versions.
            b'b' => drop(self.pop()?),
            b'Q' => self.storage()?,
            b'R' => self.call()?,
            code => return Err(PickleError::Instruction { code, at }),
        }
        Ok(None)
    }

    /// LONG1: a whole number of up to 8 bytes.
    fn long(&mut self) -> Result<(), PickleError> {
        let [len] = self.number()?;
        if len > 8 {
            return Err(self.damaged("a number of more than 64 bits"));
        }
        let mut bytes = [0; 8];
        bytes[..len.into()].copy_from_slice(self.take(len.into())?);
        let unused = 64 - 8 * u32::from(len);
        let value = match len {
            0 => 0,
            _ => (i64::from_le_bytes(bytes) << unused) >> unused,
        };
        self.push(Value::Int(value))
    }

    /// A reference to a storage: `("storage", type, name, device, elements)`.
    fn storage(&mut self) -> Result<(), PickleError> {
        let storage = match self.pop()? {
            Value::Sequence(items, _) => match items.as_slice() {
                [Value::Text(kind), Value::Function(FunctionName(Callable::Storage(element))), Value::Text(name), ..]
                    if &**kind == "storage" =>
                {
                    Some((Rc::clone(name), *element))
                }
                _ => None,
            },
            _ => None,
        };
        let (name, element) = storage.ok_or_else(|| self.damaged("a reference to no storage"))?;
        self.push(Value::Storage(name, element))
    }

    fn call(&mut self) -> Result<(), PickleError> {
        let arguments = self.pop()?;
        let function = self.pop()?;
        let (Value::Sequence(arguments, _), Value::Function(FunctionName(function))) =
            (arguments, function)
        else {
            return Err(self.damaged("a call of what is no function"));
        };
        let result = match (function, arguments.as_slice()) {
            (Callable::OrderedDict, []) => Value::Dict(Rc::default(), 1),
            (Callable::RebuildParameter, [tensor @ Value::Tensor(_), ..]) => tensor.clone(),
            (
                Callable::RebuildTensor,
                [Value::Storage(storage, element), Value::Int(offset), Value::Sequence(shape, _), Value::Sequence(stride, _), ..],
            ) => {
                let tensor = TensorRef {
                    storage: Rc::clone(storage),
                    element: *element,
                    offset: self.size(*offset)?,
                    shape: self.sizes(shape)?,
                    stride: self.sizes(stride)?,
                };
                Value::Tensor(Rc::new(tensor))
            }
            _ => return Err(self.damaged("a call with unexpected arguments")),
        };
        self.push(result)
    }

    fn size(&self, number: i64) -> Result<u64, PickleError> {
        u64::try_from(number).map_err(|_| self.damaged("a negative size"))
    }

    fn sizes(&self, values: &[Value]) -> Result<Vec<u64>, PickleError> {
        let sizes = values.iter().map(|value| match value {
            Value::Int(number) => self.size(*number),
            _ => Err(self.damaged("a size that is no number")),
        });
        sizes.collect()
    }
}
