// The whole state of one version: copied out beside the running model, and taken in.
#include "actions_impl.h"
#include "model_impl.h"

#include <stdlib.h>

static const char *const array_names[ADAMD_ARRAY_COUNT] = {"param", "exp_avg", "exp_avg_sq",
                                                           "max_exp_avg_sq", "ema"};

// ----------------------------------------------------------------------------------------- capture

void capture_finish(struct adamd_model *model) {
    struct capture *capture = &model->capture;

    for (int array = 0; array < ADAMD_ARRAY_COUNT; array++) {
        model_release(model, capture->buffers[array]);
    }
    free(capture->steps);
    free(capture->options);
    group_keys_free(capture->keys, capture->group_count);
    free(capture->hooks);
    hook_run_end(&capture->run);
    *capture = (struct capture){0};
}

// An average whose hook is gone is on its way out.
static bool is_captured(const struct adamd_model *model, int array) {
    return model->arrays[array] != NULL &&
           (array != ADAMD_EMA || action_find(&model->hooks, ADAMD_EMA_ACTION) != NULL);
}

static enum adamd_status alloc_buffers(struct adamd_model *model) {
    struct capture *capture = &model->capture;
    enum adamd_status status = ADAMD_OK;

    for (int array = 0; array < ADAMD_ARRAY_COUNT && status == ADAMD_OK; array++) {
        if (is_captured(model, array) && capture->buffers[array] == NULL) {
            status = model_alloc(model, ADAMD_STAGING, false, &capture->buffers[array]);
        }
    }
    return status;
}

static enum adamd_status prepare_capture(struct adamd_model *model) {
    struct capture *capture = &model->capture;
    enum adamd_status status = ADAMD_OK;

    capture->steps = malloc(model->layout.tensor_count * sizeof capture->steps[0]);
    capture->options = malloc(model->group_count * sizeof capture->options[0]);
    capture->keys = calloc(model->group_count, sizeof(void *));
    capture->group_count = model->group_count;
    if (capture->steps == NULL || capture->options == NULL || capture->keys == NULL) {
        status = ADAMD_NO_MEMORY;
    }
    status = status == ADAMD_OK ? alloc_buffers(model) : status;
    if (status != ADAMD_OK) {
        capture_finish(model);
    }
    return status;
}

static void on_captured(struct adamd_model *model, struct job *job, enum adamd_status status) {
    struct capture *capture = &model->capture;

    (void)job;
    (void)status; // a lost device has ended the wait
    capture->state = CAPTURE_READY;
    capture->told = &capture->view;
    const enum adamd_status refused =
        hooks_run_dict(model, ADAMD_STATE_DICT_POST, &capture->run, &capture->told);
    if (refused != ADAMD_OK) {
        waits_end(model, &capture->waits, refused); // and the capture goes as one given up
    }
}

static void refuse_capture(struct adamd_model *model, enum adamd_status status) {
    waits_end(model, &model->capture.waits, status);
    capture_finish(model);
}

static void freeze(struct adamd_model *model) {
    struct capture *capture = &model->capture;
    struct job *job;
    enum adamd_status status = hooks_run_dict(model, ADAMD_STATE_DICT_PRE, &capture->run, NULL);

    status = status == ADAMD_OK ? actions_print(&model->hooks, &capture->hooks) : status;
    status = status == ADAMD_OK ? alloc_buffers(model) : status; // hooks came meanwhile
    job = status == ADAMD_OK ? job_create(model, ADAMD_ARRAY_COUNT, on_captured, NULL) : NULL;
    if (job == NULL) {
        refuse_capture(model, status == ADAMD_OK ? ADAMD_NO_MEMORY : status);
        return;
    }
    memcpy(capture->steps, model->steps, model->layout.tensor_count * sizeof model->steps[0]);
    for (uint32_t i = 0; i < model->group_count; i++) {
        capture->options[i] = model->groups[i].options;
        capture->keys[i] = adamd_group_keys_hold(model->groups[i].keys);
    }
    capture->view = (struct adamd_capture){
        .steps = capture->steps,
        .options = capture->options,
        .keys = capture->keys,
        .hooks = capture->hooks,
        .generation = model->generation,
        .version = model->version,
    };
    job->count = 0;
    for (int array = 0; array < ADAMD_ARRAY_COUNT; array++) {
        if (is_captured(model, array)) {
            capture->view.arrays[array] = adamd_buffer_host(capture->buffers[array]);
            job->ops[job->count++] = (struct adamd_op){
                .kind = ADAMD_OP_COPY,
                .copy = {capture->buffers[array], model->arrays[array], 0, 0, model->arena_bytes}};
        }
    }
    capture->state = CAPTURE_COPYING;
    job_submit(model, job);
}

