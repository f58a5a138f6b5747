// A program that uses libjola through its C API, with llama.cpp's shared libraries.
//
//     consumer MODEL EDIT OTHER_EDIT WRONG_EDIT ALL_EDIT BACKENDS
//
// EDIT and OTHER_EDIT edit different layers of MODEL, WRONG_EDIT is for another model, ALL_EDIT
// edits every layer, BACKENDS is the folder of ggml's loadable backends. Exits with 1 at the
// first surprise.

#define _GNU_SOURCE // RTLD_DEFAULT

#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "check.h"
#include "ggml-backend.h"
#include "jola.h"
#include "llama.h"

// Not in every llama.cpp.
#pragma weak llama_batch_ext_init
#pragma weak llama_batch_ext_free
#pragma weak llama_batch_ext_add_token
#pragma weak llama_batch_ext_set_output_logits
#pragma weak llama_batch_ext_set_pos

enum { N_TOKENS = 6 };
static const llama_token TOKENS[N_TOKENS] = {504, 31936, 288, 260, 5432, 3711};
static struct llama_model * model;
static int n_vocab;

static struct llama_context_params params(void) {
    struct llama_context_params p = llama_context_default_params();
    p.n_ctx = 256;
    p.n_batch = 64;
    p.n_ubatch = 64;
    p.n_threads = 1; // the machine may be busy: no threads that wait for each other
    p.n_threads_batch = 1;
    return p;
}

static struct llama_context * create(void) {
    return llama_init_from_model(model, params());
}

// Logits after each token, decoded one by one, so that llama.cpp reuses its graph.
static float * logits(struct llama_context * ctx) {
    float * all = malloc(sizeof(float) * (size_t) n_vocab * N_TOKENS);
    CHECK(all);
    llama_memory_clear(llama_get_memory(ctx), true);
    for (int i = 0; i < N_TOKENS; i++) {
        llama_token token = TOKENS[i];
        CHECK(llama_decode(ctx, llama_batch_get_one(&token, 1)) == 0);
        memcpy(all + (size_t) i * n_vocab, llama_get_logits_ith(ctx, -1), sizeof(float) * n_vocab);
    }
    return all;
}

// The same with llama_process, which newer llama.cpp programs call.
static float * logits_of_process(struct llama_context * ctx) {
    float * all = malloc(sizeof(float) * (size_t) n_vocab * N_TOKENS);
    CHECK(all);
    llama_memory_clear(llama_get_memory(ctx), true);
    for (llama_pos i = 0; i < N_TOKENS; i++) {
        struct llama_batch_ext * batch = llama_batch_ext_init(ctx);
        CHECK(batch && llama_batch_ext_add_token(batch, 0, TOKENS[i]) == 0);
        CHECK(llama_batch_ext_set_pos(batch, 0, &i));
        CHECK(llama_batch_ext_set_output_logits(batch, 0, true));
        CHECK(llama_process(ctx, LLAMA_PROCESS_TYPE_DECODE, batch) == 0);
        memcpy(all + (size_t) i * n_vocab, llama_get_logits_ith(ctx, -1), sizeof(float) * n_vocab);
        llama_batch_ext_free(batch);
    }
    return all;
}

// Logits after one more token, with the first tokens forgotten and the others moved up.
static float * shifted(struct llama_context * ctx) {
    free(logits(ctx));
    llama_memory_t memory = llama_get_memory(ctx);
    CHECK(llama_memory_can_shift(memory));
    CHECK(llama_memory_seq_rm(memory, 0, 0, 3));
    llama_memory_seq_add(memory, 0, 3, N_TOKENS, -3);
    llama_token token = TOKENS[0];
    CHECK(llama_decode(ctx, llama_batch_get_one(&token, 1)) == 0);
    CHECK(llama_memory_seq_pos_max(memory, 0) == N_TOKENS - 3);
    float * row = malloc(sizeof(float) * n_vocab);
    CHECK(row);
    memcpy(row, llama_get_logits_ith(ctx, -1), sizeof(float) * n_vocab);
    return row;
}

static bool same_row(const float * a, const float * b) {
    return memcmp(a, b, sizeof(float) * n_vocab) == 0;
}

// Seconds to decode all tokens one by one.
static double seconds(struct llama_context * ctx) {
    struct timespec start, end;
    timespec_get(&start, TIME_UTC);
    free(logits(ctx));
    timespec_get(&end, TIME_UTC);
    return (double) (end.tv_sec - start.tv_sec) + 1e-9 * (double) (end.tv_nsec - start.tv_nsec);
}

