// A param group is added while the model trains. The new parameters' values are taken in beside the
// running model. At a version boundary all that has the model's size is made anew, behind it what
// was there is copied, and only when nothing can fail any more the new takes the place of the old.
//
// Whatever has the size of the arena, or one entry for each tensor or group, is listed here.
#include "model_impl.h"

#include <stdlib.h>

// What a model of the new size is made of.
struct growth {
    struct adamd_buffer *arrays[ADAMD_ARRAY_COUNT];
    struct group *groups;
    uint32_t *group_of;
    uint64_t *steps;
    unsigned char *has_gradient;
    struct step step;
    struct slot *accumulated;
    unsigned char **has; // of gradients that wait, in the order of the lists
    uint32_t has_count;
    struct adamd_options **options; // of commands that wait, in their order; NULL: had none
    uint32_t options_count;
    struct outgrown *outgrown;
    struct job *job;
};

// ---------------------------------------------------------------------------------- taking it in

static void destroy_addition(struct adamd_addition *addition) {
    struct adamd_model *model = addition->model;

    model_release(model, addition->values);
    adamd_layout_finish(&addition->layout);
    adamd_group_keys_drop(addition->group.keys);
    free(addition->group.tensors);
    free(addition->written);
    model->addition = NULL;
    free(addition);
}

void addition_forget(struct adamd_model *model) {
    if (model->addition != NULL && model->addition->committed) {
        destroy_addition(model->addition);
    }
}

static enum adamd_status check_begin(const struct adamd_model *model, struct adamd_fault *fault) {
    if (model->state == ADAMD_MODEL_FAILED) {
        return adamd_fail_plain(fault, ADAMD_DEVICE_LOST);
    }
    if (model->addition != NULL) {
        return adamd_fail(fault, ADAMD_OPERATION_RUNNING, NULL,
                          "another group is being added to this model");
    }
    if (model->restore != NULL) {
        return adamd_fail(fault, ADAMD_OPERATION_RUNNING, NULL,
                          "a state is being put into this model");
    }
    if (model->group_count >= ADAMD_GROUPS_MAX) {
        return adamd_fail(fault, ADAMD_TOO_LARGE, "param_group", "a model has at most %d groups",
                          ADAMD_GROUPS_MAX);
    }
    return ADAMD_OK;
}

static enum adamd_status check_group(const struct adamd_model *model,
                                     const struct adamd_group_spec *group, uint32_t tensor_count,
                                     struct adamd_fault *fault) {
    enum adamd_status status = group_check(&group->options, &group->keys, tensor_count, fault);
    uint64_t bytes = extras_bytes(&group->keys);

    for (uint32_t i = 0; i < model->group_count && status == ADAMD_OK; i++) {
        const struct adamd_group_keys *keys = model->groups[i].keys;
        status = groups_check_names(group->keys.unnamed, keys->unnamed, fault);
        bytes += keys->bytes;
    }
    return status == ADAMD_OK ? extras_check_bytes(bytes, fault) : status;
}

// An empty group leaves the layout as it is.
static enum adamd_status extend_layout(struct adamd_addition *addition,
                                       const struct adamd_tensor_spec *tensors, uint32_t count,
                                       struct adamd_fault *fault) {
    const struct adamd_model *model = addition->model;
    uint64_t arenas = 4; // parameters, two moments, a gradient
    enum adamd_status status;

    if (count == 0) {
        return ADAMD_OK;
    }
    status = adamd_layout_extend(&model->layout, tensors, count, &addition->layout, fault);
    if (status != ADAMD_OK || model->resident_bytes_max == 0) {
        return status;
    }
    // The old arrays stay until they were copied.
    arenas += model->arrays[ADAMD_MAX_EXP_AVG_SQ] != NULL || addition->group.options.amsgrad;
    const uint64_t wanted =
        arenas * addition->layout.arena_bytes + (arenas - 1) * model->arena_bytes;
    if (wanted > model->resident_bytes_max) {
        return adamd_fail(fault, ADAMD_TOO_LARGE, "tensors",
                          "growing takes %llu bytes, more than the model's limit of %llu",
                          (unsigned long long)wanted,
                          (unsigned long long)model->resident_bytes_max);
    }
    return ADAMD_OK;
}

