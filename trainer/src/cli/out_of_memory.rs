//! Running out of memory, which libtorch reports by an exception and tch by a panic, as an error
//! like any other.

use std::panic::{catch_unwind, resume_unwind, set_hook, take_hook, AssertUnwindSafe};

use anyhow::Result;

use crate::Error;

/// What libtorch's allocators say, on GPUs and on CPUs.
const SIGNS: [&str; 2] = ["out of memory", "can't allocate memory"];

/// The allocator's own words in the message of a panic, if it is of that kind.
fn reason(message: &str) -> Option<String> {
    let line = message.lines().find(is_reason_in)?;
    // tch wraps the text in its own error, in quotes.
    let line = line.split("\\n").find(is_reason_in).unwrap_or(line);
    Some(line.rsplit("(\"").next().unwrap_or(line).trim().to_owned())
}

fn is_reason_in(text: &&str) -> bool {
    SIGNS.iter().any(|sign| text.contains(sign))
}

fn text(payload: &(dyn std::any::Any + Send)) -> &str {
    let string = payload.downcast_ref::<String>().map(String::as_str);
    string
        .or_else(|| payload.downcast_ref::<&str>().copied())
        .unwrap_or("")
}

/// Does `work`, which is thought to need `estimate` bytes.
///
/// # Errors
/// Those of `work`, and [`Error::OutOfMemory`]. Other panics go on.
pub(super) fn guard<T>(estimate: u64, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let usual = take_hook();
    set_hook(Box::new(move |info| {
        if reason(text(info.payload())).is_none() {
            usual(info);
        }
    }));
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result,
        Err(payload) => match reason(text(&*payload)) {
            Some(reason) => Err(Error::OutOfMemory { reason, estimate }.into()),
            None => resume_unwind(payload),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind, Tensor};

    /// More than any machine has.
    #[test]
    fn what_libtorch_cannot_get_is_an_error_with_figures() {
        let result = guard(3 << 30, || {
            let numbers = Tensor::zeros([1 << 30, 1 << 20], (Kind::Double, Device::Cpu));
            Ok(numbers.numel())
        });
        let message = result.unwrap_err().to_string();
        assert!(message.contains("3.00 GiB"), "{message}");
        assert!(message.contains("can't allocate memory"), "{message}");
        assert!(!message.contains("\\n"), "{message}");
        assert_eq!(guard(0, || Ok(5)).unwrap(), 5);
    }

    #[test]
    fn gpus_say_it_in_their_own_words() {
        let message = "called `Result::unwrap()` on an `Err` value: Torch(\"CUDA out of memory. \
                       Tried to allocate 2.00 GiB.\\nException raised from malloc\")";
        let expected = "CUDA out of memory. Tried to allocate 2.00 GiB.";
        assert_eq!(reason(message).as_deref(), Some(expected));
        assert_eq!(reason("index out of bounds"), None);
    }
}
