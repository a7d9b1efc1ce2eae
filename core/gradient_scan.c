// Looks for what is not finite, and how large the rest can be, while the bytes are in the cache.
// A float's upper half without its sign is a signed 16-bit number that orders as the float does,
// and SSE2 has a maximum of those. It runs on the loop's thread at several GB/s; gcc does not find
// the instruction, and its code was three to five times slower, hence the intrinsics.
#include "model_impl.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

static uint16_t magnitude(const unsigned char *half) {
    uint16_t bits;

    memcpy(&bits, half, sizeof bits);
    return bits & 0x7fff;
}

#ifdef __SSE2__

enum { BLOCK_FLOATS = 16 };

static uint16_t scan_blocks(const unsigned char *floats, size_t blocks, uint16_t max_half) {
    const __m128i mask = _mm_set1_epi32(0x7fff0000);
    __m128i even = _mm_setzero_si128();
    __m128i odd = _mm_setzero_si128();
    uint16_t lanes[8];

    for (size_t i = 0; i < blocks; i++) {
        const __m128i *at = (const __m128i *)(const void *)floats + 4 * i;
        even = _mm_max_epi16(even, _mm_and_si128(_mm_loadu_si128(at), mask));
        odd = _mm_max_epi16(odd, _mm_and_si128(_mm_loadu_si128(at + 1), mask));
        even = _mm_max_epi16(even, _mm_and_si128(_mm_loadu_si128(at + 2), mask));
        odd = _mm_max_epi16(odd, _mm_and_si128(_mm_loadu_si128(at + 3), mask));
    }
    _mm_storeu_si128((__m128i *)(void *)lanes, _mm_max_epi16(even, odd));
    for (int lane = 0; lane < 8; lane++) {
        max_half = lanes[lane] > max_half ? lanes[lane] : max_half;
    }
    return max_half;
}

#else

enum { BLOCK_FLOATS = 1 };

static uint16_t scan_blocks(const unsigned char *floats, size_t blocks, uint16_t max_half) {
    for (size_t i = 0; i < blocks; i++) {
        const uint16_t half = magnitude(floats + i * sizeof(float) + 2);
        max_half = half > max_half ? half : max_half;
    }
    return max_half;
}

#endif

uint16_t scan_floats(const unsigned char *floats, size_t count, uint16_t max_half) {
    const size_t blocks = count / BLOCK_FLOATS;

    max_half = scan_blocks(floats, blocks, max_half);
    for (size_t i = blocks * BLOCK_FLOATS; i < count; i++) {
        const uint16_t half = magnitude(floats + i * sizeof(float) + 2);
        max_half = half > max_half ? half : max_half;
    }
    return max_half;
}