static enum adamd_status fill_addition(struct adamd_addition *addition,
                                       const struct adamd_group_spec *group, uint32_t count,
                                       struct adamd_fault *fault) {
    const uint32_t first = addition->model->layout.tensor_count;

    addition->added.first_tensor = first;
    addition->added.tensor_count = count;
    addition->group.options = group->options;
    adamd_options_round(&addition->group.options);
    addition->group.keys = adamd_group_keys_create(&group->keys);
    addition->group.tensor_count = count;
    addition->group.tensors = calloc((size_t)count + 1, sizeof addition->group.tensors[0]);
    addition->written = calloc((size_t)count + 1, sizeof addition->written[0]);
    if (addition->group.keys == NULL || addition->group.tensors == NULL ||
        addition->written == NULL) {
        return adamd_fail_plain(fault, ADAMD_NO_MEMORY);
    }
    for (uint32_t i = 0; i < count; i++) {
        addition->group.tensors[i] = first + i;
    }
    return ADAMD_OK;
}

enum adamd_status adamd_addition_begin(struct adamd_model *model,
                                       const struct adamd_tensor_spec *tensors, uint32_t count,
                                       const struct adamd_group_spec *group,
                                       struct adamd_addition **ret_addition,
                                       struct adamd_fault *fault) {
    enum adamd_status status = check_begin(model, fault);
    struct adamd_addition *addition;

    status = status == ADAMD_OK ? check_group(model, group, count, fault) : status;
    if (status != ADAMD_OK) {
        return status;
    }
    addition = calloc(1, sizeof *addition);
    if (addition == NULL) {
        return adamd_fail_plain(fault, ADAMD_NO_MEMORY);
    }
    addition->model = model;
    model->addition = addition;
    status = fill_addition(addition, group, count, fault);
    status = status == ADAMD_OK ? extend_layout(addition, tensors, count, fault) : status;
    if (status != ADAMD_OK) {
        destroy_addition(addition);
        return status;
    }
    *ret_addition = addition;
    return ADAMD_OK;
}

// The new part of the arena, where values come in.
static enum adamd_status open_values(struct adamd_addition *addition) {
    struct adamd_model *model = addition->model;
    const uint64_t bytes = addition->layout.arena_bytes - model->layout.arena_bytes;
    enum adamd_status status;

    if (addition->values != NULL || bytes == 0) {
        return ADAMD_OK;
    }
    status = model_alloc_bytes(model, ADAMD_STAGING, false, (size_t)bytes, &addition->values);
    if (status == ADAMD_OK) {
        memset(adamd_buffer_host(addition->values), 0, (size_t)bytes);
    }
    return status;
}

enum adamd_status adamd_addition_write(struct adamd_addition *addition, uint32_t tensor,
                                       const void *data, size_t size, struct adamd_fault *fault) {
    const struct adamd_model *model = addition->model;
    const struct adamd_tensor *entry;
    enum adamd_status status;

    if (model->destroyed) {
        return adamd_fail_plain(fault, ADAMD_CANCELLED);
    }
    ADAMD_ASSERT(tensor < addition->added.tensor_count);
    entry = &addition->layout.tensors[addition->added.first_tensor + tensor];
    status = open_values(addition);
    if (status != ADAMD_OK) {
        return adamd_fail_plain(fault, status);
    }
    if (size > adamd_tensor_bytes(entry) - addition->written[tensor]) {
        return adamd_fail(fault, ADAMD_LAYOUT_MISMATCH, "tensors",
                          "tensor %.128s has more bytes than %llu", entry->key,
                          (unsigned long long)adamd_tensor_bytes(entry));
    }
    if (size > 0) {
        unsigned char *host = adamd_buffer_host(addition->values);
        const uint64_t offset = entry->offset - model->layout.arena_bytes;
        memcpy(host + offset + addition->written[tensor], data, size);
    }
    addition->written[tensor] += size;
    return ADAMD_OK;
}

