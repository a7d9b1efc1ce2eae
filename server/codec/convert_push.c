// The head of a push, and its answer.
#include "codec/convert.h"

#include "codec/fields.h"
#include "codec/message.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void codec_digest_text(const uint64_t digest[2], char ret_text[33]) {
    (void)snprintf(ret_text, 33, "%016" PRIx64 "%016" PRIx64, digest[0], digest[1]);
}

static bool read_word(const char *text, uint64_t *ret_word) {
    uint64_t word = 0;

    for (unsigned i = 0; i < 16; i++) {
        const char c = text[i];
        unsigned digit = 16;
        if (c >= '0' && c <= '9') {
            digit = (unsigned)(c - '0');
        } else if (c >= 'a' && c <= 'f') {
            digit = (unsigned)(c - 'a') + 10;
        } else if (c >= 'A' && c <= 'F') {
            digit = (unsigned)(c - 'A') + 10;
        }
        if (digit > 15) {
            return false;
        }
        word = word << 4 | digit;
    }
    *ret_word = word;
    return true;
}

bool codec_digest_read(const char *text, uint64_t ret_digest[2]) {
    uint64_t digest[2];

    if (strlen(text) != 32 || !read_word(text, &digest[0]) || !read_word(text + 16, &digest[1])) {
        return false;
    }
    memcpy(ret_digest, digest, sizeof digest);
    return true;
}

static enum adamd_status check_layout(const Adamd__V1__PushHeader *message,
                                      const struct adamd_layout *layout,
                                      struct adamd_fault *fault) {
    char expected[33];
    uint64_t digest[2];

    if (message->layout_digest[0] == 0) {
        return ADAMD_OK;
    }
    if (!codec_digest_read(message->layout_digest, digest)) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, "layout_digest",
                          "layout_digest is not 32 hex digits");
    }
    if (digest[0] == layout->digest[0] && digest[1] == layout->digest[1]) {
        return ADAMD_OK;
    }
    codec_digest_text(layout->digest, expected);
    (void)adamd_fail(fault, ADAMD_LAYOUT_MISMATCH, "layout_digest",
                     "the worker's tensors are not the model's, whose digest is %s", expected);
    adamd_fault_tell(fault, "layout_digest", "%s", expected);
    return ADAMD_LAYOUT_MISMATCH;
}

static enum adamd_status check_metric_key(const char *key, struct adamd_fault *fault) {
    const size_t size = strlen(key);

    if (size == 0 || size > ADAMD_METRIC_KEY_MAX) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, "metrics",
                          "the key of a metric has 1 to %d bytes", ADAMD_METRIC_KEY_MAX);
    }
    return ADAMD_OK;
}

static enum adamd_status check_metric_count(size_t count, struct adamd_fault *fault) {
    if (count > ADAMD_METRICS_MAX) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, "metrics", "more than %d metrics",
                          ADAMD_METRICS_MAX);
    }
    return ADAMD_OK;
}

static enum adamd_status read_metrics(const Adamd__V1__PushHeader *message,
                                      struct codec_arena *arena, struct adamd_push_head *head,
                                      struct adamd_fault *fault) {
    enum adamd_status status = check_metric_count(message->n_metrics, fault);

    if (status != ADAMD_OK) {
        return status;
    }
    struct adamd_metric *metrics = codec_arena_array(arena, message->n_metrics, sizeof *metrics);
    if (metrics == NULL) {
        return adamd_fail_plain(fault, ADAMD_NO_MEMORY);
    }
    for (size_t i = 0; i < message->n_metrics; i++) {
        status = check_metric_key(message->metrics[i]->key, fault);
        if (status != ADAMD_OK) {
            return status;
        }
        (void)snprintf(metrics[i].key, sizeof metrics[i].key, "%s", message->metrics[i]->key);
        metrics[i].value = message->metrics[i]->value;
    }
    head->metrics = metrics;
    head->metric_count = (uint32_t)message->n_metrics;
    return ADAMD_OK;
}

// What is said of the bytes is true of every tensor that is pushed. Indices past the table are for
// core to refuse.
static enum adamd_status check_data_type(const Adamd__V1__PushHeader *message,
                                         const struct adamd_layout *layout,
                                         struct adamd_fault *fault) {
    const size_t count = message->n_tensors > 0 ? message->n_tensors : layout->tensor_count;
    enum adamd_dtype dtype = ADAMD_FLOAT32;

    if (message->data_type == ADAMD__V1__DATA_TYPE__DATA_TYPE_UNSPECIFIED) {
        return ADAMD_OK;
    }
    if (!codec_dtype_read(message->data_type, &dtype)) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, "data_type", "there is no data type %d",
                          (int)message->data_type);
    }
    for (size_t i = 0; i < count; i++) {
        const size_t index = message->n_tensors > 0 ? message->tensors[i] : i;
        const struct adamd_tensor *tensor = &layout->tensors[index];
        if (index < layout->tensor_count && tensor->dtype != dtype) {
            return adamd_fail(fault, ADAMD_LAYOUT_MISMATCH, "data_type",
                              "the gradient is %s, but tensor \"%.120s\" is %s",
                              adamd_dtype_name(dtype), tensor->key,
                              adamd_dtype_name(tensor->dtype));
        }
    }
    return ADAMD_OK;
}

