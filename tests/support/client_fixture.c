// A client and the fake daemon that it talks to.

#include "client_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// The answers of this test, freed with the fixture.
static char *answers[FAKE_REQUESTS_MAX];
static size_t answer_count;

static struct fake_line answer_bytes(const char *head, const void *bytes, size_t size) {
    size_t head_size = strlen(head);
    char *text = malloc(head_size + size + 1);

    ck_assert_ptr_nonnull(text);
    ck_assert_uint_lt(answer_count, FAKE_REQUESTS_MAX);
    answers[answer_count++] = text;
    memcpy(text, head, head_size);
    if (size > 0) {
        memcpy(text + head_size, bytes, size);
    }
    text[head_size + size] = '\0';
    return (struct fake_line){.answer = text, .answer_size = head_size + size};
}

struct fake_line answer_message(const char *status, const ProtobufCMessage *message) {
    unsigned char bytes[1024];
    size_t size = protobuf_c_message_pack(message, bytes);
    char head[256];

    snprintf(head, sizeof head,
             "HTTP/1.1 %s\r\nContent-Type: application/proto\r\nContent-Length: %zu\r\n\r\n",
             status, size);
    return answer_bytes(head, bytes, size);
}

struct fake_line answer_registered(uint64_t epoch, uint64_t byte_size) {
    Adamd__V1__RegisterWorkerResponse response = ADAMD__V1__REGISTER_WORKER_RESPONSE__INIT;
    Adamd__V1__Worker worker = ADAMD__V1__WORKER__INIT;

    worker.rank = 3;
    worker.last_sequence = 41;
    worker.last_outcome = ADAMD__V1__PUSH_OUTCOME__PUSH_OUTCOME_APPLIED;
    response.worker = &worker;
    response.generation = 1;
    response.version = 5;
    response.epoch = epoch;
    response.byte_size = byte_size;
    response.layout_digest = "digest";
    return answer_message("200 OK", &response.base);
}

static void fill_pushed(Adamd__V1__PushGradientsResponse *response, uint64_t sequence,
                        uint64_t version, bool duplicate) {
    *response = (Adamd__V1__PushGradientsResponse)ADAMD__V1__PUSH_GRADIENTS_RESPONSE__INIT;
    response->outcome = ADAMD__V1__PUSH_OUTCOME__PUSH_OUTCOME_APPLIED;
    response->sequence = sequence;
    response->generation = 1;
    response->version = version;
    response->contributors = 1;
    response->duplicate = duplicate;
}

struct fake_line answer_pushed(uint64_t sequence, uint64_t version, bool duplicate) {
    Adamd__V1__PushGradientsResponse response;

    fill_pushed(&response, sequence, version, duplicate);
    return answer_message("200 OK", &response.base);
}

static size_t put_envelope(unsigned char *bytes, const ProtobufCMessage *message) {
    size_t size = protobuf_c_message_pack(message, bytes + 5);

    memcpy(bytes, (const unsigned char[]){0, 0, 0, (unsigned char)(size >> 8), (unsigned char)size},
           5);
    return size + 5;
}

struct fake_line answer_both(uint64_t sequence, uint64_t version, const void *bytes, size_t size) {
    Adamd__V1__PushGradientsResponse response;
    Adamd__V1__PullHeader header = ADAMD__V1__PULL_HEADER__INIT;
    unsigned char *body = malloc(1024 + size);
    struct fake_line line;
    char head[256];
    size_t at = 0;

    ck_assert_ptr_nonnull(body);
    fill_pushed(&response, sequence, version, false);
    header.generation = 1;
    header.version = version;
    header.etag = "\"g1.v6.raw\"";
    header.byte_size = size;
    at = put_envelope(body, &response.base);
    at += put_envelope(body + at, &header.base);
    memcpy(body + at, bytes, size);
    snprintf(head, sizeof head,
             "HTTP/1.1 200 OK\r\nContent-Type: application/x-adamd-pull\r\n"
             "Content-Length: %zu\r\n\r\n",
             at + size);
    line = answer_bytes(head, body, at + size);
    free(body);
    return line;
}

struct fake_line answer_refused(int status, const char *reason, const char *headers) {
    char body[512], head[512];

