// MANUAL: pushes accumulate as backward() does, step() and zero_grad() are asked for. All of it in
// the order in which it came: what is asked for behind a step that waits, waits too.
#include "model_impl.h"

#include <stdlib.h>

// ------------------------------------------------------------------------------------ accumulating

struct range {
    bool exists; // in the accumulated gradient already: added to, or replaced
    enum adamd_dtype dtype;
    uint64_t offset, end; // bytes of the arena
};

// The next run of tensors, from the `*at`-th of the arena on, that `gradient` has and that are
// treated alike.
static bool next_range(const struct adamd_model *model, const struct gradient *gradient,
                       uint32_t *at, struct range *ret_range) {
    const struct adamd_layout *layout = &model->layout;
    struct range range = {0};
    uint32_t i = *at;

    for (; i < layout->tensor_count; i++) {
        const uint32_t index = layout->by_offset[i];
        const struct adamd_tensor *tensor = &layout->tensors[index];
        const enum adamd_dtype dtype = adamd_dtype_real(tensor->dtype);
        if (tensor->count == 0) {
            continue;
        }
        const bool has = gradient_has(gradient, index);
        const bool exists = bit_get(model->has_gradient, index) && !gradient->replace;
        if (range.end != 0 && (!has || exists != range.exists || dtype != range.dtype)) {
            break;
        }
        if (has) {
            range.offset = range.end == 0 ? tensor->offset : range.offset;
            range.end = tensor->offset + adamd_tensor_bytes(tensor);
            range.exists = exists;
            range.dtype = dtype;
        }
    }
    *at = i;
    *ret_range = range;
    return range.end != 0;
}

static void decide_staged(struct adamd_model *model, struct gradient *gradient) {
    struct adamd_outcome outcome = gradient_outcome(model, gradient, ADAMD_STAGED);

    outcome.contributors = model->tally.count;
    gradient_decide(model, gradient, &outcome);
}

static void on_accumulated(struct adamd_model *model, struct job *job, enum adamd_status status) {
    struct gradient *gradient = job->arg;
    struct adamd_fault fault = {0};

    if (status == ADAMD_OK && model->state == ADAMD_MODEL_RESTORING) {
        status = ADAMD_RUN_RESTORED; // what it was added to is gone
    }
    if (status == ADAMD_OK) {
        decide_staged(model, gradient);
    } else {
        adamd_fail_plain(&fault, status);
        gradient_refuse(model, gradient, &fault);
    }
}

static struct job *create_accumulation(struct adamd_model *model, struct gradient *gradient) {
    struct adamd_buffer *to = model->accumulated->buffer;
    struct adamd_buffer *from = gradient->slot->buffer;
    struct range range;
    struct job *job;
    uint32_t count = 0;

    for (uint32_t at = 0; next_range(model, gradient, &at, &range);) {
        count++;
    }
    job = job_create(model, count, on_accumulated, gradient);
    if (job == NULL) {
        return NULL;
    }
    job->reads = gradient->slot;
    job->writes = model->accumulated;
    count = 0;
    for (uint32_t at = 0; next_range(model, gradient, &at, &range);) {
        struct adamd_op *op = &job->ops[count++];
        const uint64_t bytes = range.end - range.offset;
        if (range.exists) {
            *op = (struct adamd_op){.kind = ADAMD_OP_ACCUMULATE,
                                    .accumulate = {to, from, range.offset,
                                                   bytes / adamd_dtype_size(range.dtype),
                                                   range.dtype}};
        } else {
            *op = (struct adamd_op){.kind = ADAMD_OP_COPY,
                                    .copy = {to, from, range.offset, range.offset, bytes}};
        }
    }
    return job;
}

static void mark_tensors(struct adamd_model *model, const struct gradient *gradient) {
    for (uint32_t i = 0; i < model->layout.tensor_count; i++) {
        if (gradient_has(gradient, i)) {
            bit_set(model->has_gradient, i);
        }
    }
}

static void accumulate(struct adamd_model *model, struct gradient *gradient) {
    struct adamd_fault fault = {0};
    struct job *job = NULL;
    enum adamd_status status = ADAMD_OK;

    if (model->accumulated != NULL) {
        job = create_accumulation(model, gradient);
        status = job == NULL ? ADAMD_NO_MEMORY : ADAMD_OK;
    }
    status = status == ADAMD_OK ? tally_add(&model->tally, gradient) : status;
    if (status != ADAMD_OK) {
        free(job);
        adamd_fail_plain(&fault, status);
        gradient_refuse(model, gradient, &fault);
        return;
    }
    mark_tensors(model, gradient);
    for (unsigned dtype = 0; dtype < ADAMD_REAL_COUNT; dtype++) {
        model->accumulated_bounds[dtype] += gradient_bound(gradient, dtype);
    }
    if (job == NULL) {
        model->accumulated = gradient->slot; // the first one's slot is the accumulator: no copy
        slot_hold(gradient->slot);
        decide_staged(model, gradient);
        return;
    }
    gradient_remove(gradient);
    gradient->state = STEPPING;
    gradient_append(&model->accumulating, gradient);
    job_submit(model, job);
}

