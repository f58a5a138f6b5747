//! What a context applies to the frozen model: edits, of all its sequences or of each, and
//! LoRA adapters.

use std::ops::Range;

use jola_edit::EditSet;
use llama_cpp_sys_2 as sys;

use super::Context;
use crate::hook::{Hook, LoadedEdits};
use crate::lora::{Adapters, Lora};
use crate::native::{self, ffi};
use crate::Error;

impl Context {
    /// Replaces the edits of this context; an empty set takes them off. The graphs are
    /// rebuilt and all cached keys and values are dropped, since other edits made them:
    /// every sequence starts again at position 0.
    ///
    /// ```no_run
    /// # use llama_jola::{Context, ContextParams, Model, ModelParams, Sidecar};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let model = Model::load("base.gguf", &ModelParams::default())?;
    /// let mut context = Context::new(&model, &ContextParams::default())?;
    /// let formal = Sidecar::read("formal.gguf")?;
    /// let brief = Sidecar::read("brief.gguf")?;
    /// // Both at once, the second at half its strength; each is checked against the model.
    /// let edits = model.compose(&[(&formal, 1.0), (&brief, 0.5)])?;
    /// context.set_edits(&edits)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// See [`Hook::attach`]; the context is then without edits. After [`Error::Hook`], also of
    /// taking the old edits off, it is [broken](Error::Broken).
    pub fn set_edits(&mut self, edits: &EditSet) -> Result<(), Error> {
        self.check_usable()?;
        let model = self.model.clone();
        let _guard = model.adapters();
        let replaced = self.replace_edits(edits);
        self.broken |= matches!(replaced, Err(Error::Hook(_)));
        replaced
    }

    /// The model's adapters must not change meanwhile.
    fn replace_edits(&mut self, edits: &EditSet) -> Result<(), Error> {
        if let Some(hook) = self.hook.take() {
            hook.detach()?;
        }
        if !edits.layers.is_empty() {
            // SAFETY: the context is alive and ours alone (&mut self), the old hook is
            // gone, and Drop takes the new one off before the context is freed.
            self.hook = Some(unsafe { Hook::attach(self.ptr, edits)? });
        }
        Ok(())
    }

    /// What [`Self::set_edits`] has set.
    pub(crate) fn edits(&self) -> EditSet {
        let hook = self.hook.as_ref();
        hook.map_or(EditSet::default(), |hook| hook.common().clone())
    }

    /// Replaces the LoRA adapters alone; what is cached stays.
    pub(crate) fn apply_loras(&mut self, loras: &[(Lora, f32)]) -> Result<(), Error> {
        let mut ptrs: Vec<_> = loras.iter().map(|(lora, _)| lora.as_ptr()).collect();
        let mut scales: Vec<f32> = loras.iter().map(|(_, scale)| *scale).collect();
        // SAFETY: context and adapters are alive; both arrays have the length given.
        let set = native::guarded("llama_set_adapters_lora", 0, |status| unsafe {
            ffi::jola_set_adapters_lora(
                self.ptr.as_ptr(),
                ptrs.as_mut_ptr(),
                ptrs.len(),
                scales.as_mut_ptr(),
                status,
            )
        });
        self.broken |= set.is_err();
        set?;
        // Those that the context no longer uses may go only now.
        self.loras = loras.iter().map(|(lora, _)| lora.clone()).collect();
        Ok(())
    }

    /// Gives one sequence edits of its own, in place of those that it had; an empty set takes
    /// them off. Only what is cached of this sequence is dropped, so that it starts again at
    /// position 0, and not even that if it has just these edits. A set is held once for all
    /// sequences that have it, and batches may mix sequences with any.
    ///
    /// ```no_run
    /// # use llama_jola::{Batch, Context, ContextParams, EditSet, Model, ModelParams, Token};
    /// # fn example(model: &Model, formal: &EditSet, brief: &EditSet, token: Token)
    /// # -> Result<(), Box<dyn std::error::Error>> {
    /// let params = ContextParams { n_seq_max: 3, ..ContextParams::default() };
    /// let mut context = Context::new(model, &params)?;
    /// context.set_edits_of(0, formal)?;
    /// context.set_edits_of(1, brief)?;
    /// // Sequence 2 stays as the model is. All three are computed at once.
    /// let mut batch = Batch::new();
    /// (0..3).for_each(|sequence| batch.push(token, 0, sequence, true));
    /// context.decode(&batch)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::SequenceRange`], and those of [`Self::load_edits`]; nothing has changed then.
    pub fn set_edits_of(&mut self, sequence: usize, edits: &EditSet) -> Result<(), Error> {
        self.check_sequence(sequence)?;
        let loaded = self.load_edits(edits)?;
        self.assign_edits(sequence, &loaded, 0..usize::MAX)
    }

