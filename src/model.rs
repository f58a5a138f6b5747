//! A model loaded by llama.cpp, and its tokenizer.

use std::ffi::{CStr, CString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use jola_edit::gguf::{GgufError, Splits};
use jola_edit::sidecar::{BaseShape, BaseWeights, Doubt};
use jola_edit::{EditSet, Sidecar};
use llama_cpp_sys_2 as sys;

use crate::native::{self, ffi};
use crate::{logging, Error};

/// A token id.
pub type Token = i32;

/// What a tokenizer does about tokens that are no text: those that begin or end a text, a turn
/// or a tool call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Add what the model wants around a whole text, such as a beginning-of-sequence token.
    pub add: bool,
    /// Read the names of control tokens in the text, as chat templates write them, as these
    /// tokens; otherwise they are plain characters.
    pub parse: bool,
}

impl SpecialTokens {
    /// As a prompt wants it: added around it and read in it.
    pub const PROMPT: Self = Self {
        add: true,
        parse: true,
    };
    /// None at all: text that goes on behind other text.
    pub const NONE: Self = Self {
        add: false,
        parse: false,
    };
}

/// How to load a model.
#[derive(Clone, Debug)]
pub struct ModelParams {
    /// Layers to keep on the GPU, as llama.cpp's `-ngl`; negative: all.
    pub n_gpu_layers: i32,
    /// Map the file instead of reading it.
    pub use_mmap: bool,
}

impl Default for ModelParams {
    fn default() -> Self {
        Self {
            n_gpu_layers: -1,
            use_mmap: true,
        }
    }
}

/// A loaded model. Cheap to clone: clones share the weights.
///
/// ```no_run
/// # use llama_jola::{Context, ContextParams, Model, ModelParams};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let model = Model::load("base.gguf", &ModelParams::default())?;
/// println!("{} tokens, {} layers", model.n_vocab(), model.shape().block_count);
/// let tokens = model.tokenize_prompt("Message: where is my parcel?\nTeam:")?;
/// let mut context = Context::new(&model, &ContextParams::default())?;
/// let logits = context.logits_of(&tokens)?; // [n_tokens, n_vocab]
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Model {
    inner: Arc<Inner>,
}

struct Inner {
    ptr: NonNull<sys::llama_model>,
    vocab: NonNull<sys::llama_vocab>,
    path: PathBuf,
    shape: BaseShape,
    /// The adapters that llama.cpp has noted in the model, which it goes through when it builds
    /// a context's graphs. The lock is for threads that use other contexts meanwhile.
    adapters: RwLock<()>,
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model")
            .field("path", &self.inner.path)
            .field("architecture", &self.inner.shape.architecture)
            .finish_non_exhaustive()
    }
}

// SAFETY: a llama_model is not changed after loading, but for its adapters, which have a lock;
// llama.cpp lets any thread read it.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: created by llama_model_load_from_file, freed once; contexts hold a clone
        // of the Model, so none is left.
        unsafe { sys::llama_model_free(self.ptr.as_ptr()) };
    }
}

impl Model {
    /// Loads a GGUF model.
    ///
    /// # Errors
    /// [`Error::ModelFile`] and [`Error::ModelLoad`], with llama.cpp's own reason.
    pub fn load(path: impl AsRef<Path>, params: &ModelParams) -> Result<Self, Error> {
        // SAFETY: returns a struct of plain values.
        let mut raw = unsafe { sys::llama_model_default_params() };
        raw.n_gpu_layers = params.n_gpu_layers;
        raw.load_mode = if params.use_mmap {
            sys::LLAMA_LOAD_MODE_MMAP
        } else {
            sys::LLAMA_LOAD_MODE_NONE
        };
        Self::load_raw(path.as_ref(), raw)
    }

