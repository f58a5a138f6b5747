// The one unit that build.rs compiles: llama.cpp's patched graph builder together
// with the hook that it calls. Both must end up in the same object file. The linker
// takes that object because Rust refers to jola_hook_attach(), and then has no reason
// left to take the unpatched llama-graph.cpp.o out of libllama.a.

#include "llama-graph.cpp" // the patched copy in OUT_DIR

#include "jola-guard.hpp"
#include "llama-context.h"

#include <atomic>
#include <mutex>
#include <vector>

namespace {

struct hook_entry {
    llama_context * ctx;
    jola_edit_fn    fn;
    void          * user;
};

std::mutex              g_mutex;
std::vector<hook_entry> g_entries;       // few: one per context with edits
std::atomic<size_t>     g_n_entries{0};  // lets unedited processes skip the lock

void set_entry(llama_context * ctx, jola_edit_fn fn, void * user) {
    std::lock_guard<std::mutex> lock(g_mutex);
    auto it = std::find_if(g_entries.begin(), g_entries.end(), [ctx](const hook_entry & e) { return e.ctx == ctx; });
    if (it != g_entries.end()) {
        g_entries.erase(it);
    }
    if (fn) {
        g_entries.push_back({ ctx, fn, user });
    }
    g_n_entries = g_entries.size();
}

// Graphs are known by their scheduler: it is the one thing a graph under construction
// and its llama_context both show, and it is never shared between contexts.
hook_entry entry_of(ggml_backend_sched_t sched) {
    std::lock_guard<std::mutex> lock(g_mutex);
    for (const auto & e : g_entries) {
        if (e.ctx->get_sched() == sched) {
            return e;
        }
    }
    return { nullptr, nullptr, nullptr };
}

// sched_reserve() throws every kept graph away and builds new ones, but only when the
// context thinks that it must. Setting a flag to the value it has makes it think so.
void rebuild_graphs(llama_context * ctx) {
    ctx->set_embeddings_layer_inp(0, ctx->get_cparams().embeddings_layer_inp.at(0));
    ctx->sched_reserve();
}

// The row numbers of a graph's tokens.
class rows_input : public llm_graph_input_i {
public:
    rows_input(ggml_context * ctx0, int64_t n_tokens, const jola_sequence_rows * sequences) : sequences(sequences) {
        rows = ggml_new_tensor_1d(ctx0, GGML_TYPE_I32, n_tokens);
        ggml_set_input(rows);
        ggml_set_name(rows, "jola_rows");
    }

    void set_input(const llama_ubatch * ubatch) override {
        values.resize(ubatch->n_tokens);
        for (uint32_t i = 0; i < ubatch->n_tokens; ++i) {
            const jola_sequence_rows & of = sequences[ubatch->seq_id[i][0]];
            // Where a token has several positions, the first is its place in the sequence.
            const llama_pos pos = ubatch->pos[i];
            values[i] = pos >= of.begin && pos < of.end ? of.row : 0;
        }
        ggml_backend_tensor_set(rows, values.data(), 0, values.size() * sizeof(int32_t));
    }

    bool can_reuse(const llm_graph_params & params) override {
        return rows->ne[0] == params.ubatch.n_tokens;
    }

    ggml_tensor * rows;

private:
    const jola_sequence_rows * sequences;
    std::vector<int32_t>       values;
};

} // namespace

ggml_tensor * jola_hook_rows(const void * graph, const jola_sequence_rows * sequences) {
    const auto & g = *static_cast<const llm_graph_context *>(graph);
    for (const auto & input : g.res->inputs) {
        if (auto * found = dynamic_cast<rows_input *>(input.get())) {
            return found->rows;
        }
    }
    auto input = std::make_unique<rows_input>(g.ctx0, g.n_tokens, sequences);
    return static_cast<rows_input *>(g.res->add_input(std::move(input)))->rows;
}

ggml_tensor * jola_hook_edit(const llm_graph_context & graph, ggml_tensor * cur, int il) {
    if (g_n_entries == 0) {
        return cur;
    }
    const hook_entry e = entry_of(graph.sched);
    return e.fn ? e.fn(e.user, &graph, graph.ctx0, cur, il) : cur;
}

int32_t jola_hook_attach(llama_context * ctx, jola_edit_fn fn, void * user) {
    const int32_t status = jola_guarded([&] {
        set_entry(ctx, fn, user);
        rebuild_graphs(ctx);
    });
    if (status != 0) {
        set_entry(ctx, nullptr, nullptr);
    }
    return status;
}

int32_t jola_hook_detach(llama_context * ctx) {
    set_entry(ctx, nullptr, nullptr);
    return jola_guarded([&] { rebuild_graphs(ctx); });
}

void jola_hook_release(llama_context * ctx) {
    set_entry(ctx, nullptr, nullptr);
}

void jola_hook_set_sequence_length(llama_context * ctx, uint32_t n_tokens) {
    // The parameters are shown as const and belong to the context, which is not. Rounded up
    // as llama.cpp rounds what it is given.
    const_cast<llama_cparams &>(ctx->get_cparams()).n_ctx_seq = GGML_PAD(n_tokens, 256);
}

ggml_backend_buffer_type_t jola_hook_layer_buft(const llama_context * ctx, int32_t il) {
    ggml_backend_buffer_type_t buft = nullptr;
    jola_guarded([&] { buft = ctx->get_model().select_buft(il); });
    return buft;
}
