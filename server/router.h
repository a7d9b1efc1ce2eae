/** From method and path to a row of a route table. Pure. */
#ifndef ADAMD_SERVER_ROUTER_H
#define ADAMD_SERVER_ROUTER_H

#include "exchange.h"
#include "target.h"

enum { ROUTE_VARIABLES_MAX = 3, ROUTE_ALLOW_MAX = 64 };

struct routing {
    const struct route *route;            // NULL: none
    char *variables[ROUTE_VARIABLES_MAX]; // the {…} of the pattern, malloc'ed; routing_finish()
    char allow[ROUTE_ALLOW_MAX]; // "GET, HEAD, POST": methods that the path knows; empty: none
};

/**
 * Looks for the row whose pattern and method fit. A {…} is one segment (or what stands before
 * ":verb"), never empty, and holds no ':'. HEAD is served by GET. NO_MEMORY, else OK: also where
 * there is no such row.
 */
ADAMD_MUST_USE enum adamd_status router_find(const struct route *routes, size_t count,
                                             const char *method, const struct target *target,
                                             struct routing *ret_routing);
void routing_finish(struct routing *routing);

#endif