void capture_advance(struct adamd_model *model) {
    struct capture *capture = &model->capture;
    const bool given_up = capture->waits == NULL;

    if (given_up && (capture->state == CAPTURE_ASKED || capture->state == CAPTURE_READY)) {
        capture_finish(model);
    }
    if (capture->state == CAPTURE_ASKED && !model->step.active &&
        model->state != ADAMD_MODEL_RESTORING) {
        freeze(model);
    }
}

void adamd_model_capture(struct adamd_model *model, struct adamd_wait *wait,
                         void (*on_ready)(void *arg, enum adamd_status status, const void *what),
                         void *arg) {
    struct capture *capture = &model->capture;
    enum adamd_status status = ADAMD_OK;

    capture_advance(model); // frees one that was given up
    if (model->state == ADAMD_MODEL_INITIALIZING) {
        status = ADAMD_INITIALIZING;
    } else if (model->state == ADAMD_MODEL_FAILED) {
        status = ADAMD_DEVICE_LOST;
    } else if (capture->state != CAPTURE_NONE) {
        status = ADAMD_OPERATION_RUNNING;
    } else {
        status = prepare_capture(model);
    }
    *wait = (struct adamd_wait){.on_ready = on_ready, .arg = arg, .status = status};
    if (status == ADAMD_OK) {
        capture->state = CAPTURE_ASKED;
        wait_add(&capture->waits, wait);
    } else {
        wait_add(&model->ended, wait);
    }
    model_advance(model);
}

void adamd_capture_release(struct adamd_model *model, const struct adamd_capture *capture) {
    ADAMD_ASSERT(capture == model->capture.told && model->capture.state == CAPTURE_HELD);
    capture_finish(model);
    if (model->destroyed) {
        model_free_if_done(model);
    } else if (model->addition != NULL) {
        model_advance(model);
    }
}

void adamd_capture_detach(struct adamd_model *model, const struct adamd_capture *capture) {
    ADAMD_ASSERT(capture == model->capture.told && model->capture.state == CAPTURE_HELD);
    model->capture.detached = true;
    if (!model->destroyed) {
        model_advance(model);
    }
}

// ----------------------------------------------------------------------------------------- restore

static void destroy_restore(struct adamd_restore *restore) {
    struct adamd_model *model = restore->model;

    for (int array = 0; array < ADAMD_ARRAY_COUNT; array++) {
        model_release(model, restore->buffers[array]);
        free(restore->written[array]);
    }
    free(restore->steps);
    free(restore->options);
    group_keys_free(restore->keys, model->group_count);
    free(restore->hooks_text);
    hooks_finish(&restore->hooks);
    model->restore = NULL;
    free(restore);
}

void restore_forget(struct adamd_model *model) {
    if (model->restore != NULL && model->restore->committed) {
        destroy_restore(model->restore);
    }
}

static struct adamd_restore *create_restore(struct adamd_model *model) {
    struct adamd_restore *restore = calloc(1, sizeof *restore);

