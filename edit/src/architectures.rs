//! Which base models can be edited, and which ones be trained on, where every part of the
//! project can read it.
//!
//! Inference needs no list of architectures: the hook sits in llama.cpp's own attention code,
//! which almost every architecture passes (`docs/models.md`). It only refuses models whose
//! layers' numbers are ambiguous, or whose weights take something else than head outputs.

/// The model has an encoder and a decoder, as T5 has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "this model has an encoder and a decoder: a layer's number stands for three attentions in \
     it, and an edit is of one"
)]
pub struct EncoderDecoder;

impl EncoderDecoder {
    /// Refuses a model that has both parts. Either alone is edited like any other model.
    ///
    /// # Errors
    /// [`EncoderDecoder`].
    pub fn refuse(has_encoder: bool, has_decoder: bool) -> Result<(), Self> {
        if has_encoder && has_decoder {
            Err(Self)
        } else {
            Ok(())
        }
    }
}

/// The model runs layers of its file several times for each token, as Nanbeige and HRM do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "this model runs its layers several times for each token: a layer's number stands for each \
     of its runs, and an edit is of one"
)]
pub struct Looped;

impl Looped {
    /// Keys below the architecture's name that say so, and the number of runs that is one.
    const KEYS: [(&'static str, u64); 3] =
        [("num_loops", 1), ("hrm.h_cycles", 0), ("hrm.l_cycles", 0)];

    /// Refuses such a model; `number` reads a key of its metadata.
    ///
    /// # Errors
    /// [`Looped`].
    pub fn refuse(architecture: &str, number: impl Fn(&str) -> Option<u64>) -> Result<(), Self> {
        let loops = |&(key, once): &(&str, u64)| {
            number(&format!("{architecture}.{key}")).is_some_and(|runs| runs > once)
        };
        if Self::KEYS.iter().any(loops) {
            Err(Self)
        } else {
            Ok(())
        }
    }
}

/// The model's weights hold a Hadamard transform of their inputs, which llama.cpp applies to the
/// inputs as well (from 0.8.0 on; older versions do not know it and compute something else).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "this model says `{}`: its weights are folded with a Hadamard transform, so that the output \
     projection does not take the head outputs as they are; use the model without it",
    Folded::KEY
)]
pub struct Folded;

impl Folded {
    /// The metadata key that such a model has.
    pub const KEY: &'static str = "prism.hadamard.version";

    /// Refuses such a model; `has` tells whether its metadata have a key.
    ///
    /// # Errors
    /// [`Folded`].
    pub fn refuse(has: impl FnOnce(&str) -> bool) -> Result<(), Self> {
        if has(Self::KEY) {
            Err(Self)
        } else {
            Ok(())
        }
    }
}

/// An architecture that edits can be trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trainable {
    /// `general.architecture` of the base model.
    pub name: &'static str,
    /// Well-known models of it.
    pub models: &'static str,
}

/// Every architecture that the trainer's reference model computes as llama.cpp does.
pub const TRAINABLE: &[Trainable] = &[
    trainable("llama", "Llama 2 and 3, Mistral, Mixtral, SmolLM2"),
    trainable("qwen2", "Qwen2, Qwen2.5"),
    trainable("qwen3", "Qwen3"),
    trainable("qwen3moe", "Qwen3 mixtures of experts"),
    trainable("gemma2", "Gemma 2"),
    trainable("gemma3", "Gemma 3 (text)"),
    trainable("phi3", "Phi-3, Phi-3.5, Phi-4"),
    trainable("olmo2", "OLMo 2, Olmo 3"),
    trainable("smollm3", "SmolLM3"),
    trainable("granite", "Granite 3"),
];

const fn trainable(name: &'static str, models: &'static str) -> Trainable {
    Trainable { name, models }
}

/// The entry of `architecture` in [`TRAINABLE`].
pub fn find_trainable(architecture: &str) -> Option<&'static Trainable> {
    TRAINABLE.iter().find(|entry| entry.name == architecture)
}

/// The names in [`TRAINABLE`], for messages: `llama, qwen2, …`.
pub fn trainable_names() -> String {
    let names: Vec<&str> = TRAINABLE.iter().map(|entry| entry.name).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folded_models_are_told_by_their_key() {
        assert_eq!(Folded::refuse(|key| key == Folded::KEY), Err(Folded));
        assert_eq!(Folded::refuse(|_| false), Ok(()));
        assert!(Folded.to_string().contains(Folded::KEY));
    }

    #[test]
    fn models_that_repeat_layers_are_told_by_their_keys() {
        let with = |key: &'static str, value| move |name: &str| (name == key).then_some(value);
        for (key, value) in [("nanbeige.num_loops", 2), ("nanbeige.hrm.h_cycles", 1)] {
            assert_eq!(
                Looped::refuse("nanbeige", with(key, value)),
                Err(Looped),
                "{key}"
            );
        }
        for (key, value) in [("nanbeige.num_loops", 1), ("llama.num_loops", 2)] {
            assert_eq!(
                Looped::refuse("nanbeige", with(key, value)),
                Ok(()),
                "{key}"
            );
        }
    }
}
