// A host for the plugin's tests: llama.cpp's C API alone, on the CPU, by llama_process.
//
// usage: client MODEL CONTEXT_SIZE THREADS [--lora FILE] [-ctk q8_0] [-ctv q8_0] [-fa on|off]
//
// Prints {"ready": true}, then answers each line {"n_predict":N,"n_probs":K,"tokens":[…]} of
// stdin with {"tokens": […], "top": [[[id, log-probability], …], …]}: the greedy continuation.

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "llama.h"

#define CHECK(condition)                                                    \
    do {                                                                    \
        if (!(condition)) {                                                 \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            exit(1);                                                        \
        }                                                                   \
    } while (0)

enum { MAX_TOKENS = 4096, MAX_TOP = 16 };

static void quiet(enum ggml_log_level level, const char * text, void * user) {
    (void) user;
    if (level >= GGML_LOG_LEVEL_WARN && level <= GGML_LOG_LEVEL_ERROR) {
        fputs(text, stderr);
    }
}

// What stands behind "KEY": in a line.
static const char * value(const char * line, const char * key) {
    char text[32];
    snprintf(text, sizeof(text), "\"%s\":", key);
    const char * found = strstr(line, text);
    CHECK(found);
    return found + strlen(text);
}

static int numbers(const char * text, llama_token * out) {
    int n = 0;
    CHECK(*text == '[');
    for (text++; *text && *text != ']'; text += *text == ',') {
        char * end;
        CHECK(n < MAX_TOKENS);
        out[n++] = (llama_token) strtol(text, &end, 10);
        CHECK(end != text);
        text = end;
    }
    return n;
}

// Computes tokens of sequence 0 from a position on.
static void compute(struct llama_context * ctx, struct llama_batch_ext * batch,
                    const llama_token * tokens, int n, llama_pos at) {
    llama_batch_ext_clear(batch);
    for (int i = 0; i < n; i++) {
        const int32_t index = llama_batch_ext_add_token(batch, 0, tokens[i]);
        const llama_pos pos = at + i;
        CHECK(index == i && llama_batch_ext_set_pos(batch, index, &pos));
        CHECK(llama_batch_ext_set_output_logits(batch, index, i == n - 1));
    }
    CHECK(llama_process(ctx, LLAMA_PROCESS_TYPE_DECODE, batch) == 0);
}

// The likeliest tokens, best first, with their log-probabilities.
static void best(const float * logits, int n_vocab, int n, llama_token * ids, double * log_probs) {
    double max = logits[0];
    for (int i = 1; i < n_vocab; i++) {
        max = fmax(max, logits[i]);
    }
    double sum = 0;
    for (int i = 0; i < n_vocab; i++) {
        sum += exp(logits[i] - max);
    }
    for (int k = 0; k < n; k++) {
        int found = -1;
        for (int i = 0; i < n_vocab; i++) {
            bool taken = false;
            for (int j = 0; j < k; j++) {
                taken = taken || ids[j] == i;
            }
            if (!taken && (found < 0 || logits[i] > logits[found])) {
                found = i;
            }
        }
        ids[k] = found;
        log_probs[k] = logits[found] - max - log(sum);
    }
}

static enum ggml_type cache_type(const char * name) {
    CHECK(strcmp(name, "q8_0") == 0);
    return GGML_TYPE_Q8_0;
}

int main(int argc, char ** argv) {
    CHECK(argc >= 4 && argc % 2 == 0);
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = (uint32_t) atoi(argv[2]);
    params.n_threads = params.n_threads_batch = atoi(argv[3]);
    const char * lora_path = NULL;
    for (int i = 4; i < argc; i += 2) {
        const char * given = argv[i + 1];
        if (strcmp(argv[i], "--lora") == 0) {
            lora_path = given;
        } else if (strcmp(argv[i], "-ctk") == 0) {
            params.type_k = cache_type(given);
        } else if (strcmp(argv[i], "-ctv") == 0) {
            params.type_v = cache_type(given);
        } else {
            CHECK(strcmp(argv[i], "-fa") == 0);
            params.flash_attn_type = strcmp(given, "on") == 0 ? LLAMA_FLASH_ATTN_TYPE_ENABLED
                                                              : LLAMA_FLASH_ATTN_TYPE_DISABLED;
        }
    }
    llama_log_set(quiet, NULL);
    struct llama_model_params model_params = llama_model_default_params();
    model_params.n_gpu_layers = 0;
    struct llama_model * model = llama_model_load_from_file(argv[1], model_params);
    CHECK(model);
    struct llama_context * ctx = llama_init_from_model(model, params);
    CHECK(ctx);
    if (lora_path) {
        struct llama_adapter_lora * lora = llama_adapter_lora_init(model, lora_path);
        CHECK(lora);
        float scale = 1;
        CHECK(llama_set_adapters_lora(ctx, &lora, 1, &scale) == 0);
    }
    const struct llama_vocab * vocab = llama_model_get_vocab(model);
    const int n_vocab = llama_vocab_n_tokens(vocab);
    struct llama_batch_ext * batch = llama_batch_ext_init(ctx);
    CHECK(batch);

    puts("{\"ready\": true}");
    fflush(stdout);
    static char line[16 * MAX_TOKENS];
    static llama_token tokens[MAX_TOKENS];
    while (fgets(line, sizeof(line), stdin)) {
        const int n_predict = atoi(value(line, "n_predict"));
        const int n_top = atoi(value(line, "n_probs"));
        const int n_prompt = numbers(value(line, "tokens"), tokens);
        CHECK(n_prompt > 0 && n_prompt + n_predict <= MAX_TOKENS && n_top <= MAX_TOP);
        llama_token ids[MAX_TOKENS][MAX_TOP];
        double log_probs[MAX_TOKENS][MAX_TOP];
        llama_memory_clear(llama_get_memory(ctx), true);
        compute(ctx, batch, tokens, n_prompt, 0);
        int n = 0;
        while (n < n_predict) {
            best(llama_get_logits_ith(ctx, -1), n_vocab, n_top, ids[n], log_probs[n]);
            const llama_token next = ids[n][0];
            if (llama_vocab_is_eog(vocab, next)) {
                break;
            }
            tokens[n_prompt + n++] = next;
            if (n < n_predict) {
                compute(ctx, batch, &next, 1, n_prompt + n - 1);
            }
        }
        printf("{\"tokens\": [");
        for (int i = 0; i < n; i++) {
            printf("%s%d", i ? ", " : "", tokens[n_prompt + i]);
        }
        printf("], \"top\": [");
        for (int i = 0; i < n; i++) {
            printf("%s[", i ? ", " : "");
            for (int k = 0; k < n_top; k++) {
                printf("%s[%d, %.9f]", k ? ", " : "", ids[i][k], log_probs[i][k]);
            }
            printf("]");
        }
        puts("]}");
        fflush(stdout);
    }
    llama_batch_ext_free(batch);
    llama_free(ctx);
    llama_model_free(model);
    return 0;
}
