/* To be forced in front of every C++ file of llama.cpp when it is built (-include); see the README.
 *
 * GCC before 15 tells its optimiser that _tile_loadconfig reads 8 bytes, though it reads 64, so the stores that fill the
 * rest may be dropped, and the program dies at its first AMX instruction. Here all 64 are named. The mark lets minisheep
 * see that the library was built this way; without it, AMX is not used (minisheep/engines/amx.py).
 */
#if defined(__cplusplus) && defined(__AMX_TILE__) && defined(__GNUC__)
#include <immintrin.h>
#undef _tile_loadconfig
#define _tile_loadconfig(config) __asm__ volatile("ldtilecfg %0" : : "m"(*(const char(*)[64])(config)))
extern "C" __attribute__((weak, used, visibility("default"))) int minisheep_amx_tile_config = 64;
#endif
