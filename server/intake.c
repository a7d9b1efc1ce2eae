// The HTTP library's callbacks: connections, the calls for one request, and what is due.
#include "exchange_impl.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum {
    CONNECTION_POOL_BYTES = 256 << 10, // half of it is what one read of a body takes
    COLLECT_FIRST_BYTES = 4096,
    DROPPED_BYTES_MAX = 1 << 20, // of a refused body; more is not waited for
    PEER_CHECK_MS = 500,
};

static uint64_t now_of(const struct intake *intake) {
    return server_now_ms(intake->server);
}

// ----------------------------------------------------------------------------------- connections

static enum MHD_Result on_accept(void *arg, const struct sockaddr *address, socklen_t size) {
    struct intake *intake = arg;

    (void)size;
    return connections_admit(&intake->connections, address) ? MHD_YES : MHD_NO;
}

static void on_connection(void *arg, struct MHD_Connection *http, void **context,
                          enum MHD_ConnectionNotificationCode code) {
    struct intake *intake = arg;

    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *fd =
            MHD_get_connection_info(http, MHD_CONNECTION_INFO_CONNECTION_FD);
        const union MHD_ConnectionInfo *address =
            MHD_get_connection_info(http, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
        *context = connections_add(&intake->connections, fd->connect_fd,
                                   address != NULL ? address->client_addr : NULL, now_of(intake));
        reactor_expect(intake->server->reactor, now_of(intake) + CONNECTIONS_TICK_MS);
    } else if (*context != NULL) {
        connections_remove(&intake->connections, *context);
        *context = NULL;
    }
}

