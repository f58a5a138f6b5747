// A program that has sidecars where llama.cpp takes LoRAs, as llama-server has them.
//
//     adapters MODEL EDIT OTHER_EDIT WRONG_EDIT BACKENDS FOLDER
//
// EDIT and OTHER_EDIT edit MODEL in different layers, WRONG_EDIT is for another model, BACKENDS
// is the folder of ggml's loadable backends, FOLDER one to write to. Exits with 1 at the first
// surprise.

#define _GNU_SOURCE // RTLD_DEFAULT

#include <dlfcn.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "ggml-backend.h"

// Not in every llama.cpp.
#pragma weak llama_batch_ext_init
#pragma weak llama_batch_ext_free
#pragma weak llama_batch_ext_clear
#pragma weak llama_batch_ext_add_token
#pragma weak llama_batch_ext_set_output_logits
#pragma weak llama_batch_ext_set_pos

enum { N_TOKENS = 12, N_SEQ = 4 };
static const llama_token TOKENS[N_TOKENS] = {4, 17, 88, 60, 32, 11, 28, 39, 52, 41, 90, 30};
static struct llama_model * model;
static struct llama_adapter_lora * adapters[2];
static int n_vocab;

static struct llama_context * create(void) {
    struct llama_context_params p = llama_context_default_params();
    p.n_ctx = 256;
    p.n_batch = 8; // less than what is computed anew at once
    p.n_ubatch = 8;
    p.n_seq_max = N_SEQ;
    p.kv_unified = true;
    p.n_threads = 1; // the machine may be busy: no threads that wait for each other
    p.n_threads_batch = 1;
    p.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    p.type_k = p.type_v = GGML_TYPE_F32;
    return llama_init_from_model(model, p);
}

static int choose(struct llama_context * ctx, float first, float second) {
    float scales[2] = {first, second};
    return llama_set_adapters_lora(ctx, adapters, 2, scales);
}

// Decodes one token of a sequence and returns the logits, which llama.cpp owns; null on failure.
static const float * step(struct llama_context * ctx, llama_seq_id seq, int pos, llama_token token) {
    struct llama_batch batch = llama_batch_init(1, 0, 1);
    batch.n_tokens = 1;
    batch.token[0] = token;
    batch.pos[0] = pos;
    batch.n_seq_id[0] = 1;
    batch.seq_id[0][0] = seq;
    batch.logits[0] = 1;
    const int status = llama_decode(ctx, batch);
    llama_batch_free(batch);
    return status == 0 ? llama_get_logits_ith(ctx, 0) : NULL;
}

// The same by llama_process.
static const float * process(struct llama_context * ctx, struct llama_batch_ext * batch, int pos, llama_token token) {
    llama_batch_ext_clear(batch);
    CHECK(llama_batch_ext_add_token(batch, 0, token) == 0);
    CHECK(llama_batch_ext_set_pos(batch, 0, &pos));
    CHECK(llama_batch_ext_set_output_logits(batch, 0, true));
    return llama_process(ctx, LLAMA_PROCESS_TYPE_DECODE, batch) == 0 ? llama_get_logits_ith(ctx, 0) : NULL;
}

// Reads tokens [from, to) into a sequence, one by one; returns the last logits, copied.
static float * read_tokens(struct llama_context * ctx, llama_seq_id seq, int from, int to) {
    const float * last = NULL;
    for (int i = from; i < to; i++) {
        last = step(ctx, seq, i, TOKENS[i]);
        CHECK(last);
    }
    float * copy = malloc(sizeof(float) * n_vocab);
    CHECK(copy);
    return memcpy(copy, last, sizeof(float) * n_vocab);
}

static bool equal(const float * a, const float * b) {
    return memcmp(a, b, sizeof(float) * n_vocab) == 0;
}

// Sums of other batch shapes differ in their last bits; other edits by far more.
static bool same(const float * a, const float * b) {
    float most = 0;
    for (int i = 0; i < n_vocab; i++) {
        most = fmaxf(most, fabsf(a[i] - b[i]));
    }
    return most < 1e-2f;
}

// All tokens under these strengths in a context of their own, by the C API.
static float * expected(const char * edit, float first, const char * other, float second) {
    static char specs[2][4096];
    const char * list[2] = {specs[0], specs[1]};
    size_t n = 0;
    if (first != 0) {
        snprintf(specs[n++], sizeof specs[0], "%s:%g", edit, first);
    }
    if (second != 0) {
        snprintf(specs[n++], sizeof specs[0], "%s:%g", other, second);
    }
    struct llama_context * ctx = create();
    CHECK(ctx && jola_set_edits(ctx, list, n) == JOLA_STATUS_OK);
    float * logits = read_tokens(ctx, 0, 0, N_TOKENS);
    llama_free(ctx);
    return logits;
}

