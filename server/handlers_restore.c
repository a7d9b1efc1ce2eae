// The whole state in: taken beside the running one, verified on another thread, and put in its
// place at once. A file that is refused at any point has changed nothing.
#include "handlers.h"

#include "arguments.h"
#include "codec/convert.h"
#include "codec/tensors.h"
#include "etag.h"
#include "models.h"
#include "range.h"
#include "restore.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

void restore_refuse(struct restore_call *call, const struct adamd_fault *fault) {
    call->answered = true;
    exchange_answer_fault(call->exchange, fault);
}

void restore_end_call(struct restore_call *call) {
    adamd_wait_cancel(&call->wait);
    if (call->restore != NULL) {
        adamd_restore_abandon(call->restore);
    }
    restore_pt_finish(&call->pt);
    codec_upload_finish(&call->upload);
    codec_arena_finish(&call->arena);
    use_end(&call->use);
    free(call);
}

// ----------------------------------------------------------------------------------- preconditions

// Whose state is replaced must have been seen, or not matter.
static enum reason check_precondition(const struct exchange *exchange,
                                      const struct served_model *served, bool force,
                                      struct adamd_fault *fault) {
    const struct adamd_model_info info = adamd_model_info(served->model, 0);
    const char *header = exchange_header(exchange, "If-Match");
    const struct etag state = etag_of_state(served, info.generation, info.version);
    const struct etag model = etag_of_model(served);

    if (header == NULL && (force || info.state == ADAMD_MODEL_INITIALIZING)) {
        return REASON_COUNT;
    }
    if (header == NULL) {
        (void)adamd_fail(fault, ADAMD_BAD_FIELD, "If-Match",
                         "the model has a state: say which one is replaced with -H 'If-Match: %s', "
                         "or any with ?force=true",
                         state.text);
        return REASON_PRECONDITION_REQUIRED;
    }
    if (tag_listed(header, state.text) || tag_listed(header, model.text)) {
        return REASON_COUNT;
    }
    (void)adamd_fail(fault, ADAMD_ETAG_MISMATCH, "If-Match",
                     "If-Match does not list the current state %s", state.text);
    adamd_fault_tell(fault, "etag", "%s", state.text);
    return REASON_ETAG_MISMATCH;
}

static bool takes_type(const struct exchange *exchange) {
    const char *type = exchange_header(exchange, "Content-Type");

    return type == NULL || content_type_is(type, "application/x-safetensors") ||
           content_type_is(type, "application/x-pytorch") ||
           content_type_is(type, "application/octet-stream");
}

static bool parse_load(const char *text, enum codec_load *ret_load) {
    static const char *const names[] = {[CODEC_LOAD_WEIGHTS] = "weights",
                                        [CODEC_LOAD_MOMENTS] = "moments",
                                        [CODEC_LOAD_RESET] = "reset"};

    for (int i = CODEC_LOAD_WEIGHTS; text != NULL && i <= CODEC_LOAD_RESET; i++) {
        if (strcmp(text, names[i]) == 0) {
            *ret_load = (enum codec_load)i;
            return true;
        }
    }
    return text == NULL; // all
}

static uint64_t bytes_max(const struct exchange *exchange, const struct adamd_model *model) {
    const struct adamd_layout *layout = adamd_model_layout(model);
    const char *type = exchange_header(exchange, "Content-Type");
    const uint64_t safetensors = 8 + (uint64_t)ADAMD_SAFETENSORS_HEADER_MAX +
                                 ADAMD_ARRAY_COUNT * layout->wire_bytes +
                                 8 * (uint64_t)layout->tensor_count;
    const uint64_t pt = restore_pt_bytes_max(model);

    return (type != NULL && content_type_is(type, "application/x-safetensors")) || pt < safetensors
               ? safetensors
               : pt;
}

