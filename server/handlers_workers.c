// Calls on workers: registration, leases, lists.
#include "handlers.h"

#include "arguments.h"
#include "codec/convert.h"
#include "models.h"
#include "push_head.h"

#include <inttypes.h>
#include <string.h>

static struct codec_now now_of(const struct served_model *served) {
    return (struct codec_now){server_now_ms(served->server), clock_now_ns()};
}

static void answer_worker(struct call_frame *frame, const struct served_model *served,
                          const char *id) {
    const struct adamd_worker *worker = adamd_workers_find(adamd_model_workers(served->model), id);

    if (worker == NULL) {
        (void)adamd_fail_plain(&frame->fault, ADAMD_UNKNOWN_WORKER);
        advise_registration(&frame->fault, served, id);
        call_fail(frame);
        return;
    }
    call_answer(frame, (ProtobufCMessage *)codec_worker_message(&frame->arena, served->id, worker,
                                                                now_of(served)));
}

static void run_register(struct call_frame *frame) {
    const Adamd__V1__RegisterWorkerRequest *request =
        (Adamd__V1__RegisterWorkerRequest *)frame->request;
    struct served_model *served = find_model_named(exchange_server(frame->exchange),
                                                   request->parent, "parent", &frame->fault);
    const bool ranked = request->rank_oneof_case != 0;
    struct adamd_registration registration;

    if (served == NULL) {
        call_fail(frame);
        return;
    }
    if (adamd_model_register(served->model, request->worker_id, request->nonce,
                             ranked ? request->rank : UINT32_MAX, request->generation,
                             request->acknowledged_version, server_now_ms(served->server),
                             &registration, &frame->fault) != ADAMD_OK) {
        call_fail(frame);
        return;
    }
    server_rearm(served->server);
    call_answer(frame, (ProtobufCMessage *)codec_registration_message(&frame->arena, served->id,
                                                                      served->model, &registration,
                                                                      now_of(served)));
}

const struct call call_register_worker = {
    .request = &adamd__v1__register_worker_request__descriptor,
    .resource = CALL_PARENT,
    .body = "",
    .drained = true,
    .run = run_register,
};

static void run_renew(struct call_frame *frame) {
    const Adamd__V1__RenewLeaseRequest *request = (Adamd__V1__RenewLeaseRequest *)frame->request;
    const char *id = NULL;
    struct served_model *served = find_worker_named(exchange_server(frame->exchange), request->name,
                                                    "name", &id, &frame->fault);

    if (served == NULL) {
        call_fail(frame);
        return;
    }
    if (adamd_model_renew(served->model, id, request->epoch, server_now_ms(served->server),
                          &frame->fault) != ADAMD_OK) {
        advise_registration(&frame->fault, served, id);
        call_fail(frame);
        return;
    }
    server_rearm(served->server);
    answer_worker(frame, served, id);
}

const struct call call_renew_lease = {
    .request = &adamd__v1__renew_lease_request__descriptor,
    .resource = CALL_WORKER_NAME,
    .body = "",
    .run = run_renew,
};

static void run_deregister(struct call_frame *frame) {
    const Adamd__V1__DeregisterWorkerRequest *request =
        (Adamd__V1__DeregisterWorkerRequest *)frame->request;
    const Adamd__V1__DeregisterWorkerResponse answer = ADAMD__V1__DEREGISTER_WORKER_RESPONSE__INIT;
    const char *id = NULL;
    struct served_model *served = find_worker_named(exchange_server(frame->exchange), request->name,
                                                    "name", &id, &frame->fault);

    if (served == NULL) {
        call_fail(frame);
        return;
    }
    if (adamd_model_deregister(served->model, id, request->epoch, server_now_ms(served->server),
                               &frame->fault) != ADAMD_OK) {
        advise_registration(&frame->fault, served, id);
        call_fail(frame);
        return;
    }
    server_rearm(served->server);
    call_answer(frame, &answer.base);
}

const struct call call_deregister_worker = {
    .request = &adamd__v1__deregister_worker_request__descriptor,
    .resource = CALL_WORKER_NAME,
    .run = run_deregister,
};

static void run_get(struct call_frame *frame) {
    const Adamd__V1__GetWorkerRequest *request = (Adamd__V1__GetWorkerRequest *)frame->request;
    const char *id = NULL;
    const struct served_model *served = find_worker_named(
        exchange_server(frame->exchange), request->name, "name", &id, &frame->fault);

    if (served == NULL) {
        call_fail(frame);
        return;
    }
    answer_worker(frame, served, id);
}

const struct call call_get_worker = {
    .request = &adamd__v1__get_worker_request__descriptor,
    .resource = CALL_WORKER_NAME,
    .run = run_get,
};

// The page token is the rank behind the last one shown: ranks are for ever and ascend.
static bool read_token(struct call_frame *frame, const char *token, uint64_t *ret_rank) {
    *ret_rank = 0;
    if (token[0] == '\0' || (token[0] == 'r' && parse_u64(token + 1, ret_rank))) {
        return true;
    }
    (void)adamd_fail(&frame->fault, ADAMD_BAD_FIELD, "page_token",
                     "page_token is not one that this daemon gave out");
    return false;
}

static bool fill_workers(struct call_frame *frame, const struct served_model *served, uint64_t rank,
                         uint32_t page_size, Adamd__V1__ListWorkersResponse *answer) {
    const struct adamd_workers *workers = adamd_model_workers(served->model);
    uint32_t at = 0;

    answer->workers = codec_arena_array(&frame->arena, page_size, sizeof(void *));
    if (answer->workers == NULL) {
        return false;
    }
    while (at < workers->count && workers->list[at]->rank < rank) {
        at++;
    }
    for (; at < workers->count && answer->n_workers < page_size; at++) {
        Adamd__V1__Worker *message =
            codec_worker_message(&frame->arena, served->id, workers->list[at], now_of(served));
        if (message == NULL) {
            return false;
        }
        answer->workers[answer->n_workers++] = message;
    }
    if (at < workers->count) {
        answer->next_page_token =
            codec_arena_format(&frame->arena, "r%" PRIu32, workers->list[at]->rank);
    }
    return answer->next_page_token != NULL;
}

static void run_list(struct call_frame *frame) {
    const Adamd__V1__ListWorkersRequest *request = (Adamd__V1__ListWorkersRequest *)frame->request;
    Adamd__V1__ListWorkersResponse answer = ADAMD__V1__LIST_WORKERS_RESPONSE__INIT;
    const struct served_model *served = find_model_named(exchange_server(frame->exchange),
                                                         request->parent, "parent", &frame->fault);
    uint64_t rank = 0;

    if (served == NULL || !read_token(frame, request->page_token, &rank)) {
        call_fail(frame);
        return;
    }
    const bool whole = fill_workers(frame, served, rank, page_size_of(request->page_size), &answer);
    call_answer(frame, whole ? &answer.base : NULL);
}

const struct call call_list_workers = {
    .request = &adamd__v1__list_workers_request__descriptor,
    .resource = CALL_PARENT,
    .run = run_list,
};
