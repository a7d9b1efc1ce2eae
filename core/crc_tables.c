// Sixteen bytes a step, by sixteen tables.
#include "crc_tables.h"

void crc_tables_fill(struct crc_tables *tables, uint32_t reflected_polynomial) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;
        for (int bit = 0; bit < 8; bit++) {
            crc = crc >> 1 ^ (crc & 1 ? reflected_polynomial : 0);
        }
        tables->of[0][i] = crc;
    }
    for (uint32_t i = 0; i < 256; i++) {
        for (int k = 1; k < CRC_TABLES; k++) {
            const uint32_t before = tables->of[k - 1][i];
            tables->of[k][i] = before >> 8 ^ tables->of[0][before & 0xFF];
        }
    }
}

uint32_t crc_tables_run(const struct crc_tables *tables, uint32_t crc, const unsigned char *data,
                        size_t size) {
    for (; size >= CRC_TABLES; data += CRC_TABLES, size -= CRC_TABLES) {
        uint32_t next = 0;
        for (int k = 0; k < CRC_TABLES; k++) {
            const uint32_t byte = data[k] ^ (k < 4 ? crc >> (8 * k) & 0xFF : 0);
            next ^= tables->of[CRC_TABLES - 1 - k][byte];
        }
        crc = next;
    }
    for (; size > 0; data++, size--) {
        crc = crc >> 8 ^ tables->of[0][(crc ^ *data) & 0xFF];
    }
    return crc;
}
