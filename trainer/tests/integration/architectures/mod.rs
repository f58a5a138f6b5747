//! Every architecture, on small seeded random models: the trainer's reference model against
//! llama.cpp, and the hook's input and output inside llama.cpp.

mod cases;
mod compare;
mod gemma;
mod hook;
mod longrope;
mod mutations;
mod packing;
mod parity;
mod refusal;
mod table;