    if (restore == NULL) {
        return NULL;
    }
    restore->model = model;
    restore->steps = calloc(model->layout.tensor_count, sizeof restore->steps[0]);
    restore->options = calloc(model->group_count, sizeof restore->options[0]);
    restore->keys = calloc(model->group_count, sizeof(void *));
    if (restore->steps == NULL || restore->options == NULL || restore->keys == NULL) {
        destroy_restore(restore);
        return NULL;
    }
    return restore;
}

enum adamd_status adamd_restore_begin(struct adamd_model *model, struct adamd_restore **ret_restore,
                                      struct adamd_fault *fault) {
    struct adamd_restore *restore;

    if (model->state == ADAMD_MODEL_FAILED) {
        return adamd_fail_plain(fault, ADAMD_DEVICE_LOST);
    }
    if (model->restore != NULL) {
        return adamd_fail(fault, ADAMD_OPERATION_RUNNING, NULL,
                          "another state is being put into this model");
    }
    if (model->addition != NULL) {
        return adamd_fail(fault, ADAMD_OPERATION_RUNNING, NULL,
                          "a group is being added to this model");
    }
    restore = create_restore(model);
    if (restore == NULL) {
        return adamd_fail_plain(fault, ADAMD_NO_MEMORY);
    }
    model->restore = restore;
    *ret_restore = restore;
    return ADAMD_OK;
}

static enum adamd_status open_array(struct adamd_restore *restore, enum adamd_array array) {
    struct adamd_model *model = restore->model;
    enum adamd_status status;

    if (restore->written[array] != NULL) {
        return ADAMD_OK;
    }
    status = model_alloc(model, ADAMD_STAGING, false, &restore->buffers[array]);
    if (status != ADAMD_OK) {
        return status;
    }
    restore->written[array] = calloc(model->layout.tensor_count, sizeof restore->written[array][0]);
    if (restore->written[array] == NULL) {
        model_release(model, restore->buffers[array]);
        restore->buffers[array] = NULL;
        return ADAMD_NO_MEMORY;
    }
    arena_clear_gaps(&model->layout, adamd_buffer_host(restore->buffers[array]));
    return ADAMD_OK;
}

static uint64_t tensor_bytes(const struct adamd_layout *layout, uint32_t tensor) {
    return adamd_tensor_bytes(&layout->tensors[tensor]);
}

enum adamd_status adamd_restore_write(struct adamd_restore *restore, enum adamd_array array,
                                      uint32_t tensor, const void *data, size_t size,
                                      struct adamd_fault *fault) {
    const struct adamd_layout *layout;
    unsigned char *host;
    uint64_t *written;
    enum adamd_status status;

    if (restore->model->destroyed) {
        return adamd_fail_plain(fault, ADAMD_CANCELLED);
    }
    layout = &restore->model->layout;
    ADAMD_ASSERT(tensor < layout->tensor_count && array < ADAMD_ARRAY_COUNT);
    status = open_array(restore, array);
    if (status != ADAMD_OK) {
        return adamd_fail_plain(fault, status);
    }
    written = &restore->written[array][tensor];
    if (size > tensor_bytes(layout, tensor) - *written) {
        return adamd_fail(fault, ADAMD_LAYOUT_MISMATCH, array_names[array],
                          "%s of tensor %.128s has more bytes than %llu", array_names[array],
                          layout->tensors[tensor].key,
                          (unsigned long long)tensor_bytes(layout, tensor));
    }
    host = adamd_buffer_host(restore->buffers[array]);
    if (size > 0) {
        memcpy(host + layout->tensors[tensor].offset + *written, data, size);
    }
    *written += size;
    return ADAMD_OK;
}

enum adamd_status adamd_restore_place(struct adamd_restore *restore, enum adamd_array array,
                                      uint32_t tensor, unsigned char **ret_bytes,
                                      struct adamd_fault *fault) {
    const struct adamd_layout *layout;
    enum adamd_status status;

    if (restore->model->destroyed) {
        return adamd_fail_plain(fault, ADAMD_CANCELLED);
    }
    layout = &restore->model->layout;
    ADAMD_ASSERT(tensor < layout->tensor_count && array < ADAMD_ARRAY_COUNT);
    status = open_array(restore, array);
    if (status != ADAMD_OK) {
        return adamd_fail_plain(fault, status);
    }
    restore->written[array][tensor] = tensor_bytes(layout, tensor);
    *ret_bytes = (unsigned char *)adamd_buffer_host(restore->buffers[array]) +
                 layout->tensors[tensor].offset;
    return ADAMD_OK;
}

