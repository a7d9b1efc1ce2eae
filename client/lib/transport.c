// Requests, answers, and when to try again.

#define _GNU_SOURCE // getrandom

#include "transport.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

enum {
    EXPECT_BYTES = 1 << 20, // bodies above this wait for 100 Continue ...
    EXPECT_WAIT_MS = 1000,  // ... so long, and are then sent anyway
    ERROR_BODY_MAX = 65536,
    SKIP_MAX = 65536,
    REQUEST_HEAD_MAX = 8192,
};

struct transport {
    struct endpoint endpoint;
    uint32_t timeout_ms, connect_timeout_ms, backoff_ms, backoff_max_ms;
    uint64_t random; // state of the jitter
    bool impatient;  // gives up when the first connection fails
    char endpoint_text[300];
    struct connection connection;
};

// What one attempt found out, beside its error.
struct attempt {
    bool sent_all;  // the daemon may have the whole request
    bool definite;  // its answer says that nothing was done, or what
    bool stale;     // the connection had been closed while it was idle
    bool has_delay; // Retry-After
    uint32_t delay_ms;
};

bool random_text(char text[33]) {
    unsigned char bytes[16];

    if (getrandom(bytes, sizeof bytes, 0) != (ssize_t)sizeof bytes) {
        return false;
    }
    for (size_t i = 0; i < sizeof bytes; i++) {
        snprintf(text + 2 * i, 3, "%02x", bytes[i]);
    }
    return true;
}

struct transport *transport_create(const struct adamd_conf *conf) {
    struct transport *transport = calloc(1, sizeof *transport);

    if (transport == NULL) {
        return NULL;
    }
    transport->endpoint = conf->endpoint;
    transport->timeout_ms = conf->timeout_ms;
    transport->connect_timeout_ms = conf->connect_timeout_ms;
    transport->backoff_ms = conf->retry_backoff_ms;
    transport->backoff_max_ms = conf->retry_backoff_max_ms;
    snprintf(transport->endpoint_text, sizeof transport->endpoint_text, "%s%s",
             conf->endpoint.is_unix ? "unix:" : "http://",
             conf->endpoint.is_unix ? conf->endpoint.path : conf->endpoint.authority);
    connection_init(&transport->connection);
    if (getrandom(&transport->random, sizeof transport->random, 0) !=
        (ssize_t)sizeof transport->random) {
        free(transport);
        return NULL;
    }
    transport->random |= 1;
    return transport;
}

void transport_destroy(struct transport *transport) {
    if (transport != NULL) {
        connection_close(&transport->connection);
        free(transport);
    }
}

void transport_be_impatient(struct transport *transport) {
    transport->impatient = true;
}

uint64_t transport_deadline(const struct transport *transport, uint32_t timeout_ms) {
    return clock_now_ms() + (timeout_ms != 0 ? timeout_ms : transport->timeout_ms);
}

const char *transport_endpoint(const struct transport *transport) {
    return transport->endpoint_text;
}

struct adamd_error *error_of_io(const struct connection *connection, enum io io) {
    const char *reason = io == IO_TIMED_OUT ? "TIMED_OUT"
                         : io == IO_BAD     ? "BAD_ANSWER"
                                            : "CONNECTION";

    return io == IO_OK ? NULL : error_new(reason, "%s", connection_strerror(connection, io));
}

// Twice the room, if `max` allows it.
static struct adamd_error *grow(char **text, size_t *room, size_t max) {
    char *larger = NULL;

    if (*room >= max) {
        return error_new("BAD_ANSWER", "the answer is too long");
    }
    larger = realloc(*text, 2 * *room + 1);
    if (larger == NULL) {
        return error_no_memory();
    }
    *text = larger;
    *room *= 2;
    return NULL;
}

struct adamd_error *transport_collect(struct connection *connection, size_t max, char **ret_text,
                                      size_t *ret_size) {
    size_t size = 0, got = 1, room = 4096;
    char *text = malloc(room + 1);
    struct adamd_error *error = NULL;

    if (text == NULL) {
        return error_no_memory();
    }
    while (error == NULL && got > 0) {
        error =
            error_of_io(connection, connection_read(connection, text + size, room - size, &got));
        size += got;
        if (error == NULL && size == room) {
            error = grow(&text, &room, max);
        }
    }
    if (error != NULL) {
        free(text);
        return error;
    }
    text[size] = '\0';
    *ret_text = text;
    *ret_size = size;
    return NULL;
}

static uint64_t body_bytes(const struct call *call) {
    uint64_t size = 0;

    for (size_t i = 0; i < call->body_count; i++) {
        size += call->body[i].iov_len;
    }
    return size;
}

// The daemon's own deadline is a little earlier than ours, so that its answer still comes: 504
// tells more than silence, and the connection stays.
static uint64_t budget_ms(uint64_t deadline_ms) {
    uint64_t now = clock_now_ms();
    uint64_t left = deadline_ms > now ? deadline_ms - now : 1;
    uint64_t margin = left / 10 < 250 ? left / 10 : 250;

    return left - margin > 0 ? left - margin : 1;
}

