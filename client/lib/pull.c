// Pulls: the parameters of one version, read to where the caller wants them.

#include "internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { WAIT_MAX_MS = 60000 }; // the daemon's own bound; a longer wait is several

struct pull {
    const struct adamd_pull_options *options;
    uint64_t byte_size;
    struct adamd_pull_result result;
    char etag[96];
};

struct adamd_error *check_buffers(const adamd_buffer_t *buffers, size_t count,
                                  uint64_t *ret_bytes) {
    uint64_t bytes = 0;

    if (buffers == NULL || count == 0) {
        return error_argument("buffers", "no buffers to read into");
    }
    for (size_t i = 0; i < count; i++) {
        if ((buffers[i].data == NULL && buffers[i].byte_size > 0) ||
            !add_bytes(&bytes, buffers[i].byte_size)) {
            return error_argument("buffers", "buffer %zu is no memory", i);
        }
    }
    *ret_bytes = bytes;
    return NULL;
}

struct adamd_error *read_into(struct connection *connection, uint64_t byte_size,
                              const adamd_buffer_t *buffers, size_t count) {
    uint64_t room = 0;
    struct adamd_error *error = check_buffers(buffers, count, &room);

    if (error != NULL) {
        return error;
    }
    if (byte_size != room) {
        return error_new("LAYOUT_MISMATCH",
                         "the parameters take %" PRIu64 " bytes, the buffers hold %" PRIu64,
                         byte_size, room);
    }
    for (size_t i = 0; i < count; i++) {
        enum io io = connection_read_all(connection, buffers[i].data, buffers[i].byte_size);
        if (io != IO_OK) {
            return error_of_io(connection, io);
        }
    }
    return NULL;
}

static struct adamd_error *receive_parameters(void *arg, const struct http_head *head,
                                              struct connection *connection) {
    struct pull *pull = arg;

    pull->result.generation = head->generation;
    pull->result.version = head->version;
    pull->result.not_modified = head->status == 304;
    snprintf(pull->etag, sizeof pull->etag, "%s", head->etag);
    if (head->status == 304) {
        return NULL;
    }
    if (head->status != 200 || !head->has_length || head->generation == 0) {
        return error_new("BAD_ANSWER", "the answer does not tell length and version");
    }
    return read_into(connection, head->length, pull->options->buffers, pull->options->buffer_count);
}

// The deadline of the whole, and where to ask. A wait is bounded by both.
static uint64_t write_target(struct adamd_client *client, const char *model,
                             const struct adamd_pull_options *options, char *target, size_t size) {
    uint64_t now = clock_now_ms();
    uint64_t deadline_ms = transport_deadline(client->transport, options->timeout_ms);
    uint64_t wait_ms = 0;
    int length = snprintf(target, size, "/v1/models/%s/parameters?format=raw", model);

    if (options->min_version == 0 || length < 0 || (size_t)length >= size) {
        return deadline_ms;
    }
    if (options->wait_ms != 0 && now + options->wait_ms < deadline_ms) {
        deadline_ms = now + options->wait_ms;
    }
    wait_ms = deadline_ms > now ? deadline_ms - now : 1;
    wait_ms = wait_ms < WAIT_MAX_MS ? wait_ms : WAIT_MAX_MS;
    snprintf(target + length, size - (size_t)length,
             "&min_version=%" PRIu64 "&wait=%" PRIu64 ".%03us", options->min_version,
             wait_ms / 1000, (unsigned)(wait_ms % 1000));
    return deadline_ms;
}

static struct adamd_error *pull_parameters(struct adamd_client *client, const char *model,
                                           const char *etag, struct pull *pull) {
    char target[192], headers[160] = "";
    struct call call = {.method = "GET",
                        .target = target,
                        .headers = headers,
                        .receive = receive_parameters,
                        .arg = pull};
    uint64_t deadline_ms = write_target(client, model, pull->options, target, sizeof target);

    if (etag[0] != '\0') {
        snprintf(headers, sizeof headers, "If-None-Match: %s\r\n", etag);
    }
    return transport_call(client->transport, &call, deadline_ms, NULL);
}

adamd_error_t *adamd_pull_model(adamd_client_t *client, const char *model,
                                const adamd_pull_options_t *options, adamd_pull_result_t *result) {
    struct adamd_pull_options local = ADAMD_PULL_OPTIONS_INIT;
    struct pull pull = {.options = &local, .result = ADAMD_PULL_RESULT_INIT};
    const char *id = NULL;
    struct adamd_error *error = take_options(&local, options);

    if (error == NULL) {
        error = take_model(client, model, &id);
    }
    if (error == NULL) {
        error = check_buffers(local.buffers, local.buffer_count, &pull.byte_size);
    }
    if (error == NULL) {
        error = pull_parameters(client, id, "", &pull);
    }
    if (error == NULL) {
        give_result(&pull.result, result);
    }
    return error;
}

adamd_error_t *adamd_pull(adamd_session_t *session, const adamd_pull_options_t *options,
                          adamd_pull_result_t *result) {
    struct adamd_pull_options local = ADAMD_PULL_OPTIONS_INIT;
    struct pull pull = {.options = &local, .result = ADAMD_PULL_RESULT_INIT};
    struct adamd_error *error = take_options(&local, options);
    bool conditional = false;

    if (error == NULL) {
        error = check_buffers(local.buffers, local.buffer_count, &pull.byte_size);
    }
    if (error != NULL) {
        return error;
    }
    // With a minimum that is still to come, "not modified" would be no answer.
    conditional = local.if_changed && session->pulled_version != ADAMD_ANY &&
                  local.min_version <= session->pulled_version;
    error =
        pull_parameters(session->client, session->model, conditional ? session->etag : "", &pull);
    if (error != NULL) {
        return error;
    }
    if (pull.result.not_modified) {
        pull.result.version = session->pulled_version;
        pull.result.generation = session->generation;
    }
    session->pulled_version = pull.result.version;
    snprintf(session->etag, sizeof session->etag, "%s", pull.etag);
    give_result(&pull.result, result);
    return NULL;
}
