// Sixteen bytes a step, by sixteen tables.
#include "adamd/crc32.h"

#include <pthread.h>

enum { TABLES = 16 };

static const uint32_t polynomial = 0xEDB88320; // reflected
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

uint32_t adamd_crc32(uint32_t crc, const void *data, size_t size) {
    const unsigned char *at = data;

    (void)pthread_once(&filled, fill_tables);
    crc = ~crc;
    for (; size >= TABLES; at += TABLES, size -= TABLES) {
        uint32_t next = 0;
        for (int k = 0; k < TABLES; k++) {
            const uint32_t byte = at[k] ^ (k < 4 ? crc >> (8 * k) & 0xFF : 0);
            next ^= tables[TABLES - 1 - k][byte];
        }
        crc = next;
    }
    for (; size > 0; at++, size--) {
        crc = crc >> 8 ^ tables[0][(crc ^ *at) & 0xFF];
    }
    return ~crc;
}