// All of a tensor, or nothing of any.
static enum adamd_status check_whole(const struct adamd_addition *addition,
                                     struct adamd_fault *fault) {
    for (uint32_t i = 0; i < addition->added.tensor_count && addition->values != NULL; i++) {
        const struct adamd_tensor *entry =
            &addition->layout.tensors[addition->added.first_tensor + i];
        if (addition->written[i] != adamd_tensor_bytes(entry)) {
            return adamd_fail(fault, ADAMD_LAYOUT_MISMATCH, "tensors",
                              "the values of tensor %.128s are incomplete: %llu of %llu bytes",
                              entry->key, (unsigned long long)addition->written[i],
                              (unsigned long long)adamd_tensor_bytes(entry));
        }
    }
    return ADAMD_OK;
}

enum adamd_status adamd_addition_commit(struct adamd_addition *addition,
                                        struct adamd_added *ret_added, struct adamd_wait *wait,
                                        void (*on_ready)(void *arg, enum adamd_status status,
                                                         const void *what),
                                        void *arg, struct adamd_fault *fault) {
    struct adamd_model *model = addition->model;
    enum adamd_status status = ADAMD_OK;

    if (model->destroyed) {
        status = adamd_fail_plain(fault, ADAMD_CANCELLED);
    } else if (model->state == ADAMD_MODEL_FAILED) {
        status = adamd_fail_plain(fault, ADAMD_DEVICE_LOST);
    } else {
        status = check_whole(addition, fault);
    }
    if (status != ADAMD_OK) {
        adamd_addition_abandon(addition);
        return status;
    }
    *wait = (struct adamd_wait){.on_ready = on_ready, .arg = arg};
    wait_add(&model->addition_waits, wait);
    addition->ret_added = ret_added;
    addition->committed = true;
    model_advance(model);
    return ADAMD_OK;
}

void adamd_addition_abandon(struct adamd_addition *addition) {
    struct adamd_model *model = addition->model;

    destroy_addition(addition);
    if (model->destroyed) {
        model_free_if_done(model);
    }
}

// ------------------------------------------------------------------------------- made of new size

static void finish_growth(struct adamd_model *model, struct growth *growth) {
    for (int array = 0; array < ADAMD_ARRAY_COUNT; array++) {
        model_release(model, growth->arrays[array]);
    }
    for (uint32_t i = 0; growth->has != NULL && i < growth->has_count; i++) {
        free(growth->has[i]);
    }
    for (uint32_t i = 0; growth->options != NULL && i < growth->options_count; i++) {
        free(growth->options[i]);
    }
    step_finish(&growth->step);
    if (growth->accumulated != NULL) {
        slot_destroy(model, growth->accumulated);
    }
    free(growth->groups);
    free(growth->group_of);
    free(growth->steps);
    free(growth->has_gradient);
    free((void *)growth->has);
    free((void *)growth->options);
    free(growth->outgrown);
    free(growth->job);
}

// A larger copy, the rest zeros; NULL for want of memory.
static void *extended(const void *from, size_t bytes, size_t new_bytes) {
    void *to = calloc(1, new_bytes);

    if (to != NULL && bytes > 0) {
        memcpy(to, from, bytes);
    }
    return to;
}

