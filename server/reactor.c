// One loop. Each listener's HTTP daemon is an epoll descriptor in it; "at once" is an idle handle,
// never a timer of 0 ms, which would starve every other handle of this libuv.
#include "reactor.h"

#include "config_value.h"
#include "intake.h"
#include "listener.h"
#include "log.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { EXIT_DRAIN_LIMIT = 75, SIGNAL_COUNT = 4 };

struct listener {
    struct reactor *reactor;
    struct config_listen listen;
    int fd;
    struct MHD_Daemon *http;
    uv_poll_t http_ready;
    uv_idle_t http_now;
    uv_timer_t http_due;
};

struct reactor {
    uv_loop_t loop;
    struct server *server;
    struct intake intake;
    struct listener listeners[CONFIG_LISTEN_MAX];
    size_t listener_count;
    uv_async_t wake;
    uv_idle_t answers; // active: sleeping connections were resumed
    uv_timer_t tick, drain_limit;
    uint64_t tick_ms; // when the tick is due
    uv_signal_t signals[SIGNAL_COUNT];
    uv_prepare_t before_poll;
    uv_check_t after_poll;
    // The last return from polling and the longest time without it: by the clock, and in work of
    // this thread alone, which a busy machine does not stretch.
    uint64_t polled_ns, polled_work_ns, stall_ns, stall_work_ns;
    bool is_ended;
};

// ------------------------------------------------------------------------------------------- http

static void run_http(struct listener *listener);

static void on_http_ready(uv_poll_t *handle, int status, int events) {
    (void)status, (void)events;
    run_http(handle->data);
}

static void on_http_now(uv_idle_t *handle) {
    run_http(handle->data);
}

static void on_http_due(uv_timer_t *handle) {
    run_http(handle->data);
}

// Lets the daemon do what is due, then asks when it wants to be called again.
static void run_http(struct listener *listener) {
    MHD_UNSIGNED_LONG_LONG ms;

    (void)MHD_run(listener->http);
    uv_timer_stop(&listener->http_due);
    uv_idle_stop(&listener->http_now);
    if (MHD_get_timeout(listener->http, &ms) != MHD_YES) {
        return;
    }
    if (ms == 0) {
        uv_idle_start(&listener->http_now, on_http_now); // all I/O is polled between two turns
    } else {
        uv_timer_start(&listener->http_due, on_http_due, ms, 0);
    }
}

static void run_all_http(struct reactor *reactor) {
    for (size_t i = 0; i < reactor->listener_count; i++) {
        run_http(&reactor->listeners[i]);
    }
}

static enum adamd_status open_listener(struct reactor *reactor, const struct config_listen *listen,
                                       struct adamd_fault *fault) {
    struct listener *listener = &reactor->listeners[reactor->listener_count];
    char text[CONFIG_TEXT_MAX + 16];

    *listener = (struct listener){.reactor = reactor, .listen = *listen};
    const enum adamd_status status = listener_open(&listener->listen, &listener->fd, fault);
    if (status != ADAMD_OK) {
        return status;
    }
    listener->http = intake_listen(&reactor->intake, listener->fd);
    if (listener->http == NULL) {
        listener_close(&listener->listen, listener->fd);
        return adamd_fail_plain(fault, ADAMD_NO_MEMORY);
    }
    reactor->listener_count++;
    const union MHD_DaemonInfo *info =
        MHD_get_daemon_info(listener->http, MHD_DAEMON_INFO_EPOLL_FD);
    uv_poll_init(&reactor->loop, &listener->http_ready, info->epoll_fd);
    uv_idle_init(&reactor->loop, &listener->http_now);
    uv_timer_init(&reactor->loop, &listener->http_due);
    listener->http_ready.data = listener->http_now.data = listener->http_due.data = listener;
    uv_poll_start(&listener->http_ready, UV_READABLE, on_http_ready);
    print_listen(&listener->listen, text, sizeof text);
    log_event(LEVEL_INFO, "http", "listening", log_text("address", text));
    if (!listener->listen.is_loopback) {
        log_event(LEVEL_WARN, "http", "other hosts may reach this address, and need no credential",
                  log_text("address", text));
    }
    return ADAMD_OK;
}

static enum adamd_status tell_port(const struct reactor *reactor, struct adamd_fault *fault) {
    const char *path = reactor->server->config->port_file;

