// The head of a push, from the query or the content type.
#include "push_head.h"

#include "arguments.h"
#include "codec/json.h"
#include "codec/message.h"
#include "framed.h"

#include <inttypes.h>
#include <string.h>

static const char *const head_names[] = {"worker",     "epoch",   "sequence",
                                         "generation", "weight",  "layout_digest",
                                         "crc32c",     "replace", "base_version"};
enum { HEAD_NAMES_COUNT = sizeof head_names / sizeof head_names[0], REQUIRED_COUNT = 3 };

enum push_form push_form_of(const struct exchange *exchange) {
    const char *type = exchange_header(exchange, "Content-Type");

    if (type == NULL || content_type_is(type, "application/x-safetensors")) {
        return PUSH_SAFETENSORS;
    }
    if (content_type_is(type, "application/octet-stream")) {
        return PUSH_RAW;
    }
    return content_type_is(type, ADAMD_PUSH_TYPE) ? PUSH_FRAMED : PUSH_UNKNOWN;
}

struct metrics_reader {
    Adamd__V1__PushHeader *header;
    struct codec_arena *arena;
    enum adamd_status status;
    struct adamd_fault *fault;
};

static void add_metric(void *arg, const char *name, const char *value) {
    struct metrics_reader *reader = arg;

    if (reader->status == ADAMD_OK) {
        reader->status = codec_push_metric_add(reader->header, name + strlen("metric."), value,
                                               reader->arena, reader->fault);
    }
}

enum adamd_status push_head_of_query(struct exchange *exchange, struct codec_arena *arena,
                                     Adamd__V1__PushHeader **ret_header,
                                     struct adamd_fault *fault) {
    Adamd__V1__PushHeader *header = CODEC_NEW(arena, Adamd__V1__PushHeader, adamd__v1__push_header);

    if (header == NULL) {
        return adamd_fail_plain(fault, ADAMD_NO_MEMORY);
    }
    for (size_t i = 0; i < HEAD_NAMES_COUNT; i++) {
        const char *text = exchange_parameter(exchange, head_names[i]);
        if (text == NULL && i < REQUIRED_COUNT) {
            return adamd_fail(fault, ADAMD_BAD_FIELD, head_names[i],
                              "%s is required in the query: ?worker=w0&epoch=1&sequence=1",
                              head_names[i]);
        }
        if (text != NULL &&
            codec_json_set(&header->base, head_names[i], text, arena, fault) != ADAMD_OK) {
            return fault->status;
        }
    }
    struct metrics_reader reader = {header, arena, ADAMD_OK, fault};
    exchange_each_parameter(exchange, "metric.", add_metric, &reader);
    *ret_header = header;
    return reader.status;
}

enum adamd_status push_check_no_query(const struct exchange *exchange, struct adamd_fault *fault) {
    for (size_t i = 0; i < HEAD_NAMES_COUNT; i++) {
        if (exchange_parameter(exchange, head_names[i]) != NULL) {
            return adamd_fail(fault, ADAMD_BAD_FIELD, head_names[i],
                              "%s belongs into the PushHeader of the body, not into the query",
                              head_names[i]);
        }
    }
    return ADAMD_OK;
}

enum adamd_status push_check_worker(const struct served_model *served,
                                    const Adamd__V1__PushHeader *header,
                                    struct adamd_fault *fault) {
    const struct adamd_worker *worker =
        adamd_workers_find(adamd_model_workers(served->model), header->worker);

    if (worker == NULL) {
        return adamd_fail_plain(fault, ADAMD_UNKNOWN_WORKER);
    }
    if (header->epoch < worker->epoch) {
        (void)adamd_fail(fault, ADAMD_FENCED, "epoch",
                         "epoch %" PRIu64 " of worker \"%s\" ended: epoch %" PRIu64
                         " was given out",
                         header->epoch, worker->id, worker->epoch);
        adamd_fault_tell(fault, "current_epoch", "%" PRIu64, worker->epoch);
        return ADAMD_FENCED;
    }
    return ADAMD_OK;
}

void advise_registration(struct adamd_fault *fault, const struct served_model *served,
                         const char *worker) {
    const struct shown shown = show(worker);

    if (fault->status == ADAMD_UNKNOWN_WORKER) {
        (void)adamd_fail(fault, ADAMD_UNKNOWN_WORKER, "worker",
                         "worker \"%s\" is not registered: POST /v1/models/%s/workers?worker_id=%s "
                         "gives it an epoch",
                         shown.text, served->id, shown.text);
    }
}
