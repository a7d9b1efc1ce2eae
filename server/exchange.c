// The life of an exchange, and what handlers may ask of the request.
#include "exchange_impl.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { ILLEGAL = 0 };

// Stored with 1 added, so that what is not written here is ILLEGAL, and a bug.
#define TO(state) (EXCHANGE_##state + 1)
static const unsigned char next_state[EXCHANGE_STATE_COUNT][EXCHANGE_EVENT_COUNT] = {
    [EXCHANGE_HEAD] = {[EVENT_ADMITTED] = TO(RECEIVING),
                       [EVENT_ANSWER] = TO(DROPPING),
                       [EVENT_ENDED] = TO(ENDED)},
    [EXCHANGE_RECEIVING] =
        {[EVENT_ANSWER] = TO(DROPPING), [EVENT_BODY_END] = TO(WAITING), [EVENT_ENDED] = TO(ENDED)},
    [EXCHANGE_DROPPING] = {[EVENT_BODY_REFUSED] = TO(ANSWERED),
                           [EVENT_BODY_END] = TO(ANSWERED),
                           [EVENT_ENDED] = TO(ENDED)},
    [EXCHANGE_WAITING] = {[EVENT_ANSWER] = TO(ANSWERED),
                          [EVENT_PEER_GONE] = TO(ABANDONED),
                          [EVENT_ENDED] = TO(ENDED)},
    [EXCHANGE_ANSWERED] = {[EVENT_QUEUED] = TO(SENDING), [EVENT_ENDED] = TO(ENDED)},
    [EXCHANGE_SENDING] = {[EVENT_PEER_GONE] = TO(ABANDONED), [EVENT_ENDED] = TO(ENDED)},
    [EXCHANGE_ABANDONED] = {[EVENT_ENDED] = TO(ENDED)},
};
#undef TO

void exchange_on(struct exchange *exchange, enum exchange_event event) {
    const unsigned char next = next_state[exchange->state][event];

    ADAMD_ASSERT(next != ILLEGAL);
    exchange->state = (enum exchange_state)(next - 1);
}

void exchange_release(struct exchange *exchange) {
    const struct handler *handler = exchange->handler;

    exchange->handler = NULL;
    if (handler != NULL && handler->gone != NULL) {
        handler->gone(exchange);
    }
}

void exchange_wake(struct exchange *exchange) {
    if (exchange->is_suspended) {
        exchange->is_suspended = false;
        MHD_resume_connection(exchange->http);
        reactor_resumed(exchange->intake->server->reactor);
    }
}

void exchange_sleep(struct exchange *exchange) {
    ADAMD_ASSERT(!exchange->is_suspended);
    exchange->is_suspended = true;
    MHD_suspend_connection(exchange->http);
}

uint64_t exchange_due_ms(const struct exchange *exchange) {
    const uint64_t client_ms = exchange->client_deadline_ms;
    return client_ms < exchange->deadline_ms ? client_ms : exchange->deadline_ms;
}

// ------------------------------------------------------------------------------------- the request

struct server *exchange_server(const struct exchange *exchange) {
    return exchange->intake->server;
}

const struct route *exchange_route(const struct exchange *exchange) {
    return exchange->routing.route;
}

void exchange_set_state(struct exchange *exchange, void *state) {
    exchange->handler_state = state;
}

void *exchange_state(const struct exchange *exchange) {
    return exchange->handler_state;
}

const char *exchange_segment(const struct exchange *exchange, size_t i) {
    ADAMD_ASSERT(i < ROUTE_VARIABLES_MAX && exchange->routing.variables[i] != NULL);
    return exchange->routing.variables[i];
}

const char *exchange_parameter(const struct exchange *exchange, const char *name) {
    return target_parameter(&exchange->target, name);
}

void exchange_each_parameter(const struct exchange *exchange, const char *prefix,
                             void (*each)(void *arg, const char *name, const char *value),
                             void *arg) {
    for (size_t i = 0; i < exchange->target.parameter_count; i++) {
        const struct target_parameter *parameter = &exchange->target.parameters[i];
        if (strncmp(parameter->name, prefix, strlen(prefix)) == 0) {
            each(arg, parameter->name, parameter->value);
        }
    }
}

const char *exchange_header(const struct exchange *exchange, const char *name) {
    return MHD_lookup_connection_value(exchange->http, MHD_HEADER_KIND, name);
}

bool exchange_is_head(const struct exchange *exchange) {
    return exchange->is_head;
}

bool exchange_is_rpc(const struct exchange *exchange) {
    return exchange->is_rpc;
}

uint64_t exchange_content_length(const struct exchange *exchange) {
    return exchange->head.content_length;
}

const unsigned char *exchange_collected(const struct exchange *exchange, size_t *ret_size) {
    static const unsigned char nothing[1];

    *ret_size = exchange->collected_size;
    return exchange->collected != NULL ? exchange->collected : nothing;
}

uint64_t exchange_deadline_ms(const struct exchange *exchange) {
    return exchange->client_deadline_ms;
}

void exchange_set_deadline(struct exchange *exchange, uint64_t at_ms, enum reason late) {
    exchange->deadline_ms = at_ms;
    exchange->late = late;
    reactor_expect(exchange->intake->server->reactor, exchange_due_ms(exchange));
}
