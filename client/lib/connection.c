// Sockets with deadlines, and the framing of answers' bodies.

#include "connection.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    VECTOR_MAX = 64,      // pieces a system call
    SMALL_READ = 16384,   // less than this is read through the buffer
    CHUNK_LINE_MAX = 256, // size and extensions
};

uint64_t clock_now_ms(void) {
    struct timespec now = {0};

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

void connection_init(struct connection *connection) {
    connection->fd = -1;
    connection_close(connection);
}

void connection_close(struct connection *connection) {
    if (connection->fd >= 0) {
        (void)close(connection->fd);
    }
    connection->fd = -1;
    connection->used = false;
    connection->keep = false;
    connection->framing = BODY_NONE;
    connection->left = 0;
    connection->begin = 0;
    connection->end = 0;
}

const char *connection_strerror(const struct connection *connection, enum io io) {
    switch (io) {
    case IO_TIMED_OUT:
        return "no answer in time";
    case IO_CLOSED:
        return "the connection was closed";
    case IO_BAD:
        return "the answer is not HTTP as adamd speaks it";
    default:
        return strerror(connection->error);
    }
}

// Waits for `events`, until the deadline.
static enum io await(struct connection *connection, short events, short *ret_events) {
    for (;;) {
        struct pollfd poll_fd = {.fd = connection->fd, .events = events};
        uint64_t now = clock_now_ms();
        uint64_t left = now < connection->deadline_ms ? connection->deadline_ms - now : 0;
        int ready = poll(&poll_fd, 1, left < 60000 ? (int)left : 60000);

        if (ready > 0) {
            *ret_events = poll_fd.revents;
            return IO_OK;
        }
        if (ready < 0 && errno != EINTR) {
            connection->error = errno;
            return IO_FAILED;
        }
        if (ready == 0 && left == 0) {
            return IO_TIMED_OUT;
        }
    }
}

static enum io finish_connect(struct connection *connection) {
    short events = 0;
    socklen_t size = sizeof connection->error;
    enum io io = await(connection, POLLOUT, &events);

    if (io != IO_OK) {
        return io;
    }
    if (getsockopt(connection->fd, SOL_SOCKET, SO_ERROR, &connection->error, &size) != 0) {
        connection->error = errno;
    }
    return connection->error == 0 ? IO_OK : IO_FAILED;
}

static enum io connect_to(struct connection *connection, const struct sockaddr *address,
                          socklen_t size) {
    connection->fd = socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (connection->fd >= 0 && connect(connection->fd, address, size) == 0) {
        return IO_OK;
    }
    if (connection->fd >= 0 && (errno == EINPROGRESS || errno == EINTR)) {
        return finish_connect(connection);
    }
    connection->error = errno; // EAGAIN of a Unix socket: its backlog is full
    return IO_FAILED;
}

static enum io open_unix(struct connection *connection, const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    memcpy(address.sun_path, path, strlen(path) + 1);
    return connect_to(connection, (const struct sockaddr *)&address, sizeof address);
}

// A round may take minutes: a host that went away is noticed by probes, within a minute.
static void tune_tcp(int fd) {
    const struct {
        int level, name, value;
    } options[] = {
        {IPPROTO_TCP, TCP_NODELAY, 1},   {SOL_SOCKET, SO_KEEPALIVE, 1},
        {IPPROTO_TCP, TCP_KEEPIDLE, 20}, {IPPROTO_TCP, TCP_KEEPINTVL, 10},
        {IPPROTO_TCP, TCP_KEEPCNT, 4},
    };

    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++) {
        (void)setsockopt(fd, options[i].level, options[i].name, &options[i].value,
                         sizeof options[i].value);
    }
}

static enum io open_tcp(struct connection *connection, const struct endpoint *endpoint) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    struct addrinfo *list = NULL;
    enum io io = IO_FAILED;

    connection->error = EHOSTUNREACH;
    if (getaddrinfo(endpoint->host, endpoint->port, &hints, &list) != 0) {
        return IO_FAILED;
    }
    for (const struct addrinfo *at = list; at != NULL && io != IO_OK; at = at->ai_next) {
        connection_close(connection);
        io = connect_to(connection, at->ai_addr, at->ai_addrlen);
    }
    freeaddrinfo(list);
    if (io == IO_OK) {
        tune_tcp(connection->fd);
    }
    return io;
}

enum io connection_open(struct connection *connection, const struct endpoint *endpoint,
                        uint64_t deadline_ms) {
    enum io io = IO_OK;

    connection_close(connection);
    connection->error = 0;
    connection->deadline_ms = deadline_ms;
    io = endpoint->is_unix ? open_unix(connection, endpoint->path) : open_tcp(connection, endpoint);
    if (io != IO_OK) {
        connection_close(connection);
    }
    return io;
}

