// llama.cpp's functions that throw, with exceptions as messages: each calls the function of
// llama.h that it is named after. Most of llama.h catches what it throws, these do not, or not
// everything: a graph that cannot be allocated, a token id that the vocabulary does not have.
//
// Each returns 0 and sets *result, or returns -1 with a message in jola_last_error().

#pragma once

#include "llama.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

int32_t jola_model_load(const char * path, struct llama_model_params params, struct llama_model ** result);

int32_t jola_context_init(struct llama_model * model, struct llama_context_params params, struct llama_context ** result);

int32_t jola_adapter_lora_init(struct llama_model * model, const char * path, struct llama_adapter_lora ** result);

int32_t jola_set_adapters_lora(
    struct llama_context * ctx, struct llama_adapter_lora ** adapters, size_t n_adapters, float * scales, int32_t * result);

int32_t jola_decode(struct llama_context * ctx, struct llama_batch batch, int32_t * result);

int32_t jola_sample(struct llama_sampler * sampler, struct llama_context * ctx, int32_t index, llama_token * result);

int32_t jola_tokenize(
    const struct llama_vocab * vocab, const char * text, int32_t len, llama_token * tokens, int32_t n_tokens_max,
    bool add_special, bool parse_special, int32_t * result);

int32_t jola_token_to_piece(const struct llama_vocab * vocab, llama_token token, char * buf, int32_t len, int32_t * result);

int32_t jola_token_text(const struct llama_vocab * vocab, llama_token token, const char ** result);

// The calling thread's last message, of these functions and of the hook's; never NULL.
const char * jola_last_error(void);

#ifdef __cplusplus
}
#endif
