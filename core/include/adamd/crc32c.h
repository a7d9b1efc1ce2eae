/** CRC32C (Castagnoli): the checksum that a push names and that files carry. */
#ifndef ADAMD_CRC32C_H
#define ADAMD_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/**
 * Of what `crc` is of (0: of nothing), followed by `data`. Any thread. A size of 0 is allowed, and
 * then `data` may be NULL.
 */
uint32_t adamd_crc32c(uint32_t crc, const void *data, size_t size);

/** The same without the CPU's instruction: what machines without it run. */
uint32_t adamd_crc32c_tables(uint32_t crc, const void *data, size_t size);

#endif
