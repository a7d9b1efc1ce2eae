/** The route table: every path that the daemon serves, written once. */
#ifndef ADAMD_SERVER_ROUTES_H
#define ADAMD_SERVER_ROUTES_H

#include "exchange.h"

extern const struct route routes[];
extern const size_t route_count;

#endif