    for (size_t i = 0; path[0] != '\0' && i < reactor->listener_count; i++) {
        if (!reactor->listeners[i].listen.is_unix) {
            return port_file_write(path, reactor->listeners[i].listen.port, fault);
        }
    }
    return ADAMD_OK;
}

enum adamd_status reactor_listen(struct reactor *reactor, struct adamd_fault *fault) {
    const struct config *config = reactor->server->config;
    enum adamd_status status = ADAMD_OK;

    for (size_t i = 0; status == ADAMD_OK && i < config->listen_count; i++) {
        status = open_listener(reactor, &config->listens[i], fault);
    }
    return status == ADAMD_OK ? tell_port(reactor, fault) : status;
}

// --------------------------------------------------------------------------------- wakes and time

static void on_wake(uv_async_t *handle) {
    struct reactor *reactor = handle->data;

    server_poll(reactor->server);
    run_all_http(reactor);
}

static void on_answers(uv_idle_t *handle) {
    struct reactor *reactor = handle->data;

    uv_idle_stop(handle);
    run_all_http(reactor);
}

void reactor_resumed(struct reactor *reactor) {
    uv_idle_start(&reactor->answers, on_answers);
}

void reactor_wake(void *arg) {
    struct reactor *reactor = arg;
    (void)uv_async_send(&reactor->wake);
}

static void end_if_drained(struct reactor *reactor) {
    if (!reactor->server->draining || reactor->is_ended) {
        return;
    }
    if (!adamd_queue_busy(reactor->server->queue)) {
        intake_dismiss(&reactor->intake); // nothing that runs will answer them any more
    }
    if (reactor->intake.exchange_count == 0) {
        reactor->is_ended = true;
        uv_stop(&reactor->loop);
    }
}

static void on_tick(uv_timer_t *handle) {
    struct reactor *reactor = handle->data;
    const uint64_t now_ms = uv_now(&reactor->loop);

    reactor->tick_ms = UINT64_MAX;
    reactor_expect(reactor, intake_tick(&reactor->intake, now_ms));
    if (reactor->server->draining) {
        reactor_expect(reactor, now_ms + CONNECTIONS_TICK_MS);
    }
    end_if_drained(reactor);
}

void reactor_expect(struct reactor *reactor, uint64_t at_ms) {
    const uint64_t now_ms = uv_now(&reactor->loop);

    if (at_ms >= reactor->tick_ms) {
        return;
    }
    reactor->tick_ms = at_ms;
    // At least 1 ms: see the top.
    uv_timer_start(&reactor->tick, on_tick, at_ms > now_ms ? at_ms - now_ms : 1, 0);
}

static uint64_t work_ns(void) {
    struct timespec now = {0};

    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
}

static void on_after_poll(uv_check_t *handle) {
    struct reactor *reactor = handle->data;
    reactor->polled_ns = uv_hrtime();
    reactor->polled_work_ns = work_ns();
}

static void on_before_poll(uv_prepare_t *handle) {
    struct reactor *reactor = handle->data;
    const uint64_t away_ns = uv_hrtime() - reactor->polled_ns;
    const uint64_t away_work_ns = work_ns() - reactor->polled_work_ns;

    if (reactor->polled_ns == 0) {
        return;
    }
    reactor->stall_ns = away_ns > reactor->stall_ns ? away_ns : reactor->stall_ns;
    if (away_work_ns > reactor->stall_work_ns) {
        reactor->stall_work_ns = away_work_ns;
    }
}

uint32_t reactor_connections(const struct reactor *reactor) {
    return (uint32_t)reactor->intake.connections.count;
}

uint64_t reactor_stall_us(const struct reactor *reactor) {
    return reactor->stall_ns / 1000;
}

// ----------------------------------------------------------------------------------------- signals

static void log_state(struct reactor *reactor) {
    const struct server *server = reactor->server;
    const struct intake *intake = &reactor->intake;

    log_event(LEVEL_INFO, "server", "state", log_number("models", server->model_count),
              log_number("resident_bytes", adamd_backend_resident(server->backend)),
              log_number("connections", intake->connections.count),
              log_number("connections_refused", intake->connections.refused),
              log_number("connections_cut", intake->connections.cut),
              log_number("exchanges", intake->exchange_count),
              log_number("collected_bytes", intake->collected_bytes),
              log_number("stall_us", reactor_stall_us(reactor)),
              log_number("stall_work_us", reactor->stall_work_ns / 1000),
              log_text("draining", server->draining ? "true" : "false"));
    reactor->stall_ns = reactor->stall_work_ns = 0;
}