// Not finite, or so large that the sum may not be.
static bool is_poison(const struct adamd_model *model, const struct gradient *gradient) {
    bool poison = !gradient_is_finite(gradient);

    for (unsigned dtype = 0; dtype < ADAMD_REAL_COUNT && model->accumulated != NULL; dtype++) {
        const double bound = gradient_bound(gradient, dtype);
        poison = poison || model->accumulated_bounds[dtype] + bound > scan_max(dtype);
    }
    return poison;
}

static void take_gradient(struct adamd_model *model, struct gradient *gradient) {
    if (policy_turns_away(model, gradient)) {
        return;
    }
    if (hooks_nonfinite(model) == ADAMD_NONFINITE_ALLOW || !is_poison(model, gradient)) {
        accumulate(model, gradient);
    } else if (hooks_nonfinite(model) == ADAMD_NONFINITE_SKIP) {
        const struct adamd_outcome outcome =
            gradient_outcome(model, gradient, ADAMD_SKIPPED_NONFINITE);
        struct adamd_step_record *record = record_of_one(model, gradient);
        gradient_decide(model, gradient, &outcome);
        record_commit_skipped(model, record);
    } else {
        struct adamd_fault fault = {0};
        adamd_fail(&fault, ADAMD_NONFINITE, NULL,
                   "the gradient is finite, but the accumulated one could not be");
        gradient_refuse(model, gradient, &fault);
    }
}

// --------------------------------------------------------------------------------------- zero_grad

static void forget_gradients(struct adamd_model *model) {
    slot_drop(model, model->accumulated);
    model->accumulated = NULL;
    memset(model->accumulated_bounds, 0, sizeof model->accumulated_bounds);
    memset(model->has_gradient, 0, bits_bytes(model->layout.tensor_count));
    tally_clear(&model->tally);
}

// Tensors whose gradient is None lie in between and may be filled as well: nobody reads them.
static enum adamd_status fill_gradients(struct adamd_model *model) {
    struct adamd_buffer *buffer = model->accumulated->buffer;
    struct job *job = job_create(model, 1, NULL, NULL);

    if (job == NULL) {
        return ADAMD_NO_MEMORY;
    }
    job->writes = model->accumulated;
    job->ops[0] =
        (struct adamd_op){.kind = ADAMD_OP_FILL, .fill = {buffer, 0, adamd_buffer_bytes(buffer)}};
    job_submit(model, job);
    memset(model->accumulated_bounds, 0, sizeof model->accumulated_bounds);
    tally_clear(&model->tally);
    return ADAMD_OK;
}

static enum adamd_status zero_grad(struct adamd_model *model, bool set_to_none) {
    if (model->accumulated == NULL) {
        return ADAMD_OK;
    }
    if (!set_to_none) {
        return fill_gradients(model);
    }
    forget_gradients(model);
    return ADAMD_OK;
}

// ---------------------------------------------------------------------------------------- steppers

void stepper_end(struct adamd_model *model, struct stepper *stepper, enum adamd_status status,
                 const struct adamd_step_record *record) {
    stepper->status = status;
    stepper->record = record;
    stepper->next = NULL;
    *model->steppers_end = stepper;
    model->steppers_end = &stepper->next;
}

void steppers_end_all(struct adamd_model *model, struct stepper **list, enum adamd_status status,
                      const struct adamd_step_record *record) {
    while (*list != NULL) {
        struct stepper *stepper = *list;
        *list = stepper->next;
        stepper_end(model, stepper, status, record);
    }
}

static void pop_command(struct adamd_model *model) {
    struct command *command = model->commands;

    model->commands = command->next;
    if (model->commands == NULL) {
        model->commands_end = &model->commands;
    }
    model->command_count--;
    free(command->options);
    free(command);
}

static enum adamd_status start_step(struct adamd_model *model, const struct command *command) {
    struct adamd_step_record *record;
    enum adamd_status status = ADAMD_OK;

