// Writes the logits of every position of a text, and how llama.cpp goes on from it.
//
// usage: write-logits MODEL TOKENS OUT GPU_LAYERS ANSWER
//
// TOKENS is a file of token ids with commas between them, OUT gets little-endian float32,
// [n_tokens, n_vocab]. ANSWER tokens, the most likely one each, are printed as ids.

#include <cstdio>
#include <cstdlib>
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

int main(int argc, char ** argv) {
    if (argc != 6) {
        fail("usage: write-logits MODEL TOKENS OUT GPU_LAYERS ANSWER");
    }
    std::vector<llama_token> tokens = read_tokens(argv[2]);
    const int n = (int) tokens.size(), answer = atoi(argv[5]);
    ggml_backend_load_all();
    llama_model_params model_params = llama_model_default_params();
    model_params.n_gpu_layers = atoi(argv[4]);
    llama_model * model = llama_model_load_from_file(argv[1], model_params);
    if (!model) {
        fail("the model cannot be loaded");
    }
    const int n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));
    llama_context_params params = llama_context_default_params();
    params.n_ctx = n + answer;
    params.n_batch = n;
    llama_context * ctx = llama_init_from_model(model, params);
    if (!ctx) {
        fail("no context");
    }

    llama_batch batch = llama_batch_init(n, 0, 1);
    batch.n_tokens = n;
    for (int i = 0; i < n; i++) {
        batch.token[i] = tokens[i];
        batch.pos[i] = i;
        batch.n_seq_id[i] = 1;
        batch.seq_id[i][0] = 0;
        batch.logits[i] = 1;
    }
    if (llama_decode(ctx, batch) != 0) {
        fail("llama_decode");
    }
    FILE * out = fopen(argv[3], "wb");
    if (!out) {
        fail("the output cannot be written");
    }
    for (int i = 0; i < n; i++) {
        if (fwrite(llama_get_logits_ith(ctx, i), sizeof(float), n_vocab, out) != (size_t) n_vocab) {
            fail("the output cannot be written");
        }
    }
    fclose(out);

    for (int i = 0; i < answer; i++) {
        const float * logits = llama_get_logits_ith(ctx, -1);
        llama_token best = 0;
        for (llama_token t = 1; t < n_vocab; t++) {
            if (logits[t] > logits[best]) {
                best = t;
            }
        }
        printf("%s%d", i == 0 ? "" : ",", best);
        if (llama_decode(ctx, llama_batch_get_one(&best, 1)) != 0) {
            fail("llama_decode");
        }
    }
    printf("\n");
    llama_batch_free(batch);
    llama_free(ctx);
    llama_model_free(model);
    return 0;
}