static bool extend_tables(const struct adamd_model *model, struct growth *growth) {
    const struct adamd_addition *addition = model->addition;
    const uint32_t old = model->layout.tensor_count;
    const uint32_t count = old + addition->added.tensor_count;
    const uint32_t groups = model->group_count;

    growth->groups = extended(model->groups, groups * sizeof model->groups[0],
                              (groups + 1) * sizeof model->groups[0]);
    growth->group_of = extended(model->group_of, old * sizeof model->group_of[0],
                                (size_t)count * sizeof model->group_of[0] + 1);
    growth->steps = extended(model->steps, old * sizeof model->steps[0],
                             (size_t)count * sizeof model->steps[0] + 1);
    growth->has_gradient = extended(model->has_gradient, bits_bytes(old), bits_bytes(count));
    growth->outgrown = calloc(1, sizeof *growth->outgrown);
    if (growth->groups == NULL || growth->group_of == NULL || growth->steps == NULL ||
        growth->has_gradient == NULL || growth->outgrown == NULL) {
        return false;
    }
    for (uint32_t i = old; i < count; i++) {
        growth->group_of[i] = groups;
    }
    growth->groups[groups] = addition->group;
    growth->groups[groups].since = model_next_version(model);
    return step_init(&growth->step, count > 0 ? count : 1) == ADAMD_OK;
}

// Which tensors a gradient has: what had all has those that there were.
static unsigned char *extend_has(const struct gradient *gradient, uint32_t old, uint32_t count) {
    unsigned char *has = calloc(1, bits_bytes(count));

    for (uint32_t i = 0; has != NULL && i < old; i++) {
        if (gradient_has(gradient, i)) {
            bit_set(has, i);
        }
    }
    return has;
}

static uint32_t count_gradients(const struct gradient_list *list) {
    uint32_t count = 0;

    for (const struct gradient *gradient = list->first; gradient != NULL;
         gradient = gradient->next) {
        count++;
    }
    return count;
}

static bool extend_list(const struct adamd_model *model, const struct gradient_list *list,
                        struct growth *growth) {
    const uint32_t old = model->layout.tensor_count;
    const uint32_t count = old + model->addition->added.tensor_count;

    for (const struct gradient *gradient = list->first; gradient != NULL;
         gradient = gradient->next) {
        unsigned char *has = extend_has(gradient, old, count);
        if (has == NULL) {
            return false;
        }
        growth->has[growth->has_count++] = has;
    }
    return true;
}

static bool extend_gradients(const struct adamd_model *model, struct growth *growth) {
    const size_t count =
        (size_t)count_gradients(&model->receiving) + count_gradients(&model->committed);

    growth->has = calloc(count + 1, sizeof(void *));
    return growth->has != NULL && extend_list(model, &model->receiving, growth) &&
           extend_list(model, &model->committed, growth);
}

// The options of a step that waits: the new group has its own in them. NULL if it has none.
static bool extend_options(const struct adamd_model *model, const struct command *command,
                           struct adamd_options **ret_options) {
    const size_t bytes = model->group_count * sizeof(struct adamd_options);

    *ret_options = NULL;
    if (command->options == NULL) {
        return true;
    }
    *ret_options = extended(command->options, bytes, bytes + sizeof **ret_options);
    if (*ret_options == NULL) {
        return false;
    }
    (*ret_options)[model->group_count] = model->addition->group.options;
    return true;
}

static bool extend_commands(const struct adamd_model *model, struct growth *growth) {
    const struct command *command = model->commands;
    bool good = true;

    growth->options = calloc((size_t)model->command_count + 1, sizeof(void *));
    for (; growth->options != NULL && good && command != NULL; command = command->next) {
        good = extend_options(model, command, &growth->options[growth->options_count++]);
    }
    return growth->options != NULL && good;
}

static enum adamd_status alloc_buffers(struct adamd_model *model, struct growth *growth) {
    const struct adamd_addition *addition = model->addition;
    const size_t bytes = model_arena_bytes(&addition->layout);
    enum adamd_status status = ADAMD_OK;

