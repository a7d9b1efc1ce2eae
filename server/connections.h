/**
 * Every open connection with the one absolute deadline that holds for it now. The HTTP library
 * knows only how long a connection was silent, and a byte a second is never silent: so overdue
 * sockets are shut down from here, and the library then sees their end. Loop thread only.
 */
#ifndef ADAMD_SERVER_CONNECTIONS_H
#define ADAMD_SERVER_CONNECTIONS_H

#include "config.h"

#include <sys/socket.h>

enum { CONNECTION_PEER_MAX = 48 };

enum phase {
    PHASE_IDLE,   // no byte of the next request yet
    PHASE_HEAD,   // some
    PHASE_BODY,   // admitted
    PHASE_WAIT,   // the answer is not known yet: bounded by the exchange
    PHASE_ANSWER, // being sent
};

struct connection {
    int fd;
    bool is_unix, is_local; // local: this host's own
    bool is_cut;
    char peer[CONNECTION_PEER_MAX]; // "192.0.2.1", "unix"
    enum phase phase;
    uint64_t opened_ms, deadline_ms;
    uint64_t bytes_seen; // received in all when the last request ended
    struct connection *next, *previous;
};

struct connections {
    const struct config *config; // borrowed
    struct connection *first;
    uint64_t count, refused, cut;
};

/** Whether one more from this address may come in. Counts those that may not. */
bool connections_admit(struct connections *connections, const struct sockaddr *address);

/** NULL if out of memory. */
struct connection *connections_add(struct connections *connections, int fd,
                                   const struct sockaddr *address, uint64_t now_ms);
void connections_remove(struct connections *connections, struct connection *connection);

/** `bytes` is what is still to come or to go, and counts for bodies and answers only. */
void connection_enter(const struct connections *connections, struct connection *connection,
                      enum phase phase, uint64_t bytes, uint64_t now_ms);

/** As above, for a phase whose end the caller knows. UINT64_MAX is none. */
void connection_expect(struct connection *connection, enum phase phase, uint64_t deadline_ms);

/** Old enough to end with the next answer. */
bool connection_is_old(const struct connections *connections, const struct connection *connection,
                       uint64_t now_ms);

/** Whether the peer has closed its side, also where unread bytes lie before that. */
bool connection_is_gone(const struct connection *connection);
/** True if the peer will send nothing more, and all that it sent was read. */
bool connection_has_ended(const struct connection *connection);

/** Shuts the socket down; the library sees its end and cleans up. */
void connection_cut(struct connections *connections, struct connection *connection);

/** Cuts what is overdue. To be called every CONNECTIONS_TICK_MS at least. */
void connections_reap(struct connections *connections, uint64_t now_ms);

enum { CONNECTIONS_TICK_MS = 200 };

#endif
