// Answers: what every one of them carries, messages, problems and texts.
#include "exchange_impl.h"

#include "codec/json.h"

#include <adamd/v1/adamd.pb-c.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const char json_type[] = "application/json";
static const char proto_type[] = "application/proto";
static const char problem_type[] = "application/problem+json";

void exchange_add_header(struct exchange *exchange, const char *name, const char *format, ...) {
    va_list arguments;

    ADAMD_ASSERT(exchange->header_count < EXCHANGE_HEADERS_MAX);
    ADAMD_ASSERT(strlen(name) < sizeof exchange->headers[0].name);
    memcpy(exchange->headers[exchange->header_count].name, name, strlen(name) + 1);
    va_start(arguments, format);
    // NOLINTNEXTLINE(clang-analyzer-valist.Uninitialized): the line above
    vsnprintf(exchange->headers[exchange->header_count].value, sizeof exchange->headers[0].value,
              format, arguments);
    va_end(arguments);
    exchange->header_count++;
}

void exchange_answer(struct exchange *exchange, unsigned http_status, struct MHD_Response *response,
                     uint64_t bytes) {
    exchange->http_status = http_status;
    exchange->response = response;
    exchange->answer_bytes = bytes;
    exchange_on(exchange, EVENT_ANSWER);
    exchange_wake(exchange);
}

// False only for want of memory.
static bool add_headers(struct exchange *exchange) {
    const struct intake *intake = exchange->intake;
    struct MHD_Response *response = exchange->response;
    bool is_whole = true;

    for (size_t i = 0; i < exchange->header_count; i++) {
        is_whole = MHD_add_response_header(response, exchange->headers[i].name,
                                           exchange->headers[i].value) == MHD_YES &&
                   is_whole;
    }
    is_whole =
        MHD_add_response_header(response, "Adamd-Request-Id", exchange->request_id) == MHD_YES &&
        is_whole;
    if (exchange->closes || intake->server->draining ||
        connection_is_old(&intake->connections, exchange->connection,
                          server_now_ms(intake->server))) {
        is_whole = MHD_add_response_header(response, "Connection", "close") == MHD_YES && is_whole;
    }
    return is_whole;
}

enum MHD_Result exchange_send(struct exchange *exchange) {
    const struct intake *intake = exchange->intake;

    if (exchange->response == NULL || !add_headers(exchange)) {
        return MHD_NO; // out of memory: closes the connection
    }
    connection_enter(&intake->connections, exchange->connection, PHASE_ANSWER,
                     exchange->answer_bytes, server_now_ms(intake->server));
    exchange_on(exchange, EVENT_QUEUED);
    return MHD_queue_response(exchange->http, exchange->http_status, exchange->response);
}

// `text` is malloc'ed and becomes the response's; NULL is out of memory.
static void answer_owned(struct exchange *exchange, unsigned http_status, const char *content_type,
                         char *text, size_t size) {
    struct MHD_Response *response = NULL;

    if (text != NULL) {
        if (content_type != NULL) {
            exchange_add_header(exchange, "Content-Type", "%s", content_type);
        }
        response = MHD_create_response_from_buffer(size, text, MHD_RESPMEM_MUST_FREE);
        if (response == NULL) {
            free(text);
        }
    }
    exchange_answer(exchange, http_status, response, size);
}

// ---------------------------------------------------------------------------------------- messages

static bool header_names(const struct exchange *exchange, const char *header, const char *type) {
    const char *value = exchange_header(exchange, header);
    const size_t size = strlen(type);

    for (; value != NULL && *value != '\0'; value += strcspn(value, ",")) {
        value += strspn(value, ", \t");
        if (strncasecmp(value, type, size) == 0 && strchr(",; \t", value[size]) != NULL) {
            return true;
        }
    }
    return false;
}

// Over RPC the answer is encoded as the request was; over REST as the client accepts.
static bool wants_proto(const struct exchange *exchange) {
    const char *encoding;

    if (!exchange->is_rpc) {
        return header_names(exchange, "Accept", proto_type);
    }
    encoding = exchange_parameter(exchange, "encoding");
    return header_names(exchange, "Content-Type", proto_type) ||
           (encoding != NULL && strcmp(encoding, "proto") == 0);
}

// These are what people read: all of their fields are shown.
static unsigned json_flags(const ProtobufCMessage *message) {
    static const ProtobufCMessageDescriptor *const shown[] = {
        &adamd__v1__model__descriptor,
        &adamd__v1__param_group__descriptor,
        &adamd__v1__list_param_groups_response__descriptor,
        &adamd__v1__add_param_group_response__descriptor,
        &adamd__v1__server__descriptor,
        &adamd__v1__push_gradients_response__descriptor,
        &adamd__v1__worker__descriptor,
        &adamd__v1__list_workers_response__descriptor,
        &adamd__v1__register_worker_response__descriptor,
    };

    for (size_t i = 0; i < sizeof shown / sizeof shown[0]; i++) {
        if (message->descriptor == shown[i]) {
            return CODEC_JSON_DEFAULTS;
        }
    }
    return 0;
}

void exchange_answer_message(struct exchange *exchange, unsigned http_status,
                             const ProtobufCMessage *message) {
    char *text = NULL;
    size_t size = 0;

    if (wants_proto(exchange)) {
        size = protobuf_c_message_get_packed_size(message);
        text = malloc(size + 1);
        if (text != NULL) {
            (void)protobuf_c_message_pack(message, (uint8_t *)text);
        }
        answer_owned(exchange, http_status, proto_type, text, size);
        return;
    }
    if (codec_json_print(message, json_flags(message), &text, &size) != ADAMD_OK) {
        text = NULL;
    } else if (!exchange->is_rpc) {
        text[size++] = '\n'; // for terminals, in place of the terminator
    }
    answer_owned(exchange, http_status, json_type, text, size);
}

// ---------------------------------------------------------------------------------------- problems

void exchange_answer_listing(struct exchange *exchange, enum reason reason,
                             const struct adamd_fault *fault, const struct problem_list *list) {
    const struct reason_info *info = reason_info(reason);
    const bool as_problem = !exchange->is_rpc && header_names(exchange, "Accept", problem_type);
    char *text = problem_body_listing(reason, fault, list, as_problem, exchange->request_id);
    size_t size = text != NULL ? strlen(text) : 0;

    if (text != NULL && !exchange->is_rpc) {
        text[size++] = '\n'; // as above
    }
    exchange->reason = info->name;
    // What the handler added describes an answer that is not given.
    if (reason != REASON_METHOD_NOT_ALLOWED && reason != REASON_RANGE_OUTSIDE) {
        exchange->header_count = 0;
    }
    if (info->retry_later) {
        exchange_add_header(exchange, "Retry-After", "1");
    }
    answer_owned(exchange, exchange->is_rpc ? info->rpc_http : info->rest_http,
                 as_problem ? problem_type : json_type, text, size);
}

void exchange_answer_problem(struct exchange *exchange, enum reason reason,
                             const struct adamd_fault *fault) {
    exchange_answer_listing(exchange, reason, fault, NULL);
}

void exchange_answer_fault(struct exchange *exchange, const struct adamd_fault *fault) {
    exchange_answer_problem(exchange, reason_of_status(fault->status), fault);
}

void exchange_answer_text(struct exchange *exchange, unsigned http_status, const char *content_type,
                          const char *text) {
    const char *body = text != NULL ? text : "";

    answer_owned(exchange, http_status, content_type, strdup(body), strlen(body));
}