    snprintf(
        body, sizeof body,
        "{\"code\":\"aborted\",\"message\":\"no\",\"details\":[{\"type\":\"adamd.v1.ErrorInfo\","
        "\"value\":\"\",\"debug\":{\"reason\":\"%s\",\"domain\":\"adamd\",\"metadata\":[{\"key\":"
        "\"current_version\",\"value\":\"44\"}],\"fieldViolations\":[{\"field\":\"lr\"}]}}]}",
        reason);
    snprintf(
        head, sizeof head,
        "HTTP/1.1 %d Refused\r\nContent-Type: application/json\r\n%sContent-Length: %zu\r\n\r\n",
        status, headers, strlen(body));
    return answer_bytes(head, body, strlen(body));
}

struct fake_line answer_parameters(const void *bytes, size_t size, size_t announced) {
    char head[256];

    snprintf(head, sizeof head,
             "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nAdamd-Generation: 1\r\n"
             "Adamd-Version: 7\r\nETag: \"g1.v7.raw\"\r\nContent-Length: %zu\r\n\r\n",
             announced);
    return answer_bytes(head, bytes, size);
}

static void set(adamd_conf_t *conf, const char *key, const char *value) {
    ck_assert_int_eq(adamd_conf_set(conf, key, value, NULL, 0), 0);
}

void fixture_start(struct client_fixture *fixture, const struct fake_line *lines, size_t count,
                   uint32_t timeout_ms) {
    adamd_conf_t *conf = adamd_conf_new();
    char timeout[16];

    *fixture = (struct client_fixture){.client = NULL};
    fake_daemon_start(&fixture->daemon, lines, count);
    snprintf(timeout, sizeof timeout, "%u", timeout_ms);
    set(conf, "endpoint", fixture->daemon.endpoint);
    set(conf, "model", "m");
    set(conf, "worker", "w0");
    set(conf, "timeout_ms", timeout);
    set(conf, "retry_backoff_ms", "1");
    set(conf, "retry_backoff_max_ms", "20");
    fixture->client = adamd_client_new(conf, NULL, 0);
    ck_assert_ptr_nonnull(fixture->client);
}

void fixture_register(struct client_fixture *fixture) {
    expect_success(adamd_register(fixture->client, NULL, &fixture->session, NULL));
}

void fixture_stop(struct client_fixture *fixture) {
    adamd_session_destroy(fixture->session);
    adamd_client_destroy(fixture->client);
    fixture->session = NULL;
    fixture->client = NULL;
    fake_daemon_stop(&fixture->daemon);
}

void fixture_finish(struct client_fixture *fixture) {
    fixture_stop(fixture);
    fake_daemon_finish(&fixture->daemon);
    while (answer_count > 0) {
        free(answers[--answer_count]);
    }
}

adamd_error_t *fixture_push(struct client_fixture *fixture, const float *values, size_t count,
                            adamd_push_result_t *result) {
    adamd_push_options_t options = ADAMD_PUSH_OPTIONS_INIT;

    options.flat = values;
    options.flat_bytes = count * sizeof *values;
    return adamd_push(fixture->session, &options, result);
}

void expect_reason(adamd_error_t *error, const char *reason) {
    ck_assert_ptr_nonnull(error);
    ck_assert_str_eq(adamd_error_reason(error), reason);
    adamd_error_destroy(error);
}

void expect_success(adamd_error_t *error) {
    if (error != NULL) {
        ck_abort_msg("%s (%s)", adamd_error_message(error), adamd_error_reason(error));
    }
}

Adamd__V1__PushHeader *push_of(const struct client_fixture *fixture, size_t i) {
    const struct fake_request *request = &fixture->daemon.requests[i];
    Adamd__V1__PushHeader *header = NULL;
    size_t size = 0;

    ck_assert_uint_lt(i, fixture->daemon.request_count);
    ck_assert_uint_ge(request->body_size, 5);
    size = (size_t)request->body[3] << 8 | request->body[4];
    ck_assert_uint_le(size + 5, request->body_size);
    header = adamd__v1__push_header__unpack(NULL, size, request->body + 5);
    ck_assert_ptr_nonnull(header);
    return header;
}