    if (command->options != NULL) {
        status = model_ensure_arrays(model, command->options, model->group_count);
    }
    if (status != ADAMD_OK) {
        return status;
    }
    record = record_create(model, &model->tally);
    if (record == NULL) {
        return ADAMD_NO_MEMORY;
    }
    return step_start(model, model->accumulated, command->options, record);
}

static void run_step(struct adamd_model *model, struct command *command) {
    enum adamd_status status = ADAMD_OK;

    if (command->expected_version != UINT64_MAX && command->expected_version != model->version) {
        status = ADAMD_ETAG_MISMATCH;
    } else if (model->accumulated != NULL) {
        status = start_step(model, command);
        if (status == ADAMD_OK) {
            model->step.steppers = command->steppers;
            command->steppers = NULL;
        }
    }
    steppers_end_all(model, &command->steppers, status, NULL);
    pop_command(model);
}

static struct gradient *next_gradient(const struct adamd_model *model) {
    struct gradient *gradient = model->committed.first;

    while (gradient != NULL && !gradient_is_next(gradient)) {
        gradient = gradient->next;
    }
    return gradient;
}

// False if the oldest command has to wait.
static bool run_command(struct adamd_model *model) {
    struct command *command = model->commands;

    if (command->kind == COMMAND_STEP) {
        if (model->step.active) {
            return false;
        }
        run_step(model, command);
        return true;
    }
    if (zero_grad(model, command->set_to_none) != ADAMD_OK) {
        model->blocked = true; // out of memory: it was promised, so it is tried again
        return false;
    }
    pop_command(model);
    return true;
}

void manual_advance(struct adamd_model *model) {
    bool more = !hooks_hold_gradient(model);

    while (more) {
        struct gradient *gradient = next_gradient(model);
        const struct command *command = model->commands;

        if (command != NULL && (gradient == NULL || command->ticket < gradient->ticket)) {
            more = run_command(model) && !hooks_hold_gradient(model);
        } else if (gradient != NULL) {
            take_gradient(model, gradient);
        } else {
            more = false;
        }
    }
}

void manual_clear(struct adamd_model *model, enum adamd_status status) {
    while (model->commands != NULL) {
        steppers_end_all(model, &model->commands->steppers, status, NULL);
        pop_command(model);
    }
    forget_gradients(model);
}

// ------------------------------------------------------------------------------- what is asked for

static enum adamd_status check_manual(const struct adamd_model *model, struct adamd_fault *fault) {
    if (model->policy.trigger != ADAMD_MANUAL) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, "step_policy.trigger",
                          "the model steps by itself: its trigger is not MANUAL");
    }
    switch (model->state) {
    case ADAMD_MODEL_INITIALIZING:
        return adamd_fail_plain(fault, ADAMD_INITIALIZING);
    case ADAMD_MODEL_FAILED:
        return adamd_fail_plain(fault, ADAMD_DEVICE_LOST);
    case ADAMD_MODEL_RESTORING:
        return adamd_fail(fault, ADAMD_BUSY, NULL, "the model's state is being restored");
    default:
        break;
    }
    if (model->command_count >= MODEL_MANUAL_MAX) {
        return adamd_fail(fault, ADAMD_BUSY, NULL, "%d steps are waiting already",
                          MODEL_MANUAL_MAX);
    }
    return ADAMD_OK;
}

static struct command *add_command(struct adamd_model *model, enum command_kind kind) {
    struct command *command = calloc(1, sizeof *command);

    if (command != NULL) {
        command->kind = kind;
        command->ticket = ++model->ticket;
        *model->commands_end = command;
        model->commands_end = &command->next;
        model->command_count++;
    }
    return command;
}

enum adamd_status adamd_model_zero_grad(struct adamd_model *model, bool set_to_none,
                                        struct adamd_fault *fault) {
    enum adamd_status status = check_manual(model, fault);
    struct command *command;

    if (status != ADAMD_OK) {
        return status;
    }
    if (model->commands == NULL && !hooks_hold_gradient(model)) {
        status = zero_grad(model, set_to_none);
        model_advance(model);
        return status == ADAMD_OK ? status : adamd_fail_plain(fault, status);
    }
    command = add_command(model, COMMAND_ZERO_GRAD);
    if (command == NULL) {
        return adamd_fail_plain(fault, ADAMD_NO_MEMORY);
    }
    command->set_to_none = set_to_none;
    return ADAMD_OK;
}

