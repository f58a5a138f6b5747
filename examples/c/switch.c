// Edits in a C program of your own: one context that writes without an edit, with it, and
// without it again. To build it, on one line, and to run it:
//
//     cc -o switch examples/c/switch.c -I plugin -I LLAMA_CPP/include -I LLAMA_CPP/ggml/include
//         -L target/release -ljola -L LLAMA_CPP/build/bin -lllama -lggml -lggml-base
//     ./switch base.gguf edit.gguf 'Message: Where is my parcel?'
//
// LLAMA_CPP is a build of llama.cpp with shared libraries. libjola stands before them: the
// dynamic linker has to find its functions first.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "jola.h"
#include "llama.h"

enum { CONTEXT = 512, ANSWER = 16 };

static void fail(const char * what) {
    fprintf(stderr, "error: %s\n", what);
    exit(1);
}

static void quiet(enum ggml_log_level level, const char * text, void * user) {
    (void) user;
    if (level == GGML_LOG_LEVEL_ERROR) {
        fputs(text, stderr);
    }
}

// The most likely next token.
static llama_token best(struct llama_context * ctx, int n_vocab) {
    const float * logits = llama_get_logits_ith(ctx, -1);
    llama_token token = 0;
    for (llama_token i = 1; i < n_vocab; i++) {
        if (logits[i] > logits[token]) {
            token = i;
        }
    }
    return token;
}

// Prints the most likely continuation on a line of its own.
static void answer(struct llama_context * ctx, const char * prompt) {
    const struct llama_vocab * vocab = llama_model_get_vocab(llama_get_model(ctx));
    llama_token tokens[CONTEXT - ANSWER];
    const int n = llama_tokenize(vocab, prompt, (int) strlen(prompt), tokens, CONTEXT - ANSWER,
                                 true, true);
    if (n < 1) {
        fail("the prompt is empty or too long");
    }
    // What the context holds was computed with other edits: setting edits drops it, and the
    // next text starts at position 0 anyway.
    llama_memory_clear(llama_get_memory(ctx), true);
    struct llama_batch batch = llama_batch_get_one(tokens, n);
    for (int i = 0; i < ANSWER; i++) {
        if (llama_decode(ctx, batch) != 0) {
            fail("llama_decode");
        }
        llama_token token = best(ctx, llama_vocab_n_tokens(vocab));
        if (llama_vocab_is_eog(vocab, token)) {
            break;
        }
        char piece[256];
        const int length = llama_token_to_piece(vocab, token, piece, sizeof piece, 0, false);
        for (int j = 0; j < length; j++) {
            putchar(piece[j] == '\n' ? ' ' : piece[j]);
        }
        tokens[0] = token;
        batch = llama_batch_get_one(tokens, 1);
    }
    putchar('\n');
}

int main(int argc, char ** argv) {
    if (argc != 4) {
        fail("usage: switch BASE.gguf EDIT.gguf[:STRENGTH] PROMPT");
    }
    const char * prompt = argv[3];
    llama_log_set(quiet, NULL);
    ggml_backend_load_all();
    struct llama_model * model = llama_model_load_from_file(argv[1], llama_model_default_params());
    if (!model) {
        fail("the base model cannot be loaded");
    }
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = CONTEXT;

    // Once, before the first context: libjola then knows each context that is created.
    jola_start();
    struct llama_context * ctx = llama_init_from_model(model, params);
    if (!ctx) {
        fail("no context");
    }
    answer(ctx, prompt);

    // As many edits as you like, each FILE or FILE:STRENGTH, applied in this order.
    const char * edits[] = {argv[2]};
    if (jola_set_edits(ctx, edits, 1) != JOLA_STATUS_OK) {
        fail(jola_last_error());
    }
    answer(ctx, prompt);

    jola_clear_edits(ctx);
    answer(ctx, prompt);

    llama_free(ctx);
    llama_model_free(model);
    return 0;
}