static struct connection *connection_of(struct MHD_Connection *http) {
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(http, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return info != NULL ? info->socket_context : NULL;
}

// ------------------------------------------------------------------------------- begin and end

static void make_request_id(struct exchange *exchange) {
    const char *wanted = exchange_header(exchange, "X-Request-Id");
    static const char token[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                "!#$%&'*+-.^_`|~";
    uint64_t random = 0;

    if (wanted != NULL && wanted[0] != '\0' && strlen(wanted) <= EXCHANGE_REQUEST_ID_MAX &&
        wanted[strspn(wanted, token)] == '\0') {
        memcpy(exchange->request_id, wanted, strlen(wanted) + 1);
        return;
    }
    // Only to be told apart: without randomness they still count up.
    (void)!getrandom(&random, sizeof random, GRND_NONBLOCK);
    snprintf(exchange->request_id, sizeof exchange->request_id, "%016llx%04llx",
             (unsigned long long)random,
             (unsigned long long)(exchange->intake->next_request++ & 0xffff));
}

static void free_exchange(struct exchange *exchange) {
    exchange->intake->collected_bytes -= exchange->collected_capacity;
    target_finish(&exchange->target);
    routing_finish(&exchange->routing);
    free(exchange->collected);
    free(exchange->stream.bytes);
    free(exchange->raw_target);
    free(exchange->method);
    free(exchange);
}

// The target as it was sent: later calls get it decoded and cut.
static void *on_target(void *arg, const char *target, struct MHD_Connection *http) {
    struct intake *intake = arg;
    struct exchange *exchange = calloc(1, sizeof *exchange);

    if (exchange == NULL) {
        return NULL;
    }
    exchange->intake = intake;
    exchange->http = http;
    exchange->connection = connection_of(http);
    exchange->raw_target = strdup(target);
    exchange->start_ms = now_of(intake);
    exchange->client_deadline_ms = UINT64_MAX;
    exchange->deadline_ms = exchange->start_ms + intake->server->config->wait_timeout_ms;
    exchange->late = REASON_TIMED_OUT;
    if (exchange->raw_target == NULL || exchange->connection == NULL) {
        free(exchange->raw_target);
        free(exchange);
        return NULL;
    }
    exchange->next = intake->exchanges;
    if (exchange->next != NULL) {
        exchange->next->previous = exchange;
    }
    intake->exchanges = exchange;
    intake->exchange_count++;
    if (exchange->connection->phase == PHASE_IDLE) {
        connection_enter(&intake->connections, exchange->connection, PHASE_HEAD, 0,
                         exchange->start_ms);
    }
    return exchange;
}

static void log_end(struct exchange *exchange, bool is_whole) {
    const struct intake *intake = exchange->intake;
    const bool is_failed = !is_whole || exchange->http_status >= 400;
    const enum log_level level = is_failed ? LEVEL_INFO : LEVEL_DEBUG;

    if (!log_wanted(level) ||
        !log_budget_take(&exchange->intake->budget, exchange->connection->peer, now_of(intake))) {
        return;
    }
    log_event(
        level, "http", is_whole ? "request" : "request cut off",
        log_text("method", exchange->method), log_text("target", exchange->raw_target),
        log_number("status", is_whole || exchange->http_status != 0 ? exchange->http_status : 499),
        log_text("reason", exchange->reason), log_number("received", exchange->received),
        log_number("answered", exchange->answer_bytes),
        log_number("ms", now_of(intake) - exchange->start_ms),
        log_text("peer", exchange->connection->peer), log_text("request_id", exchange->request_id));
}

static void on_completed(void *arg, struct MHD_Connection *http, void **context,
                         enum MHD_RequestTerminationCode code) {
    struct intake *intake = arg;
    struct exchange *exchange = *context;

    (void)http;
    *context = NULL;
    if (exchange == NULL) {
        return;
    }
    exchange_on(exchange, EVENT_ENDED);
    exchange_release(exchange);
    log_end(exchange, code == MHD_REQUEST_TERMINATED_COMPLETED_OK);
    if (exchange->response != NULL) {
        MHD_destroy_response(exchange->response);
    }
    connection_enter(&intake->connections, exchange->connection, PHASE_IDLE, 0, now_of(intake));
    if (exchange->next != NULL) {
        exchange->next->previous = exchange->previous;
    }
    if (exchange->previous != NULL) {
        exchange->previous->next = exchange->next;
    } else {
        intake->exchanges = exchange->next;
    }
    intake->exchange_count--;
    free_exchange(exchange);
}

// --------------------------------------------------------------------------------------- the head

static void admit(struct exchange *exchange) {
    exchange_on(exchange, EVENT_ADMITTED);
    exchange->handler = exchange->routing.route->handler;
    connection_enter(&exchange->intake->connections, exchange->connection, PHASE_BODY,
                     exchange->head.has_length ? exchange->head.content_length
                                               : exchange->routing.route->body_max,
                     now_of(exchange->intake));
    if (exchange->handler->begin != NULL) {
        exchange->handler->begin(exchange);
    }
}

// A refused body that is short is read, so that the connection lives on and no client misses the
// answer while it writes. One that is long, of unknown length, or asked about, is not.
static bool refuses_body(const struct exchange *exchange) {
    const struct guard_result *head = &exchange->head;

    return exchange->closes || head->chunked || head->content_length > DROPPED_BYTES_MAX ||
           (head->expects_continue && guard_has_body(head));
}

static enum MHD_Result take_head(struct exchange *exchange, const char *method,
                                 const char *version) {
    exchange->method = strdup(method);
    if (exchange->method == NULL) {
        return MHD_NO;
    }
    exchange->is_head = strcmp(method, "HEAD") == 0;
    exchange->is_rpc = strncmp(exchange->raw_target, "/adamd.v1.", 10) == 0;
    make_request_id(exchange);
    if (admission_pass(exchange, version)) {
        admit(exchange);
    }
    if (exchange->state == EXCHANGE_DROPPING && refuses_body(exchange)) {
        exchange->closes = true;
        exchange_on(exchange, EVENT_BODY_REFUSED);
        return exchange_send(exchange);
    }
    return MHD_YES;
}

// --------------------------------------------------------------------------------------- the body

static bool grow_collected(struct exchange *exchange, size_t needed) {
    struct intake *intake = exchange->intake;
    size_t capacity = exchange->collected_capacity;

    if (needed <= capacity) {
        return true;
    }
    capacity = capacity > 0 ? capacity : COLLECT_FIRST_BYTES;
    while (capacity < needed) {
        capacity *= 2;
    }
    if (intake->collected_bytes - exchange->collected_capacity + capacity > INTAKE_COLLECTED_MAX) {
        exchange_answer_problem(exchange, REASON_BUSY, NULL);
        return false;
    }
    unsigned char *bytes = realloc(exchange->collected, capacity);
    if (bytes == NULL) {
        exchange_answer_problem(exchange, REASON_NO_MEMORY, NULL);
        return false;
    }
    intake->collected_bytes += capacity - exchange->collected_capacity;
    exchange->collected = bytes;
    exchange->collected_capacity = capacity;
    return true;
}

static void collect(struct exchange *exchange, const char *data, size_t size) {
    struct adamd_fault fault;

    if (size > exchange->routing.route->body_max - exchange->collected_size) {
        (void)adamd_fail(&fault, ADAMD_TOO_LARGE, NULL, "The body is larger than %zu bytes",
                         exchange->routing.route->body_max);
        exchange_answer_fault(exchange, &fault);
    } else if (grow_collected(exchange, exchange->collected_size + size)) {
        memcpy(exchange->collected + exchange->collected_size, data, size);
        exchange->collected_size += size;
    }
}

static void take_body(struct exchange *exchange, const char *data, size_t size) {
    exchange->received += size;
    if (exchange->state != EXCHANGE_RECEIVING) {
        return;
    }
    if (exchange->routing.route->streams) {
        exchange->handler->body(exchange, (const unsigned char *)data, size);
    } else {
        collect(exchange, data, size);
    }
}

static enum MHD_Result end_body(struct exchange *exchange) {
    exchange_on(exchange, EVENT_BODY_END);
    if (exchange->state == EXCHANGE_WAITING) {
        connection_enter(&exchange->intake->connections, exchange->connection, PHASE_WAIT, 0, 0);
        exchange->handler->end(exchange);
    }
    if (exchange->state == EXCHANGE_ANSWERED) {
        return exchange_send(exchange);
    }
    exchange_sleep(exchange);
    reactor_expect(exchange->intake->server->reactor, exchange_due_ms(exchange));
    return MHD_YES;
}

// NOLINTNEXTLINE(readability-function-size): the library's signature
static enum MHD_Result on_request(void *arg, struct MHD_Connection *http, const char *url,
                                  const char *method, const char *version, const char *data,
                                  size_t *size, void **context) {
    struct exchange *exchange = *context;

    (void)arg, (void)http, (void)url;
    if (exchange == NULL) {
        return MHD_NO;
    }
    switch (exchange->state) {
    case EXCHANGE_HEAD:
        return take_head(exchange, method, version);
    case EXCHANGE_RECEIVING:
    case EXCHANGE_DROPPING:
        if (*size == 0) {
            return end_body(exchange);
        }
        take_body(exchange, data, *size);
        *size = 0;
        return MHD_YES;
    case EXCHANGE_ANSWERED:
        return exchange_send(exchange);
    default: // abandoned: nothing is left to say
        return MHD_NO;
    }
}

// What the library has to say is about peers that went away, or that it refused by itself.
__attribute__((format(printf, 2, 0))) static void on_library_log(void *arg, const char *format,
                                                                 va_list arguments) {
    char text[256];

    (void)arg;
    if (log_wanted(LEVEL_DEBUG)) {
        vsnprintf(text, sizeof text, format, arguments);
        text[strcspn(text, "\n")] = '\0';
        log_event(LEVEL_DEBUG, "http", "library", log_text("text", text));
    }
}

struct MHD_Daemon *intake_listen(struct intake *intake, int fd) {
    // The library's own limit stands above ours, so that ours answers first.
    const unsigned limit = (unsigned)intake->server->config->connections_max + 8;

    return MHD_start_daemon(
        MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, on_accept, intake,
        on_request, intake, MHD_OPTION_EXTERNAL_LOGGER, on_library_log, intake,
        MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_URI_LOG_CALLBACK, on_target, intake,
        MHD_OPTION_NOTIFY_COMPLETED, on_completed, intake, MHD_OPTION_NOTIFY_CONNECTION,
        on_connection, intake, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_POOL_BYTES,
        MHD_OPTION_CONNECTION_LIMIT, limit, MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_END);
}

// ---------------------------------------------------------------------------------- what is due

static bool is_asleep(const struct exchange *exchange) {
    return exchange->is_suspended &&
           (exchange->state == EXCHANGE_WAITING || exchange->state == EXCHANGE_SENDING);
}

static void abandon(struct exchange *exchange) {
    exchange_on(exchange, EVENT_PEER_GONE);
    exchange_release(exchange);
    exchange_wake(exchange);
}

static void be_late(struct exchange *exchange, enum reason reason) {
    exchange_release(exchange);
    exchange_answer_problem(exchange, reason, NULL);
}

static void check_peer(struct exchange *exchange) {
    if (is_asleep(exchange) && connection_is_gone(exchange->connection)) {
        abandon(exchange);
    } else if (exchange->state == EXCHANGE_RECEIVING &&
               connection_has_ended(exchange->connection)) {
        // An end that comes along with the last bytes makes no event of its own. What the library
        // has read and not yet given us it gives long before the second look.
        if (exchange->is_ending) {
            connection_cut(&exchange->intake->connections, exchange->connection);
        }
        exchange->is_ending = true;
    }
}

// What is due of one exchange. Returns when it is due next.
static uint64_t tick_exchange(struct exchange *exchange, bool checks_peer, uint64_t now_ms) {
    if (checks_peer) {
        check_peer(exchange);
    }
    if (exchange->state != EXCHANGE_WAITING) {
        return UINT64_MAX;
    }
    if (now_ms >= exchange_due_ms(exchange)) {
        be_late(exchange, exchange->late);
        return UINT64_MAX;
    }
    return exchange_due_ms(exchange);
}

// A callback may end other exchanges' waits, but only the library frees exchanges, and not from
// here: the list holds still.
uint64_t intake_tick(struct intake *intake, uint64_t now_ms) {
    const bool checks_peers = now_ms - intake->last_peer_check_ms >= PEER_CHECK_MS;
    uint64_t due_ms = intake->connections.count > 0 ? now_ms + CONNECTIONS_TICK_MS : UINT64_MAX;

    intake->last_peer_check_ms = checks_peers ? now_ms : intake->last_peer_check_ms;
    connections_reap(&intake->connections, now_ms);
    for (struct exchange *at = intake->exchanges; at != NULL; at = at->next) {
        const uint64_t at_ms = tick_exchange(at, checks_peers, now_ms);
        due_ms = at_ms < due_ms ? at_ms : due_ms;
    }
    return due_ms;
}

void intake_dismiss(struct intake *intake) {
    for (struct exchange *exchange = intake->exchanges; exchange != NULL;
         exchange = exchange->next) {
        if (exchange->state == EXCHANGE_WAITING) {
            be_late(exchange, REASON_DRAINING);
        } else if (exchange->state == EXCHANGE_SENDING && exchange->is_stream &&
                   !exchange->stream.has_ended) {
            exchange_release(exchange);
            exchange_stream_end(exchange);
        }
    }
}