static int by_value(const void * a, const void * b) {
    const double x = *(const double *) a, y = *(const double *) b;
    return (x > y) - (x < y);
}

static bool same(const float * a, const float * b) {
    return memcmp(a, b, sizeof(float) * (size_t) n_vocab * N_TOKENS) == 0;
}

static bool cached(struct llama_context * ctx) {
    return llama_memory_seq_pos_max(llama_get_memory(ctx), 0) >= 0;
}

static enum jola_status set(struct llama_context * ctx, const char * spec) {
    return jola_set_edits(ctx, &spec, 1);
}

static int asked;
static bool own_callback(struct ggml_tensor * tensor, bool ask, void * user) {
    CHECK(user == &asked);
    asked += ask;
    bool mine = strcmp(ggml_get_name(tensor), "result_output") == 0;
    CHECK(ask || mine);
    return mine;
}

static void check_texts(const char * edit) {
    CHECK(strlen(jola_version()) >= 5);
    char * json = NULL;
    CHECK(jola_inspect(edit, &json) == JOLA_STATUS_OK);
    CHECK(strstr(json, "\"architecture\":\"llama\""));
    jola_string_free(json);
    CHECK(jola_inspect("/no/such.gguf", &json) == JOLA_STATUS_SIDECAR && !json);
    CHECK(strstr(jola_last_error(), "/no/such.gguf"));
    CHECK(jola_inspect(NULL, &json) == JOLA_STATUS_ARGUMENT);
    CHECK(jola_set_edits(NULL, NULL, 1) == JOLA_STATUS_ARGUMENT);
    jola_string_free(NULL);
}

// A context whose layers `edits` edits by callback.
static struct llama_context * by_callback(const char * spec, struct llama_context_params p,
                                          struct jola_cb_eval_edits ** edits) {
    const struct jola_cb_eval_host host = {
        ggml_get_name,           ggml_op_desc,
        ggml_nelements,          ggml_nrows,
        ggml_nbytes,             ggml_backend_tensor_get,
        ggml_backend_tensor_set, llama_model_meta_val_str,
        llama_model_has_encoder, llama_model_has_decoder,
    };
    *edits = NULL;
    if (jola_cb_eval_init(&host, model, &spec, 1, &p.cb_eval, &p.cb_eval_user_data, edits)
            != JOLA_STATUS_OK) {
        return NULL;
    }
    struct llama_context * ctx = llama_init_from_model(model, p);
    CHECK(ctx);
    return ctx;
}

// What the callback costs: decoding with all layers edited by it, and edited in the graph,
// against decoding without edits, in turns.
static void print_cost(const char * all) {
    enum { TURNS = 21 };
    struct jola_cb_eval_edits * edits;
    struct llama_context * slow = by_callback(all, params(), &edits);
    struct llama_context * fast = create(), * plain = create();
    CHECK(slow && fast && plain && set(fast, all) == JOLA_STATUS_OK);
    double in_graph[TURNS], called[TURNS];
    for (int i = -1; i < TURNS; i++) {
        const double base = seconds(plain), a = seconds(fast) / base, b = seconds(slow) / base;
        if (i >= 0) { // the first turn warms up
            in_graph[i] = a;
            called[i] = b;
        }
    }
    qsort(in_graph, TURNS, sizeof *in_graph, by_value);
    qsort(called, TURNS, sizeof *called, by_value);
    printf("consumer: decoding, %d turns, median against no edits: in the graph %.3f, by callback "
           "%.3f\n", TURNS, in_graph[TURNS / 2], called[TURNS / 2]);
    llama_free(slow);
    llama_free(fast);
    llama_free(plain);
    jola_cb_eval_free(edits);
}

