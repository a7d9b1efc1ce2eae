// The last step, differentiated: cotangents come in as a file, straight to where the backend turns
// them; what it came to is described on another thread and sent from where it lies.
#include "handlers.h"

#include "arguments.h"
#include "codec/tensors.h"
#include "use.h"

#include <inttypes.h>
#include <stdlib.h>

struct differentiate_call {
    struct exchange *exchange; // NULL: gone while the other thread describes the answer
    struct use use;
    bool answered, working;
    struct codec_arena arena;
    struct codec_upload upload;
    struct codec_target *targets; // by entry of the file; NULL: its header is not whole yet
    struct adamd_group_spec *groups;
    uint32_t group_count;
    struct adamd_differentiation *differentiation;
    struct adamd_wait wait;
    const struct adamd_cotangents *cotangents;
    uv_work_t work;
    enum adamd_status status;
    struct adamd_fault fault;
    struct codec_file file;
};

static void refuse(struct differentiate_call *call, const struct adamd_fault *fault) {
    call->answered = true;
    exchange_answer_fault(call->exchange, fault);
}

static void end_call(struct differentiate_call *call) {
    if (call->differentiation != NULL) {
        adamd_differentiate_end(call->differentiation);
    }
    codec_file_finish(&call->file);
    codec_upload_finish(&call->upload);
    codec_arena_finish(&call->arena);
    use_end(&call->use);
    free(call);
}

// ----------------------------------------------------------------------------------- the admission

static bool takes_type(const struct exchange *exchange) {
    const char *type = exchange_header(exchange, "Content-Type");

    return type == NULL || content_type_is(type, "application/x-safetensors") ||
           content_type_is(type, "application/octet-stream");
}

// REASON_COUNT: nothing stands against it.
static enum reason check_request(struct exchange *exchange, const struct served_model *served,
                                 uint64_t *version, struct adamd_fault *fault) {
    const uint64_t largest = 8 + (uint64_t)ADAMD_SAFETENSORS_HEADER_MAX +
                             ADAMD_GRAD * adamd_model_layout(served->model)->wire_bytes;

    if (exchange_server(exchange)->draining) {
        (void)adamd_fail_plain(fault, ADAMD_DRAINING);
        return REASON_DRAINING;
    }
    if (!takes_type(exchange)) {
        (void)adamd_fail(fault, ADAMD_BAD_FIELD, "Content-Type",
                         "cotangents are a safetensors file: -H 'Content-Type: "
                         "application/x-safetensors'");
        return REASON_UNSUPPORTED_MEDIA_TYPE;
    }
    if (exchange_content_length(exchange) > largest) {
        (void)adamd_fail(fault, ADAMD_TOO_LARGE, "Content-Length",
                         "cotangents of this model have at most %" PRIu64 " bytes", largest);
        return REASON_TOO_LARGE;
    }
    return argument_u64(exchange, "version", version, fault) == ADAMD_OK ? REASON_COUNT
                                                                         : REASON_BAD_FIELD;
}

static void on_deleted(void *arg) {
    struct differentiate_call *call = arg;
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
    uint64_t version = UINT64_MAX;
    struct served_model *served = find_model_of_path(exchange, &fault);

    if (served == NULL) {
        exchange_answer_fault(exchange, &fault);
        return;
    }
    const enum reason reason = check_request(exchange, served, &version, &fault);
    if (reason != REASON_COUNT) {
        exchange_answer_problem(exchange, reason, &fault);
        return;
    }
    struct differentiate_call *call = calloc(1, sizeof *call);
    if (call == NULL) {
        exchange_answer_problem(exchange, REASON_NO_MEMORY, NULL);
        return;
    }
    call->exchange = exchange;
    call->upload.file_bytes = exchange_content_length(exchange);
    use_begin(&call->use, served, on_deleted, call);
    exchange_set_state(exchange, call);
    if (adamd_differentiate_begin(served->model, version, &call->differentiation, &fault) !=
        ADAMD_OK) {
        refuse(call, &fault);
    }
}

// ---------------------------------------------------------------------------------------- the body

static enum adamd_status read_header(struct differentiate_call *call, struct adamd_fault *fault) {
    const struct adamd_layout *layout = adamd_model_layout(call->use.served->model);
    const struct adamd_safetensors *header = &call->upload.header;
    struct codec_target *targets = NULL;
    enum adamd_status status = codec_map_cotangents(layout, header, &call->arena, &targets, fault);

