// Step records to lines.
#include "records.h"

#include "codec/convert.h"
#include "codec/json.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *records_type(enum records_format format) {
    return format == RECORDS_CSV ? "text/csv" : "application/jsonl";
}

void records_text_finish(struct records_text *text) {
    free(text->bytes);
    *text = (struct records_text){0};
}

const struct adamd_step_record *records_next(const struct adamd_model *model,
                                             struct records_at *at) {
    const uint64_t generation = adamd_model_info(model, 0).generation;
    const struct adamd_step_record *record = adamd_model_next_record(model, at->ordinal);

    // A restore may have gone back, so versions of an earlier generation say nothing.
    while (record != NULL && !at->started && at->after_version > 0 &&
           (record->generation != generation || record->version <= at->after_version)) {
        at->ordinal = record->ordinal;
        record = adamd_model_next_record(model, at->ordinal);
    }
    if (record != NULL) {
        at->ordinal = record->ordinal;
        at->started = true;
    }
    return record;
}

static bool append(struct records_text *text, const char *bytes, size_t size) {
    if (size + 1 > text->capacity - text->size) {
        const size_t capacity = 2 * text->capacity + size + 4096;
        char *grown = realloc(text->bytes, capacity);
        if (grown == NULL) {
            return false;
        }
        text->bytes = grown;
        text->capacity = capacity;
    }
    memcpy(text->bytes + text->size, bytes, size);
    text->size += size;
    text->bytes[text->size] = '\0';
    return true;
}

static bool append_json(struct records_text *text, const struct adamd_step_record *record) {
    struct codec_arena arena = {0};
    const Adamd__V1__StepRecord *message = codec_record_message(&arena, record);
    char *line = NULL;
    size_t size = 0;
    const bool whole = message != NULL &&
                       codec_json_print(&message->base, 0, &line, &size) == ADAMD_OK &&
                       append(text, line, size) && append(text, "\n", 1);

    free(line);
    codec_arena_finish(&arena);
    return whole;
}

// Metrics differ from push to push, so a table leaves them to the JSON form, but for the loss.
static bool append_csv(struct records_text *text, const struct adamd_step_record *record) {
    char line[512];
    char loss[40] = "";

    for (uint32_t i = 0; i < record->metric_count; i++) {
        if (strcmp(record->metrics[i].key, "loss") == 0) {
            snprintf(loss, sizeof loss, "%.17g", record->metrics[i].value);
        }
    }
    const int size =
        snprintf(line, sizeof line,
                 "%" PRIu64 ",%" PRIu64 ",%" PRIu64 ".%09" PRIu64 ",%" PRIu32
                 ",%.17g,%.17g,%.17g,%s,%s,%.6f,%.6f\n",
                 record->generation, record->version, record->time_unix_ns / 1000000000U,
                 record->time_unix_ns % 1000000000U, record->contribution_count, record->weight,
                 record->grad_norm, record->lr, loss, record->skipped ? "true" : "false",
                 (double)record->barrier_ns / 1e9, (double)record->update_ns / 1e9);

    return append(text, line, (size_t)size);
}

static bool append_title(struct records_text *text, struct records_at *at) {
    static const char title[] = "generation,version,time,contributors,weight,grad_norm,lr,loss,"
                                "skipped,barrier_seconds,update_seconds\n";

    at->titled = true;
    return append(text, title, sizeof title - 1);
}

bool records_write(const struct adamd_model *model, struct records_at *at,
                   enum records_format format, uint32_t count_max, struct records_text *text,
                   bool *ret_more) {
    *ret_more = false;
    if (format == RECORDS_CSV && !at->titled && !append_title(text, at)) {
        return false;
    }
    for (uint32_t i = 0; i < count_max; i++) {
        const struct adamd_step_record *record = records_next(model, at);
        if (record == NULL) {
            return true;
        }
        if (!(format == RECORDS_CSV ? append_csv : append_json)(text, record)) {
            return false;
        }
        if (text->size >= text->bytes_max) {
            *ret_more = true;
            return true;
        }
    }
    return true;
}
