// A program that lives on when a decode ends in a C++ exception, as llama-server does.
//
//     throwing MODEL BACKENDS
//
// BACKENDS is the folder of ggml's loadable backends.

#include <cmath>
#include <stdexcept>

extern "C" {
#include "check.h"
#include "ggml-backend.h"
#include "llama.h"
}

static bool armed;

// Called for every tensor of a graph; the exception goes through llama_decode.
static bool looked_at(ggml_tensor *, bool, void *) {
    if (armed) {
        throw std::runtime_error("no memory");
    }
    return false;
}

int main(int argc, char ** argv) {
    CHECK(argc == 3);
    llama_log_set(quiet, nullptr);
    ggml_backend_load_all_from_path(argv[2]);
    llama_model * model = llama_model_load_from_file(argv[1], llama_model_default_params());
    CHECK(model);
    llama_context_params params = llama_context_default_params();
    params.n_ctx = 64;
    params.n_threads = params.n_threads_batch = 1; // the machine may be busy
    params.cb_eval = looked_at;
    llama_context * context = llama_init_from_model(model, params);
    CHECK(context);
    llama_token token = 504;
    for (int request = 0; request < 3; request++) {
        armed = request == 1;
        bool failed = false;
        llama_memory_clear(llama_get_memory(context), true);
        try {
            CHECK(llama_decode(context, llama_batch_get_one(&token, 1)) == 0);
            CHECK(std::isfinite(llama_get_logits_ith(context, -1)[0]));
        } catch (const std::runtime_error &) {
            failed = true;
        }
        CHECK(failed == armed);
    }
    puts("two requests served, one failed");
    llama_free(context);
    llama_model_free(model);
}
