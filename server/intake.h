/**
 * What the HTTP library calls: from the request line to the last byte of an answer, for all
 * listeners together. Admission is decided here, before a byte of a body is taken. Knows nothing of
 * the loop but the time. Loop thread only.
 */
#ifndef ADAMD_SERVER_INTAKE_H
#define ADAMD_SERVER_INTAKE_H

#include "connections.h"
#include "log.h"
#include "server.h"

#include <microhttpd.h>

enum { INTAKE_COLLECTED_MAX = 256 << 20 }; // of all bodies that are being collected

/** Zeroed, with server and connections.config set, is empty. */
struct intake {
    struct server *server; // borrowed
    struct connections connections;
    struct exchange *exchanges;
    uint64_t exchange_count, collected_bytes;
    uint64_t next_request;
    uint64_t last_peer_check_ms;
    struct log_budget budget;
};

/** A daemon of the library on a listening socket, which becomes its own. NULL if it cannot. */
struct MHD_Daemon *intake_listen(struct intake *intake, int fd);

/** Cuts, abandons and answers what is due. Returns when it wants to be called again at the latest
 *  (loop time), UINT64_MAX for never. */
uint64_t intake_tick(struct intake *intake, uint64_t now_ms);

/** Answers everything that still waits with DRAINING, and ends streams. */
void intake_dismiss(struct intake *intake);

#endif