    for (int array = 0; array < ADAMD_ARRAY_COUNT && status == ADAMD_OK; array++) {
        if (model->arrays[array] != NULL ||
            (array == ADAMD_MAX_EXP_AVG_SQ && addition->group.options.amsgrad)) {
            status = model_alloc_bytes(model, ADAMD_DEVICE, true, bytes, &growth->arrays[array]);
        }
    }
    if (status == ADAMD_OK && model->accumulated != NULL) {
        status =
            slot_create(model, &addition->layout, model->layout_count + 1, &growth->accumulated);
    }
    return status == ADAMD_BUSY ? ADAMD_NO_MEMORY : status; // over the model's limit
}

static struct adamd_op copy_op(struct adamd_buffer *to, struct adamd_buffer *from, uint64_t bytes) {
    return (struct adamd_op){.kind = ADAMD_OP_COPY, .copy = {to, from, 0, 0, bytes}};
}

static struct adamd_op fill_op(struct adamd_buffer *to, uint64_t offset, uint64_t bytes) {
    return (struct adamd_op){.kind = ADAMD_OP_FILL, .fill = {to, offset, bytes}};
}

// The old part is copied, the new one is zeros or the values that came.
static void add_ops(struct job *job, const struct adamd_model *model, const struct growth *growth,
                    int array) {
    const struct adamd_addition *addition = model->addition;
    const uint64_t old = model->arrays[array] != NULL ? model->layout.arena_bytes : 0;
    const uint64_t bytes = addition->layout.arena_bytes;

    if (old > 0) {
        job->ops[job->count++] = copy_op(growth->arrays[array], model->arrays[array], old);
    }
    // An average of parameters that are new is what they are.
    if ((array == ADAMD_PARAM || array == ADAMD_EMA) && addition->values != NULL) {
        struct adamd_op op = copy_op(growth->arrays[array], addition->values, bytes - old);
        op.copy.to_offset = old;
        job->ops[job->count++] = op;
    } else if (bytes > old) {
        job->ops[job->count++] = fill_op(growth->arrays[array], old, bytes - old);
    }
}

static void on_copied(struct adamd_model *model, struct job *job, enum adamd_status status) {
    (void)status; // a lost device has failed the model
    outgrown_release(model, job->arg);
}

static bool make_job(struct adamd_model *model, struct growth *growth) {
    struct job *job = job_create(model, 2 * ADAMD_ARRAY_COUNT + 1, on_copied, growth->outgrown);

    if (job == NULL) {
        return false;
    }
    growth->job = job;
    job->count = 0;
    for (int array = 0; array < ADAMD_ARRAY_COUNT; array++) {
        if (growth->arrays[array] != NULL) {
            add_ops(job, model, growth, array);
        }
    }
    if (growth->accumulated != NULL && model->layout.arena_bytes > 0) {
        job->ops[job->count++] = copy_op(growth->accumulated->buffer, model->accumulated->buffer,
                                         model->layout.arena_bytes);
        job->reads = model->accumulated;
        job->writes = growth->accumulated;
    }
    return true;
}

static enum adamd_status prepare(struct adamd_model *model, struct growth *growth) {
    enum adamd_status status = ADAMD_OK;

    if (!extend_tables(model, growth) || !extend_gradients(model, growth) ||
        !extend_commands(model, growth)) {
        return ADAMD_NO_MEMORY;
    }
    if (model->addition->added.tensor_count == 0) {
        return ADAMD_OK; // an empty group has nothing in the arena
    }
    status = alloc_buffers(model, growth);
    return status == ADAMD_OK && !make_job(model, growth) ? ADAMD_NO_MEMORY : status;
}

// ------------------------------------------------------------------------------- taking its place

void outgrown_release(struct adamd_model *model, struct outgrown *outgrown) {
    struct outgrown **link = &model->outgrown;

    while (*link != outgrown) {
        link = &(*link)->next;
    }
    *link = outgrown->next;
    for (int array = 0; array < ADAMD_ARRAY_COUNT; array++) {
        model_release(model, outgrown->arrays[array]);
    }
    model_release(model, outgrown->values);
    free(outgrown);
}

