/**
 * The loop, and the HTTP library in it. What comes from outside the process (sockets, signals, the
 * backend's wakes, time) comes through here. Loop thread only, but for reactor_wake().
 */
#ifndef ADAMD_SERVER_REACTOR_H
#define ADAMD_SERVER_REACTOR_H

#include "server.h"

struct reactor;

/** The loop, which becomes server->loop. `server` is borrowed. NULL if out of memory. */
struct reactor *reactor_create(struct server *server);

/** Binds every address of the configuration. BAD_FIELD (listen, port_file), NO_MEMORY. */
ADAMD_MUST_USE enum adamd_status reactor_listen(struct reactor *reactor, struct adamd_fault *fault);

/** Serves until reactor_drain() has ended. */
void reactor_run(struct reactor *reactor);

/** Ends the loop as soon as everything accepted is answered. A second call, or the drain limit,
 * ends the process with 75. */
void reactor_drain(struct reactor *reactor);

/** Closes connections and all of the loop but reactor_wake(), which a backend that still works may
 *  call until it is destroyed. NULL is harmless. */
void reactor_close(struct reactor *reactor);

/** After reactor_close(). Asserts that the loop is empty. NULL is harmless. */
void reactor_destroy(struct reactor *reactor);

/** Something is due at `at_ms` (loop time), perhaps earlier than the reactor would look. */
void reactor_expect(struct reactor *reactor, uint64_t at_ms);

/** A sleeping connection was resumed: the library, which does not notice by itself, gets its turn.
 */
void reactor_resumed(struct reactor *reactor);

/** The backend's notify: from any thread. `arg` is the reactor. */
void reactor_wake(void *arg);

/** Open connections, and the longest time that the loop was away from its sockets since the start
 *  or the last SIGUSR2. */
uint32_t reactor_connections(const struct reactor *reactor);
uint64_t reactor_stall_us(const struct reactor *reactor);

#endif