    for (size_t i = 0; i < header->entry_count && status == ADAMD_OK; i++) {
        status = adamd_differentiate_expect(
            call->differentiation, (enum adamd_array)targets[i].array, targets[i].tensor, fault);
    }
    if (status == ADAMD_OK) {
        call->targets = targets;
    }
    return status;
}

static enum adamd_status write_piece(void *arg, size_t entry, const void *data, size_t size,
                                     struct adamd_fault *fault) {
    struct differentiate_call *call = arg;
    const struct codec_target target = call->targets[entry];

    return adamd_differentiate_write(call->differentiation, (enum adamd_array)target.array,
                                     target.tensor, data, size, fault);
}

static enum adamd_status take_bytes(struct differentiate_call *call, const unsigned char *data,
                                    size_t size, struct adamd_fault *fault) {
    size_t used = 0;

    if (call->targets == NULL) {
        if (codec_upload_head(&call->upload, data, size, &used, fault) != ADAMD_OK) {
            return fault->status;
        }
        if (!call->upload.ready) {
            return ADAMD_OK;
        }
        if (read_header(call, fault) != ADAMD_OK) {
            return fault->status;
        }
    }
    return codec_upload_data(&call->upload, data + used, size - used, write_piece, call, fault);
}

static void on_body(struct exchange *exchange, const unsigned char *data, size_t size) {
    struct differentiate_call *call = exchange_state(exchange);
    struct adamd_fault fault = {0};

    if (!call->answered && take_bytes(call, data, size, &fault) != ADAMD_OK) {
        refuse(call, &fault);
    }
}

// ----------------------------------------------------------------------------------------- the end

// Another thread: reads the cotangents, the layout and its own arena, nothing else.
static void describe(uv_work_t *work) {
    struct differentiate_call *call = work->data;

    call->status = codec_cotangents_file(adamd_model_layout(call->use.served->model),
                                         call->cotangents, call->groups, &call->file, &call->fault);
}

static void on_described(uv_work_t *work, int result) {
    struct differentiate_call *call = work->data;

    call->working = false;
    if (call->exchange == NULL) {
        end_call(call);
        return;
    }
    if (call->answered) {
        return;
    }
    if (result != 0 || call->status != ADAMD_OK) {
        if (result != 0) {
            (void)adamd_fail_plain(&call->fault, ADAMD_CANCELLED);
        }
        refuse(call, &call->fault);
        return;
    }
    adamd_differentiate_detach(call->differentiation);
    exchange_add_header(call->exchange, "Adamd-Generation", "%" PRIu64,
                        call->cotangents->generation);
    exchange_add_header(call->exchange, "Adamd-Version", "%" PRIu64, call->cotangents->version);
    call->answered = true;
    exchange_answer_bytes(call->exchange, 200, "application/x-safetensors", call->file.vector,
                          call->file.vector_count);
}

static void on_turned(void *arg, enum adamd_status status, const void *what) {
    struct differentiate_call *call = arg;
    const struct served_model *served = call->use.served;

    call->cotangents = what;
    if (status == ADAMD_OK) {
        status = codec_groups_of(served->model, &call->arena, &call->groups, &call->group_count);
    }
    if (status == ADAMD_OK) {
        call->work.data = call;
        call->working =
            uv_queue_work(served->server->loop, &call->work, describe, on_described) == 0;
        status = call->working ? ADAMD_OK : ADAMD_NO_MEMORY;
    }
    if (status != ADAMD_OK) {
        (void)adamd_fail_plain(&call->fault, status);
        refuse(call, &call->fault);
    }
}

static void on_end(struct exchange *exchange) {
    struct differentiate_call *call = exchange_state(exchange);
    struct adamd_fault fault = {0};

    if (call->answered) {
        return;
    }
    if (call->targets == NULL || !codec_upload_complete(&call->upload)) {
        (void)adamd_fail(&fault, ADAMD_BAD_FIELD, "body", "the safetensors file is cut off");
        refuse(call, &fault);
        return;
    }
    if (adamd_differentiate_commit(call->differentiation, &call->wait, on_turned, call, &fault) !=
        ADAMD_OK) {
        refuse(call, &fault);
    }
}

static void on_gone(struct exchange *exchange) {
    struct differentiate_call *call = exchange_state(exchange);

    if (call == NULL) {
        return;
    }
    call->exchange = NULL;
    if (!call->working) {
        end_call(call);
    }
}

const struct handler differentiate_handler = {
    .begin = on_begin, .body = on_body, .end = on_end, .gone = on_gone};
