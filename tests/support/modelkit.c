#include "modelkit.h"

#include "backend_deferred.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

// The tests poll.
static void do_nothing(void *arg) {
    (void)arg;
}

struct kit_plan kit_plan(enum adamd_trigger trigger) {
    static const uint64_t counts[] = {3, 20};

    return (struct kit_plan){
        .counts = counts,
        .tensor_count = 2,
        .options = adamd_options_default,
        .policy = {.trigger = trigger, .max_staleness = UINT64_MAX, .lease_ms = 1000},
        .slots_max = 8,
        .published_max = 2,
    };
}

enum adamd_status kit_try_create(struct kit *kit, const struct kit_plan *plan) {
    enum adamd_status status;
    struct adamd_tensor_spec *tensors = calloc(plan->tensor_count, sizeof *tensors);
    uint32_t *indices = calloc(plan->tensor_count, sizeof *indices);
    char(*keys)[16] = calloc(plan->tensor_count, sizeof *keys);
    struct adamd_fault fault = {0};

    for (uint32_t i = 0; i < plan->tensor_count; i++) {
        (void)snprintf(keys[i], sizeof keys[i], "t%u", i);
        indices[i] = i;
        tensors[i] = (struct adamd_tensor_spec){
            .key = keys[i], .dtype = ADAMD_FLOAT32, .rank = 1, .shape = {plan->counts[i]}};
    }
    const struct adamd_group_spec group = {
        .options = plan->options, .tensors = indices, .tensor_count = plan->tensor_count};
    const struct adamd_model_spec spec = {
        .tensors = tensors,
        .tensor_count = plan->tensor_count,
        .groups = &group,
        .group_count = 1,
        .policy = plan->policy,
        .slots_max = plan->slots_max,
        .published_max = plan->published_max,
        .hook_registry = plan->hook_registry,
    };
    *kit = (struct kit){.now_ms = 1000000};
    if (plan->variant == NULL) {
        kit->deferred = backend_deferred_create(NULL, NULL);
        kit->backend = kit->deferred;
    } else {
        kit->backend = adamd_cpu_backend_create(plan->variant, plan->threads, do_nothing, NULL);
    }
    ck_assert_ptr_nonnull(kit->backend);
    if (plan->faulty != NULL) {
        const uint64_t calls_left = plan->faulty->calls_left;
        const enum adamd_status answer = plan->faulty->answer;
        backend_faulty_init(plan->faulty, kit->deferred);
        backend_faulty_arm(plan->faulty, calls_left, answer);
        kit->backend = &plan->faulty->base;
    }
    kit->queue = adamd_queue_create(kit->backend);
    ck_assert_ptr_nonnull(kit->queue);
    status = adamd_model_create(kit->queue, &spec, &kit->model, &fault);
    status = status == ADAMD_OK ? adamd_model_initialize(kit->model, &fault) : status;
    kit_run(kit);
    free(tensors);
    free(indices);
    free(keys);
    return status;
}

void kit_create(struct kit *kit, const struct kit_plan *plan) {
    ck_assert_int_eq(kit_try_create(kit, plan), ADAMD_OK);
}

void kit_destroy(struct kit *kit) {
    adamd_model_destroy(kit->model);
    kit->model = NULL;
    kit_run(kit);
    ck_assert_uint_eq(adamd_backend_resident(kit->backend), 0);
    adamd_queue_destroy(kit->queue);
    adamd_backend_destroy(kit->backend);
}

void kit_run(struct kit *kit) {
    const struct timespec moment = {.tv_nsec = 50000};

    while (kit->deferred == NULL && adamd_queue_busy(kit->queue)) {
        (void)nanosleep(&moment, NULL);
        adamd_queue_poll(kit->queue);
    }
    while (kit->deferred != NULL &&
           (backend_deferred_run(kit->deferred, SIZE_MAX) > 0 || adamd_queue_busy(kit->queue))) {
        adamd_queue_poll(kit->queue);
    }
}

void kit_run_one(struct kit *kit) {
    ck_assert_uint_eq(backend_deferred_run(kit->deferred, 1), 1);
    adamd_queue_poll(kit->queue);
}

void kit_wait(struct kit *kit, uint64_t ms) {
    for (uint64_t passed = 0; passed < ms; passed += 10) {
        kit->now_ms += 10;
        adamd_model_tick(kit->model, kit->now_ms);
    }
}

