/** CRC32C (Castagnoli), as storage systems use it. */
#ifndef ADAMD_CLIENT_CRC32C_H
#define ADAMD_CLIENT_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/** Of what `crc` is of (0: nothing) and then `data`. */
uint32_t crc32c(uint32_t crc, const void *data, size_t size);

#endif
