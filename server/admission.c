// What can be decided from a request's head is decided before a byte of its body is taken.
#include "exchange_impl.h"

#include "routes.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct header_list {
    struct guard_header headers[GUARD_HEADERS_MAX];
    size_t count;
};

static enum MHD_Result on_header(void *arg, enum MHD_ValueKind kind, const char *name,
                                 size_t name_size, const char *value, size_t value_size) {
    struct header_list *list = arg;

    (void)kind;
    if (list->count < GUARD_HEADERS_MAX) {
        list->headers[list->count] = (struct guard_header){
            .name = name,
            .name_size = name_size,
            .value = value != NULL ? value : "",
            .value_size = value_size,
        };
    }
    list->count++;
    return MHD_YES;
}

static bool pass_guard(struct exchange *exchange, const char *version) {
    struct header_list list = {.count = 0};

    (void)MHD_get_connection_values_n(exchange->http, MHD_HEADER_KIND, on_header, &list);
    const struct guard_request request = {
        .method = exchange->method,
        .version = version,
        .target = exchange->raw_target,
        .headers = list.headers,
        .header_count = list.count,
    };
    guard_check(&request, &exchange->head);
    if (!exchange->head.ok) {
        exchange->closes = true;
        exchange_answer_problem(exchange, exchange->head.reason, &exchange->head.fault);
    }
    return exchange->head.ok;
}

static bool find_route(struct exchange *exchange) {
    struct adamd_fault fault = {.status = ADAMD_OK};

    if (target_init(&exchange->target, exchange->raw_target, &fault) != ADAMD_OK ||
        router_find(routes, route_count, exchange->method, &exchange->target, &exchange->routing) !=
            ADAMD_OK) {
        exchange_answer_problem(exchange, REASON_NO_MEMORY, NULL);
        return false;
    }
    if (exchange->routing.route != NULL) {
        if (target_check(&exchange->target, exchange->routing.route->parameters, &fault) ==
            ADAMD_OK) {
            return true;
        }
        exchange_answer_fault(exchange, &fault);
    } else if (exchange->routing.allow[0] != '\0') {
        exchange_add_header(exchange, "Allow", "%s", exchange->routing.allow);
        exchange_answer_problem(exchange, REASON_METHOD_NOT_ALLOWED, NULL);
    } else {
        exchange_answer_problem(exchange, REASON_UNKNOWN_METHOD, NULL);
    }
    return false;
}

static bool take_timeout(struct exchange *exchange, const char *name) {
    enum { DIGITS_MAX = 10 };
    const char *text = exchange_header(exchange, name);
    struct adamd_fault fault;

    if (text == NULL) {
        return true;
    }
    if (text[0] == '\0' || strlen(text) > DIGITS_MAX || text[strspn(text, "0123456789")] != '\0') {
        (void)adamd_fail(&fault, ADAMD_BAD_FIELD, name,
                         "%s is a number of milliseconds of at most 10 digits", name);
        exchange_answer_fault(exchange, &fault);
        return false;
    }
    exchange->client_deadline_ms = exchange->start_ms + strtoull(text, NULL, 10);
    return true;
}

static bool check_body(struct exchange *exchange) {
    const struct route *route = exchange->routing.route;
    const struct guard_result *head = &exchange->head;
    struct adamd_fault fault = {.status = ADAMD_OK};
    const char *encoding = exchange_header(exchange, "Content-Encoding");

    if (encoding != NULL && strcasecmp(encoding, "identity") != 0) {
        exchange_answer_problem(exchange, REASON_UNSUPPORTED_ENCODING, NULL);
    } else if (route->streams && !head->has_length) {
        exchange_answer_problem(exchange, REASON_LENGTH_REQUIRED, NULL);
    } else if (route->body_max == 0 && guard_has_body(head)) {
        (void)adamd_fail(&fault, ADAMD_TOO_LARGE, NULL, "This call takes no body");
        exchange_answer_fault(exchange, &fault);
    } else if (head->content_length > route->body_max) {
        (void)adamd_fail(&fault, ADAMD_TOO_LARGE, NULL, "The body is larger than %zu bytes",
                         route->body_max);
        adamd_fault_tell(&fault, "max_bytes", "%zu", route->body_max);
        exchange_answer_fault(exchange, &fault);
    } else {
        return true;
    }
    return false;
}

bool admission_pass(struct exchange *exchange, const char *version) {
    return pass_guard(exchange, version) && find_route(exchange) &&
           take_timeout(exchange, "Connect-Timeout-Ms") &&
           take_timeout(exchange, "Request-Timeout-Ms") && check_body(exchange);
}
