// The checksum of zip archives, by tables.
#include "adamd/crc32.h"

#include "crc_tables.h"

#include <pthread.h>

static struct crc_tables tables;
static pthread_once_t filled = PTHREAD_ONCE_INIT;

static void fill_tables(void) {
    crc_tables_fill(&tables, 0xEDB88320);
}

uint32_t adamd_crc32(uint32_t crc, const void *data, size_t size) {
    (void)pthread_once(&filled, fill_tables);
    return ~crc_tables_run(&tables, ~crc, data, size);
}
