/**
 * The bar that the wire sets: a socket program that moves so many bytes to a server and as many
 * back, by plain write() and read() loops on one buffer, and does nothing else.
 */
#ifndef ADAMD_BENCH_RAW_EXCHANGE_H
#define ADAMD_BENCH_RAW_EXCHANGE_H

#include <stddef.h>
#include <sys/types.h>

/** A server process, with one more process for each connection. */
struct raw_server {
    pid_t pid;
    int port;
};

struct raw_server raw_server_start(size_t bytes);
void raw_server_stop(const struct raw_server *server);

/** A connection with TCP_NODELAY, as libadamd-client has. */
int raw_connect(const struct raw_server *server);

/** Sends `bytes` from `out`, then receives as many into `in`. */
void raw_exchange(int fd, const void *out, void *in, size_t bytes);

#endif
