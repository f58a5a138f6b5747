//! Rows.

pub mod cached_rows;
pub mod encode;