static void take_tables(struct adamd_model *model, struct growth *growth) {
    struct adamd_addition *addition = model->addition;
    uint32_t i = 0;

    free(model->groups);
    free(model->group_of);
    free(model->steps);
    free(model->has_gradient);
    model->groups = growth->groups;
    model->group_of = growth->group_of;
    model->steps = growth->steps;
    model->has_gradient = growth->has_gradient;
    model->group_count++;
    addition->group = (struct group){.options = addition->group.options}; // the model's now
    step_finish(&model->step);
    model->step = growth->step;
    for (struct command *command = model->commands; command != NULL; command = command->next) {
        free(command->options);
        command->options = growth->options[i++];
    }
    growth->groups = NULL;
    growth->group_of = NULL;
    growth->steps = NULL;
    growth->has_gradient = NULL;
    growth->step = (struct step){0};
    growth->options_count = 0;
}

static void take_gradients(struct adamd_model *model, struct growth *growth) {
    const struct gradient_list *lists[] = {&model->receiving, &model->committed};
    uint32_t at = 0;

    for (int i = 0; i < 2; i++) {
        for (struct gradient *gradient = lists[i]->first; gradient != NULL;
             gradient = gradient->next) {
            free(gradient->has);
            gradient->has = growth->has[at++];
        }
    }
    growth->has_count = 0;
}

// From here on whatever is asked of the backend comes behind the copies.
static void take_buffers(struct adamd_model *model, struct growth *growth) {
    struct adamd_addition *addition = model->addition;
    struct outgrown *outgrown = growth->outgrown;

    memcpy(outgrown->arrays, model->arrays, sizeof outgrown->arrays);
    memcpy(model->arrays, growth->arrays, sizeof model->arrays);
    memset(growth->arrays, 0, sizeof growth->arrays);
    outgrown->values = addition->values;
    addition->values = NULL;
    outgrown->next = model->outgrown;
    model->outgrown = outgrown;
    growth->outgrown = NULL;
    adamd_layout_finish(&model->layout);
    model->layout = addition->layout;
    addition->layout = (struct adamd_layout){0};
    model->arena_bytes = model_arena_bytes(&model->layout);
    model->layout_count++;
    slots_outgrow(model);
    published_outgrow(model);
    kept_outgrow(model);
    if (growth->accumulated != NULL) {
        job_submit(model, growth->job); // holds the old one
        slot_drop(model, model->accumulated);
        model->accumulated = growth->accumulated;
        growth->accumulated = NULL;
    } else {
        job_submit(model, growth->job);
    }
    growth->job = NULL;
}

static void grow(struct adamd_model *model) {
    struct adamd_addition *addition = model->addition;
    struct growth growth = {.has_count = 0};
    const enum adamd_status status = prepare(model, &growth);

    if (status == ADAMD_OK) {
        take_tables(model, &growth);
        take_gradients(model, &growth);
        if (addition->added.tensor_count > 0) {
            take_buffers(model, &growth);
        }
        addition->added.group = model->group_count - 1;
        addition->added.generation = model->generation;
        addition->added.version = model->version;
        if (model->addition_waits != NULL) {
            *addition->ret_added = addition->added;
        }
        model->config_count++;
        model_note_change(model);
    }
    finish_growth(model, &growth);
    waits_end(model, &model->addition_waits, status);
    destroy_addition(addition);
}

// Others may still read the layout of a capture that they hold, or of cotangents.
static bool is_read(const struct adamd_model *model) {
    const struct capture *capture = &model->capture;

    return differentiation_reads_layout(model) ||
           (capture->state != CAPTURE_NONE &&
            (capture->state != CAPTURE_HELD || !capture->detached));
}

bool growth_advance(struct adamd_model *model) {
    const struct adamd_addition *addition = model->addition;

    if (addition == NULL || !addition->committed || is_read(model)) {
        return false;
    }
    if (model->step.active || model->jobs_alive > 0) {
        return true; // nothing new is begun: soon there is a boundary
    }
    grow(model);
    return false;
}