// REASON_COUNT: nothing stands against it.
static enum reason check_request(struct exchange *exchange, const struct served_model *served,
                                 struct restore_call *asked, struct adamd_fault *fault) {
    const uint64_t largest = bytes_max(exchange, served->model);

    if (exchange_server(exchange)->draining) {
        (void)adamd_fail_plain(fault, ADAMD_DRAINING);
        return REASON_DRAINING;
    }
    if (!takes_type(exchange)) {
        (void)adamd_fail(fault, ADAMD_BAD_FIELD, "Content-Type",
                         "a state is a safetensors file: -H 'Content-Type: "
                         "application/x-safetensors'; or one of torch.save: "
                         "application/x-pytorch");
        return REASON_UNSUPPORTED_MEDIA_TYPE;
    }
    if (exchange_content_length(exchange) > largest) {
        (void)adamd_fail(fault, ADAMD_TOO_LARGE, "Content-Length",
                         "a state of this model has at most %" PRIu64 " bytes", largest);
        return REASON_TOO_LARGE;
    }
    if (!parse_load(exchange_parameter(exchange, "load"), &asked->load)) {
        (void)adamd_fail(fault, ADAMD_BAD_FIELD, "load",
                         "load is weights, moments or reset; without it, all that the file holds");
        return REASON_BAD_FIELD;
    }
    if (argument_bool(exchange, "force", &asked->force, fault) != ADAMD_OK) {
        return REASON_BAD_FIELD;
    }
    return check_precondition(exchange, served, asked->force, fault);
}

static void on_deleted(void *arg) {
    struct restore_call *call = arg;
    struct adamd_fault fault;

    if (call->answered || call->exchange == NULL) {
        return;
    }
    adamd_wait_cancel(&call->wait);
    (void)adamd_fail(&fault, ADAMD_NOT_FOUND, "model", "the model was deleted meanwhile");
    restore_refuse(call, &fault);
}

static void on_begin(struct exchange *exchange) {
    struct adamd_fault fault = {0};
    struct served_model *served = find_model_of_path(exchange, &fault);

    if (served == NULL) {
        exchange_answer_fault(exchange, &fault);
        return;
    }
    struct restore_call *call = calloc(1, sizeof *call);
    if (call == NULL) {
        exchange_answer_problem(exchange, REASON_NO_MEMORY, NULL);
        return;
    }
    const enum reason reason = check_request(exchange, served, call, &fault);
    if (reason != REASON_COUNT) {
        free(call);
        exchange_answer_problem(exchange, reason, &fault);
        return;
    }
    call->exchange = exchange;
    call->upload.file_bytes = exchange_content_length(exchange);
    use_begin(&call->use, served, on_deleted, call);
    exchange_set_state(exchange, call);
}

// ---------------------------------------------------------------------------------------- the body

// What of the file is left aside, and what of the model stays in its place.
static enum adamd_status apply_load(struct restore_call *call, struct adamd_fault *fault) {
    struct codec_state *state = &call->state;

    if (call->load == CODEC_LOAD_ALL) {
        return ADAMD_OK;
    }
    if (call->load == CODEC_LOAD_MOMENTS && state->parameters_only) {
        return adamd_fail(fault, ADAMD_LAYOUT_MISMATCH, "load", "the file has no moments");
    }
    state->has_digest = false; // of a whole, which this is not
    if (call->load != CODEC_LOAD_MOMENTS) {
        state->has_version = true;
        state->version = call->load == CODEC_LOAD_WEIGHTS ? ADAMD_SAME_VERSION : 0;
        state->groups = NULL;
    }
    state->hooks = NULL; // an average belongs to a whole state
    adamd_restore_keep(call->restore, call->load == CODEC_LOAD_MOMENTS,
                       call->load == CODEC_LOAD_WEIGHTS);
    return ADAMD_OK;
}

static bool is_wanted(const struct restore_call *call, const struct codec_target *target) {
    switch (call->load) {
    case CODEC_LOAD_ALL:
        return true;
    case CODEC_LOAD_MOMENTS:
        return target->array != ADAMD_PARAM && target->array != ADAMD_EMA;
    default:
        return target->array == ADAMD_PARAM;
    }
}

static enum adamd_status begin_restore(struct restore_call *call, struct adamd_fault *fault) {
    struct adamd_model *model = call->use.served->model;

    if (codec_groups_of(model, &call->arena, &call->groups, &call->group_count) != ADAMD_OK) {
        return adamd_fail_plain(fault, ADAMD_NO_MEMORY);
    }
    enum adamd_status status =
        codec_map_state(adamd_model_layout(model), call->groups, call->group_count,
                        &call->upload.header, &call->arena, &call->state, fault);
    if (status == ADAMD_OK) {
        status = adamd_restore_begin(model, &call->restore, fault);
    }
    if (status == ADAMD_OK) {
        status = apply_load(call, fault);
    }
    if (status == ADAMD_OK && call->state.groups != NULL) {
        status = adamd_restore_groups(call->restore, call->state.groups, call->group_count, fault);
    }
    if (status == ADAMD_OK && call->state.hooks != NULL) {
        status = adamd_restore_hooks(call->restore, call->state.hooks, fault);
    }
    return status;
}

