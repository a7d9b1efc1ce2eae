// Admission of a push, before a byte of its body, and what its sender does with it afterwards.
#include "model_impl.h"

#include <math.h>
#include <stdlib.h>

// ------------------------------------------------------------------------------ what the head says

static enum adamd_status check_metrics(const struct adamd_push_head *head,
                                       struct adamd_fault *fault) {
    if (head->metric_count > ADAMD_METRICS_MAX) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, "metrics", "a push takes at most %d metrics",
                          ADAMD_METRICS_MAX);
    }
    for (uint32_t i = 0; i < head->metric_count; i++) {
        const char *key = head->metrics[i].key;
        if (key[0] == '\0' || strnlen(key, ADAMD_METRIC_KEY_MAX + 1) > ADAMD_METRIC_KEY_MAX) {
            return adamd_fail(fault, ADAMD_BAD_FIELD, "metrics.key",
                              "a metric's key must have 1 to %d bytes", ADAMD_METRIC_KEY_MAX);
        }
    }
    return ADAMD_OK;
}

static enum adamd_status check_tensors(const struct adamd_model *model,
                                       const struct adamd_push_head *head, uint64_t *ret_bytes,
                                       struct adamd_fault *fault) {
    uint64_t bytes = 0;

    if (head->tensors == NULL) {
        *ret_bytes = model->layout.wire_bytes;
        return ADAMD_OK;
    }
    if (head->tensor_count == 0) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, "tensors", "a push names at least one tensor");
    }
    for (uint32_t i = 0; i < head->tensor_count; i++) {
        const uint32_t tensor = head->tensors[i];
        if (tensor >= model->layout.tensor_count) {
            return adamd_fail(fault, ADAMD_LAYOUT_MISMATCH, "tensors",
                              "there is no tensor %u: the model has %u", tensor,
                              model->layout.tensor_count);
        }
        if (i > 0 && tensor <= head->tensors[i - 1]) {
            return adamd_fail(fault, ADAMD_BAD_FIELD, "tensors",
                              "tensors must ascend: %u comes after %u", tensor,
                              head->tensors[i - 1]);
        }
        bytes += adamd_tensor_bytes(&model->layout.tensors[tensor]);
    }
    *ret_bytes = bytes;
    return ADAMD_OK;
}

static enum adamd_status check_head(const struct adamd_model *model,
                                    const struct adamd_push_head *head, uint64_t *ret_bytes,
                                    struct adamd_fault *fault) {
    const float weight = (float)head->weight;
    enum adamd_status status = check_metrics(head, fault);

    if (status != ADAMD_OK) {
        return status;
    }
    if (!isfinite(weight) || weight <= 0) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, "weight",
                          "weight must be a finite number above 0, not %g", head->weight);
    }
    if (head->replace && model->policy.trigger != ADAMD_MANUAL) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, "replace",
                          "replace is for models whose trigger is MANUAL");
    }
    status = check_tensors(model, head, ret_bytes, fault);
    if (status == ADAMD_OK && head->byte_size != UINT64_MAX && head->byte_size != *ret_bytes) {
        adamd_fail(fault, ADAMD_LAYOUT_MISMATCH, "byte_size",
                   "the pushed tensors take %llu bytes, not %llu", (unsigned long long)*ret_bytes,
                   (unsigned long long)head->byte_size);
        adamd_fault_tell(fault, "expected", "%llu", (unsigned long long)*ret_bytes);
        return ADAMD_LAYOUT_MISMATCH;
    }
    return status;
}

enum adamd_status model_check_base(const struct adamd_model *model, bool has_base, uint64_t base,
                                   struct adamd_fault *fault) {
    enum adamd_status status = ADAMD_OK;

    if (!has_base) {
        return ADAMD_OK;
    }
    if (base > model->version) {
        status = adamd_fail(fault, ADAMD_FUTURE_VERSION, "base_version",
                            "base version %llu does not exist yet: the model is at %llu",
                            (unsigned long long)base, (unsigned long long)model->version);
    } else if ((model->policy.trigger == ADAMD_EACH_PUSH &&
                model->version - base > model->policy.max_staleness) ||
               (model->policy.trigger == ADAMD_BARRIER && base < model->version)) {
        status = adamd_fail(fault, ADAMD_STALE, "base_version",
                            "base version %llu is too old: the model is at %llu",
                            (unsigned long long)base, (unsigned long long)model->version);
    }
    if (status != ADAMD_OK) {
        adamd_fault_tell(fault, "current_version", "%llu", (unsigned long long)model->version);
    }
    return status;
}

