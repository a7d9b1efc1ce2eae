// poll()'s POLLRDHUP, and the kernel's own struct tcp_info, which counts received bytes
#define _GNU_SOURCE

#include "connections.h"

#include <arpa/inet.h>
#include <linux/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

enum { OTHERS_PER_ADDRESS_MAX = 64 };

static bool describe(const struct sockaddr *address, char *peer, bool *ret_is_unix) {
    *ret_is_unix = address == NULL || address->sa_family == AF_UNIX;
    if (*ret_is_unix) {
        snprintf(peer, CONNECTION_PEER_MAX, "unix");
        return true;
    }
    if (address->sa_family == AF_INET) {
        const struct in_addr *v4 = &((const struct sockaddr_in *)(const void *)address)->sin_addr;
        (void)inet_ntop(AF_INET, v4, peer, CONNECTION_PEER_MAX);
        return ntohl(v4->s_addr) >> 24 == 127;
    }
    const struct in6_addr *v6 = &((const struct sockaddr_in6 *)(const void *)address)->sin6_addr;
    (void)inet_ntop(AF_INET6, v6, peer, CONNECTION_PEER_MAX);
    return IN6_IS_ADDR_LOOPBACK(v6);
}

static uint64_t count_of(const struct connections *connections, const char *peer) {
    uint64_t count = 0;

    for (const struct connection *c = connections->first; c != NULL; c = c->next) {
        count += strcmp(c->peer, peer) == 0;
    }
    return count;
}

bool connections_admit(struct connections *connections, const struct sockaddr *address) {
    const struct config *config = connections->config;
    char peer[CONNECTION_PEER_MAX];
    bool is_unix;
    const bool is_local = describe(address, peer, &is_unix);
    uint64_t per_address_max = config->connections_per_address_max;

    if (per_address_max == 0) {
        per_address_max = is_local ? config->connections_max : OTHERS_PER_ADDRESS_MAX;
    }
    if (connections->count >= config->connections_max ||
        count_of(connections, peer) >= per_address_max) {
        connections->refused++;
        return false;
    }
    return true;
}

struct connection *connections_add(struct connections *connections, int fd,
                                   const struct sockaddr *address, uint64_t now_ms) {
    struct connection *connection = calloc(1, sizeof *connection);

    if (connection == NULL) {
        return NULL;
    }
    connection->fd = fd;
    connection->is_local = describe(address, connection->peer, &connection->is_unix);
    connection->opened_ms = now_ms;
    connection->next = connections->first;
    if (connection->next != NULL) {
        connection->next->previous = connection;
    }
    connections->first = connection;
    connections->count++;
    // Bytes may have come with the handshake's end: they are not yet seen.
    connection_expect(connection, PHASE_IDLE, now_ms + connections->config->idle_timeout_ms);
    return connection;
}

void connections_remove(struct connections *connections, struct connection *connection) {
    if (connection->next != NULL) {
        connection->next->previous = connection->previous;
    }
    if (connection->previous != NULL) {
        connection->previous->next = connection->next;
    } else {
        connections->first = connection->next;
    }
    connections->count--;
    free(connection);
}

// How many bytes the kernel has received in all; 0 where it does not tell (Unix sockets).
static uint64_t bytes_received(const struct connection *connection) {
    struct tcp_info info;
    socklen_t size = sizeof info;

    memset(&info, 0, sizeof info);
    if (connection->is_unix ||
        getsockopt(connection->fd, IPPROTO_TCP, TCP_INFO, &info, &size) != 0) {
        return 0;
    }
    return info.tcpi_bytes_received;
}

static uint64_t at_least(uint64_t ms, uint64_t bytes, uint64_t rate) {
    const uint64_t needed_ms = bytes / rate * 1000 + bytes % rate * 1000 / rate;
    return needed_ms > ms ? needed_ms : ms;
}

void connection_enter(const struct connections *connections, struct connection *connection,
                      enum phase phase, uint64_t bytes, uint64_t now_ms) {
    const struct config *config = connections->config;
    uint64_t limit_ms = 0;

    switch (phase) {
    case PHASE_IDLE:
        connection->bytes_seen = bytes_received(connection);
        limit_ms = config->idle_timeout_ms;
        break;
    case PHASE_HEAD:
        limit_ms = config->header_timeout_ms;
        break;
    case PHASE_BODY:
        limit_ms = at_least(config->body_timeout_ms, bytes, config->min_rate);
        break;
    case PHASE_ANSWER:
        limit_ms = at_least(config->response_timeout_ms, bytes, config->min_rate);
        break;
    case PHASE_WAIT:
        connection_expect(connection, PHASE_WAIT, UINT64_MAX);
        return;
    }
    connection_expect(connection, phase, now_ms + limit_ms);
}

void connection_expect(struct connection *connection, enum phase phase, uint64_t deadline_ms) {
    connection->phase = phase;
    connection->deadline_ms = deadline_ms;
}

bool connection_is_old(const struct connections *connections, const struct connection *connection,
                       uint64_t now_ms) {
    return now_ms - connection->opened_ms >= connections->config->connection_age_ms;
}

bool connection_is_gone(const struct connection *connection) {
    struct pollfd polled = {.fd = connection->fd, .events = POLLRDHUP};

    return poll(&polled, 1, 0) == 1;
}

bool connection_has_ended(const struct connection *connection) {
    char byte;

    return recv(connection->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

void connection_cut(struct connections *connections, struct connection *connection) {
    if (!connection->is_cut) {
        connection->is_cut = true;
        connections->cut++;
        (void)shutdown(connection->fd, SHUT_RDWR); // fails where the peer was faster
    }
}

void connections_reap(struct connections *connections, uint64_t now_ms) {
    for (struct connection *c = connections->first; c != NULL; c = c->next) {
        if (c->phase == PHASE_IDLE && bytes_received(c) > c->bytes_seen) {
            connection_enter(connections, c, PHASE_HEAD, 0, now_ms);
        }
        if (now_ms >= c->deadline_ms) {
            connection_cut(connections, c);
        }
    }
}
