// llama.cpp's functions that throw: see jola-calls.h.

#include "jola-calls.h"

#include "jola-guard.hpp"

int32_t jola_model_load(const char * path, llama_model_params params, llama_model ** result) {
    return jola_guarded([&] { *result = llama_model_load_from_file(path, params); });
}

int32_t jola_context_init(llama_model * model, llama_context_params params, llama_context ** result) {
    return jola_guarded([&] { *result = llama_init_from_model(model, params); });
}

int32_t jola_adapter_lora_init(llama_model * model, const char * path, llama_adapter_lora ** result) {
    return jola_guarded([&] { *result = llama_adapter_lora_init(model, path); });
}

int32_t jola_set_adapters_lora(
    llama_context * ctx, llama_adapter_lora ** adapters, size_t n_adapters, float * scales, int32_t * result) {
    return jola_guarded([&] { *result = llama_set_adapters_lora(ctx, adapters, n_adapters, scales); });
}

int32_t jola_decode(llama_context * ctx, llama_batch batch, int32_t * result) {
    return jola_guarded([&] { *result = llama_decode(ctx, batch); });
}

int32_t jola_sample(llama_sampler * sampler, llama_context * ctx, int32_t index, llama_token * result) {
    return jola_guarded([&] { *result = llama_sampler_sample(sampler, ctx, index); });
}

int32_t jola_tokenize(
    const llama_vocab * vocab, const char * text, int32_t len, llama_token * tokens, int32_t n_tokens_max,
    bool add_special, bool parse_special, int32_t * result) {
    return jola_guarded(
        [&] { *result = llama_tokenize(vocab, text, len, tokens, n_tokens_max, add_special, parse_special); });
}

int32_t jola_token_to_piece(const llama_vocab * vocab, llama_token token, char * buf, int32_t len, int32_t * result) {
    return jola_guarded([&] { *result = llama_token_to_piece(vocab, token, buf, len, 0, false); });
}

int32_t jola_token_text(const llama_vocab * vocab, llama_token token, const char ** result) {
    return jola_guarded([&] { *result = llama_vocab_get_text(vocab, token); });
}

const char * jola_last_error(void) {
    return jola_guard_message;
}