static enum adamd_status copy_options(const struct adamd_model *model,
                                      const struct adamd_options *options,
                                      struct adamd_options **ret_copy, struct adamd_fault *fault) {
    const size_t bytes = model->group_count * sizeof *options;

    for (uint32_t i = 0; options != NULL && i < model->group_count; i++) {
        const enum adamd_status status = adamd_options_check(&options[i], fault);
        if (status != ADAMD_OK) {
            return status;
        }
    }
    *ret_copy = NULL;
    if (options != NULL) {
        *ret_copy = malloc(bytes);
        if (*ret_copy == NULL) {
            return adamd_fail_plain(fault, ADAMD_NO_MEMORY);
        }
        memcpy(*ret_copy, options, bytes);
        for (uint32_t i = 0; i < model->group_count; i++) {
            adamd_options_round(&(*ret_copy)[i]);
        }
    }
    return ADAMD_OK;
}

static enum adamd_status fail_expected(const struct adamd_model *model, uint64_t expected,
                                       struct adamd_fault *fault) {
    adamd_fail(fault, ADAMD_ETAG_MISMATCH, "expected_version",
               "the model is at version %llu, not %llu", (unsigned long long)model->version,
               (unsigned long long)expected);
    adamd_fault_tell(fault, "version", "%llu", (unsigned long long)model->version);
    return ADAMD_ETAG_MISMATCH;
}

static void add_stepper(struct stepper **list, struct stepper *stepper) {
    while (*list != NULL) {
        list = &(*list)->next;
    }
    stepper->next = NULL;
    *list = stepper;
}

// A repeat of a step that was asked for before: done, in flight or waiting. False if it is none.
static bool repeat_step(struct adamd_model *model, uint64_t expected, struct stepper *stepper) {
    struct command *command = model->commands;

    stepper->duplicate = true;
    if (expected < model->version) {
        const struct adamd_step_record *record = adamd_model_record_of(model, expected + 1);
        if (record != NULL) {
            stepper_end(model, stepper, ADAMD_OK, record);
        }
        return record != NULL;
    }
    if (model->step.active && expected == model->version) {
        add_stepper(&model->step.steppers, stepper);
        return true;
    }
    while (command != NULL &&
           (command->kind != COMMAND_STEP || command->expected_version != expected)) {
        command = command->next;
    }
    if (command != NULL) {
        add_stepper(&command->steppers, stepper);
        return true;
    }
    stepper->duplicate = false;
    return false;
}

// The version that a step asked for now will find, if those before it each make one.
static uint64_t version_ahead(const struct adamd_model *model) {
    uint64_t version = model->version + (model->step.active ? 1 : 0);

    for (const struct command *command = model->commands; command != NULL;
         command = command->next) {
        version += command->kind == COMMAND_STEP ? 1 : 0;
    }
    return version;
}

static enum adamd_status enqueue_step(struct adamd_model *model, uint64_t expected_version,
                                      const struct adamd_options *options, struct stepper *stepper,
                                      struct adamd_fault *fault) {
    struct adamd_options *copy = NULL;
    struct command *command = NULL;
    enum adamd_status status = model->state == ADAMD_MODEL_PAUSED ? ADAMD_PAUSED : ADAMD_OK;

    status = model->draining ? ADAMD_DRAINING : status;
    if (status != ADAMD_OK) {
        return adamd_fail_plain(fault, status);
    }
    status = copy_options(model, options, &copy, fault);
    if (status != ADAMD_OK) {
        return status;
    }
    command = add_command(model, COMMAND_STEP);
    if (command == NULL) {
        free(copy);
        return adamd_fail_plain(fault, ADAMD_NO_MEMORY);
    }
    command->options = copy;
    command->expected_version = expected_version;
    command->steppers = stepper;
    return ADAMD_OK;
}

enum adamd_status adamd_model_step(struct adamd_model *model, uint64_t expected_version,
                                   const struct adamd_options *options,
                                   adamd_stepped_fn *on_stepped, void *arg,
                                   struct adamd_fault *fault) {
    struct stepper *stepper;
    enum adamd_status status = check_manual(model, fault);

    if (status != ADAMD_OK) {
        return status;
    }
    stepper = calloc(1, sizeof *stepper);
    if (stepper == NULL) {
        return adamd_fail_plain(fault, ADAMD_NO_MEMORY);
    }
    stepper->on_stepped = on_stepped;
    stepper->arg = arg;
    if (expected_version == UINT64_MAX || expected_version == version_ahead(model)) {
        status = enqueue_step(model, expected_version, options, stepper, fault);
    } else if (!repeat_step(model, expected_version, stepper)) {
        status = fail_expected(model, expected_version, fault);
    }
    if (status != ADAMD_OK) {
        free(stepper);
        return status;
    }
    // The command, the step in flight or the list of endings has it.
    // NOLINTNEXTLINE(clang-analyzer-unix.Malloc)
    model_advance(model);
    return ADAMD_OK;
}
