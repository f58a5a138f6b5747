// The compiler's own header of this name, with one intrinsic corrected.
//
// That of g++ 12.2 tells the optimiser that `_tile_loadconfig` reads 8 of its 64 bytes. What
// llama.cpp wrote to the others is dropped, and on a processor with AMX the program dies at its
// first product with quantised weights. `.cargo/config.toml` puts this folder before the
// compiler's; with a g++ that has it right, nothing changes.
#include_next <amxtileintrin.h>

#undef _tile_loadconfig
#define _tile_loadconfig(config) __asm__ volatile("ldtilecfg\t%X0" ::"m"(*(const char(*)[64])(config)))