enum adamd_status codec_push_head_read(const Adamd__V1__PushHeader *message,
                                       const struct adamd_layout *layout, struct codec_arena *arena,
                                       struct adamd_push_head *ret_head,
                                       struct adamd_fault *fault) {
    struct adamd_push_head head = {
        .worker = message->worker,
        .generation = message->generation,
        .epoch = message->epoch,
        .sequence = message->sequence,
        .has_base_version = message->base_version_oneof_case != 0,
        .weight = 1,
        .tensors = message->n_tensors > 0 ? message->tensors : NULL,
        .tensor_count = (uint32_t)message->n_tensors,
        .byte_size = message->byte_size,
        .crc32c = message->crc32c,
        .replace = message->replace != 0,
    };

    if (message->n_tensors > layout->tensor_count) {
        return adamd_fail(fault, ADAMD_LAYOUT_MISMATCH, "tensors",
                          "%zu tensors, but the model has %" PRIu32, message->n_tensors,
                          layout->tensor_count);
    }
    if (head.has_base_version) {
        head.base_version = message->base_version;
    }
    if (message->weight_oneof_case != 0) {
        head.weight = message->weight;
    }
    if (!(head.weight > 0) || !isfinite(head.weight)) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, "weight",
                          "weight is not a finite number above 0");
    }
    enum adamd_status status = check_layout(message, layout, fault);
    if (status == ADAMD_OK) {
        status = check_data_type(message, layout, fault);
    }
    if (status == ADAMD_OK) {
        status = read_metrics(message, arena, &head, fault);
    }
    if (status == ADAMD_OK) {
        *ret_head = head;
    }
    return status;
}

// A number as in JSON or a loss that diverged: strtod() alone would take hexadecimal and spaces.
static bool read_metric_value(const char *text, double *ret_value) {
    char *end = NULL;

    if (strcmp(text, "NaN") != 0 && strcmp(text, "Infinity") != 0 &&
        strcmp(text, "-Infinity") != 0 &&
        (text[0] == 0 || strspn(text, "0123456789+-.eE") != strlen(text))) {
        return false;
    }
    *ret_value = strtod(text, &end);
    return *end == 0;
}

enum adamd_status codec_push_metric_add(Adamd__V1__PushHeader *header, const char *key,
                                        const char *value, struct codec_arena *arena,
                                        struct adamd_fault *fault) {
    enum adamd_status status = check_metric_key(key, fault);
    char field[96];

    if (status == ADAMD_OK) {
        status = check_metric_count(header->n_metrics + 1, fault);
    }
    if (status != ADAMD_OK) {
        return status;
    }
    if (header->n_metrics == 0) {
        header->metrics = codec_arena_array(arena, ADAMD_METRICS_MAX, sizeof(Adamd__V1__Metric *));
    }
    Adamd__V1__Metric *metric = CODEC_NEW(arena, Adamd__V1__Metric, adamd__v1__metric);
    char *copy = codec_arena_copy(arena, key, strlen(key));
    if (header->metrics == NULL || metric == NULL || copy == NULL) {
        return adamd_fail_plain(fault, ADAMD_NO_MEMORY);
    }
    if (!read_metric_value(value, &metric->value)) {
        (void)snprintf(field, sizeof field, "metric.%s", key);
        return adamd_fail(fault, ADAMD_BAD_FIELD, field, "%s is not a number: \"%.40s\"", field,
                          value);
    }
    metric->key = copy;
    header->metrics[header->n_metrics++] = metric;
    return ADAMD_OK;
}

Adamd__V1__PushOutcome codec_outcome_of(enum adamd_outcome_kind kind) {
    switch (kind) {
    case ADAMD_APPLIED:
        return ADAMD__V1__PUSH_OUTCOME__PUSH_OUTCOME_APPLIED;
    case ADAMD_STAGED:
        return ADAMD__V1__PUSH_OUTCOME__PUSH_OUTCOME_STAGED;
    case ADAMD_SKIPPED_NONFINITE:
        return ADAMD__V1__PUSH_OUTCOME__PUSH_OUTCOME_SKIPPED_NONFINITE;
    case ADAMD_OUTCOME_STALE:
        return ADAMD__V1__PUSH_OUTCOME__PUSH_OUTCOME_STALE;
    default:
        return ADAMD__V1__PUSH_OUTCOME__PUSH_OUTCOME_UNSPECIFIED;
    }
}

Adamd__V1__PushGradientsResponse *codec_push_message(struct codec_arena *arena,
                                                     const struct adamd_outcome *outcome,
                                                     uint64_t generation, bool duplicate) {
    Adamd__V1__PushGradientsResponse *message =
        CODEC_NEW(arena, Adamd__V1__PushGradientsResponse, adamd__v1__push_gradients_response);

    if (message != NULL) {
        message->outcome = codec_outcome_of(outcome->kind);
        message->sequence = outcome->sequence;
        message->generation = generation;
        message->version = outcome->version;
        message->staleness = outcome->staleness;
        message->contributors = outcome->contributors;
        message->grad_norm = outcome->grad_norm;
        message->duplicate = duplicate;
    }
    return message;
}