static enum adamd_status write_step(struct restore_call *call, uint32_t tensor,
                                    const unsigned char *data, size_t size,
                                    struct adamd_fault *fault) {
    const struct adamd_layout *layout = adamd_model_layout(call->use.served->model);
    uint64_t value = 0;

    ADAMD_ASSERT(size <= sizeof call->step - call->step_filled);
    memcpy(call->step + call->step_filled, data, size);
    call->step_filled += size;
    if (call->step_filled < sizeof call->step) {
        return ADAMD_OK;
    }
    call->step_filled = 0;
    for (size_t i = sizeof call->step; i > 0; i--) {
        value = value << 8 | call->step[i - 1];
    }
    if (value > INT64_MAX) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, "step", "%s.step must not be negative",
                          show(layout->tensors[tensor].key).text);
    }
    adamd_restore_step(call->restore, tensor, value);
    if (value > call->largest_step) {
        call->largest_step = value;
    }
    return ADAMD_OK;
}

static enum adamd_status write_piece(struct restore_call *call, const struct codec_target *target,
                                     const unsigned char *data, size_t size,
                                     struct adamd_fault *fault) {
    if (!is_wanted(call, target)) {
        return ADAMD_OK;
    }
    if (target->array == CODEC_TARGET_STEP) {
        return write_step(call, target->tensor, data, size, fault);
    }
    return adamd_restore_write(call->restore, (enum adamd_array)target->array, target->tensor, data,
                               size, fault);
}

static enum adamd_status take_piece(void *arg, size_t entry, const void *data, size_t size,
                                    struct adamd_fault *fault) {
    struct restore_call *call = arg;

    return write_piece(call, &call->state.targets[entry], data, size, fault);
}

static enum adamd_status take_safetensors(struct restore_call *call, const unsigned char *data,
                                          size_t size, struct adamd_fault *fault) {
    size_t used = 0;

    if (call->restore == NULL) {
        if (codec_upload_head(&call->upload, data, size, &used, fault) != ADAMD_OK) {
            return fault->status;
        }
        if (!call->upload.ready) {
            return ADAMD_OK;
        }
        const enum adamd_status status = begin_restore(call, fault);
        if (status != ADAMD_OK) {
            return status;
        }
    }
    return codec_upload_data(&call->upload, data + used, size - used, take_piece, call, fault);
}

// By its type if that tells, else by its first bytes.
static enum adamd_status begin_file(struct restore_call *call, struct adamd_fault *fault) {
    const char *type = exchange_header(call->exchange, "Content-Type");

    call->is_pt = type != NULL && content_type_is(type, "application/x-pytorch");
    if (type == NULL || content_type_is(type, "application/octet-stream")) {
        call->is_pt = adamd_pt_begins(call->magic, call->magic_filled);
    }
    const enum adamd_status status = call->is_pt ? restore_pt_begin(call, fault) : ADAMD_OK;
    if (status != ADAMD_OK) {
        return status;
    }
    return call->is_pt ? restore_pt_take(call, call->magic, call->magic_filled, fault)
                       : take_safetensors(call, call->magic, call->magic_filled, fault);
}

static enum adamd_status take_bytes(struct restore_call *call, const unsigned char *data,
                                    size_t size, struct adamd_fault *fault) {
    if (call->magic_filled < sizeof call->magic) {
        const size_t left = sizeof call->magic - call->magic_filled;
        const size_t taken = size < left ? size : left;
        memcpy(call->magic + call->magic_filled, data, taken);
        call->magic_filled += taken;
        data += taken;
        size -= taken;
        const enum adamd_status status =
            call->magic_filled == sizeof call->magic ? begin_file(call, fault) : ADAMD_OK;
        if (status != ADAMD_OK || size == 0) {
            return status;
        }
    }
    return call->is_pt ? restore_pt_take(call, data, size, fault)
                       : take_safetensors(call, data, size, fault);
}

static void on_body(struct exchange *exchange, const unsigned char *data, size_t size) {
    struct restore_call *call = exchange_state(exchange);
    struct adamd_fault fault = {0};

    if (!call->answered && take_bytes(call, data, size, &fault) != ADAMD_OK) {
        restore_refuse(call, &fault);
    }
}

// --------------------------------------------------------------------------------------- the end