// --------------------------------------------------------------------------------- a new gradient

static void *copy_of(const void *bytes, size_t size) {
    void *copy = malloc(size);

    if (copy != NULL) {
        memcpy(copy, bytes, size);
    }
    return copy;
}

static bool copy_lists(struct gradient *gradient, const struct adamd_push_head *head,
                       uint32_t tensor_count) {
    if (head->tensors != NULL && head->tensor_count < tensor_count) {
        gradient->tensors = copy_of(head->tensors, head->tensor_count * sizeof head->tensors[0]);
        gradient->has = calloc(1, bits_bytes(tensor_count));
        if (gradient->tensors == NULL || gradient->has == NULL) {
            return false;
        }
        gradient->tensor_count = head->tensor_count;
        for (uint32_t i = 0; i < head->tensor_count; i++) {
            bit_set(gradient->has, head->tensors[i]);
        }
    }
    if (head->metric_count > 0) {
        gradient->metrics = copy_of(head->metrics, head->metric_count * sizeof head->metrics[0]);
        gradient->metric_count = head->metric_count;
    }
    return head->metric_count == 0 || gradient->metrics != NULL;
}

static enum adamd_status create_gradient(struct adamd_model *model, struct adamd_worker *worker,
                                         const struct adamd_push_head *head, uint64_t bytes,
                                         struct gradient **ret_gradient) {
    struct gradient *gradient = calloc(1, sizeof *gradient);
    enum adamd_status status = ADAMD_NO_MEMORY;

    if (gradient == NULL) {
        return status;
    }
    *gradient = (struct gradient){
        .worker = worker,
        .epoch = head->epoch,
        .sequence = head->sequence,
        .has_base_version = head->has_base_version,
        .base_version = head->base_version,
        .replace = head->replace,
        .wants_parameters = head->wants_parameters,
        .weight = head->weight,
        .byte_size = bytes,
        .crc32c = head->crc32c,
    };
    if (copy_lists(gradient, head, model->layout.tensor_count)) {
        status = slot_take(model, &gradient->slot);
    }
    if (status != ADAMD_OK) {
        free(gradient->tensors);
        free(gradient->has);
        free(gradient->metrics);
        free(gradient);
        return status;
    }
    gradient_append(&model->receiving, gradient);
    *ret_gradient = gradient;
    return ADAMD_OK;
}

// --------------------------------------------------------------------------------------- admission

// One call of adamd_push_begin().
struct admission {
    struct adamd_model *model;
    const struct adamd_push_head *head;
    struct adamd_worker *worker;
    struct adamd_push *push; // made ahead, so that nothing fails after the decision
    struct adamd_outcome outcome;
    bool wants_body, repeat;
};

static enum adamd_status check_state(const struct adamd_model *model, struct adamd_fault *fault) {
    switch (model->state) {
    case ADAMD_MODEL_INITIALIZING:
        return adamd_fail_plain(fault, ADAMD_INITIALIZING);
    case ADAMD_MODEL_FAILED:
        return adamd_fail_plain(fault, ADAMD_DEVICE_LOST);
    case ADAMD_MODEL_RESTORING:
        return adamd_fail(fault, ADAMD_BUSY, NULL, "the model's state is being restored");
    default:
        return ADAMD_OK;
    }
}

static enum adamd_status check_generation(const struct adamd_model *model, uint64_t generation,
                                          struct adamd_fault *fault) {
    if (generation == 0 || generation == model->generation) {
        return ADAMD_OK;
    }
    adamd_fail(fault, ADAMD_RUN_RESTORED, "generation",
               "the model was restored: its generation is %llu, not %llu",
               (unsigned long long)model->generation, (unsigned long long)generation);
    adamd_fault_tell(fault, "generation", "%llu", (unsigned long long)model->generation);
    return ADAMD_RUN_RESTORED;
}

// Too old already: its number is used up without a body, unless earlier ones are undecided; then
// it has to wait for its turn.
static enum adamd_status judge_base(struct admission *admission, struct adamd_fault *fault) {
    struct adamd_model *model = admission->model;
    const struct adamd_push_head *head = admission->head;
    struct adamd_worker *worker = admission->worker;
    enum adamd_status status =
        model_check_base(model, head->has_base_version, head->base_version, fault);

    if (status != ADAMD_STALE) {
        return status;
    }
    if (head->sequence != worker->last_sequence + 1) {
        return ADAMD_OK;
    }
    const struct adamd_outcome outcome = {
        .kind = ADAMD_OUTCOME_STALE,
        .sequence = head->sequence,
        .version = model->version,
        .staleness = model->version - head->base_version,
        .crc32c = head->crc32c,
    };
    adamd_workers_decide(worker, &outcome);
    worker->counts.stale++;
    model->counts.stale++;
    return ADAMD_STALE;
}

