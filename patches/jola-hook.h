// The hook between llama.cpp's graph building and the Rust side.
//
// llama-graph.patch puts one call of jola_hook_edit() into every build_attn()
// variant, at the point where the concatenated head outputs are complete and W_O
// has not been applied. What the edit does to the graph is decided in Rust; this
// file only knows which function belongs to which llama_context.
//
// The C part below is what build.rs hands to bindgen.

#pragma once

#include "ggml-backend.h"
#include "jola-calls.h"
#include "llama.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// Adds the edit of layer `il` to the graph under construction.
//   graph: the graph, for jola_hook_rows()
//   ctx0: the graph's ggml context
//   cur:  head outputs before W_O, F32 [head_dim * n_head, n_tokens]
// Returns the edited tensor, or `cur` itself where the layer has no edit.
typedef struct ggml_tensor * (*jola_edit_fn)(
    void * user, const void * graph, struct ggml_context * ctx0, struct ggml_tensor * cur, int32_t il);

// Which row of the tables of edits the tokens of one sequence take: `row` at positions from
// `begin` to before `end`, row 0 elsewhere.
struct jola_sequence_rows {
    int32_t row;
    int32_t begin;
    int32_t end;
};

// The graph's input of one row number per token, I32 [n_tokens]: made at the first call for a
// graph. Before each computation it is filled from `sequences`, which has an entry for every
// sequence of the context and must stay where it is as long as the graph is used: what stands
// there may change between computations, without building graphs. A token of several
// sequences takes the row of its first.
struct ggml_tensor * jola_hook_rows(const void * graph, const struct jola_sequence_rows * sequences);

// Installs (fn, user) for the graphs of `ctx`, in place of any earlier pair, and
// builds the worst-case graphs again: when it returns, fn has been called for every
// layer whose attention passes the hook. `user` must stay valid until
// jola_hook_detach(ctx) has returned. Cached keys and values are left to the caller.
// Returns 0, or -1 with a message in jola_last_error() and nothing installed; the graphs of
// `ctx` are then in no certain state, and it is only good for llama_free().
int32_t jola_hook_attach(struct llama_context * ctx, jola_edit_fn fn, void * user);

// Removes what jola_hook_attach() installed and builds the graphs again without it.
// Must be called before llama_free(ctx). Returns 0 or -1 as above; fn is never called
// again in both cases, but after -1 graphs may still hold what it put into them.
int32_t jola_hook_detach(struct llama_context * ctx);

// Forgets (fn, user) without building graphs: for a context that is about to be freed.
void jola_hook_release(struct llama_context * ctx);

// Says how many tokens one sequence of `ctx` may hold, where llama.cpp takes all cells of
// a unified cache for it. Models with two sets of rotary factors choose by this number.
// For a context that has computed nothing yet.
void jola_hook_set_sequence_length(struct llama_context * ctx, uint32_t n_tokens);

// The plain buffer type of the device that holds layer `il`, or NULL when there is
// none (message in jola_last_error()).
ggml_backend_buffer_type_t jola_hook_layer_buft(const struct llama_context * ctx, int32_t il);

#ifdef __cplusplus
}

struct llm_graph_context;

// The call that llama-graph.patch inserts.
ggml_tensor * jola_hook_edit(const llm_graph_context & graph, ggml_tensor * cur, int il);
#endif
