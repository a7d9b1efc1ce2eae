/** Step records as text: a JSON object a line, or a table. */
#ifndef ADAMD_SERVER_RECORDS_H
#define ADAMD_SERVER_RECORDS_H

#include "adamd/model.h"

enum records_format { RECORDS_JSONL, RECORDS_CSV };

const char *records_type(enum records_format format);

/** How far a reader has come. With only `after_version` set: at its start. */
struct records_at {
    uint64_t after_version; // records of this generation above it; 0: all
    uint64_t ordinal;       // the last record given
    bool started;           // after_version was passed: everything that follows is wanted
    bool titled;            // the table's first line was written
};

/** The next record for the reader, which then has it; NULL if there is none yet. */
const struct adamd_step_record *records_next(const struct adamd_model *model,
                                             struct records_at *at);

/** Zeroed but for `bytes_max` is empty. `bytes` ends with a NUL that `size` does not count. */
struct records_text {
    char *bytes;
    size_t size, capacity, bytes_max;
};
void records_text_finish(struct records_text *text);

/**
 * Appends up to `count_max` records, until the text has bytes_max bytes; `*ret_more` says that it
 * stopped for that. False for want of memory.
 */
bool records_write(const struct adamd_model *model, struct records_at *at,
                   enum records_format format, uint32_t count_max, struct records_text *text,
                   bool *ret_more);

#endif
