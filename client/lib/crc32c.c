// CRC32C: the processor's instruction where there is one, else a table. The table is made for each
// call, 2 KiB of arithmetic, since the library keeps no global state.

#include "crc32c.h"

#include <string.h>

static uint32_t run_table(uint32_t crc, const unsigned char *data, size_t size) {
    uint32_t table[256];

    for (uint32_t i = 0; i < 256; i++) {
        uint32_t value = i;
        for (unsigned bit = 0; bit < 8; bit++) {
            value = (value >> 1) ^ ((value & 1) != 0 ? 0x82f63b78u : 0);
        }
        table[i] = value;
    }
    for (size_t i = 0; i < size; i++) {
        crc = (crc >> 8) ^ table[(crc ^ data[i]) & 0xff];
    }
    return crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t run_sse(uint32_t crc, const unsigned char *data,
                                                          size_t size) {
    uint64_t wide = crc;

    for (; size >= 8; data += 8, size -= 8) {
        uint64_t word = 0;
        memcpy(&word, data, sizeof word);
        wide = __builtin_ia32_crc32di(wide, word);
    }
    crc = (uint32_t)wide;
    for (; size > 0; data++, size--) {
        crc = __builtin_ia32_crc32qi(crc, *data);
    }
    return crc;
}
#endif

uint32_t crc32c(uint32_t crc, const void *data, size_t size) {
    crc = ~crc;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("sse4.2")) {
        return ~run_sse(crc, data, size);
    }
#endif
    return ~run_table(crc, data, size);
}
