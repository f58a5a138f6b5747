//! The reference model.

pub mod attention;
pub mod batch;
pub mod config;
pub mod decoder;
pub mod feed_forward;
pub mod keys;
pub mod loading;
pub mod rope;
