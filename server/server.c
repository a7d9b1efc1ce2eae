// Brings the parts of the daemon together: backend, models, time.
#include "server.h"

#include "log.h"
#include "models.h"
#include "plugins.h"
#include "reactor.h"

#include <string.h>

enum { TICK_MAX_MS = 1000 };

struct served_model *server_find(const struct server *server, const char *id) {
    for (struct served_model *at = server->models; at != NULL; at = at->next) {
        if (strcmp(at->id, id) == 0) {
            return at;
        }
    }
    return NULL;
}

uint64_t server_now_ms(const struct server *server) {
    return uv_now(server->loop);
}

// Collects first: a tick may end exchanges, and with their last use a deleted model.
static void on_due(uv_timer_t *handle) {
    struct server *server = handle->data;

    for (struct served_model *at = server->models; at != NULL;) {
        struct served_model *next = at->next;
        adamd_model_tick(at->model, server_now_ms(server));
        at = next;
    }
    server_rearm(server);
}

void server_rearm(struct server *server) {
    const uint64_t now_ms = server_now_ms(server);
    uint64_t due_ms = now_ms + TICK_MAX_MS;

    for (const struct served_model *at = server->models; at != NULL; at = at->next) {
        const uint64_t model_ms = adamd_model_next_due(at->model, now_ms);
        due_ms = model_ms < due_ms ? model_ms : due_ms;
    }
    // Never 0 ms: such a timer would starve the loop.
    uv_timer_start(&server->due, on_due, due_ms > now_ms ? due_ms - now_ms : 1, 0);
}

void server_poll(struct server *server) {
    adamd_queue_poll(server->queue);
    server_rearm(server);
}

void server_drain(struct server *server) {
    if (!server->draining) {
        log_event(LEVEL_INFO, "server", "draining", log_number("models", server->model_count));
        server->draining = true;
        for (struct served_model *at = server->models; at != NULL; at = at->next) {
            adamd_model_drain(at->model, server_now_ms(server));
        }
    }
    reactor_drain(server->reactor);
}

static enum adamd_status open_backend(struct server *server, struct adamd_fault *fault) {
    const struct config *config = server->config;
    const char *variant = config->cpu_variant[0] != '\0' ? config->cpu_variant : NULL;

    server->backend =
        adamd_cpu_backend_create(variant, (unsigned)config->threads, reactor_wake, server->reactor);
    if (server->backend == NULL) {
        return adamd_fail(fault, ADAMD_DEVICE_LOST, variant != NULL ? "cpu_variant" : "device",
                          "The CPU backend %s cannot be had: this build or this machine lacks it, "
                          "or there is no memory or no thread left",
                          variant != NULL ? variant : "");
    }
    server->queue = adamd_queue_create(server->backend);
    if (server->queue == NULL) {
        return adamd_fail_plain(fault, ADAMD_NO_MEMORY);
    }
    log_event(LEVEL_INFO, "server", "backend",
              log_text("name", adamd_backend_name(server->backend)),
              log_number("threads", adamd_backend_threads(server->backend)),
              log_text("note", strcmp(config->device, "auto") == 0
                                   ? "no CUDA in this build: the CPU steps"
                                   : "as asked"));
    return ADAMD_OK;
}

enum adamd_status server_init(struct server *server, const struct config *config,
                              struct adamd_fault *fault) {
    *server = (struct server){.config = config, .start_time_ns = clock_now_ns()};
    server->reactor = reactor_create(server);
    if (server->reactor == NULL) {
        return adamd_fail_plain(fault, ADAMD_NO_MEMORY);
    }
    uv_timer_init(server->loop, &server->due);
    server->due.data = server;
    enum adamd_status status = plugins_load(server, fault);
    if (status == ADAMD_OK) {
        status = open_backend(server, fault);
    }
    if (status == ADAMD_OK) {
        status = reactor_listen(server->reactor, fault);
    }
    if (status == ADAMD_OK) {
        server_rearm(server);
    }
    return status;
}

void server_finish(struct server *server) {
    reactor_close(server->reactor);
    served_finish(server);
    while (server->queue != NULL && adamd_queue_busy(server->queue)) {
        uv_sleep(1); // a model's last operations
        adamd_queue_poll(server->queue);
    }
    adamd_queue_destroy(server->queue);
    plugins_unload(server);
    adamd_backend_destroy(server->backend);
    reactor_destroy(server->reactor); // a model that was deleted last wakes it until here
    *server = (struct server){.model_count = 0};
}
