//! Numbers that leave the device. The host waits for the device at each reading, so that all go
//! through here and are counted.

use std::cell::Cell;

use tch::{Kind, Tensor};

thread_local! {
    static READINGS: Cell<usize> = const { Cell::new(0) };
}

/// How often this thread has waited for numbers of a device.
pub fn readings() -> usize {
    READINGS.get()
}

fn count() {
    READINGS.set(READINGS.get() + 1);
}

/// All numbers of a tensor, in order.
pub(crate) fn numbers(tensor: &Tensor) -> Vec<f64> {
    count();
    let flat = tensor.to_kind(Kind::Double).flatten(0, -1);
    Vec::try_from(flat).expect("numbers of this format")
}

/// All truth values of a tensor, in order.
pub(crate) fn flags(tensor: &Tensor) -> Vec<bool> {
    count();
    Vec::try_from(tensor.flatten(0, -1)).expect("truth values")
}

/// All counts of a tensor, in order.
pub(crate) fn counts(tensor: &Tensor) -> Vec<i64> {
    count();
    Vec::try_from(tensor.flatten(0, -1)).expect("whole numbers")
}
