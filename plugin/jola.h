/*
The C API of libjola, header `jola.h`.

Three ways to use it:

1. No code: `LLAMA_JOLA=edit.gguf[:STRENGTH][,…] LD_PRELOAD=libjola.so PROGRAM`, or
   `llama-jola with edit.gguf -- PROGRAM`.
2. In a program that links shared llama.cpp libraries: link `-ljola` BEFORE `-lllama -lggml
   -lggml-base` (or preload it), call `jola_start()` before the first context is created,
   then `jola_set_edits(ctx, …)` whenever you like. Sidecars are named as on the command
   line: `FILE` or `FILE:STRENGTH`, split at the last colon.
3. In a program with llama.cpp linked in statically: `jola_cb_eval_init` fills `cb_eval` and
   `cb_eval_user_data` of your context parameters. Each edited layer then costs a
   synchronisation with its device; `docs/reference/plugin.md` has figures.

Functions that can fail return a status; `jola_last_error()` then tells more. All may be
called from any thread; a context only from one thread at a time, as llama.cpp demands.
*/

#ifndef JOLA_H
#define JOLA_H

/* Made by cbindgen from src/ffi.rs: `make jola-header`. Do not edit. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ggml_tensor;
struct llama_context;
struct llama_model;

// Outcome of a call.
enum jola_status {
  // The call did what it was to do.
  JOLA_STATUS_OK = 0,
  // A null pointer, text that is not UTF-8, or a malformed `FILE:STRENGTH`.
  JOLA_STATUS_ARGUMENT = 1,
  // A sidecar that cannot be read, or sidecars that do not go together.
  JOLA_STATUS_SIDECAR = 2,
  // The sidecar is for another model.
  JOLA_STATUS_MODEL = 3,
  // The edits could not become part of the model's graph.
  JOLA_STATUS_GRAPH = 4,
  // The context was created before `jola_start`, or past this library.
  JOLA_STATUS_CONTEXT = 5,
  // A defect of this library.
  JOLA_STATUS_INTERNAL = 6,
};

// Edits that a callback applies.
struct jola_cb_eval_edits;

// Functions of the llama.cpp that a program has linked in: set each field to the function
// of its name.
struct jola_cb_eval_host {
  // `ggml_get_name`
  const char *(*ggml_get_name)(const struct ggml_tensor *tensor);
  // `ggml_op_desc`
  const char *(*ggml_op_desc)(const struct ggml_tensor *tensor);
  // `ggml_nelements`
  int64_t (*ggml_nelements)(const struct ggml_tensor *tensor);
  // `ggml_nrows`
  int64_t (*ggml_nrows)(const struct ggml_tensor *tensor);
  // `ggml_nbytes`
  size_t (*ggml_nbytes)(const struct ggml_tensor *tensor);
  // `ggml_backend_tensor_get`
  void (*ggml_backend_tensor_get)(const struct ggml_tensor *tensor,
                                  void *data,
                                  size_t offset,
                                  size_t size);
  // `ggml_backend_tensor_set`
  void (*ggml_backend_tensor_set)(struct ggml_tensor *tensor,
                                  const void *data,
                                  size_t offset,
                                  size_t size);
  // `llama_model_meta_val_str`
  int32_t (*llama_model_meta_val_str)(const struct llama_model *model,
                                      const char *key,
                                      char *buf,
                                      size_t buf_size);
  // `llama_model_has_encoder`
  bool (*llama_model_has_encoder)(const struct llama_model *model);
  // `llama_model_has_decoder`
  bool (*llama_model_has_decoder)(const struct llama_model *model);
};

// A callback as llama.cpp's context parameters take it; may be null.
typedef bool (*jola_eval_callback)(struct ggml_tensor *tensor, bool ask, void *user_data);

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// Version of this library, as "0.1.0".
const char *jola_version(void);

// What the calling thread's last failed call had to say; empty if none failed. Valid until
// the thread's next failing call.
const char *jola_last_error(void);

// Follows contexts that are created from now on, so that they can be given edits. Not
// needed when LLAMA_JOLA is set or default edits are.
void jola_start(void);

// Sets the edits of contexts to come, instead of those of LLAMA_JOLA: `n_specs` sidecars,
// each "FILE" or "FILE:STRENGTH", applied in this order. With 0, contexts to come have none. A
// context whose model is not the sidecars' will then be refused (null).
//
// # Safety
// `specs` must point to `n_specs` NUL-terminated strings.
enum jola_status jola_set_default_edits(const char *const *specs, size_t n_specs);

// Replaces the edits of a context and DROPS ITS CACHED KEYS AND VALUES, which were computed
// under other edits: every sequence starts again at position 0. On failure the context
// keeps the edits it had. Should llama.cpp not rebuild its graph, the next llama_decode
// fails with -3.
//
// # Safety
// `ctx` must be a live context that no other thread uses during the call; `specs` must
// point to `n_specs` NUL-terminated strings.
enum jola_status jola_set_edits(struct llama_context *ctx,
                                const char *const *specs,
                                size_t n_specs);

// Takes all edits off a context and DROPS ITS CACHED KEYS AND VALUES, as jola_set_edits.
//
// # Safety
// `ctx` must be a live context that no other thread uses during the call.
enum jola_status jola_clear_edits(struct llama_context *ctx);

// Describes a sidecar as one JSON object in `*json`, to be freed by jola_string_free.
//
// # Safety
// `path` must be NUL-terminated, `json` must be valid for a pointer.
enum jola_status jola_inspect(const char *path, char **json);

// Frees a text that this library returned; null is allowed.
//
// # Safety
// `text` must come from this library and not have been freed.
void jola_string_free(char *text);

// Prepares edits that a callback applies: call it with the addresses of `cb_eval` and
// `cb_eval_user_data` of your context parameters, before creating the context. A callback
// of your own that stands there goes on being called. `*out` must be kept until the context
// is freed, then freed by jola_cb_eval_free; one for each context.
//
// # Safety
// All pointers must be valid; `specs` must point to `n_specs` NUL-terminated strings; the
// functions of `host` must be those of `model`'s llama.cpp.
enum jola_status jola_cb_eval_init(const struct jola_cb_eval_host *host,
                                   const struct llama_model *model,
                                   const char *const *specs,
                                   size_t n_specs,
                                   jola_eval_callback *cb_eval,
                                   void **cb_eval_user_data,
                                   struct jola_cb_eval_edits **out);

// The callback that jola_cb_eval_init puts into the context parameters.
//
// # Safety
// To be called by llama.cpp with what jola_cb_eval_init made.
bool jola_cb_eval(struct ggml_tensor *tensor, bool ask, void *user_data);

// Whether the computations so far had their edits: TO BE CALLED AFTER THE FIRST
// llama_decode, whose results are wrong when this fails.
//
// # Safety
// `edits` must come from jola_cb_eval_init and not have been freed.
enum jola_status jola_cb_eval_check(const struct jola_cb_eval_edits *edits);

// Frees what jola_cb_eval_init made, after the context; null is allowed.
//
// # Safety
// `edits` must come from jola_cb_eval_init and not have been freed; its context must be.
void jola_cb_eval_free(struct jola_cb_eval_edits *edits);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* JOLA_H */
