// The whole state in: taken beside the running one, verified on another thread, and put in its
// place at once. A file that is refused at any point has changed nothing.
#include "handlers.h"

#include "arguments.h"
#include "codec/convert.h"
#include "codec/tensors.h"
#include "etag.h"
#include "models.h"
#include "range.h"
#include "use.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct restore_call {
    struct exchange *exchange; // NULL: gone while the other thread reads the new state
    struct use use;
    bool answered, working, force;
    struct codec_arena arena;
    struct codec_upload upload;
    struct codec_state state;
    struct adamd_group_spec *groups;
    uint32_t group_count;
    struct adamd_restore *restore;
    unsigned char step[8]; // of one tensor, as it arrives
    size_t step_filled;
    uint64_t largest_step;
    uv_work_t work;
    struct adamd_capture view;
    uint64_t digest[2]; // of what arrived
    struct adamd_wait wait;
};

static void refuse(struct restore_call *call, const struct adamd_fault *fault) {
    call->answered = true;
    exchange_answer_fault(call->exchange, fault);
}

static void end_call(struct restore_call *call) {
    adamd_wait_cancel(&call->wait);
    if (call->restore != NULL) {
        adamd_restore_abandon(call->restore);
    }
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
           content_type_is(type, "application/octet-stream");
}

// REASON_COUNT: nothing stands against it.
static enum reason check_request(struct exchange *exchange, const struct served_model *served,
                                 bool *ret_force, struct adamd_fault *fault) {
    const struct adamd_layout *layout = adamd_model_layout(served->model);
    const uint64_t largest = 8 + (uint64_t)ADAMD_SAFETENSORS_HEADER_MAX +
                             ADAMD_ARRAY_COUNT * layout->wire_bytes +
                             8 * (uint64_t)layout->tensor_count;

    if (exchange_server(exchange)->draining) {
        (void)adamd_fail_plain(fault, ADAMD_DRAINING);
        return REASON_DRAINING;
    }
    if (!takes_type(exchange)) {
        (void)adamd_fail(fault, ADAMD_BAD_FIELD, "Content-Type",
                         "a state is a safetensors file: -H 'Content-Type: "
                         "application/x-safetensors'");
        return REASON_UNSUPPORTED_MEDIA_TYPE;
    }
    if (exchange_content_length(exchange) > largest) {
        (void)adamd_fail(fault, ADAMD_TOO_LARGE, "Content-Length",
                         "a state of this model has at most %" PRIu64 " bytes", largest);
        return REASON_TOO_LARGE;
    }
    if (argument_bool(exchange, "force", ret_force, fault) != ADAMD_OK) {
        return REASON_BAD_FIELD;
    }
    return check_precondition(exchange, served, *ret_force, fault);
}

static void on_deleted(void *arg) {
    struct restore_call *call = arg;
    struct adamd_fault fault;

    if (call->answered || call->exchange == NULL) {
        return;
    }
    adamd_wait_cancel(&call->wait);
    (void)adamd_fail(&fault, ADAMD_NOT_FOUND, "model", "the model was deleted meanwhile");
    refuse(call, &fault);
}

static void on_begin(struct exchange *exchange) {
    struct adamd_fault fault = {0};
    bool force = false;
    struct served_model *served = find_model_of_path(exchange, &fault);

    if (served == NULL) {
        exchange_answer_fault(exchange, &fault);
        return;
    }
    const enum reason reason = check_request(exchange, served, &force, &fault);
    if (reason != REASON_COUNT) {
        exchange_answer_problem(exchange, reason, &fault);
        return;
    }
    struct restore_call *call = calloc(1, sizeof *call);
    if (call == NULL) {
        exchange_answer_problem(exchange, REASON_NO_MEMORY, NULL);
        return;
    }
    call->exchange = exchange;
    call->force = force;
    call->upload.file_bytes = exchange_content_length(exchange);
    use_begin(&call->use, served, on_deleted, call);
    exchange_set_state(exchange, call);
}

// ---------------------------------------------------------------------------------------- the body

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

static enum adamd_status write_pieces(struct restore_call *call, const unsigned char *data,
                                      size_t size, struct adamd_fault *fault) {
    while (size > 0) {
        size_t entry = 0;
        const size_t piece = codec_upload_piece(&call->upload, size, &entry);
        if (piece == 0) {
            return adamd_fail(fault, ADAMD_LAYOUT_MISMATCH, "body",
                              "there are bytes behind the last tensor");
        }
        const struct codec_target target = call->state.targets[entry];
        const enum adamd_status status =
            target.array == CODEC_TARGET_STEP
                ? write_step(call, target.tensor, data, piece, fault)
                : adamd_restore_write(call->restore, (enum adamd_array)target.array, target.tensor,
                                      data, piece, fault);
        if (status != ADAMD_OK) {
            return status;
        }
        data += piece;
        size -= piece;
    }
    return ADAMD_OK;
}

static enum adamd_status take_bytes(struct restore_call *call, const unsigned char *data,
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
    return write_pieces(call, data + used, size - used, fault);
}

static void on_body(struct exchange *exchange, const unsigned char *data, size_t size) {
    struct restore_call *call = exchange_state(exchange);
    struct adamd_fault fault = {0};

    if (!call->answered && take_bytes(call, data, size, &fault) != ADAMD_OK) {
        refuse(call, &fault);
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
        refuse(call, &fault);
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

static void commit(struct restore_call *call) {
    struct adamd_fault fault = {0};
    struct adamd_restore *restore = call->restore;
    const uint64_t version = call->state.has_version ? call->state.version : call->largest_step;
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
        refuse(call, &fault);
    }
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
        end_call(call);
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
    refuse(call, &fault);
}

static void on_end(struct exchange *exchange) {
    struct restore_call *call = exchange_state(exchange);
    struct adamd_fault fault = {0};

    if (call->answered) {
        return;
    }
    if (call->restore == NULL || !codec_upload_complete(&call->upload)) {
        (void)adamd_fail(&fault, ADAMD_BAD_FIELD, "body", "the safetensors file is cut off");
        refuse(call, &fault);
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
        refuse(call, &fault);
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
        end_call(call);
    }
}

const struct handler restore_handler = {
    .begin = on_begin, .body = on_body, .end = on_end, .gone = on_gone};