int main(int argc, char ** argv) {
    CHECK(argc == 7);
    const char * edit = argv[2], * other = argv[3], * wrong = argv[4];
    llama_log_set(quiet, NULL);
    ggml_backend_load_all_from_path(argv[6]);
    model = llama_model_load_from_file(argv[1], llama_model_default_params());
    CHECK(model);
    n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));
    check_texts(edit);

    // Contexts from before jola_start are not known.
    struct llama_context * ctx = create();
    CHECK(ctx);
    CHECK(set(ctx, edit) == JOLA_STATUS_CONTEXT);
    float * plain = logits(ctx);
    llama_free(ctx);

    // Set, change in place, change the layers, go back, clear; the graph is in use each time.
    jola_start();
    ctx = create();
    CHECK(ctx);
    CHECK(same(plain, logits(ctx)) && cached(ctx));
    CHECK(set(ctx, edit) == JOLA_STATUS_OK && !cached(ctx));
    float * edited = logits(ctx);
    CHECK(!same(plain, edited));
    if (dlsym(RTLD_DEFAULT, "llama_process")) {
        CHECK(same(edited, logits_of_process(ctx)));
    }
    char half[4096];
    snprintf(half, sizeof half, "%s:0.5", edit);
    CHECK(set(ctx, half) == JOLA_STATUS_OK && !cached(ctx));
    float * halved = logits(ctx);
    CHECK(!same(plain, halved) && !same(edited, halved));
    CHECK(set(ctx, other) == JOLA_STATUS_OK);
    float * another = logits(ctx);
    CHECK(!same(plain, another) && !same(edited, another));
    for (int i = 0; i < 3; i++) {
        CHECK(set(ctx, edit) == JOLA_STATUS_OK);
        CHECK(same(edited, logits(ctx)));
        CHECK(jola_clear_edits(ctx) == JOLA_STATUS_OK && !cached(ctx));
        CHECK(same(plain, logits(ctx)));
    }

    // What is refused leaves the context as it was.
    CHECK(set(ctx, half) == JOLA_STATUS_OK);
    CHECK(set(ctx, wrong) == JOLA_STATUS_MODEL);
    CHECK(set(ctx, "/no/such.gguf") == JOLA_STATUS_SIDECAR);
    CHECK(same(halved, logits(ctx)));

    // Edits of contexts to come, beside a context with others.
    CHECK(jola_set_default_edits(&edit, 1) == JOLA_STATUS_OK);
    struct llama_context * second = create();
    CHECK(second);
    CHECK(same(edited, logits(second)));
    CHECK(same(halved, logits(ctx)));

    // The user's control vector outlives changes of the edits.
    int n_embd = llama_model_n_embd(model), n_layer = llama_model_n_layer(model);
    size_t len = (size_t) n_embd * (n_layer - 1);
    float * vector = malloc(sizeof(float) * len);
    CHECK(vector);
    for (size_t i = 0; i < len; i++) {
        vector[i] = 0.05f * sinf((float) i);
    }
    CHECK(llama_set_adapter_cvec(second, vector, len, n_embd, 1, n_layer) == 0);
    float * steered = logits(second);
    CHECK(!same(edited, steered));
    CHECK(set(second, other) == JOLA_STATUS_OK);
    CHECK(!same(another, logits(second)));
    CHECK(set(second, edit) == JOLA_STATUS_OK);
    CHECK(same(steered, logits(second)));
    CHECK(llama_set_adapter_cvec(second, NULL, 0, 0, 0, 0) == 0);
    CHECK(set(second, other) == JOLA_STATUS_OK);
    CHECK(same(another, logits(second)));
    llama_free(second);

    CHECK(jola_set_default_edits(&wrong, 1) == JOLA_STATUS_OK);
    CHECK(jola_set_default_edits(NULL, 0) == JOLA_STATUS_OK);
    llama_free(ctx);

    // The callback route gives the same bits and calls the program's own callback.
    struct llama_context_params p = params();
    p.cb_eval = own_callback;
    p.cb_eval_user_data = &asked;
    struct jola_cb_eval_edits * edits;
    CHECK(!by_callback(wrong, p, &edits) && !edits);
    CHECK(strstr(jola_last_error(), "the edit is for 31 layers, the model has 30"));
    struct llama_context * called = by_callback(edit, p, &edits);
    CHECK(called);
    CHECK(jola_cb_eval_check(edits) == JOLA_STATUS_GRAPH);
    CHECK(same(edited, logits(called)));
    CHECK(asked > 0);
    CHECK(jola_cb_eval_check(edits) == JOLA_STATUS_OK);

    // Context shift moves cached keys; the edits before and after it are the same.
    ctx = create();
    CHECK(ctx);
    float * unedited = shifted(ctx);
    CHECK(set(ctx, edit) == JOLA_STATUS_OK);
    float * moved = shifted(ctx);
    CHECK(!same_row(unedited, moved) && same_row(moved, shifted(called)));
    CHECK(!same_row(moved, edited + (size_t) (N_TOKENS - 1) * n_vocab));
    llama_free(ctx);
    llama_free(called);
    jola_cb_eval_free(edits);

    print_cost(argv[5]);
    llama_model_free(model);
    puts("consumer: all checks passed");
    return 0;
}
