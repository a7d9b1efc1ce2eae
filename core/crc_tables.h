/** A reflected CRC of 32 bits by tables, for any polynomial. For crc32.c and crc32c.c alone. */
#ifndef ADAMD_CRC_TABLES_H
#define ADAMD_CRC_TABLES_H

#include <stddef.h>
#include <stdint.h>

enum { CRC_TABLES = 16 }; // bytes a step

struct crc_tables {
    uint32_t of[CRC_TABLES][256]; // [k]: k zero bytes further on
};

void crc_tables_fill(struct crc_tables *tables, uint32_t reflected_polynomial);

/** Of `data`, going on from `crc`; neither is inverted. */
uint32_t crc_tables_run(const struct crc_tables *tables, uint32_t crc, const unsigned char *data,
                        size_t size);

#endif
