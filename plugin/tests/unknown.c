// A stand-in for llama.cpp versions that libjola cannot work with, and a program that uses it:
// with -DLIBRARY the library, else the program.
//
//     unknown new|old      "new": a version without functions that libjola needs
//                          "old": a version whose contexts are created in another way

#ifdef LIBRARY

struct ggml_tensor {
    const char * name;
    void * data;
};

struct llama_context_params {
    long fields[20];
};

const char * ggml_get_name(const struct ggml_tensor * tensor) {
    return tensor->name;
}

void * ggml_get_data(const struct ggml_tensor * tensor) {
    return tensor->data;
}

struct ggml_tensor * ggml_mul_mat(void * ctx, struct ggml_tensor * a, struct ggml_tensor * b) {
    (void) ctx;
    (void) a;
    return b;
}

void * llama_init_from_model(void * model, struct llama_context_params params) {
    return params.fields[19] == 19 ? model : 0;
}

int llama_eval(void) {
    static int data;
    struct ggml_tensor weight = {"blk.0.attn_output.weight", &data};
    struct ggml_tensor heads = {"KQV_merged_contiguous", 0};
    return ggml_mul_mat(0, &weight, &heads) == &heads ? 0 : -1;
}

#else

#include <stdio.h>
#include <string.h>

struct llama_context_params {
    long fields[20];
};

void * llama_init_from_model(void * model, struct llama_context_params params);
int llama_eval(void);

int main(int argc, char ** argv) {
    int model = 0;
    struct llama_context_params params = {{0}};
    params.fields[19] = 19;
    int ok;
    if (argc == 2 && strcmp(argv[1], "new") == 0) {
        ok = llama_init_from_model(&model, params) == &model;
    } else {
        ok = llama_eval() == 0;
    }
    if (!ok) {
        return 1;
    }
    puts("serving");
    return 0;
}

#endif