static void on_signal(uv_signal_t *handle, int number) {
    struct reactor *reactor = handle->data;

    switch (number) {
    case SIGUSR2:
        log_state(reactor);
        break;
    case SIGHUP:
        log_event(LEVEL_INFO, "server", "nothing to read again", log_text("signal", "SIGHUP"));
        break;
    default:
        server_drain(reactor->server);
    }
}

static void give_up(const char *why) {
    log_event(LEVEL_ERROR, "server", "ended before everything was answered", log_text("why", why));
    _exit(EXIT_DRAIN_LIMIT);
}

static void on_drain_limit(uv_timer_t *handle) {
    (void)handle;
    give_up("drain_limit");
}

void reactor_drain(struct reactor *reactor) {
    if (uv_is_active((uv_handle_t *)&reactor->drain_limit)) {
        give_up("asked twice");
    }
    uv_timer_start(&reactor->drain_limit, on_drain_limit, reactor->server->config->drain_limit_ms,
                   0);
    reactor_expect(reactor, 0);
}

// ------------------------------------------------------------------------------- begin and end

struct reactor *reactor_create(struct server *server) {
    static const int numbers[SIGNAL_COUNT] = {SIGTERM, SIGINT, SIGHUP, SIGUSR2};
    struct reactor *reactor = calloc(1, sizeof *reactor);

    if (reactor == NULL || uv_loop_init(&reactor->loop) != 0) {
        free(reactor);
        return NULL;
    }
    (void)signal(SIGPIPE, SIG_IGN);
    reactor->server = server;
    reactor->intake.server = server;
    reactor->intake.connections.config = server->config;
    reactor->tick_ms = UINT64_MAX;
    uv_async_init(&reactor->loop, &reactor->wake, on_wake);
    uv_idle_init(&reactor->loop, &reactor->answers);
    uv_timer_init(&reactor->loop, &reactor->tick);
    uv_timer_init(&reactor->loop, &reactor->drain_limit);
    uv_prepare_init(&reactor->loop, &reactor->before_poll);
    uv_check_init(&reactor->loop, &reactor->after_poll);
    reactor->wake.data = reactor->answers.data = reactor->tick.data = reactor->drain_limit.data =
        reactor;
    reactor->before_poll.data = reactor->after_poll.data = reactor;
    uv_prepare_start(&reactor->before_poll, on_before_poll);
    uv_check_start(&reactor->after_poll, on_after_poll);
    for (size_t i = 0; i < SIGNAL_COUNT; i++) {
        uv_signal_init(&reactor->loop, &reactor->signals[i]);
        reactor->signals[i].data = reactor;
        uv_signal_start(&reactor->signals[i], on_signal, numbers[i]);
    }
    server->loop = &reactor->loop;
    return reactor;
}

void reactor_run(struct reactor *reactor) {
    uv_run(&reactor->loop, UV_RUN_DEFAULT);
}

static void close_handle(uv_handle_t *handle, void *but) {
    if (handle != but && !uv_is_closing(handle)) {
        uv_close(handle, NULL);
    }
}

// A daemon must not be stopped while a connection of it sleeps: what still does is told so.
static void close_listener(struct listener *listener) {
    uv_poll_stop(&listener->http_ready);
    (void)MHD_run(listener->http);
    (void)MHD_quiesce_daemon(listener->http);
    MHD_stop_daemon(listener->http);
    listener_close(&listener->listen, listener->fd);
}

void reactor_close(struct reactor *reactor) {
    if (reactor == NULL) {
        return;
    }
    intake_dismiss(&reactor->intake);
    for (size_t i = 0; i < reactor->listener_count; i++) {
        close_listener(&reactor->listeners[i]);
    }
    reactor->listener_count = 0;
    uv_walk(&reactor->loop, close_handle, &reactor->wake);
    uv_unref((uv_handle_t *)&reactor->wake);
    uv_run(&reactor->loop, UV_RUN_DEFAULT);
}

void reactor_destroy(struct reactor *reactor) {
    if (reactor == NULL) {
        return;
    }
    uv_walk(&reactor->loop, close_handle, NULL);
    uv_run(&reactor->loop, UV_RUN_DEFAULT);
    const int left = uv_loop_close(&reactor->loop);
    ADAMD_ASSERT(left == 0);
    free(reactor);
}