bool connection_is_idle(const struct connection *connection) {
    struct pollfd poll_fd = {.fd = connection->fd, .events = POLLIN};

    return connection->begin == connection->end && poll(&poll_fd, 1, 0) == 0;
}

bool connection_wait_answer(struct connection *connection, uint64_t wait_ms) {
    uint64_t deadline_ms = connection->deadline_ms, until = clock_now_ms() + wait_ms;
    short events = 0;
    enum io io = IO_OK;

    if (connection->begin < connection->end) {
        return true;
    }
    connection->deadline_ms = until < deadline_ms ? until : deadline_ms;
    io = await(connection, POLLIN, &events);
    connection->deadline_ms = deadline_ms;
    return io == IO_OK;
}

static size_t window_of(const struct cursor *cursor, struct iovec window[VECTOR_MAX]) {
    size_t count = cursor->count < VECTOR_MAX ? cursor->count : VECTOR_MAX;

    memcpy(window, cursor->vector, count * sizeof window[0]);
    window[0].iov_base = (char *)window[0].iov_base + cursor->offset;
    window[0].iov_len -= cursor->offset;
    return count;
}

static void advance(struct cursor *cursor, size_t sent) {
    cursor->offset += sent;
    while (cursor->count > 0 && cursor->offset >= cursor->vector->iov_len) {
        cursor->offset -= cursor->vector->iov_len;
        cursor->vector++;
        cursor->count--;
    }
}

// The socket takes no more now: waits until it does, or until the peer has something to say.
static enum io await_room(struct connection *connection) {
    short events = 0;
    enum io io = await(connection, POLLIN | POLLOUT, &events);

    return io == IO_OK && (events & POLLIN) != 0 ? IO_CLOSED : io;
}

enum io connection_send(struct connection *connection, struct cursor *cursor) {
    while (cursor->count > 0) {
        struct iovec window[VECTOR_MAX];
        struct msghdr message = {.msg_iov = window};
        enum io io = IO_OK;
        message.msg_iovlen = window_of(cursor, window);
        ssize_t sent = sendmsg(connection->fd, &message, MSG_NOSIGNAL);

        if (sent >= 0) {
            advance(cursor, (size_t)sent);
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            io = await_room(connection);
        } else if (errno != EINTR) {
            connection->error = errno;
            io = errno == EPIPE || errno == ECONNRESET ? IO_CLOSED : IO_FAILED;
        }
        if (io != IO_OK) {
            return io;
        }
    }
    return IO_OK;
}

// What there is, straight into `data`: at least one byte.
static enum io receive(struct connection *connection, void *data, size_t max, size_t *ret_size) {
    for (;;) {
        ssize_t got = recv(connection->fd, data, max, 0);
        short events = 0;
        enum io io = IO_OK;

        if (got > 0) {
            *ret_size = (size_t)got;
            return IO_OK;
        }
        if (got == 0) {
            return IO_CLOSED;
        }
        if (errno == EAGAIN || errno == EWOULDBLOCK) {
            io = await(connection, POLLIN, &events);
        } else if (errno != EINTR) {
            connection->error = errno;
            io = errno == ECONNRESET ? IO_CLOSED : IO_FAILED;
        }
        if (io != IO_OK) {
            return io;
        }
    }
}

// More bytes into the buffer, which is moved to its start first.
static enum io fill(struct connection *connection) {
    size_t size = 0;
    enum io io = IO_OK;

    memmove(connection->buffer, connection->buffer + connection->begin,
            connection->end - connection->begin);
    connection->end -= connection->begin;
    connection->begin = 0;
    if (connection->end == sizeof connection->buffer) {
        return IO_BAD; // a head, or a line of chunking, without an end
    }
    io = receive(connection, connection->buffer + connection->end,
                 sizeof connection->buffer - connection->end, &size);
    connection->end += io == IO_OK ? size : 0;
    return io;
}

static void take_framing(struct connection *connection, bool is_head_request,
                         const struct http_head *head) {
    connection->keep = !head->close;
    connection->left = 0;
    connection->in_chunks = false;
    if (is_head_request || head->status == 204 || head->status == 304 || head->status == 100) {
        connection->framing = BODY_NONE;
    } else if (head->chunked) {
        connection->framing = BODY_CHUNKED;
    } else if (head->has_length) {
        connection->framing = BODY_LENGTH;
        connection->left = head->length;
    } else {
        connection->framing = BODY_TO_END;
        connection->keep = false;
    }
}

static enum io read_one_head(struct connection *connection, struct http_head *ret_head) {
    const char *start = NULL;
    size_t length = 0;