static enum adamd_status admit_new(struct admission *admission, struct adamd_fault *fault) {
    struct adamd_model *model = admission->model;
    struct gradient *gradient = NULL;
    uint64_t bytes = 0;
    enum adamd_status status = ADAMD_OK;

    if (model->draining) {
        status = adamd_fail_plain(fault, ADAMD_DRAINING);
    } else if (model->state == ADAMD_MODEL_PAUSED) {
        status = adamd_fail_plain(fault, ADAMD_PAUSED);
    }
    status = status == ADAMD_OK ? check_head(model, admission->head, &bytes, fault) : status;
    status = status == ADAMD_OK ? judge_base(admission, fault) : status;
    if (status != ADAMD_OK) {
        return status;
    }
    status = create_gradient(model, admission->worker, admission->head, bytes, &gradient);
    if (status != ADAMD_OK) {
        return adamd_fail_plain(fault, status);
    }
    admission->push->gradient = gradient;
    gradient->watchers = admission->push;
    admission->push->link = &gradient->watchers;
    admission->wants_body = true;
    return ADAMD_OK;
}

static struct gradient *find_in(const struct gradient_list *list, const struct adamd_worker *worker,
                                uint64_t sequence) {
    for (struct gradient *gradient = list->first; gradient != NULL; gradient = gradient->next) {
        if (gradient->worker == worker && gradient->epoch == worker->epoch &&
            gradient->sequence == sequence) {
            return gradient;
        }
    }
    return NULL;
}

static void attach(struct gradient *gradient, struct adamd_push *push) {
    struct adamd_push **end = &gradient->watchers;

    while (*end != NULL) {
        end = &(*end)->next; // told in the order in which they came
    }
    push->gradient = gradient;
    push->duplicate = true;
    push->link = end;
    *end = push;
}

// The number is in flight. One whose body is whole is waited for; one that is still receiving is
// most likely a connection that died without telling: the new one takes its place.
static enum adamd_status attach_or_supersede(struct admission *admission,
                                             struct adamd_fault *fault) {
    struct adamd_model *model = admission->model;
    const struct adamd_push_head *head = admission->head;
    struct gradient_list *lists[] = {&model->committed, &model->step.gradients,
                                     &model->step.skipped, &model->accumulating};
    struct gradient *gradient = find_in(&model->receiving, admission->worker, head->sequence);

    if (gradient != NULL) {
        gradient_supersede(model, gradient);
        return admit_new(admission, fault);
    }
    for (size_t i = 0; i < sizeof lists / sizeof lists[0] && gradient == NULL; i++) {
        gradient = find_in(lists[i], admission->worker, head->sequence);
    }
    ADAMD_ASSERT(gradient != NULL);
    if (head->crc32c != 0 && gradient->crc32c != 0 && head->crc32c != gradient->crc32c) {
        return adamd_fail(fault, ADAMD_SEQ_REUSED, "sequence",
                          "sequence %llu is in flight with other bytes",
                          (unsigned long long)head->sequence);
    }
    attach(gradient, admission->push);
    admission->repeat = true;
    return ADAMD_OK;
}

static enum adamd_status admit(struct admission *admission, struct adamd_fault *fault) {
    struct adamd_model *model = admission->model;
    const struct adamd_push_head *head = admission->head;
    enum adamd_status status = check_state(model, fault);
    enum adamd_verdict verdict;

    status = status == ADAMD_OK ? check_generation(model, head->generation, fault) : status;
    if (status != ADAMD_OK) {
        return status;
    }
    verdict = adamd_workers_admit(&model->workers, head->worker, head->epoch, head->sequence,
                                  head->crc32c, model->now_ms, &admission->worker,
                                  &admission->outcome, fault);
    switch (verdict) {
    case ADAMD_ADMIT:
    case ADAMD_ATTACH:
        status = verdict == ADAMD_ADMIT ? admit_new(admission, fault)
                                        : attach_or_supersede(admission, fault);
        // A number that leaves no gradient behind was not used, unless it was decided just now.
        if (status != ADAMD_OK && status != ADAMD_SEQ_REUSED &&
            head->sequence > admission->worker->last_sequence) {
            adamd_workers_withdraw(admission->worker, head->sequence);
            gradients_refuse_later(model, admission->worker, head->epoch, head->sequence);
        }
        return status;
    case ADAMD_REPEAT:
        admission->repeat = true;
        return ADAMD_OK;
    default:
        return fault->status;
    }
}

