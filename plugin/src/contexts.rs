//! The contexts of the process, and whose graphs a thread builds.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::host::{LlamaContext, LlamaMemory};
use crate::state::ContextState;

thread_local! {
    /// The context whose graphs this thread builds.
    static CURRENT: RefCell<Option<Arc<ContextState>>> = const { RefCell::new(None) };
}

/// Restores the context that was current before.
pub struct Entered(Option<Arc<ContextState>>);

/// Makes `state` the context whose graphs this thread builds, until the value is dropped.
pub fn enter(state: &Arc<ContextState>) -> Entered {
    Entered(CURRENT.replace(Some(Arc::clone(state))))
}

impl Drop for Entered {
    fn drop(&mut self) {
        let previous = self.0.take();
        // A thread that is being torn down builds no more graphs.
        let _ = CURRENT.try_with(|current| current.replace(previous));
    }
}

/// The context whose graphs this thread builds.
pub fn current() -> Option<Arc<ContextState>> {
    CURRENT.try_with(|current| current.borrow().clone()).ok()?
}

#[derive(Default)]
struct Contexts {
    /// By the addresses of contexts.
    states: HashMap<usize, Arc<ContextState>>,
    /// The contexts' addresses by those of their memories.
    memories: HashMap<usize, usize>,
    /// Whether there ever was one.
    any: bool,
}

fn contexts() -> MutexGuard<'static, Contexts> {
    static CONTEXTS: OnceLock<Mutex<Contexts>> = OnceLock::new();
    let contexts = CONTEXTS.get_or_init(Mutex::default);
    contexts.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Follows a context from now on.
///
/// # Safety
/// `context` must be a live context of the state's host.
pub unsafe fn register(context: *mut LlamaContext, state: Arc<ContextState>) {
    // SAFETY: the caller vouches for `context`.
    let memory = unsafe { (state.host.llama.llama_get_memory)(context) };
    state.finish_creation();
    let mut contexts = contexts();
    contexts.any = true;
    contexts.states.insert(context.addr(), state);
    if !memory.is_null() {
        contexts.memories.insert(memory.addr(), context.addr());
    }
}

/// The state of a context that is followed.
pub fn find(context: *const LlamaContext) -> Option<Arc<ContextState>> {
    contexts().states.get(&context.addr()).cloned()
}

/// The state of the context that a memory belongs to, if it is followed.
pub fn find_by_memory(memory: *const LlamaMemory) -> Option<Arc<ContextState>> {
    let contexts = contexts();
    let context = contexts.memories.get(&memory.addr())?;
    contexts.states.get(context).cloned()
}

/// Whether a context was ever followed.
pub fn any_was_followed() -> bool {
    contexts().any
}

/// Follows a context no longer. Its rows go with the returned value.
pub fn forget(context: *const LlamaContext) -> Option<Arc<ContextState>> {
    let mut contexts = contexts();
    contexts.memories.retain(|_, of| *of != context.addr());
    contexts.states.remove(&context.addr())
}

thread_local! {
    /// A call of the host's is under way that this library passed on.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Ends what [`pass_on`] began.
pub struct PassedOn(());

impl Drop for PassedOn {
    fn drop(&mut self) {
        let _ = INSIDE.try_with(|inside| inside.set(false));
    }
}

/// Says that a call is passed on to the host until the value is dropped; `None` if one is
/// already: some functions of llama.cpp call others of it in a way that comes by here again.
pub fn pass_on() -> Option<PassedOn> {
    let before = INSIDE
        .try_with(|inside| inside.replace(true))
        .unwrap_or(true);
    (!before).then_some(PassedOn(()))
}
