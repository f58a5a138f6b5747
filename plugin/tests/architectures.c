// What the plugin and the callback route make of a model.
//
//     architectures MODEL EDIT BACKENDS
//
// BACKENDS is the folder of ggml's loadable backends. Prints one line; exits with 1 when one
// route gives other bits than the other, or edits nothing.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "ggml-backend.h"
#include "jola.h"
#include "llama.h"

enum { N_TOKENS = 6 };
static const llama_token TOKENS[N_TOKENS] = {5, 17, 40, 8, 23, 60};

static struct llama_context_params params(void) {
    struct llama_context_params p = llama_context_default_params();
    p.n_ctx = 64;
    p.n_batch = 64;
    p.n_ubatch = 64;
    p.n_threads = 1;
    p.n_threads_batch = 1;
    p.embeddings = true; // encoders have no logits
    p.pooling_type = LLAMA_POOLING_TYPE_NONE;
    return p;
}

// The last layer's outputs for each token: two batches where there is a cache.
static float * outputs(struct llama_context * ctx, int n_embd) {
    float * all = malloc(sizeof(float) * (size_t) n_embd * N_TOKENS);
    CHECK(all);
    const int n_first = llama_get_memory(ctx) ? N_TOKENS - 2 : N_TOKENS;
    for (int start = 0; start < N_TOKENS; start += start ? 1 : n_first) {
        const int n = start ? 1 : n_first;
        struct llama_batch batch = llama_batch_init(n, 0, 1);
        batch.n_tokens = n;
        for (int i = 0; i < n; i++) {
            batch.token[i] = TOKENS[start + i];
            batch.pos[i] = start + i;
            batch.n_seq_id[i] = 1;
            batch.seq_id[i][0] = 0;
            batch.logits[i] = true;
        }
        CHECK(llama_decode(ctx, batch) == 0);
        for (int i = 0; i < n; i++) {
            memcpy(all + (size_t) (start + i) * n_embd, llama_get_embeddings_ith(ctx, i),
                   sizeof(float) * n_embd);
        }
        llama_batch_free(batch);
    }
    llama_free(ctx);
    return all;
}

int main(int argc, char ** argv) {
    CHECK(argc == 4);
    const char * edit = argv[2];
    llama_log_set(quiet, NULL);
    ggml_backend_load_all_from_path(argv[3]);
    struct llama_model * model =
        llama_model_load_from_file(argv[1], llama_model_default_params());
    CHECK(model);
    const int n_embd = llama_model_n_embd(model);
    const size_t size = sizeof(float) * (size_t) n_embd * N_TOKENS;

    CHECK(jola_set_default_edits(&edit, 1) == JOLA_STATUS_OK);
    struct llama_context * ctx = llama_init_from_model(model, params());
    float * edited = ctx ? outputs(ctx, n_embd) : NULL;
    CHECK(jola_set_default_edits(NULL, 0) == JOLA_STATUS_OK);

    const struct jola_cb_eval_host host = {
        ggml_get_name,           ggml_op_desc,
        ggml_nelements,          ggml_nrows,
        ggml_nbytes,             ggml_backend_tensor_get,
        ggml_backend_tensor_set, llama_model_meta_val_str,
        llama_model_has_encoder, llama_model_has_decoder,
    };
    struct llama_context_params p = params();
    struct jola_cb_eval_edits * by_callback = NULL;
    float * again = NULL;
    if (jola_cb_eval_init(&host, model, &edit, 1, &p.cb_eval, &p.cb_eval_user_data,
                          &by_callback) == JOLA_STATUS_OK) {
        ctx = llama_init_from_model(model, p);
        CHECK(ctx);
        again = outputs(ctx, n_embd);
        if (jola_cb_eval_check(by_callback) != JOLA_STATUS_OK) {
            free(again);
            again = NULL;
        }
        jola_cb_eval_free(by_callback);
    }

    if (edited || again) {
        ctx = llama_init_from_model(model, params());
        CHECK(ctx);
        float * plain = outputs(ctx, n_embd);
        CHECK(!edited || memcmp(plain, edited, size) != 0);
        CHECK(!again || memcmp(plain, again, size) != 0);
        CHECK(!edited || !again || memcmp(edited, again, size) == 0);
    }
    printf("%s; by callback: %s\n", edited ? "edited" : "refused",
           !again ? "refused" : edited ? "the same bits" : "edited");
    llama_model_free(model);
    return 0;
}
