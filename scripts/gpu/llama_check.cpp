// What the checks ask of llama.cpp, of an edit too where the plugin brings one.
//
// usage: llama-check logits MODEL GPU_LAYERS TOKENS OUT ANSWER
//        llama-check speed MODEL GPU_LAYERS PROMPT DECODE REPEATS
//
// logits: writes the logits of every position of a text, and prints the ids of the ANSWER most
// likely tokens after it. TOKENS is a file of token ids with commas between them, OUT gets
// little-endian float32, [n_tokens, n_vocab].
// speed: computes a prompt of PROMPT tokens in one batch and DECODE tokens one by one, REPEATS
// times after a first one to warm up, as llama-bench does. Prints the seconds of each as JSON.
//
// Flash attention is off: its kernels are not compiled.

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "llama.h"

static void fail(const std::string & what) {
    fprintf(stderr, "error: %s\n", what.c_str());
    exit(1);
}

static std::vector<llama_token> read_tokens(const char * path) {
    std::ifstream file(path);
    std::vector<llama_token> tokens;
    std::string word;
    while (std::getline(file, word, ',')) {
        tokens.push_back(std::stoi(word));
    }
    if (tokens.empty()) {
        fail("no tokens");
    }
    return tokens;
}

struct Loaded {
    llama_model * model;
    llama_context * ctx;
    int n_vocab;

    Loaded(const char * path, int gpu_layers, int n_ctx, int n_batch) {
        ggml_backend_load_all();
        llama_model_params model_params = llama_model_default_params();
        model_params.n_gpu_layers = gpu_layers;
        model = llama_model_load_from_file(path, model_params);
        if (!model) {
            fail("the model cannot be loaded");
        }
        n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));
        llama_context_params params = llama_context_default_params();
        params.n_ctx = n_ctx;
        params.n_batch = n_batch;
        params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
        ctx = llama_init_from_model(model, params);
        if (!ctx) {
            fail("no context");
        }
    }

    ~Loaded() {
        llama_free(ctx);
        llama_model_free(model);
    }

    void decode(llama_batch batch) {
        if (llama_decode(ctx, batch) != 0) {
            fail("llama_decode");
        }
    }
};

static void logits(char ** argv) {
    std::vector<llama_token> tokens = read_tokens(argv[2]);
    const int n = (int) tokens.size(), answer = atoi(argv[4]);
    Loaded llama(argv[0], atoi(argv[1]), n + answer, n);
    llama_batch batch = llama_batch_init(n, 0, 1);
    batch.n_tokens = n;
    for (int i = 0; i < n; i++) {
        batch.token[i] = tokens[i];
        batch.pos[i] = i;
        batch.n_seq_id[i] = 1;
        batch.seq_id[i][0] = 0;
        batch.logits[i] = 1;
    }
    llama.decode(batch);
    llama_batch_free(batch);
    FILE * out = fopen(argv[3], "wb");
    if (!out) {
        fail("the output cannot be written");
    }
    const size_t n_vocab = llama.n_vocab;
    for (int i = 0; i < n; i++) {
        if (fwrite(llama_get_logits_ith(llama.ctx, i), sizeof(float), n_vocab, out) != n_vocab) {
            fail("the output cannot be written");
        }
    }
    fclose(out);

    for (int i = 0; i < answer; i++) {
        const float * found = llama_get_logits_ith(llama.ctx, -1);
        llama_token best = 0;
        for (llama_token t = 1; t < llama.n_vocab; t++) {
            if (found[t] > found[best]) {
                best = t;
            }
        }
        printf("%s%d", i == 0 ? "" : ",", best);
        llama.decode(llama_batch_get_one(&best, 1));
    }
    printf("\n");
}

static double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

static void print(const char * name, const std::vector<double> & seconds) {
    printf("\"%s\": [", name);
    for (size_t i = 0; i < seconds.size(); i++) {
        printf("%s%.9f", i == 0 ? "" : ", ", seconds[i]);
    }
    printf("]");
}

static void speed(char ** argv) {
    const int prompt = atoi(argv[2]), n_decode = atoi(argv[3]), repeats = atoi(argv[4]);
    Loaded llama(argv[0], atoi(argv[1]), prompt + n_decode, prompt);
    std::vector<llama_token> tokens(prompt);
    for (int i = 0; i < prompt; i++) {
        tokens[i] = (i * 7919 + 11) % llama.n_vocab;
    }
    std::vector<double> prefill, decode;
    for (int turn = 0; turn <= repeats; turn++) {
        llama_memory_clear(llama_get_memory(llama.ctx), true);
        llama_synchronize(llama.ctx);
        double begun = now();
        llama.decode(llama_batch_get_one(tokens.data(), prompt));
        llama_synchronize(llama.ctx);
        const double prompt_done = now();
        for (int i = 0; i < n_decode; i++) {
            llama.decode(llama_batch_get_one(&tokens[i % prompt], 1));
            llama_synchronize(llama.ctx);
        }
        if (turn > 0) {
            prefill.push_back(prompt_done - begun);
            decode.push_back(now() - prompt_done);
        }
    }
    printf("{");
    print("prefill", prefill);
    printf(", ");
    print("decode", decode);
    printf("}\n");
}

int main(int argc, char ** argv) {
    if (argc == 7 && strcmp(argv[1], "logits") == 0) {
        logits(argv + 2);
    } else if (argc == 7 && strcmp(argv[1], "speed") == 0) {
        speed(argv + 2);
    } else {
        fail("usage: llama-check logits MODEL GPU_LAYERS TOKENS OUT ANSWER, or speed MODEL GPU_LAYERS PROMPT DECODE REPEATS");
    }
    return 0;
}