static void on_committed(void *arg, enum adamd_status status, const void *what) {
    struct restore_call *call = arg;
    struct served_model *served = call->use.served;
    struct adamd_fault fault;

    (void)what;
    if (status != ADAMD_OK) {
        (void)adamd_fail_plain(&fault, status);
        if (status == ADAMD_HOOK_FAILED) {
            fault = *adamd_model_hook_fault(served->model);
        }
        restore_refuse(call, &fault);
        return;
    }
    served_touch(served);
    server_rearm(served->server);
    const Adamd__V1__Model *message = served_message(served, &call->arena, true);
    call->answered = true;
    if (message == NULL) {
        exchange_answer_problem(call->exchange, REASON_NO_MEMORY, NULL);
        return;
    }
    exchange_add_header(call->exchange, "ETag", "%s", etag_of_model(served).text);
    exchange_answer_message(call->exchange, 200, &message->base);
}

void restore_commit(struct restore_call *call, uint64_t version) {
    struct adamd_fault fault = {0};
    struct adamd_restore *restore = call->restore;
    // The model went on while the file came in, so what If-Match says is asked again.
    const enum reason reason =
        check_precondition(call->exchange, call->use.served, call->force, &fault);

    if (reason != REASON_COUNT) {
        call->answered = true;
        exchange_answer_problem(call->exchange, reason, &fault);
        return;
    }
    call->restore = NULL;
    if (adamd_restore_commit(restore, version, &call->wait, on_committed, call, &fault) !=
        ADAMD_OK) {
        restore_refuse(call, &fault);
    }
}

static void commit(struct restore_call *call) {
    restore_commit(call, call->state.has_version ? call->state.version : call->largest_step);
}

// Another thread: reads the new state, which nobody writes any more, and the layout.
static void digest_state(uv_work_t *work) {
    struct restore_call *call = work->data;

    adamd_state_digest(adamd_model_layout(call->use.served->model), &call->view, call->group_count,
                       call->digest);
}

static void on_digested(uv_work_t *work, int result) {
    struct restore_call *call = work->data;
    struct adamd_fault fault = {0};

    call->working = false;
    if (call->exchange == NULL) {
        restore_end_call(call);
        return;
    }
    if (call->answered) {
        return;
    }
    if (result == 0 && memcmp(call->digest, call->state.digest, sizeof call->digest) == 0) {
        commit(call);
        return;
    }
    char given[33];
    char found[33];
    codec_digest_text(call->state.digest, given);
    codec_digest_text(call->digest, found);
    (void)adamd_fail(&fault, ADAMD_LAYOUT_MISMATCH, "adamd.state_digest",
                     "the file names the digest %s, what it holds digests to %s", given, found);
    restore_refuse(call, &fault);
}

// Without a file: the parameters stay, the state is zeros.
static void reset_state(struct restore_call *call) {
    struct adamd_fault fault = {0};

    if (adamd_restore_begin(call->use.served->model, &call->restore, &fault) != ADAMD_OK) {
        restore_refuse(call, &fault);
        return;
    }
    adamd_restore_keep(call->restore, true, false);
    restore_commit(call, 0);
}

static void on_end(struct exchange *exchange) {
    struct restore_call *call = exchange_state(exchange);
    struct adamd_fault fault = {0};

    if (call->answered) {
        return;
    }
    if (call->load == CODEC_LOAD_RESET && call->upload.file_bytes == 0) {
        reset_state(call);
        return;
    }
    if (call->is_pt) {
        restore_pt_end(call);
        return;
    }
    if (call->restore == NULL || !codec_upload_complete(&call->upload)) {
        (void)adamd_fail(&fault, ADAMD_BAD_FIELD, "body", "the safetensors file is cut off");
        restore_refuse(call, &fault);
        return;
    }
    if (!call->state.has_digest) {
        commit(call);
        return;
    }
    adamd_restore_view(call->restore, &call->view);
    call->work.data = call;
    if (uv_queue_work(exchange_server(exchange)->loop, &call->work, digest_state, on_digested) !=
        0) {
        (void)adamd_fail_plain(&fault, ADAMD_NO_MEMORY);
        restore_refuse(call, &fault);
        return;
    }
    call->working = true;
}

static void on_gone(struct exchange *exchange) {
    struct restore_call *call = exchange_state(exchange);

    if (call == NULL) {
        return;
    }
    call->exchange = NULL;
    if (!call->working) {
        restore_end_call(call);
    }
}

const struct handler restore_handler = {
    .begin = on_begin, .body = on_body, .end = on_end, .gone = on_gone};