void adamd_restore_keep(struct adamd_restore *restore, bool parameters, bool state) {
    restore->keeps_parameters = parameters;
    restore->keeps_state = state;
}

void adamd_restore_step(struct adamd_restore *restore, uint32_t tensor, uint64_t t) {
    ADAMD_ASSERT(tensor < restore->model->layout.tensor_count);
    restore->steps[tensor] = t;
}

static enum adamd_status check_count(const struct adamd_model *model, uint32_t count,
                                     struct adamd_fault *fault) {
    if (count == model->group_count) {
        return ADAMD_OK;
    }
    return adamd_fail(fault, ADAMD_LAYOUT_MISMATCH, "param_groups",
                      "loaded state dict has a different number of parameter groups: %u, "
                      "the model has %u",
                      count, model->group_count);
}

enum adamd_status adamd_restore_options(struct adamd_restore *restore,
                                        const struct adamd_options *options, uint32_t count,
                                        struct adamd_fault *fault) {
    enum adamd_status status = check_count(restore->model, count, fault);

    for (uint32_t i = 0; i < count && status == ADAMD_OK; i++) {
        status = adamd_options_check(&options[i], fault);
    }
    if (status != ADAMD_OK) {
        return status;
    }
    for (uint32_t i = 0; i < count; i++) {
        restore->options[i] = options[i];
        adamd_options_round(&restore->options[i]);
    }
    restore->has_options = true;
    return ADAMD_OK;
}

// PyTorch's order: numbers of groups, sizes of all, then what is in them.
static enum adamd_status check_groups(const struct adamd_model *model,
                                      const struct adamd_group_spec *groups, uint32_t count,
                                      struct adamd_fault *fault) {
    enum adamd_status status = check_count(model, count, fault);
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < count && status == ADAMD_OK; i++) {
        if (groups[i].tensor_count != model->groups[i].tensor_count) {
            (void)adamd_fail(fault, ADAMD_LAYOUT_MISMATCH, "params",
                             "loaded state dict contains a parameter group that doesn't match the "
                             "size of optimizer's group: %u parameters, the model's has %u",
                             groups[i].tensor_count, model->groups[i].tensor_count);
            return group_fail_at(fault, ADAMD_LAYOUT_MISMATCH, i);
        }
    }
    for (uint32_t i = 0; i < count && status == ADAMD_OK; i++) {
        status = group_check(&groups[i].options, &groups[i].keys, groups[i].tensor_count, fault);
        if (status != ADAMD_OK) {
            return group_fail_at(fault, status, i);
        }
        bytes += extras_bytes(&groups[i].keys);
    }
    return status == ADAMD_OK ? extras_check_bytes(bytes, fault) : status;
}

// The saved group's keys; names stay where only the model's group has some.
static struct adamd_group_keys *merge_keys(const struct group *group,
                                           const struct adamd_group_keys_spec *saved) {
    struct adamd_group_keys_spec spec = *saved;

    if (spec.unnamed) {
        spec.unnamed = group->keys->unnamed;
        spec.names = group->keys->names;
        spec.name_count = group->keys->name_count;
    }
    return adamd_group_keys_create(&spec);
}

