// The compiler's own header of this name, with one intrinsic corrected.
//
// g++ before 12.4, 13.3 and 14 (GCC bug 114098) lets `_tile_loadconfig` read 8 of its 64
// bytes. The optimiser then drops what llama.cpp wrote to the others, and on a processor with
// AMX the program dies at its first matrix product. `.cargo/config.toml` puts this folder
// before the compiler's.
#include_next <amxtileintrin.h>

#undef _tile_loadconfig
#define _tile_loadconfig(config) __asm__ volatile("ldtilecfg\t%X0" ::"m"(*(const char(*)[64])(config)))
