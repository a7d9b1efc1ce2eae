// By the CPU's own instruction, eight bytes a step, or by tables.
#include "adamd/crc32c.h"

#include "crc_tables.h"

#include <pthread.h>
#include <stdbool.h>
#include <string.h>

static struct crc_tables tables;
static pthread_once_t filled = PTHREAD_ONCE_INIT;

static void fill_tables(void) {
    crc_tables_fill(&tables, 0x82F63B78);
}

static uint32_t run_tables(uint32_t crc, const unsigned char *data, size_t size) {
    (void)pthread_once(&filled, fill_tables);
    return crc_tables_run(&tables, crc, data, size);
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