static int write_head(const struct transport *transport, const struct call *call,
                      uint64_t deadline_ms, char head[REQUEST_HEAD_MAX]) {
    char length[96] = "", timeout[64] = "";
    uint64_t bytes = body_bytes(call);

    if (deadline_ms != UINT64_MAX) {
        snprintf(timeout, sizeof timeout, "Request-Timeout-Ms: %llu\r\n",
                 (unsigned long long)budget_ms(deadline_ms));
    }
    if (call->has_body) {
        snprintf(length, sizeof length, "Content-Length: %llu\r\n%s", (unsigned long long)bytes,
                 bytes > EXPECT_BYTES ? "Expect: 100-continue\r\n" : "");
    }
    return snprintf(head, REQUEST_HEAD_MAX,
                    "%s %s HTTP/1.1\r\n"
                    "Host: %s\r\n"
                    "User-Agent: adamd-client/%s\r\n"
                    "%s%s%s\r\n",
                    call->method, call->target, transport->endpoint.authority,
                    adamd_version_string(), timeout, length,
                    call->headers != NULL ? call->headers : "");
}

static struct adamd_error *open_connection(struct transport *transport, uint64_t deadline_ms) {
    struct connection *connection = &transport->connection;
    uint64_t connect_by = clock_now_ms() + transport->connect_timeout_ms;
    struct adamd_error *error = NULL;
    enum io io = IO_OK;

    if (connection->fd >= 0 && connection_is_idle(connection)) {
        connection->deadline_ms = deadline_ms;
        return NULL;
    }
    io = connection_open(connection, &transport->endpoint,
                         connect_by < deadline_ms ? connect_by : deadline_ms);
    connection->deadline_ms = deadline_ms;
    transport->impatient = transport->impatient && io != IO_OK;
    if (io != IO_OK) {
        error = error_new("CONNECTION", "cannot connect to %s: %s", transport->endpoint_text,
                          connection_strerror(connection, io));
    }
    return error;
}

// Sends what is left at the cursor. An interim answer while that goes on changes nothing; any other
// ends it: IO_OK, and `ret_head` is the answer. Otherwise ret_head->status is 0.
static enum io send_rest(struct connection *connection, struct cursor *cursor,
                         struct http_head *ret_head) {
    for (;;) {
        enum io io = connection_send(connection, cursor), read = IO_OK;

        ret_head->status = 0;
        if (io != IO_CLOSED) {
            return io;
        }
        read = connection_read_head(connection, false, ret_head);
        if (read != IO_OK || ret_head->status != 100) {
            return read;
        }
    }
}

// The head first, and the body when it is wanted, or when nothing is heard.
static enum io send_expecting(struct connection *connection, struct cursor *cursor,
                              struct http_head *ret_head) {
    struct cursor head = {.vector = cursor->vector, .count = 1};
    enum io io = connection_send(connection, &head);

    ret_head->status = 0;
    if (io == IO_OK && connection_wait_answer(connection, EXPECT_WAIT_MS)) {
        io = IO_CLOSED;
    }
    if (io == IO_CLOSED) {
        io = connection_read_head(connection, false, ret_head);
        if (io != IO_OK || ret_head->status != 100) {
            return io;
        }
    }
    if (io != IO_OK) {
        return io;
    }
    cursor->vector++;
    cursor->count--;
    return send_rest(connection, cursor, ret_head);
}

static enum io exchange(struct connection *connection, const struct call *call,
                        const struct iovec *vector, struct attempt *attempt,
                        struct http_head *ret_head) {
    struct cursor cursor = {.vector = vector, .count = call->body_count + 1};
    bool expects = call->has_body && body_bytes(call) > EXPECT_BYTES;
    bool used = connection->used;
    enum io io = expects ? send_expecting(connection, &cursor, ret_head)
                         : send_rest(connection, &cursor, ret_head);

    attempt->sent_all = cursor.count == 0;
    while (io == IO_OK && (ret_head->status == 0 || ret_head->status == 100)) {
        io = connection_read_head(connection, strcmp(call->method, "HEAD") == 0, ret_head);
    }
    attempt->stale = used && io == IO_CLOSED;
    return io;
}

static struct adamd_error *refuse(struct connection *connection, const struct http_head *head,
                                  struct attempt *attempt) {
    char *body = NULL;
    size_t size = 0;
    struct adamd_error *error = transport_collect(connection, ERROR_BODY_MAX, &body, &size);

    if (error != NULL) { // the status is worth more than the lost text
        adamd_error_destroy(error);
        size = 0;
    }
    error = error_of_answer(head->status, body, size);
    free(body);
    attempt->has_delay = head->has_retry_after;
    attempt->delay_ms = head->retry_after_s * 1000;
    // A proxy's 503 says nothing about what happened behind it; adamd's does. A defect, and a
    // deadline that passed there (STILL_STAGED), leave it open.
    attempt->definite = error->of_daemon ? head->status != 500 && head->status != 504
                                         : head->status < 500 && !error->retriable;
    return error;
}