enum adamd_status adamd_restore_groups(struct adamd_restore *restore,
                                       const struct adamd_group_spec *groups, uint32_t count,
                                       struct adamd_fault *fault) {
    struct adamd_model *model = restore->model;
    enum adamd_status status = check_groups(model, groups, count, fault);
    struct adamd_group_keys **keys;

    if (status != ADAMD_OK) {
        return status;
    }
    keys = calloc(count, sizeof(void *));
    for (uint32_t i = 0; keys != NULL && i < count && status == ADAMD_OK; i++) {
        keys[i] = merge_keys(&model->groups[i], &groups[i].keys);
        status = keys[i] == NULL ? ADAMD_NO_MEMORY : ADAMD_OK;
    }
    if (keys == NULL || status != ADAMD_OK) {
        group_keys_free(keys, count);
        return adamd_fail_plain(fault, ADAMD_NO_MEMORY);
    }
    group_keys_free(restore->keys, count);
    restore->keys = keys;
    for (uint32_t i = 0; i < count; i++) {
        restore->options[i] = groups[i].options;
        adamd_options_round(&restore->options[i]);
    }
    restore->has_options = true;
    return ADAMD_OK;
}

enum adamd_status adamd_restore_hooks(struct adamd_restore *restore, const char *text,
                                      struct adamd_fault *fault) {
    struct adamd_hook_registry *registry = model_registry(restore->model);
    const size_t size = strlen(text);
    enum adamd_status status = ADAMD_OK;

    ADAMD_ASSERT(restore->hooks_text == NULL);
    restore->hooks_text = malloc(size + 1);
    if (restore->hooks_text == NULL) {
        return adamd_fail_plain(fault, ADAMD_NO_MEMORY);
    }
    memcpy(restore->hooks_text, text, size + 1);
    if (text[0] != '\0') {
        status = actions_parse(registry, &registry->last_id, text, &restore->hooks, fault);
    }
    return status;
}

// What was not written is zeros. Only arrays that were written in part need this.
static void clear_unwritten(const struct adamd_restore *restore, int array) {
    const struct adamd_layout *layout = &restore->model->layout;
    unsigned char *host;

    if (restore->written[array] == NULL) {
        return;
    }
    host = adamd_buffer_host(restore->buffers[array]);
    for (uint32_t i = 0; i < layout->tensor_count; i++) {
        if (restore->written[array][i] == 0) {
            memset(host + layout->tensors[i].offset, 0, tensor_bytes(layout, i));
        }
    }
}

void adamd_restore_view(const struct adamd_restore *restore, struct adamd_capture *ret_view) {
    struct adamd_capture view = {0};

    for (uint32_t i = 0; !restore->has_options && i < restore->model->group_count; i++) {
        restore->options[i] = restore->model->groups[i].options;
    }
    for (uint32_t i = 0; i < restore->model->group_count; i++) {
        if (restore->keys[i] == NULL) {
            restore->keys[i] = adamd_group_keys_hold(restore->model->groups[i].keys);
        }
    }
    view.steps = restore->steps;
    view.options = restore->options;
    view.keys = restore->keys;
    view.hooks = restore->hooks.count > 0 ? restore->hooks_text : NULL;
    for (int array = 0; array < ADAMD_ARRAY_COUNT; array++) {
        if (restore->written[array] != NULL) {
            clear_unwritten(restore, array);
            view.arrays[array] = adamd_buffer_host(restore->buffers[array]);
        }
    }
    *ret_view = view;
}

static bool is_kept(const struct adamd_restore *restore, int array) {
    return array == ADAMD_PARAM ? restore->keeps_parameters : restore->keeps_state;
}

// All of it, or for anything but parameters nothing of it.
static bool is_whole(const struct adamd_restore *restore, int array, uint32_t tensor) {
    const uint64_t written = restore->written[array] != NULL ? restore->written[array][tensor] : 0;

    return written == tensor_bytes(&restore->model->layout, tensor) ||
           (written == 0 && (array != ADAMD_PARAM || restore->keeps_parameters));
}

// What is kept has no bytes of its own.
static bool keeps_well(const struct adamd_restore *restore) {
    for (int array = 0; array < ADAMD_ARRAY_COUNT; array++) {
        if (is_kept(restore, array) && restore->written[array] != NULL) {
            return false;
        }
    }
    return true;
}