    /// Loads the tokenizer and metadata only, not the weights.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_vocab(path: impl AsRef<Path>) -> Result<Self, Error> {
        // SAFETY: returns a struct of plain values.
        let mut raw = unsafe { sys::llama_model_default_params() };
        raw.vocab_only = true;
        Self::load_raw(path.as_ref(), raw)
    }

    fn load_raw(path: &Path, params: sys::llama_model_params) -> Result<Self, Error> {
        logging::init();
        std::fs::File::open(path).map_err(|error| Error::ModelFile {
            path: path.into(),
            error,
        })?;
        let fail = |reason: String| Error::ModelLoad {
            path: path.into(),
            reason,
        };
        // Our own reader looks at the file first: it names what is wrong where llama.cpp
        // would log several lines, or stop the process.
        let reason = |error: GgufError| match error.file == path {
            true => fail(error.kind.to_string()),
            // Another file of a split model.
            false => fail(error.to_string()),
        };
        let splits = Splits::open(path).map_err(reason)?;
        let shape = BaseShape::from_gguf(splits.first()).map_err(reason)?;
        drop(splits);
        let c_path = CString::new(path.as_os_str().as_encoded_bytes())
            .map_err(|_| fail("its path contains a NUL byte".into()))?;
        // SAFETY: the path is NUL-terminated, the parameters hold no dangling pointers.
        let load =
            |result: &mut _| unsafe { ffi::jola_model_load(c_path.as_ptr(), params, result) };
        let (ptr, reason) = logging::with_errors(|| {
            native::guarded("llama_model_load_from_file", std::ptr::null_mut(), load)
        });
        let ptr = ptr.map_err(|error| fail(error.to_string()))?;
        let ptr = NonNull::new(ptr).ok_or_else(|| fail(reason))?;
        // SAFETY: the model is alive and owns its vocabulary.
        let vocab = unsafe { sys::llama_model_get_vocab(ptr.as_ptr()) };
        let vocab = NonNull::new(vocab.cast_mut()).expect("a loaded model has a vocabulary");
        Ok(Self {
            inner: Arc::new(Inner {
                ptr,
                vocab,
                path: path.into(),
                shape,
                adapters: RwLock::default(),
            }),
        })
    }

    /// To be held while llama.cpp builds graphs, or may do so. Not to be asked for twice by one
    /// thread.
    pub(crate) fn adapters(&self) -> RwLockReadGuard<'_, ()> {
        let guard = self.inner.adapters.read();
        guard.unwrap_or_else(PoisonError::into_inner)
    }

    /// To be held while an adapter is added or taken away.
    pub(crate) fn adapters_mut(&self) -> RwLockWriteGuard<'_, ()> {
        let guard = self.inner.adapters.write();
        guard.unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether both share their weights.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    pub(crate) fn as_ptr(&self) -> *mut sys::llama_model {
        self.inner.ptr.as_ptr()
    }

    pub(crate) fn vocab(&self) -> *const sys::llama_vocab {
        self.inner.vocab.as_ptr()
    }

    /// The file that the model was loaded from.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// What a sidecar must agree with.
    pub fn shape(&self) -> &BaseShape {
        &self.inner.shape
    }

    /// Tokens that the model was trained to hold at once.
    pub fn n_ctx_train(&self) -> usize {
        // SAFETY: the model is alive.
        unsafe { sys::llama_model_n_ctx_train(self.as_ptr()) as usize }
    }

    /// Whether layers keep a running state instead of (or beside) keys and values.
    pub fn is_recurrent(&self) -> bool {
        // SAFETY: the model is alive.
        unsafe {
            sys::llama_model_is_recurrent(self.as_ptr())
                || sys::llama_model_is_hybrid(self.as_ptr())
        }
    }

    /// Whether a sidecar that fits this model may have been trained on another: on other
    /// weights of the same shape. Reads a few pages of the model's file.
    ///
    /// [`Sidecar::doubt_prompt`] tells whether a prompt is of the kind that it was trained on.
    ///
    /// # Errors
    /// [`Error::ModelLoad`] when the model's file can no longer be read.
    pub fn doubt(&self, sidecar: &Sidecar) -> Result<Option<Doubt>, Error> {
        let weights = BaseWeights::read(self.path()).map_err(|error| Error::ModelLoad {
            path: self.path().into(),
            reason: error.to_string(),
        })?;
        Ok(sidecar.doubt_base(&weights))
    }

    /// Composes sidecars, each with its strength (1: as trained), in the order given, after
    /// checking that every one belongs to this model. [`Self::doubt`] tells what may not be
    /// meant, though it fits.
    ///
    /// # Errors
    /// [`Error::BaseMismatch`] and [`Error::Compose`].
    pub fn compose(&self, sidecars: &[(&Sidecar, f32)]) -> Result<EditSet, Error> {
        for (sidecar, _) in sidecars {
            sidecar.check_base(self.shape())?;
        }
        Ok(EditSet::compose(sidecars)?)
    }

    /// Size of the vocabulary.
    pub fn n_vocab(&self) -> usize {
        // SAFETY: the vocabulary is alive.
        unsafe { sys::llama_vocab_n_tokens(self.vocab()) as usize }
    }

    /// The end-of-sequence token, if the model has one.
    pub fn eos(&self) -> Option<Token> {
        // SAFETY: the vocabulary is alive.
        let token = unsafe { sys::llama_vocab_eos(self.vocab()) };
        (token >= 0).then_some(token)
    }

    /// The beginning-of-sequence token, if the model has one.
    pub fn bos(&self) -> Option<Token> {
        // SAFETY: the vocabulary is alive.
        let token = unsafe { sys::llama_vocab_bos(self.vocab()) };
        (token >= 0).then_some(token)
    }

    /// Whether a text gets a beginning-of-sequence token by itself.
    pub fn adds_bos(&self) -> bool {
        // SAFETY: the vocabulary is alive.
        unsafe { sys::llama_vocab_get_add_bos(self.vocab()) }
    }

    /// Whether the token ends a generation (end of sequence, of turn, …).
    pub fn is_eog(&self, token: Token) -> bool {
        // SAFETY: the vocabulary is alive; llama.cpp checks the id against a set.
        unsafe { sys::llama_vocab_is_eog(self.vocab(), token) }
    }

    /// Turns a prompt into tokens: [`Self::tokenize`] with [`SpecialTokens::PROMPT`].
    ///
    /// # Errors
    /// [`Error::Tokenize`].
    pub fn tokenize_prompt(&self, text: &str) -> Result<Vec<Token>, Error> {
        self.tokenize(text, SpecialTokens::PROMPT)
    }

    /// Turns text into tokens.
    ///
    /// # Errors
    /// [`Error::Tokenize`] and [`Error::Exception`].
    pub fn tokenize(&self, text: &str, special: SpecialTokens) -> Result<Vec<Token>, Error> {
        let fail = |reason: &str| Error::Tokenize {
            len: text.len(),
            reason: reason.to_owned(),
        };
        let len = i32::try_from(text.len()).map_err(|_| fail("it is too long"))?;
        let mut tokens: Vec<Token> = vec![0; text.len() + 8];
        for _ in 0..2 {
            // SAFETY: `text` is valid for `len` bytes, `tokens` for its length.
            let n = native::guarded("llama_tokenize", 0, |n| unsafe {
                ffi::jola_tokenize(
                    self.vocab(),
                    text.as_ptr().cast(),
                    len,
                    tokens.as_mut_ptr(),
                    tokens.len() as i32,
                    special.add,
                    special.parse,
                    n,
                )
            })?;
            match usize::try_from(n) {
                Ok(n) => {
                    tokens.truncate(n);
                    return Ok(tokens);
                }
                Err(_) if n == i32::MIN => break,
                Err(_) => tokens.resize(n.unsigned_abs() as usize, 0),
            }
        }
        Err(fail("llama.cpp refused it"))
    }

    /// Refuses a token that the vocabulary does not have.
    ///
    /// # Errors
    /// [`Error::TokenRange`].
    pub(crate) fn check_token(&self, token: Token) -> Result<(), Error> {
        let n_vocab = self.n_vocab();
        match usize::try_from(token).is_ok_and(|token| token < n_vocab) {
            true => Ok(()),
            false => Err(Error::TokenRange { token, n_vocab }),
        }
    }

    /// The bytes of a token as text; empty for control tokens. A character may be split
    /// over several tokens.
    ///
    /// # Errors
    /// [`Error::TokenRange`].
    pub fn token_to_piece(&self, token: Token) -> Result<Vec<u8>, Error> {
        self.check_token(token)?;
        let mut bytes = vec![0u8; 64];
        for _ in 0..2 {
            // SAFETY: `bytes` is valid for its length.
            let n = native::guarded("llama_token_to_piece", 0, |n| unsafe {
                let buf = bytes.as_mut_ptr().cast();
                ffi::jola_token_to_piece(self.vocab(), token, buf, bytes.len() as i32, n)
            })?;
            match usize::try_from(n) {
                Ok(n) => {
                    bytes.truncate(n);
                    return Ok(bytes);
                }
                Err(_) => bytes.resize(n.unsigned_abs() as usize, 0),
            }
        }
        Ok(Vec::new())
    }

    /// The text of several tokens; bytes that are no UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// [`Error::TokenRange`].
    pub fn detokenize(&self, tokens: &[Token]) -> Result<String, Error> {
        let mut bytes = Vec::new();
        for &token in tokens {
            bytes.extend(self.token_to_piece(token)?);
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The text that names a token in prompts, control tokens included.
    ///
    /// # Errors
    /// [`Error::TokenRange`].
    pub fn token_text(&self, token: Token) -> Result<String, Error> {
        self.check_token(token)?;
        let text = native::guarded("llama_vocab_get_text", std::ptr::null(), |text| {
            // SAFETY: the vocabulary is alive.
            unsafe { ffi::jola_token_text(self.vocab(), token, text) }
        })?;
        if text.is_null() {
            return Ok(String::new());
        }
        // SAFETY: the text ends with NUL and belongs to the vocabulary.
        Ok(unsafe { CStr::from_ptr(text) }
            .to_string_lossy()
            .into_owned())
    }

    /// The model's chat template (Jinja), if it has one.
    pub fn chat_template(&self) -> Option<String> {
        // SAFETY: the model is alive; the returned text belongs to it.
        unsafe {
            let text = sys::llama_model_chat_template(self.as_ptr(), std::ptr::null());
            (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
        }
    }
}
