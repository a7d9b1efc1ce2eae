// Pushes: a small head, then the gradient from where it lies; the same number and the same bytes
// until its outcome is known.

#include "internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "crc32c.h"

enum { METRICS_MAX = 64, MESSAGE_MAX = 65536, ENVELOPE_HEAD = 5 };

// One adamd_push() or adamd_push_pull().
struct push {
    struct adamd_session *session;
    struct adamd_push_options options;
    struct adamd_pull_options pull_options; // buffers NULL: no pull
    struct iovec *body;                     // [0]: the head in its envelope; then the gradient
    size_t body_count;
    uint32_t *tensors; // NULL: all
    uint64_t byte_size;
    struct adamd_push_result result;
    struct adamd_pull_result pull_result;
    char etag[96];
};

// Takes anything from zeroed to whole.
static void finish(struct push *push) {
    if (push->body != NULL) {
        free(push->body[0].iov_base);
    }
    free(push->body);
    free(push->tensors);
}

static struct adamd_error *check_options(const struct adamd_push_options *options) {
    if (!isfinite(options->weight) || !(options->weight > 0)) {
        return error_argument("weight", "the weight is a finite number above 0");
    }
    if (options->metric_count > METRICS_MAX ||
        (options->metric_count > 0 && options->metrics == NULL)) {
        return error_argument("metrics", "at most %d metrics go with a push", METRICS_MAX);
    }
    for (size_t i = 0; i < options->metric_count; i++) {
        if (options->metrics[i].key == NULL || options->metrics[i].key[0] == '\0' ||
            strlen(options->metrics[i].key) > 64) {
            return error_argument("metrics", "the key of metric %zu has not 1 to 64 bytes", i);
        }
    }
    if (adamd_dtype_size(options->dtype) == 0) {
        return error_argument("dtype", "there is no such type");
    }
    if ((options->flat != NULL) == (options->gradients != NULL && options->gradient_count > 0)) {
        return error_argument("gradients", "expected either gradients or flat");
    }
    return NULL;
}

static struct adamd_error *check_gradient(const struct adamd_push_options *options, size_t i) {
    const struct adamd_gradient *gradient = &options->gradients[i];

    if (i > 0 && gradient->tensor <= options->gradients[i - 1].tensor) {
        return error_argument("gradients", "gradient %zu: tensors do not ascend", i);
    }
    if (gradient->data == NULL && gradient->byte_size > 0) {
        return error_argument("gradients", "gradient %zu has no data", i);
    }
    return NULL;
}

static struct adamd_error *take_gradients(struct push *push) {
    const struct adamd_push_options *options = &push->options;

    push->tensors = calloc(options->gradient_count, sizeof *push->tensors);
    push->body = calloc(options->gradient_count + 1, sizeof *push->body);
    if (push->tensors == NULL || push->body == NULL) {
        return error_no_memory();
    }
    push->body_count = options->gradient_count + 1;
    for (size_t i = 0; i < options->gradient_count; i++) {
        const struct adamd_gradient *gradient = &options->gradients[i];
        struct adamd_error *error = check_gradient(options, i);
        if (error == NULL && !add_bytes(&push->byte_size, gradient->byte_size)) {
            error = error_argument("gradients", "together too long");
        }
        if (error != NULL) {
            return error;
        }
        push->tensors[i] = gradient->tensor;
        push->body[i + 1] =
            (struct iovec){.iov_base = (void *)gradient->data, .iov_len = gradient->byte_size};
    }
    return NULL;
}

static struct adamd_error *take_flat(struct push *push) {
    push->body = calloc(2, sizeof *push->body);
    if (push->body == NULL) {
        return error_no_memory();
    }
    push->body_count = 2;
    push->byte_size = push->options.flat_bytes;
    push->body[1] =
        (struct iovec){.iov_base = (void *)push->options.flat, .iov_len = push->options.flat_bytes};
    return NULL;
}

// Names the bytes, and which tensors they are of: what a repeat has to have in common.
static uint32_t fingerprint_of(const struct push *push, uint32_t payload_crc32c) {
    return push->tensors == NULL ? payload_crc32c
                                 : crc32c(payload_crc32c, push->tensors,
                                          push->options.gradient_count * sizeof *push->tensors);
}

static uint32_t payload_crc32c(const struct push *push) {
    uint32_t crc = 0;

    for (size_t i = 1; i < push->body_count; i++) {
        crc = crc32c(crc, push->body[i].iov_base, push->body[i].iov_len);
    }
    return crc;
}

