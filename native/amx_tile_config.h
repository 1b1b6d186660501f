/* To be forced in front of every C++ file of llama.cpp when it is built (-include); see the README.
 *
 * GCC before 15 tells its optimiser that _tile_loadconfig reads 8 bytes, though it reads 64, so the stores that fill the
 * rest may be dropped, and the program dies at its first AMX instruction. Here all 64 are named.
 *
 * llama.cpp configures the tiles of a thread once. PyTorch configures and releases them in the same thread if it is in
 * the same process, after which llama.cpp would compute with the wrong tiles, or die. So what was loaded is kept for
 * each thread, and minisheep_amx_restore(), called before a decode, loads it again. Its name is also the mark by
 * which minisheep sees that the library was built this way; without it, AMX is not used (minisheep/machine/cpu.py).
 */
#if defined(__cplusplus) && defined(__AMX_TILE__) && defined(__GNUC__)
#include <immintrin.h>
#include <cstring>

inline thread_local char minisheep_tiles[64] = {};

static inline void minisheep_load_tiles(const void * config) {
    __asm__ volatile("ldtilecfg %0" : : "m"(*(const char(*)[64])(config)));
}

static inline void minisheep_keep_tiles(const void * config) {
    std::memcpy(minisheep_tiles, config, sizeof(minisheep_tiles));
    minisheep_load_tiles(config);
}

extern "C" __attribute__((weak, used, visibility("default"))) void minisheep_amx_restore(void) {
    if (minisheep_tiles[0] != 0) {
        minisheep_load_tiles(minisheep_tiles);
    }
}

#undef _tile_loadconfig
#define _tile_loadconfig(config) minisheep_keep_tiles(config)
#endif
