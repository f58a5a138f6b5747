// What the C programs of these tests share.

#pragma once

#include <stdio.h>
#include <stdlib.h>

#include "jola.h"
#include "llama.h"

#define CHECK(condition)                                                                   \
    do {                                                                                   \
        if (!(condition)) {                                                                \
            fprintf(stderr, "%s:%d: %s (last error: %s)\n", __FILE__, __LINE__, #condition, \
                    jola_last_error());                                                    \
            exit(1);                                                                       \
        }                                                                                  \
    } while (0)

static void quiet(enum ggml_log_level level, const char * text, void * user) {
    (void) user;
    if (level == GGML_LOG_LEVEL_ERROR) {
        fputs(text, stderr);
    }
}