static enum adamd_status check_array(const struct adamd_restore *restore, int array,
                                     struct adamd_fault *fault) {
    const struct adamd_layout *layout = &restore->model->layout;
    uint32_t i = 0;

    while (i < layout->tensor_count && is_whole(restore, array, i)) {
        i++;
    }
    if (i == layout->tensor_count) {
        return ADAMD_OK;
    }
    const uint64_t written = restore->written[array] != NULL ? restore->written[array][i] : 0;
    return adamd_fail(fault, ADAMD_LAYOUT_MISMATCH, array_names[array],
                      "%s of tensor %.128s is %s: %llu of %llu bytes", array_names[array],
                      layout->tensors[i].key, written == 0 ? "missing" : "incomplete",
                      (unsigned long long)written, (unsigned long long)tensor_bytes(layout, i));
}

static enum adamd_status check_whole(const struct adamd_restore *restore,
                                     struct adamd_fault *fault) {
    enum adamd_status status = ADAMD_OK;

    for (int array = 0; array < ADAMD_ARRAY_COUNT && status == ADAMD_OK; array++) {
        status = check_array(restore, array, fault);
    }
    return status;
}

static bool has_average(const struct adamd_restore *restore) {
    const struct adamd_layout *layout = &restore->model->layout;
    bool whole = restore->written[ADAMD_EMA] != NULL;

    for (uint32_t i = 0; whole && i < layout->tensor_count; i++) {
        whole = restore->written[ADAMD_EMA][i] == tensor_bytes(layout, i);
    }
    return whole;
}

// The average of a state is whole, or was not begun.
static enum adamd_status check_average(const struct adamd_restore *restore,
                                       struct adamd_fault *fault) {
    const struct action_hook *hook = action_find(&restore->hooks, ADAMD_EMA_ACTION);
    enum adamd_status status = ADAMD_OK;

    if (hook == NULL) {
        return restore->written[ADAMD_EMA] == NULL
                   ? ADAMD_OK
                   : adamd_fail(fault, ADAMD_LAYOUT_MISMATCH, array_names[ADAMD_EMA],
                                "there is an average, but no hook ema that it belongs to");
    }
    if (hook->action.ema.n_averaged > 0 && !has_average(restore)) {
        return adamd_fail(fault, ADAMD_LAYOUT_MISMATCH, array_names[ADAMD_EMA],
                          "there is a hook ema with an average, but arrays of it are missing");
    }
    status = ema_ensure(restore->model);
    return status == ADAMD_OK ? status : adamd_fail_plain(fault, status);
}

static enum adamd_status check_commit(struct adamd_restore *restore, uint64_t version,
                                      struct adamd_fault *fault) {
    struct adamd_model *model = restore->model;
    enum adamd_status status;

    if (model->destroyed) {
        return adamd_fail_plain(fault, ADAMD_CANCELLED);
    }
    if (model->state == ADAMD_MODEL_FAILED) {
        return adamd_fail_plain(fault, ADAMD_DEVICE_LOST);
    }
    ADAMD_ASSERT(keeps_well(restore));
    if (restore->keeps_parameters && model->state == ADAMD_MODEL_INITIALIZING) {
        return adamd_fail(fault, ADAMD_INITIALIZING, "load",
                          "the model has no parameters that could be kept: put them first, or a "
                          "file with both");
    }
    if (version > INT64_MAX && version != ADAMD_SAME_VERSION) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, "version", "version %llu is too large",
                          (unsigned long long)version);
    }
    status = check_whole(restore, fault);
    status = status == ADAMD_OK ? check_average(restore, fault) : status;
    if (status == ADAMD_OK && restore->has_options) {
        status = model_ensure_arrays(model, restore->options, model->group_count);
        status = status == ADAMD_OK ? status : adamd_fail_plain(fault, status);
    }
    return status;
}