    for (;;) {
        start = connection->buffer + connection->begin;
        length = http_head_length(start, connection->end - connection->begin);
        if (length > 0) {
            break;
        }
        enum io io = fill(connection);
        if (io != IO_OK) {
            return io;
        }
    }
    connection->used = true;
    connection->begin += length;
    return http_head_parse(start, length, ret_head) ? IO_OK : IO_BAD;
}

enum io connection_read_head(struct connection *connection, bool is_head_request,
                             struct http_head *ret_head) {
    for (unsigned interim = 0; interim < 16; interim++) {
        enum io io = read_one_head(connection, ret_head);
        if (io != IO_OK) {
            return io;
        }
        if (ret_head->status == 100 || ret_head->status >= 200) {
            take_framing(connection, is_head_request, ret_head);
            return IO_OK;
        }
    }
    return IO_BAD;
}

// A line of chunked framing, without its end. It stays in the buffer until the next read.
static enum io read_line(struct connection *connection, const char **ret_line, size_t *ret_size) {
    const char *start = NULL, *end = NULL;

    for (;;) {
        enum io io = IO_OK;
        start = connection->buffer + connection->begin;
        end = memchr(start, '\n', connection->end - connection->begin);
        if (end != NULL) {
            break;
        }
        io = connection->end - connection->begin > CHUNK_LINE_MAX ? IO_BAD : fill(connection);
        if (io != IO_OK) {
            return io;
        }
    }
    if (end == start || end[-1] != '\r' || end - start > CHUNK_LINE_MAX) {
        return IO_BAD;
    }
    *ret_line = start;
    *ret_size = (size_t)(end - start) - 1;
    connection->begin += *ret_size + 2;
    return IO_OK;
}

// To the data of the next chunk, or past the end of the last.
static enum io next_chunk(struct connection *connection) {
    const char *line = NULL;
    size_t size = 0;
    enum io io = IO_OK;

    if (connection->in_chunks) {
        io = read_line(connection, &line, &size);
        if (io != IO_OK || size != 0) {
            return io != IO_OK ? io : IO_BAD;
        }
    }
    io = read_line(connection, &line, &size);
    if (io != IO_OK || !http_chunk_size(line, size, &connection->left)) {
        return io != IO_OK ? io : IO_BAD;
    }
    connection->in_chunks = true;
    if (connection->left > 0) {
        return IO_OK;
    }
    for (unsigned trailers = 0; trailers <= HTTP_LINES_MAX; trailers++) {
        io = read_line(connection, &line, &size);
        if (io != IO_OK || size == 0) {
            connection->framing = BODY_NONE;
            return io;
        }
    }
    return IO_BAD;
}

// From the buffer if there is something in it, or if little is asked for.
static enum io read_bytes(struct connection *connection, void *data, size_t max, size_t *ret_size) {
    size_t size = connection->end - connection->begin;

    if (size == 0 && max >= SMALL_READ) {
        return receive(connection, data, max, ret_size);
    }
    if (size == 0) {
        enum io io = fill(connection);
        if (io != IO_OK) {
            return io;
        }
        size = connection->end - connection->begin;
    }
    *ret_size = size < max ? size : max;
    memcpy(data, connection->buffer + connection->begin, *ret_size);
    connection->begin += *ret_size;
    return IO_OK;
}

enum io connection_read(struct connection *connection, void *data, size_t max, size_t *ret_size) {
    enum io io = IO_OK;

    *ret_size = 0;
    if (connection->framing == BODY_CHUNKED && connection->left == 0) {
        io = next_chunk(connection);
        if (io != IO_OK) {
            return io;
        }
    }
    if (connection->framing == BODY_NONE || max == 0) {
        return IO_OK;
    }
    if (connection->framing == BODY_TO_END) {
        io = read_bytes(connection, data, max, ret_size);
        connection->framing = io == IO_CLOSED ? BODY_NONE : BODY_TO_END;
        return io == IO_CLOSED ? IO_OK : io;
    }
    if (connection->left == 0) {
        return IO_OK;
    }
    io = read_bytes(connection, data, connection->left < max ? (size_t)connection->left : max,
                    ret_size);
    connection->left -= *ret_size;
    return io;
}

enum io connection_read_all(struct connection *connection, void *data, size_t size) {
    char *at = data;

    while (size > 0) {
        size_t got = 0;
        enum io io = connection_read(connection, at, size, &got);
        if (io != IO_OK) {
            return io;
        }
        if (got == 0) {
            return IO_CLOSED;
        }
        at += got;
        size -= got;
    }
    return IO_OK;
}

enum io connection_skip(struct connection *connection, uint64_t max) {
    char scratch[4096];

    for (;;) {
        size_t got = 0;
        enum io io = connection_read(connection, scratch, sizeof scratch, &got);
        if (io != IO_OK || got == 0) {
            return io;
        }
        if (got > max) {
            return IO_BAD;
        }
        max -= got;
    }
}
