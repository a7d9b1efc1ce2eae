/** CRC-32 of zip archives (IEEE 802.3). */
#ifndef ADAMD_CRC32_H
#define ADAMD_CRC32_H

#include <stddef.h>
#include <stdint.h>

/**
 * Of what `crc` is of (0: of nothing), followed by `data`. Any thread. A size of 0 is allowed, and
 * then `data` may be NULL.
 */
uint32_t adamd_crc32(uint32_t crc, const void *data, size_t size);

#endif