static void fill_header(const struct push *push, Adamd__V1__PushHeader *header) {
    const struct adamd_session *session = push->session;
    uint64_t base_version = push->options.base_version;

    header->worker = (char *)session->worker;
    header->generation = session->generation;
    header->epoch = session->epoch;
    header->sequence = session->next_sequence;
    header->data_type = (Adamd__V1__DataType)push->options.dtype;
    header->layout_digest = (char *)session->layout_digest;
    header->byte_size = push->byte_size;
    header->replace = push->options.replace != 0;
    header->weight_oneof_case = ADAMD__V1__PUSH_HEADER__WEIGHT_ONEOF_WEIGHT;
    header->weight = push->options.weight;
    header->tensors = push->tensors;
    header->n_tensors = push->tensors != NULL ? push->options.gradient_count : 0;
    if (base_version == ADAMD_LAST_PULLED) {
        base_version =
            session->pulled_version != ADAMD_ANY ? session->pulled_version : ADAMD_NO_VERSION;
    }
    if (base_version != ADAMD_NO_VERSION) {
        header->base_version_oneof_case = ADAMD__V1__PUSH_HEADER__BASE_VERSION_ONEOF_BASE_VERSION;
        header->base_version = base_version;
    }
}

static struct adamd_error *pack_head(struct push *push, uint32_t crc) {
    Adamd__V1__PushHeader header = ADAMD__V1__PUSH_HEADER__INIT;
    Adamd__V1__Metric metrics[METRICS_MAX], *list[METRICS_MAX];
    size_t size = 0;
    unsigned char *head = NULL;

    fill_header(push, &header);
    header.crc32c = crc;
    for (size_t i = 0; i < push->options.metric_count; i++) {
        metrics[i] = (Adamd__V1__Metric)ADAMD__V1__METRIC__INIT;
        metrics[i].key = (char *)push->options.metrics[i].key;
        metrics[i].value = push->options.metrics[i].value;
        list[i] = &metrics[i];
    }
    header.metrics = list;
    header.n_metrics = push->options.metric_count;
    size = adamd__v1__push_header__get_packed_size(&header);
    head = malloc(ENVELOPE_HEAD + size);
    if (head == NULL) {
        return error_no_memory();
    }
    head[0] = 0;
    for (unsigned i = 0; i < 4; i++) {
        head[1 + i] = (unsigned char)(size >> (24 - 8 * i));
    }
    (void)adamd__v1__push_header__pack(&header, head + ENVELOPE_HEAD);
    push->body[0] = (struct iovec){.iov_base = head, .iov_len = ENVELOPE_HEAD + size};
    return NULL;
}

static void take_response(struct push *push, const Adamd__V1__PushGradientsResponse *response) {
    push->result.outcome = (adamd_outcome_t)response->outcome;
    push->result.duplicate = response->duplicate;
    push->result.sequence = response->sequence;
    push->result.generation = response->generation;
    push->result.version = response->version;
    push->result.staleness = response->staleness;
    push->result.contributors = response->contributors;
    push->result.grad_norm = response->grad_norm;
}

static struct adamd_error *receive_outcome(void *arg, const struct http_head *head,
                                           struct connection *connection) {
    struct push *push = arg;
    char *bytes = NULL;
    size_t size = 0;
    struct adamd_error *error = NULL;
    Adamd__V1__PushGradientsResponse *response = NULL;

    if (strcmp(head->content_type, "application/proto") != 0) {
        return error_new("BAD_ANSWER", "expected application/proto, got %s", head->content_type);
    }
    error = transport_collect(connection, MESSAGE_MAX, &bytes, &size);
    if (error != NULL) {
        return error;
    }
    response = adamd__v1__push_gradients_response__unpack(NULL, size, (const uint8_t *)bytes);
    free(bytes);
    if (response == NULL) {
        return error_new("BAD_ANSWER", "the answer is not a PushGradientsResponse");
    }
    take_response(push, response);
    adamd__v1__push_gradients_response__free_unpacked(response, NULL);
    return NULL;
}

static struct adamd_error *receive_parameters(struct push *push, struct connection *connection) {
    ProtobufCMessage *message = NULL;
    struct adamd_error *error =
        read_envelope(connection, MESSAGE_MAX, &adamd__v1__pull_header__descriptor, &message);
    const Adamd__V1__PullHeader *header = (const Adamd__V1__PullHeader *)message;

    if (error != NULL) {
        return error;
    }
    error = read_into(connection, header->byte_size, push->pull_options.buffers,
                      push->pull_options.buffer_count);
    if (error == NULL) {
        push->pull_result.generation = header->generation;
        push->pull_result.version = header->version;
        snprintf(push->etag, sizeof push->etag, "%s", header->etag);
    }
    protobuf_c_message_free_unpacked(message, NULL);
    return error;
}

static struct adamd_error *receive_both(void *arg, const struct http_head *head,
                                        struct connection *connection) {
    struct push *push = arg;
    ProtobufCMessage *message = NULL;
    struct adamd_error *error = NULL;

    if (strcmp(head->content_type, "application/x-adamd-pull") != 0) {
        return error_new("BAD_ANSWER", "expected application/x-adamd-pull, got %s",
                         head->content_type);
    }
    error = read_envelope(connection, MESSAGE_MAX, &adamd__v1__push_gradients_response__descriptor,
                          &message);
    if (error != NULL) {
        return error;
    }
    take_response(push, (const Adamd__V1__PushGradientsResponse *)message);
    protobuf_c_message_free_unpacked(message, NULL);
    return receive_parameters(push, connection);
}

static void decided(struct adamd_session *session) {
    session->next_sequence++;
    session->in_doubt = false;
}