// What a hook put in the place of the dict, into the memory of the one that came. On the loop, for
// those who register such a hook from C; what comes over the wire is never replaced.
static enum adamd_status take_dict(struct adamd_restore *restore,
                                   const struct adamd_capture *dict) {
    struct adamd_model *model = restore->model;
    enum adamd_status status = ADAMD_OK;

    for (int array = 0; array < ADAMD_ARRAY_COUNT && status == ADAMD_OK; array++) {
        if (dict->arrays[array] == NULL) {
            continue;
        }
        status = open_array(restore, (enum adamd_array)array);
        for (uint32_t i = 0; i < model->layout.tensor_count && status == ADAMD_OK; i++) {
            restore->written[array][i] = tensor_bytes(&model->layout, i);
        }
        unsigned char *host =
            status == ADAMD_OK ? adamd_buffer_host(restore->buffers[array]) : NULL;
        if (host != NULL && host != dict->arrays[array]) {
            memcpy(host, dict->arrays[array], model->arena_bytes);
        }
    }
    if (status == ADAMD_OK && dict->steps != restore->steps) {
        memcpy(restore->steps, dict->steps, model->layout.tensor_count * sizeof dict->steps[0]);
    }
    if (status == ADAMD_OK && dict->options != restore->options) {
        memcpy(restore->options, dict->options, model->group_count * sizeof dict->options[0]);
        restore->has_options = true;
    }
    return status;
}

static enum adamd_status run_load_hooks(struct adamd_restore *restore, struct adamd_fault *fault) {
    struct adamd_model *model = restore->model;
    struct hook_run run = {.count = 0};
    struct adamd_capture view;
    const struct adamd_capture *dict = &view;
    enum adamd_status status;

    if (model->destroyed || model->hooks.first[ADAMD_LOAD_STATE_DICT_PRE] == NULL) {
        return ADAMD_OK;
    }
    adamd_restore_view(restore, &view);
    status = hooks_run_dict(model, ADAMD_LOAD_STATE_DICT_PRE, &run, &dict);
    if (status != ADAMD_OK) {
        if (fault != NULL) {
            *fault = model->hook_fault;
        }
    } else if (dict != &view) {
        status = take_dict(restore, dict);
        status = status == ADAMD_OK ? status : adamd_fail_plain(fault, status);
    }
    hook_run_end(&run);
    return status;
}

enum adamd_status
adamd_restore_commit(struct adamd_restore *restore, uint64_t version, struct adamd_wait *wait,
                     void (*on_ready)(void *arg, enum adamd_status status, const void *what),
                     void *arg, struct adamd_fault *fault) {
    struct adamd_model *model = restore->model;
    enum adamd_status status = run_load_hooks(restore, fault);

    status = status == ADAMD_OK ? check_commit(restore, version, fault) : status;

    if (status != ADAMD_OK) {
        adamd_restore_abandon(restore);
        return status;
    }
    *wait = (struct adamd_wait){.on_ready = on_ready, .arg = arg};
    wait_add(&model->restore_waits, wait);
    restore->version = version;
    restore->committed = true;
    model->was_initializing = model->state == ADAMD_MODEL_INITIALIZING;
    model->was_paused = model->state == ADAMD_MODEL_PAUSED;
    model->state = ADAMD_MODEL_RESTORING;
    model_note_change(model);
    gradients_end(model, NULL, ADAMD_RUN_RESTORED);
    manual_clear(model, ADAMD_RUN_RESTORED);
    model_advance(model);
    return ADAMD_OK;
}

void adamd_restore_abandon(struct adamd_restore *restore) {
    struct adamd_model *model = restore->model;

    destroy_restore(restore);
    if (model->destroyed) {
        model_free_if_done(model);
    }
}

// ------------------------------------------------------------------------------------ taking it in

// Long polls for versions of the future that is gone are told so.
static void end_future_pulls(struct adamd_model *model, struct adamd_wait **list) {
    struct adamd_wait *wait = *list;

    while (wait != NULL) {
        struct adamd_wait *next = wait->next;
        if (wait->min_version > model->version) {
            wait_remove(wait);
            wait->status = ADAMD_RUN_RESTORED;
            wait_add(&model->ended, wait);
        }
        wait = next;
    }
}