uint64_t kit_register(struct kit *kit, const char *worker, uint32_t rank) {
    struct adamd_registration registration = {0};
    struct adamd_fault fault = {0};
    const enum adamd_status status = adamd_model_register(kit->model, worker, "", rank, 0, 0,
                                                          kit->now_ms, &registration, &fault);

    ck_assert_msg(status == ADAMD_OK, "register: %s", fault.message);
    return registration.epoch;
}

struct adamd_push_head kit_head(const char *worker, uint64_t epoch, uint64_t sequence) {
    return (struct adamd_push_head){
        .worker = worker,
        .epoch = epoch,
        .sequence = sequence,
        .weight = 1,
        .byte_size = UINT64_MAX,
    };
}

void kit_on_decided(void *arg, enum adamd_status status, const struct adamd_outcome *outcome,
                    bool duplicate, const struct adamd_fault *fault) {
    struct kit_end *end = arg;

    end->count++;
    end->status = status;
    end->outcome = *outcome;
    end->duplicate = duplicate;
    end->fault = *fault;
}

void kit_on_stepped(void *arg, enum adamd_status status, const struct adamd_step_record *record,
                    bool duplicate) {
    struct kit_end *end = arg;

    end->count++;
    end->status = status;
    end->record = record;
    end->duplicate = duplicate;
}

void kit_on_ready(void *arg, enum adamd_status status, const void *what) {
    struct kit_end *end = arg;

    end->count++;
    end->status = status;
    end->what = what;
}

struct adamd_push *kit_begin(struct kit *kit, const struct adamd_push_head *head,
                             struct kit_end *end, enum adamd_status *ret_status) {
    struct adamd_push *push = NULL;
    bool wants_body = false;

    *end = (struct kit_end){0};
    *ret_status = adamd_push_begin(kit->model, head, kit->now_ms, kit_on_decided, end, &push,
                                   &wants_body, &end->outcome, &end->fault);
    return push;
}

enum adamd_status kit_push(struct kit *kit, const struct adamd_push_head *head, float value,
                           struct kit_end *end) {
    const struct adamd_layout *layout = adamd_model_layout(kit->model);
    struct adamd_push *push = NULL;
    bool wants_body = false;
    uint64_t left = layout->parameter_count;
    enum adamd_status status;

    *end = (struct kit_end){0};
    status = adamd_push_begin(kit->model, head, kit->now_ms, kit_on_decided, end, &push,
                              &wants_body, &end->outcome, &end->fault);
    if (status != ADAMD_OK || push == NULL || !wants_body) {
        return status;
    }
    if (head->tensors != NULL) {
        left = 0;
        for (uint32_t i = 0; i < head->tensor_count; i++) {
            left += layout->tensors[head->tensors[i]].count;
        }
    }
    for (; left > 0 && status == ADAMD_OK; left--) {
        status = adamd_push_append(push, &value, sizeof value, &end->fault);
    }
    if (status != ADAMD_OK) {
        adamd_push_abandon(push);
        return status;
    }
    return adamd_push_commit(push, kit->now_ms, &end->fault);
}

void kit_params(struct kit *kit, uint32_t tensor, float *ret_values) {
    const struct adamd_tensor *entry = &adamd_model_layout(kit->model)->tensors[tensor];
    struct adamd_wait wait = {0};
    struct kit_end end = {0};
    const struct adamd_published *published;

    adamd_model_pull(kit->model, 0, &wait, kit_on_ready, &end);
    kit_run(kit);
    ck_assert_int_eq(end.count, 1);
    ck_assert_int_eq(end.status, ADAMD_OK);
    published = end.what;
    memcpy(ret_values, published->host + entry->offset, (size_t)adamd_tensor_bytes(entry));
    adamd_published_release(kit->model, published);
}

void kit_digest(struct kit *kit, uint64_t ret_digest[2]) {
    struct adamd_wait wait = {0};
    struct kit_end end = {0};

    adamd_model_capture(kit->model, &wait, kit_on_ready, &end);
    kit_run(kit);
    ck_assert_int_eq(end.count, 1);
    ck_assert_int_eq(end.status, ADAMD_OK);
    adamd_state_digest(adamd_model_layout(kit->model), end.what, 1, ret_digest);
    adamd_capture_release(kit->model, end.what);
}