int main(int argc, char ** argv) {
    CHECK(argc == 7);
    const char * edit = argv[2], * other = argv[3], * folder = argv[6];
    char path[4096];
    llama_log_set(quiet, NULL);
    ggml_backend_load_all_from_path(argv[5]);
    model = llama_model_load_from_file(argv[1], llama_model_default_params());
    CHECK(model);
    n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));
    // A context from before the first sidecar was loaded.
    struct llama_context * early = create();
    CHECK(early);
    float * unedited = read_tokens(early, 0, 0, N_TOKENS);

    // Loading, and what is refused.
    CHECK(!llama_adapter_lora_init(model, argv[4]));
    CHECK(!llama_adapter_lora_init(model, "missing.gguf"));
    CHECK(!llama_adapter_lora_init(model, argv[1]));
    adapters[0] = llama_adapter_lora_init(model, edit);
    adapters[1] = llama_adapter_lora_init(model, other);
    CHECK(adapters[0] && adapters[1]);
    char name[64];
    CHECK(llama_adapter_meta_val_str(adapters[0], "adapter.type", name, sizeof name) > 0);
    CHECK(strcmp(name, "lora") == 0);
    CHECK(llama_adapter_meta_val_str(adapters[0], "adapter.lora.task_name", name, sizeof name) == -1);
    CHECK(llama_adapter_get_alora_n_invocation_tokens(adapters[0]) == 0);
    // One sidecar twice is two adapters.
    struct llama_adapter_lora * twice = llama_adapter_lora_init(model, edit);
    CHECK(twice && twice != adapters[0]);
    llama_adapter_lora_free(twice);
    llama_adapter_lora_free(NULL);

    float * a = expected(edit, 1, other, 0), * b = expected(edit, 0, other, 1);
    float * both = expected(edit, 0.5f, other, -1);
    CHECK(!same(unedited, a) && !same(unedited, b) && !same(a, b) && !same(a, both));

    // The early context gets its rows when it is first given adapters; what it has cached is
    // computed anew.
    CHECK(choose(early, 1, 0) == 0);
    llama_memory_seq_rm(llama_get_memory(early), 0, N_TOKENS - 1, -1);
    CHECK(!step(early, 0, N_TOKENS - 1, TOKENS[N_TOKENS - 1])); // read before it was followed
    llama_memory_clear(llama_get_memory(early), true);
    CHECK(equal(read_tokens(early, 0, 0, N_TOKENS), a));
    llama_free(early);

    struct llama_context * ctx = create();
    CHECK(ctx);
    llama_memory_t memory = llama_get_memory(ctx);
    // No adapter is set yet.
    CHECK(equal(read_tokens(ctx, 0, 0, N_TOKENS), unedited));
    // Sequences of other adapters live side by side.
    CHECK(choose(ctx, 1, 0) == 0);
    free(read_tokens(ctx, 1, 0, N_TOKENS - 1));
    CHECK(choose(ctx, 0.5f, -1) == 0);
    free(read_tokens(ctx, 2, 0, N_TOKENS - 1));
    CHECK(choose(ctx, 1, 0) == 0);
    CHECK(same(read_tokens(ctx, 1, N_TOKENS - 1, N_TOKENS), a));
    CHECK(choose(ctx, 0.5f, -1) == 0);
    CHECK(same(read_tokens(ctx, 2, N_TOKENS - 1, N_TOKENS), both));
    // Going on with cells of other edits: computed anew, more than a batch of them.
    llama_memory_seq_rm(memory, 2, N_TOKENS - 1, -1);
    CHECK(choose(ctx, 0, 1) == 0);
    CHECK(same(read_tokens(ctx, 2, N_TOKENS - 1, N_TOKENS), b));
    // Copied cells keep what they are.
    llama_memory_seq_rm(memory, 3, -1, -1);
    llama_memory_seq_cp(memory, 1, 3, 0, N_TOKENS - 1);
    CHECK(same(read_tokens(ctx, 3, N_TOKENS - 1, N_TOKENS), b));
    llama_memory_seq_rm(memory, 3, N_TOKENS - 1, -1);
    CHECK(choose(ctx, 1, 0) == 0);
    CHECK(same(read_tokens(ctx, 3, N_TOKENS - 1, N_TOKENS), a));

    // Saved to memory and to files, loaded under other adapters.
    const size_t size = llama_state_seq_get_size(ctx, 3), all = llama_state_get_size(ctx);
    uint8_t * data = malloc(size), * context = malloc(all);
    CHECK(data && context);
    CHECK(llama_state_seq_get_data(ctx, data, size, 3) == size);
    CHECK(llama_state_get_data(ctx, context, all) == all);
    snprintf(path, sizeof path, "%s/slot.bin", folder);
    CHECK(llama_state_seq_save_file(ctx, path, 3, TOKENS, N_TOKENS) > 0);
    llama_memory_clear(memory, true);
    CHECK(choose(ctx, 0, 1) == 0);
    llama_token tokens[64];
    size_t count = 0;
    for (int kind = 0; kind < 3; kind++) {
        switch (kind) {
            case 0: CHECK(llama_state_seq_set_data(ctx, data, size, 2) == size); break;
            case 1: CHECK(llama_state_seq_load_file(ctx, path, 2, tokens, 64, &count) > 0); break;
            case 2: CHECK(llama_state_set_data(ctx, context, all) == all);
                    llama_memory_seq_cp(memory, 3, 2, -1, -1); break;
        }
        llama_memory_seq_rm(memory, 2, N_TOKENS - 1, -1);
        CHECK(same(read_tokens(ctx, 2, N_TOKENS - 1, N_TOKENS), b));
        llama_memory_clear(memory, true);
    }
    CHECK(count == N_TOKENS && tokens[3] == TOKENS[3]);
    // Data of somebody who knows nothing of edits: refused, unless the file tells the tokens.
    CHECK(llama_state_seq_set_data(ctx, data, size - 20, 1) > 0);
    llama_memory_seq_rm(memory, 1, N_TOKENS - 1, -1);
    CHECK(!step(ctx, 1, N_TOKENS - 1, TOKENS[N_TOKENS - 1]));
    llama_memory_seq_rm(memory, 1, -1, -1);
    CHECK(same(read_tokens(ctx, 1, 0, N_TOKENS), b));
    // A file of the whole context.
    snprintf(path, sizeof path, "%s/context.bin", folder);
    llama_memory_clear(memory, true);
    free(read_tokens(ctx, 0, 0, N_TOKENS - 1));
    CHECK(llama_state_save_file(ctx, path, TOKENS, N_TOKENS - 1));
    llama_memory_clear(memory, true);
    CHECK(choose(ctx, 1, 0) == 0);
    CHECK(llama_state_load_file(ctx, path, tokens, 64, &count) && count == N_TOKENS - 1);
    CHECK(same(read_tokens(ctx, 0, N_TOKENS - 1, N_TOKENS), a));

    // By llama_process. libjola has one for those that do, and must not look like it.
    const bool newer = dlsym(RTLD_DEFAULT, "llama_process");
    CHECK(newer == (dlsym(RTLD_DEFAULT, "llama_batch_ext_set_output_logits") != NULL));
    if (newer) {
        struct llama_batch_ext * batch = llama_batch_ext_init(ctx);
        CHECK(batch);
        llama_memory_clear(memory, true);
        const float * last = NULL;
        for (int i = 0; i < N_TOKENS; i++) {
            CHECK(choose(ctx, i + 1 < N_TOKENS ? 1 : 0, i + 1 < N_TOKENS ? 0 : 1) == 0);
            last = process(ctx, batch, i, TOKENS[i]);
            CHECK(last);
        }
        CHECK(same(last, b));
        llama_batch_ext_free(batch);
    }

    // What cannot be had fails the next computation, and only until something else is set.
    CHECK(choose(ctx, 3e38f, 3e38f) != 0);
    CHECK(!step(ctx, 1, 0, TOKENS[0]));
    CHECK(choose(ctx, NAN, 0) != 0);
    CHECK(!step(ctx, 1, 0, TOKENS[0]));
    CHECK(choose(ctx, 1, 0) == 0);
    llama_memory_clear(memory, true);
    CHECK(same(read_tokens(ctx, 1, 0, N_TOKENS), a));

    // Switching while the graph is in use: the times stand in the log.
    llama_memory_clear(memory, true);
    fputs("switching begins\n", stderr);
    for (int i = 0; i < 20; i++) {
        CHECK(choose(ctx, i % 2, 1 - i % 2) == 0);
        CHECK(step(ctx, i % 2, i / 2, TOKENS[i % N_TOKENS]));
    }
    puts("adapters: as expected");
    llama_free(ctx);
    llama_model_free(model);
    free(unedited), free(a), free(b), free(both), free(data), free(context);
}