static void take_group(struct adamd_model *model, struct adamd_restore *restore, uint32_t i) {
    struct group *group = &model->groups[i];

    group->options = restore->options[i];
    group->since = restore->version + 1;
    if (restore->keys[i] != NULL) {
        adamd_group_keys_drop(group->keys);
        group->keys = restore->keys[i];
        restore->keys[i] = NULL;
    }
}

static void restore_hooks(struct adamd_model *model, struct adamd_restore *restore) {
    struct action_hook *ema;

    if (restore->hooks_text == NULL) {
        actions_restart(model);
        return;
    }
    actions_replace(model, &restore->hooks);
    ema = action_find(&model->hooks, ADAMD_EMA_ACTION);
    if (ema != NULL) {
        ema->ema_bytes = model->layout.arena_bytes;
    }
}

// A model that was only being made has nothing to keep: its state is zeros.
static bool stays(const struct adamd_restore *restore, int array) {
    return is_kept(restore, array) && !restore->model->was_initializing;
}

static void on_restored(struct adamd_model *model, struct job *job, enum adamd_status status) {
    struct adamd_restore *restore = job->arg;
    struct hook_run run = {.count = 0};

    if (status != ADAMD_OK) {
        destroy_restore(restore);
        return;
    }
    if (!stays(restore, ADAMD_EXP_AVG)) {
        memcpy(model->steps, restore->steps, model->layout.tensor_count * sizeof model->steps[0]);
    }
    if (restore->version == ADAMD_SAME_VERSION) {
        restore->version = model->version;
    }
    model->version = restore->version;
    kept_forget(model);
    for (uint32_t i = 0; restore->has_options && i < model->group_count; i++) {
        take_group(model, restore, i);
    }
    restore_hooks(model, restore);
    model->config_count += restore->has_options || restore->hooks_text != NULL ? 1 : 0;
    if (!model->was_initializing) {
        model->generation++;
        adamd_workers_clear_epochs(&model->workers);
    }
    model->state = model->was_paused ? ADAMD_MODEL_PAUSED : ADAMD_MODEL_ACTIVE;
    model_note_change(model);
    published_turn(model, NULL);
    end_future_pulls(model, &model->pulls);
    end_future_pulls(model, &model->pulls_ready);
    destroy_restore(restore);
    // The state is loaded, whatever they say; who asked for it is told.
    status = hooks_run_dict(model, ADAMD_LOAD_STATE_DICT_POST, &run, NULL);
    hook_run_end(&run);
    waits_end(model, &model->restore_waits, status);
}

// At a version boundary, with nothing of this model in flight.
void restore_advance(struct adamd_model *model) {
    struct adamd_restore *restore = model->restore;
    struct job *job;

    if (restore == NULL || !restore->committed || restore->submitted || model->step.active ||
        model->jobs_alive > 0) {
        return;
    }
    job = job_create(model, ADAMD_ARRAY_COUNT, on_restored, restore);
    if (job == NULL) {
        model->blocked = true; // out of memory: it was promised, so it is tried again
        return;
    }
    job->count = 0;
    for (int array = 0; array < ADAMD_ARRAY_COUNT; array++) {
        if (model->arrays[array] == NULL || stays(restore, array)) {
            continue;
        }
        clear_unwritten(restore, array);
        struct adamd_op *op = &job->ops[job->count++];
        if (restore->written[array] != NULL) {
            *op = (struct adamd_op){
                .kind = ADAMD_OP_COPY,
                .copy = {model->arrays[array], restore->buffers[array], 0, 0, model->arena_bytes}};
        } else {
            *op = (struct adamd_op){.kind = ADAMD_OP_FILL,
                                    .fill = {model->arrays[array], 0, model->arena_bytes}};
        }
    }
    restore->submitted = true;
    job_submit(model, job);
}