// The signature is the contract's.
// NOLINTNEXTLINE(readability-function-size)
enum adamd_status adamd_push_begin(struct adamd_model *model, const struct adamd_push_head *head,
                                   uint64_t now_ms, adamd_decided_fn *on_decided, void *arg,
                                   struct adamd_push **ret_push, bool *ret_wants_body,
                                   struct adamd_outcome *ret_outcome, struct adamd_fault *fault) {
    struct adamd_fault own_fault = {0};
    struct adamd_push *push = calloc(1, sizeof *push);
    struct admission admission = {.model = model, .head = head, .push = push};
    enum adamd_status status;

    model_observe(model, now_ms);
    if (push == NULL) {
        return adamd_fail_plain(fault, ADAMD_NO_MEMORY);
    }
    push->model = model;
    push->on_decided = on_decided;
    push->arg = arg;
    status = admit(&admission, &own_fault);
    if (status == ADAMD_OK) {
        *ret_push = push->gradient != NULL ? push : NULL;
        *ret_wants_body = admission.wants_body;
        if (push->gradient == NULL) {
            *ret_outcome = admission.outcome;
        }
        if (admission.repeat) {
            model->counts.duplicate++;
            admission.worker->counts.duplicate++;
        }
    } else if (status != ADAMD_STALE) {
        model->counts.rejected++;
        if (admission.worker != NULL) {
            admission.worker->counts.rejected++;
        }
    }
    if (status != ADAMD_OK && fault != NULL) {
        *fault = own_fault;
    }
    if (push->gradient == NULL) {
        free(push);
    }
    // No model_advance(): a callback must not come before the caller has its handle.
    return status;
}

// -------------------------------------------------------------------------------- commit, abandon

static enum adamd_status check_body(const struct adamd_model *model,
                                    const struct gradient *gradient, struct adamd_fault *fault) {
    if (gradient->received != gradient->byte_size) {
        return adamd_fail(
            fault, ADAMD_LAYOUT_MISMATCH, "byte_size", "the body ended after %llu of %llu bytes",
            (unsigned long long)gradient->received, (unsigned long long)gradient->byte_size);
    }
    if (gradient->crc32c != 0 && gradient->crc32c != gradient->crc_running) {
        return adamd_fail(fault, ADAMD_CRC_MISMATCH, "crc32c",
                          "the checksum of the bytes is %08x, the header says %08x",
                          gradient->crc_running, gradient->crc32c);
    }
    if (!gradient_is_finite(gradient) && hooks_nonfinite(model) == ADAMD_NONFINITE_REJECT) {
        return adamd_fail(fault, ADAMD_NONFINITE, NULL, "the gradient holds NaN or infinity");
    }
    return ADAMD_OK;
}

enum adamd_status adamd_push_commit(struct adamd_push *push, uint64_t now_ms,
                                    struct adamd_fault *fault) {
    struct gradient *gradient = push->gradient;
    struct adamd_model *model = push->model;
    struct adamd_fault own_fault = push->fault;
    enum adamd_status status = push->status;

    if (gradient != NULL) {
        ADAMD_ASSERT(gradient->state == RECEIVING);
        model_observe(model, now_ms);
        status = check_body(model, gradient, &own_fault);
        if (status == ADAMD_OK) {
            gradient_remove(gradient);
            gradient->state = COMMITTED;
            gradient->ticket = ++model->ticket;
            gradient_append(&model->committed, gradient);
            model_advance(model);
            return ADAMD_OK;
        }
        gradient_refuse(model, gradient, &own_fault);
        model_advance(model);
    }
    if (fault != NULL) {
        *fault = own_fault;
    }
    free(push);
    return status;
}

static void unlink_push(struct adamd_push *push) {
    *push->link = push->next;
    if (push->next != NULL) {
        push->next->link = push->link;
    }
}

void adamd_push_abandon(struct adamd_push *push) {
    struct gradient *gradient = push->gradient;
    struct adamd_model *model = push->model;

    if (gradient != NULL && gradient->state == RECEIVING) {
        struct adamd_fault fault = {0};
        adamd_fail_plain(&fault, ADAMD_CANCELLED);
        gradient_refuse(model, gradient, &fault);
        free(push);
        model_advance(model);
        return;
    }
    if (gradient != NULL) {
        unlink_push(push);
    } else if (push->link != NULL) {
        unlink_push(push);
        if (model->endings_end == &push->next) {
            model->endings_end = push->link;
        }
    }
    free(push);
}