static struct adamd_error *take_answer(struct connection *connection, const struct call *call,
                                       const struct http_head *head, struct attempt *attempt) {
    struct adamd_error *error = NULL;

    if ((head->status < 200 || head->status > 299) && head->status != 304) {
        return refuse(connection, head, attempt);
    }
    if (call->receive != NULL) {
        error = call->receive(call->arg, head, connection);
    }
    if (error != NULL) { // perhaps in the middle of the body
        connection->keep = false;
    }
    return error;
}

static struct adamd_error *try_once(struct transport *transport, const struct call *call,
                                    struct iovec *vector, uint64_t deadline_ms,
                                    struct attempt *attempt) {
    struct connection *connection = &transport->connection;
    char head_text[REQUEST_HEAD_MAX];
    struct http_head head = {0};
    struct adamd_error *error = open_connection(transport, deadline_ms);
    int size = 0;
    enum io io = IO_OK;

    if (error != NULL) {
        return error;
    }
    size = write_head(transport, call, deadline_ms, head_text);
    if (size < 0 || size >= REQUEST_HEAD_MAX) {
        return error_argument("target", "the request is too long");
    }
    vector[0] = (struct iovec){.iov_base = head_text, .iov_len = (size_t)size};
    io = exchange(connection, call, vector, attempt, &head);
    if (io == IO_OK) {
        error = take_answer(connection, call, &head, attempt);
    } else {
        error = error_of_io(connection, io);
    }
    if (io != IO_OK || !attempt->sent_all || !connection->keep ||
        connection_skip(connection, SKIP_MAX) != IO_OK) {
        connection_close(connection);
    }
    return error;
}

static uint64_t next_random(struct transport *transport) {
    uint64_t x = transport->random;

    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return transport->random = x;
}

static void sleep_ms(uint64_t ms) {
    struct timespec left = {.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000};

    while (nanosleep(&left, &left) != 0 && errno == EINTR) {
    }
}

// Full jitter. Never before what the daemon asked for; a pause of our own leaves time for one more
// attempt. False if there is no time left.
static bool pause_before(struct transport *transport, unsigned failures, uint64_t deadline_ms,
                         const struct attempt *attempt) {
    unsigned doublings = failures < 20 ? failures : 20;
    uint64_t most = (uint64_t)transport->backoff_ms << doublings;
    uint64_t now = clock_now_ms(), left = deadline_ms > now ? deadline_ms - now : 0;
    uint64_t least = attempt->has_delay ? attempt->delay_ms : 0;
    uint64_t pause_ms = 0;

    if (attempt->stale) {
        return left > 0;
    }
    most = most < transport->backoff_max_ms ? most : transport->backoff_max_ms;
    pause_ms = least + next_random(transport) % (most + 1);
    if (pause_ms >= left) {
        pause_ms = left - left / 4;
    }
    if (left < 5 || pause_ms < least) {
        return false;
    }
    sleep_ms(pause_ms);
    return true;
}

static bool may_repeat(const struct call *call, const struct adamd_error *error,
                       const struct attempt *attempt, unsigned *checksum_repeats) {
    if (call->single) {
        return false;
    }
    if (call->once && attempt->sent_all && !attempt->definite) {
        return false;
    }
    if (strcmp(error->reason, "CRC_MISMATCH") == 0) { // damaged on the way: once more
        return (*checksum_repeats)++ == 0;
    }
    return error->retriable;
}

// A refusal for the time being says nothing of an earlier attempt; a final one does.
static bool still_in_doubt(bool in_doubt, const struct adamd_error *error,
                           const struct attempt *attempt) {
    if (attempt->definite && !error->retriable) {
        return false;
    }
    return in_doubt || (attempt->sent_all && !attempt->definite);
}

static struct adamd_error *try_until(struct transport *transport, const struct call *call,
                                     struct iovec *vector, uint64_t deadline_ms, bool *in_doubt) {
    unsigned failures = 0, stale = 0, checksum_repeats = 0;
    struct adamd_error *error = NULL;

    for (;; failures++) {
        struct attempt attempt = {0};
        error = try_once(transport, call, vector, deadline_ms, &attempt);
        if (error == NULL) {
            return NULL;
        }
        *in_doubt = still_in_doubt(*in_doubt, error, &attempt);
        attempt.stale = attempt.stale && stale++ == 0;
        if (transport->impatient || !may_repeat(call, error, &attempt, &checksum_repeats) ||
            !pause_before(transport, failures, deadline_ms, &attempt)) {
            break;
        }
        adamd_error_destroy(error);
    }
    if (failures > 0) {
        error_append(error, " (after %u attempts)", failures + 1);
    }
    return error;
}

struct adamd_error *transport_call(struct transport *transport, const struct call *call,
                                   uint64_t deadline_ms, bool *in_doubt) {
    struct iovec *vector = calloc(call->body_count + 1, sizeof *vector);
    struct adamd_error *error = NULL;
    bool nobody_asks = false;

    if (vector == NULL) {
        return error_no_memory();
    }
    for (size_t i = 0; i < call->body_count; i++) {
        vector[i + 1] = call->body[i];
    }
    error =
        try_until(transport, call, vector, deadline_ms, in_doubt != NULL ? in_doubt : &nobody_asks);
    free(vector);
    return error;
}
