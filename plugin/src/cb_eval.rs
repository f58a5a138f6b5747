//! The slower way for programs into which nothing can be loaded.