static bool used_up(const struct adamd_error *error) {
    return strcmp(error->reason, "STALE") == 0 || strcmp(error->reason, "ALREADY_DECIDED") == 0;
}

static void tell_stale(const struct adamd_error *error, struct push *push) {
    const char *version = adamd_error_metadata(error, "current_version");

    if (strcmp(error->reason, "STALE") == 0) {
        push->result.outcome = ADAMD_OUTCOME_STALE;
        push->result.sequence = push->session->next_sequence;
        push->result.generation = push->session->generation;
        push->result.version = version != NULL ? strtoull(version, NULL, 10) : 0;
    }
}

static struct adamd_error *send_push(struct push *push, uint64_t deadline_ms) {
    struct adamd_session *session = push->session;
    bool wants_pull = push->pull_options.buffers != NULL;
    char target[128];
    const struct call call = {
        .method = "POST",
        .target = target,
        .headers = wants_pull ? "Content-Type: application/x-adamd-push\r\n"
                                "Accept: application/x-adamd-pull\r\n"
                              : "Content-Type: application/x-adamd-push\r\n"
                                "Accept: application/proto\r\n",
        .body = push->body,
        .body_count = push->body_count,
        .has_body = true,
        .receive = wants_pull ? receive_both : receive_outcome,
        .arg = push,
    };

    snprintf(target, sizeof target, "/v1/models/%s/gradients", session->model);
    return transport_call(session->client->transport, &call, deadline_ms, &session->in_doubt);
}

// With the options taken and checked.
static struct adamd_error *run(struct push *push) {
    struct adamd_session *session = push->session;
    bool crc = session->client->conf.crc, was_in_doubt = session->in_doubt;
    uint64_t deadline_ms = transport_deadline(session->client->transport, push->options.timeout_ms);
    uint32_t payload = crc || was_in_doubt ? payload_crc32c(push) : 0;
    struct adamd_error *error = NULL;

    if (was_in_doubt && fingerprint_of(push, payload) != session->doubt_crc32c) {
        return error_new("IN_DOUBT",
                         "push %llu may have counted: push the same gradient again to know, or "
                         "register again to drop it",
                         (unsigned long long)session->next_sequence);
    }
    error = pack_head(push, crc ? payload : 0);
    if (error != NULL) {
        return error;
    }
    error = send_push(push, deadline_ms);
    if (error == NULL) {
        decided(session);
    } else if (used_up(error)) {
        tell_stale(error, push);
        decided(session);
    } else if (session->in_doubt && !was_in_doubt) {
        session->doubt_crc32c = fingerprint_of(push, crc ? payload : payload_crc32c(push));
    }
    return error;
}

static struct adamd_error *begin(struct push *push, struct adamd_session *session,
                                 const adamd_push_options_t *options) {
    struct adamd_error *error = NULL;

    *push = (struct push){.session = session,
                          .options = ADAMD_PUSH_OPTIONS_INIT,
                          .pull_options = ADAMD_PULL_OPTIONS_INIT,
                          .result = ADAMD_PUSH_RESULT_INIT,
                          .pull_result = ADAMD_PULL_RESULT_INIT};
    error = take_options(&push->options, options);
    if (error == NULL) {
        error = check_options(&push->options);
    }
    if (error != NULL) {
        return error;
    }
    return push->options.flat != NULL ? take_flat(push) : take_gradients(push);
}

adamd_error_t *adamd_push(adamd_session_t *session, const adamd_push_options_t *options,
                          adamd_push_result_t *result) {
    struct push push;
    struct adamd_error *error = begin(&push, session, options);

    if (error == NULL) {
        error = run(&push);
    }
    if (push.result.outcome != ADAMD_OUTCOME_NONE) {
        give_result(&push.result, result);
    }
    finish(&push);
    return error;
}

adamd_error_t *adamd_push_pull(adamd_session_t *session, const adamd_push_options_t *push_options,
                               const adamd_pull_options_t *pull_options,
                               adamd_push_result_t *push_result, adamd_pull_result_t *pull_result) {
    struct push push;
    uint64_t room = 0;
    struct adamd_error *error = begin(&push, session, push_options);

    if (error == NULL) {
        error = take_options(&push.pull_options, pull_options);
    }
    if (error == NULL) {
        error = check_buffers(push.pull_options.buffers, push.pull_options.buffer_count, &room);
    }
    if (error == NULL && room != session->byte_size) { // before the push counts
        error =
            error_new("LAYOUT_MISMATCH", "the parameters take %llu bytes, the buffers hold %llu",
                      (unsigned long long)session->byte_size, (unsigned long long)room);
    }
    if (error == NULL) {
        error = run(&push);
    }
    if (error == NULL) {
        session->pulled_version = push.pull_result.version;
        snprintf(session->etag, sizeof session->etag, "%s", push.etag);
        give_result(&push.pull_result, pull_result);
    }
    if (push.result.outcome != ADAMD_OUTCOME_NONE) {
        give_result(&push.result, push_result);
    }
    finish(&push);
    return error;
}