    /// Loads edits that sequences are to have, and keeps them loaded until neither a clone of
    /// what is returned nor a sequence has them. Graphs are built anew when there is no room
    /// for one more, which then doubles.
    ///
    /// # Errors
    /// See [`Hook::attach`]; nothing has changed then. After [`Error::Hook`] the context is
    /// [broken](Error::Broken).
    pub fn load_edits(&mut self, edits: &EditSet) -> Result<LoadedEdits, Error> {
        self.check_usable()?;
        let model = self.model.clone();
        let _guard = model.adapters();
        // SAFETY: as in `replace_edits`; nobody else uses the context (&mut self).
        let loaded = unsafe {
            match &mut self.hook {
                Some(hook) => hook.load(edits),
                // Without edits nothing changes by it.
                none => Hook::attach(self.ptr, &EditSet::default())
                    .and_then(|hook| none.insert(hook).load(edits)),
            }
        };
        self.broken |= matches!(loaded, Err(Error::Hook(_)));
        loaded
    }

    /// As [`Self::set_edits_of`], of edits that are loaded. They act on the sequence's tokens
    /// at `positions` alone: `0..usize::MAX` is as they were trained, other ranges are for
    /// experiments, and for methods that edit only what is generated
    /// ([`EditedTokens`](crate::EditedTokens)). What is cached of the sequence stays up to the
    /// first token that was computed under other edits.
    ///
    /// # Errors
    /// [`Error::SequenceRange`]; [`Error::OtherEdits`] for those of another context, or that
    /// were loaded before [`Self::set_edits`].
    pub fn assign_edits(
        &mut self,
        sequence: usize,
        edits: &LoadedEdits,
        positions: Range<usize>,
    ) -> Result<(), Error> {
        self.check_usable()?;
        self.check_sequence(sequence)?;
        match &mut self.hook {
            // SAFETY: nobody else uses the context (&mut self).
            Some(hook) => unsafe { hook.assign(sequence, edits, positions) },
            None => Err(Error::OtherEdits),
        }
    }

    /// Gives a sequence the edits of [`Self::set_edits`] again, in place of its own.
    ///
    /// # Errors
    /// [`Error::SequenceRange`].
    pub fn reset_edits_of(&mut self, sequence: usize) -> Result<(), Error> {
        self.check_usable()?;
        match &mut self.hook {
            // SAFETY: nobody else uses the context (&mut self).
            Some(hook) => unsafe { hook.reset_edits_of(sequence) },
            None => self.check_sequence(sequence),
        }
    }

    /// Makes sequence `to` a copy of `from`, with its edits.
    ///
    /// # Errors
    /// [`Error::SequenceRange`].
    pub fn copy_sequence(&mut self, from: usize, to: usize) -> Result<(), Error> {
        self.check_usable()?;
        self.check_sequence(from)?;
        self.check_sequence(to)?;
        if from == to {
            return Ok(());
        }
        if let Some(hook) = &mut self.hook {
            // SAFETY: nobody else uses the context (&mut self).
            unsafe { hook.copy_edits(from, to)? };
        }
        self.truncate_sequence(to, 0);
        // SAFETY: the context is alive and has both sequences; -1 stands for the ends.
        unsafe {
            let memory = sys::llama_get_memory(self.ptr.as_ptr());
            sys::llama_memory_seq_cp(memory, from as i32, to as i32, -1, -1);
        }
        Ok(())
    }

    /// How many edit sets are loaded for sequences to have.
    pub fn n_loaded_edits(&self) -> usize {
        self.hook.as_ref().map_or(0, Hook::n_loaded)
    }

    /// Bytes of device memory that those sets take, with the room for more.
    pub fn loaded_edits_bytes(&self) -> usize {
        self.hook.as_ref().map_or(0, Hook::table_bytes)
    }

    /// Whether both sequences have the same edits, so that they can share tokens.
    pub fn same_edits(&self, a: usize, b: usize) -> bool {
        self.hook.as_ref().is_none_or(|hook| hook.agree(a, b))
    }

    /// Replaces edits and LoRA adapters of this context, as [`set_edits`](Self::set_edits)
    /// does the edits alone.
    ///
    /// # Errors
    /// [`Error::LoraModel`], and as [`Self::set_edits`]; the context is then without edits.
    pub fn set_adapters(&mut self, adapters: &Adapters) -> Result<(), Error> {
        self.set_edits(&EditSet::default())?;
        let loras = || adapters.loras.iter().map(|(lora, _)| lora);
        if let Some(other) = loras().find(|lora| !lora.model().is(&self.model)) {
            return Err(Error::LoraModel {
                path: other.path().into(),
            });
        }
        self.apply_loras(&adapters.loras)?;
        self.clear();
        self.set_edits(&adapters.edits)
    }
}
