// The daemon itself: health, what it is, what it can do, its end.
#include "handlers.h"

#include "adamd/safetensors.h"
#include "codec/convert.h"
#include "codec/json.h"
#include "codec/message.h"
#include "config.h"
#include "models.h"
#include "reactor.h"
#include "routes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---------------------------------------------------------------------------------------- health

static void answer_health(struct exchange *exchange, const char *check, bool good) {
    const char *verbose = exchange_parameter(exchange, "verbose");
    char text[96];

    if (verbose == NULL) {
        exchange_answer_text(exchange, good ? 200 : 503, "text/plain", good ? "ok\n" : "no\n");
        return;
    }
    snprintf(text, sizeof text, "[%c]%s %s\n%s\n", good ? '+' : '-', check, good ? "ok" : "failed",
             good ? "ok" : "no");
    exchange_answer_text(exchange, good ? 200 : 503, "text/plain", text);
}

static void on_live_end(struct exchange *exchange) {
    answer_health(exchange, "loop", true);
}

static void on_ready_end(struct exchange *exchange) {
    const struct server *server = exchange_server(exchange);
    uint64_t completed = 0;

    if (server->draining) {
        answer_health(exchange, "serving", false);
        return;
    }
    answer_health(exchange, "device",
                  adamd_backend_completed(server->backend, &completed) == ADAMD_OK);
}

const struct handler live_handler = {.end = on_live_end};
const struct handler ready_handler = {.end = on_ready_end};

// ----------------------------------------------------------------------------------------- index

static void on_index_end(struct exchange *exchange) {
    const size_t room = 256 + route_count * 160;
    char *text = malloc(room);

    if (text == NULL) {
        exchange_answer_problem(exchange, REASON_NO_MEMORY, NULL);
        return;
    }
    size_t at = (size_t)snprintf(text, room,
                                 "{\"name\":\"adamd\",\"version\":\"%s\",\"extensions\":[],"
                                 "\"calls\":[",
                                 ADAMD_VERSION);
    for (size_t i = 0; i < route_count && at < room; i++) {
        at += (size_t)snprintf(text + at, room - at, "%s\n\"%s %s\"", i > 0 ? "," : "",
                               routes[i].method, routes[i].pattern);
    }
    if (at < room) {
        snprintf(text + at, room - at, "]}\n");
    }
    exchange_answer_text(exchange, 200, "application/json", text);
    free(text);
}

const struct handler index_handler = {.end = on_index_end};

// ---------------------------------------------------------------------------------------- server

struct limit {
    const char *name, *unit;
    uint64_t value;
};

static bool add_limits(struct codec_arena *arena, const struct limit *limits, size_t count,
                       Adamd__V1__Server *server) {
    server->limits = codec_arena_array(arena, count, sizeof(void *));
    if (server->limits == NULL) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        Adamd__V1__Limit *limit = CODEC_NEW(arena, Adamd__V1__Limit, adamd__v1__limit);
        if (limit == NULL) {
            return false;
        }
        // Names and units are static text, which protobuf-c's structs call plain char.
        limit->name = codec_arena_copy(arena, limits[i].name, strlen(limits[i].name));
        limit->unit = codec_arena_copy(arena, limits[i].unit, strlen(limits[i].unit));
        limit->value = limits[i].value;
        if (limit->name == NULL || limit->unit == NULL) {
            return false;
        }
        server->limits[server->n_limits++] = limit;
    }
    return true;
}

static bool fill_limits(struct codec_arena *arena, const struct config *config,
                        Adamd__V1__Server *server) {
    const struct limit limits[] = {
        {"models", "models", config->models_max},
        {"tensors_per_model", "tensors", ADAMD_TENSORS_MAX},
        {"dimensions_per_tensor", "dimensions", ADAMD_RANK_MAX},
        {"tensor_key", "bytes", ADAMD_KEY_MAX},
        {"param_groups_per_model", "groups", ADAMD_GROUPS_MAX},
        {"workers_per_model", "workers", ADAMD_WORKERS_MAX},
        {"worker_id", "bytes", ADAMD_WORKER_ID_MAX},
        {"in_flight_per_worker", "pushes", ADAMD_IN_FLIGHT_MAX},
        {"outcomes_kept_per_worker", "pushes", ADAMD_OUTCOMES_KEPT},
        {"slots_per_model", "gradients", config->slots_max},
        {"published_versions_per_model", "versions", config->published_max},
        {"steps_kept_per_model", "records", ADAMD_STEPS_KEPT},
        {"labels_per_model", "labels", CODEC_LABELS_MAX},
        {"label_key", "bytes", CODEC_LABEL_KEY_MAX},
        {"label_value", "bytes", CODEC_LABEL_VALUE_MAX},
        {"display_name", "bytes", CODEC_DISPLAY_NAME_MAX},
        {"metrics_per_push", "metrics", ADAMD_METRICS_MAX},
        {"metric_key", "bytes", ADAMD_METRIC_KEY_MAX},
        {"message", "bytes", CODEC_JSON_MAX},
        {"create_message", "bytes", CODEC_JSON_CREATE_MAX},
        {"safetensors_header", "bytes", ADAMD_SAFETENSORS_HEADER_MAX},
        {"page_size", "items", CALL_PAGE_SIZE_MAX},
        {"wait", "milliseconds", CALL_WAIT_MAX_MS},
        {"memory", "bytes", config->memory_max},
        {"connections", "connections", config->connections_max},
    };

    return add_limits(arena, limits, sizeof limits / sizeof limits[0], server);
}

static void run_get_server(struct call_frame *frame) {
    const struct server *server = exchange_server(frame->exchange);
    Adamd__V1__Server answer = ADAMD__V1__SERVER__INIT;
    struct codec_arena *arena = &frame->arena;

    answer.version = codec_arena_format(arena, "%s", ADAMD_VERSION);
    answer.state = codec_arena_format(arena, "%s", server->draining ? "draining" : "serving");
    answer.start_time = codec_timestamp(arena, server->start_time_ns);
    answer.backend = codec_arena_format(arena, "%s", adamd_backend_name(server->backend));
    answer.threads = adamd_backend_threads(server->backend);
    answer.models = server->model_count;
    answer.resident_bytes = adamd_backend_resident(server->backend);
    answer.connections = reactor_connections(server->reactor);
    const bool whole = answer.version != NULL && answer.state != NULL &&
                       answer.start_time != NULL && answer.backend != NULL &&
                       fill_limits(arena, server->config, &answer);
    call_answer(frame, whole ? &answer.base : NULL);
}

const struct call call_get_server = {
    .request = &adamd__v1__get_server_request__descriptor,
    .run = run_get_server,
};

static void run_drain(struct call_frame *frame) {
    const Adamd__V1__DrainServerResponse answer = ADAMD__V1__DRAIN_SERVER_RESPONSE__INIT;
    struct server *server = exchange_server(frame->exchange);

    call_answer(frame, &answer.base);
    server_drain(server);
}

const struct call call_drain_server = {
    .request = &adamd__v1__drain_server_request__descriptor,
    .body = "",
    .run = run_drain,
};

// --------------------------------------------------------------------------------------- streams

static void on_stream_end(struct exchange *exchange) {
    struct adamd_fault fault;

    (void)adamd_fail(&fault, ADAMD_UNSUPPORTED, NULL,
                     "RPC streams are not served here: push with POST "
                     "/v1/models/{m}/gradients, pull with GET /v1/models/{m}/parameters, "
                     "differentiate with POST /v1/models/{m}:differentiate");
    exchange_answer_fault(exchange, &fault);
}

const struct handler stream_handler = {.begin = on_stream_end};
