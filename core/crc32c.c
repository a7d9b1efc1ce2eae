// Eight bytes a step: by the CPU's own instruction, or by eight tables.
#include "adamd/crc32c.h"

#include <pthread.h>
#include <stdbool.h>
#include <string.h>

enum { TABLES = 8 };

static const uint32_t polynomial = 0x82F63B78; // reflected
static uint32_t tables[TABLES][256];           // [k]: k zero bytes further on
static pthread_once_t filled = PTHREAD_ONCE_INIT;

static void fill_tables(void) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;
        for (int bit = 0; bit < 8; bit++) {
            crc = crc >> 1 ^ (crc & 1 ? polynomial : 0);
        }
        tables[0][i] = crc;
    }
    for (uint32_t i = 0; i < 256; i++) {
        for (int k = 1; k < TABLES; k++) {
            const uint32_t before = tables[k - 1][i];
            tables[k][i] = before >> 8 ^ tables[0][before & 0xFF];
        }
    }
}

static uint32_t run_tables(uint32_t crc, const unsigned char *data, size_t size) {
    (void)pthread_once(&filled, fill_tables);
    for (; size >= TABLES; data += TABLES, size -= TABLES) {
        uint32_t next = 0;
        for (int k = 0; k < TABLES; k++) {
            const uint32_t byte = data[k] ^ (k < 4 ? crc >> (8 * k) & 0xFF : 0);
            next ^= tables[TABLES - 1 - k][byte];
        }
        crc = next;
    }
    for (; size > 0; data++, size--) {
        crc = crc >> 8 ^ tables[0][(crc ^ *data) & 0xFF];
    }
    return crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t
run_instruction(uint32_t crc, const unsigned char *data, size_t size) {
    uint64_t wide = crc;

    for (; size >= sizeof wide; data += sizeof wide, size -= sizeof wide) {
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

static bool has_instruction(void) {
    return __builtin_cpu_supports("sse4.2");
}
#else
static uint32_t run_instruction(uint32_t crc, const unsigned char *data, size_t size) {
    return run_tables(crc, data, size);
}

static bool has_instruction(void) {
    return false;
}
#endif

uint32_t adamd_crc32c_tables(uint32_t crc, const void *data, size_t size) {
    return ~run_tables(~crc, data, size);
}

uint32_t adamd_crc32c(uint32_t crc, const void *data, size_t size) {
    return has_instruction() ? ~run_instruction(~crc, data, size)
                             : adamd_crc32c_tables(crc, data, size);
}
