// add_param_group: new parameters for a model that trains. A message brings their table, a
// safetensors file their values as well; the one group of its metadata has options and unknown
// keys.
#include "handlers.h"

#include "arguments.h"
#include "codec/json.h"
#include "codec/message.h"
#include "codec/tensors.h"
#include "etag.h"
#include "models.h"
#include "use.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct add_call {
    struct exchange *exchange; // NULL: gone
    struct use use;
    bool answered;
    bool is_file;
    struct codec_arena arena;
    struct codec_upload upload; // of a file
    unsigned char *document;    // of a message, as it arrives
    size_t document_size, document_filled;
    struct codec_addition codec;
    struct adamd_addition *addition;
    struct adamd_added added;
    struct adamd_wait wait;
};

static void refuse(struct add_call *call, const struct adamd_fault *fault) {
    call->answered = true;
    exchange_answer_fault(call->exchange, fault);
}

static void end_call(struct add_call *call) {
    adamd_wait_cancel(&call->wait);
    if (call->addition != NULL) {
        adamd_addition_abandon(call->addition);
    }
    codec_upload_finish(&call->upload);
    free(call->document);
    codec_arena_finish(&call->arena);
    use_end(&call->use);
    free(call);
}

static void on_deleted(void *arg) {
    struct add_call *call = arg;
    struct adamd_fault fault;

    if (call->answered || call->exchange == NULL) {
        return;
    }
    adamd_wait_cancel(&call->wait);
    (void)adamd_fail(&fault, ADAMD_NOT_FOUND, "model", "the model was deleted meanwhile");
    refuse(call, &fault);
}

// --------------------------------------------------------------------------------------- the end

static void on_added(void *arg, enum adamd_status status, const void *what) {
    struct add_call *call = arg;
    struct served_model *served = call->use.served;
    struct adamd_fault fault;

    (void)what;
    if (status != ADAMD_OK) {
        (void)adamd_fail_plain(&fault, status);
        refuse(call, &fault);
        return;
    }
    served_touch(served);
    server_rearm(served->server);
    const Adamd__V1__AddParamGroupResponse *response =
        codec_added_message(&call->arena, served->model, served->id, &call->added);
    call->answered = true;
    if (response == NULL) {
        exchange_answer_problem(call->exchange, REASON_NO_MEMORY, NULL);
        return;
    }
    exchange_add_header(call->exchange, "Adamd-Holds-From-Version", "%" PRIu64,
                        response->param_group->since_version);
    exchange_answer_message(call->exchange, 200, &response->base);
}

static enum adamd_status begin_addition(struct add_call *call, struct adamd_fault *fault) {
    const struct codec_addition *codec = &call->codec;

    return adamd_addition_begin(call->use.served->model, codec->tensors, codec->tensor_count,
                                &codec->group, &call->addition, fault);
}

static void commit(struct add_call *call) {
    struct adamd_addition *addition = call->addition;
    struct adamd_fault fault = {0};

    call->addition = NULL;
    if (adamd_addition_commit(addition, &call->added, &call->wait, on_added, call, &fault) !=
        ADAMD_OK) {
        refuse(call, &fault);
    }
    server_rearm(call->use.served->server);
}

// --------------------------------------------------------------------------------------- a file

static enum adamd_status open_file(struct add_call *call, struct adamd_fault *fault) {
    const struct served_model *served = call->use.served;
    const enum adamd_status status = codec_addition_of_file(
        &call->upload.header, served->model, &served->defaults, &call->arena, &call->codec, fault);

    return status == ADAMD_OK ? begin_addition(call, fault) : status;
}

static enum adamd_status write_piece(void *arg, size_t entry, const void *data, size_t size,
                                     struct adamd_fault *fault) {
    struct add_call *call = arg;

    return adamd_addition_write(call->addition, call->codec.targets[entry], data, size, fault);
}

static enum adamd_status take_file(struct add_call *call, const unsigned char *data, size_t size,
                                   struct adamd_fault *fault) {
    size_t used = 0;

    if (call->addition == NULL) {
        enum adamd_status status = codec_upload_head(&call->upload, data, size, &used, fault);
        if (status == ADAMD_OK && call->upload.ready) {
            status = open_file(call, fault);
        }
        if (status != ADAMD_OK || !call->upload.ready) {
            return status;
        }
    }
    return codec_upload_data(&call->upload, data + used, size - used, write_piece, call, fault);
}

// --------------------------------------------------------------------------------------- a message

static enum adamd_status take_document(struct add_call *call, const unsigned char *data,
                                       size_t size, struct adamd_fault *fault) {
    if (call->document == NULL) {
        call->document = malloc(call->document_size + 1);
    }
    if (call->document == NULL) {
        return adamd_fail_plain(fault, ADAMD_NO_MEMORY);
    }
    ADAMD_ASSERT(size <= call->document_size - call->document_filled);
    memcpy(call->document + call->document_filled, data, size);
    call->document_filled += size;
    return ADAMD_OK;
}

static enum adamd_status read_document(struct add_call *call, struct adamd_fault *fault) {
    static const unsigned char nothing[1] = "";
    const ProtobufCMessageDescriptor *type = &adamd__v1__add_param_group_request__descriptor;
    const struct served_model *served = call->use.served;
    const unsigned char *bytes = call->document != NULL ? call->document : nothing;
    ProtobufCMessage *message = NULL;
    enum adamd_status status;

    if (content_type_is(exchange_header(call->exchange, "Content-Type"), "application/proto")) {
        status = codec_unpack(type, bytes, call->document_filled, &call->arena, &message, fault);
    } else {
        status = codec_json_parse(type, (const char *)bytes, call->document_filled,
                                  CODEC_JSON_CREATE_MAX, &call->arena, &message, fault);
    }
    if (status != ADAMD_OK) {
        return status;
    }
    return codec_addition_read((const Adamd__V1__AddParamGroupRequest *)message, served->model,
                               &served->defaults, &call->arena, &call->codec, fault);
}

// --------------------------------------------------------------------------------- the request

// REASON_COUNT: nothing stands against it.
static enum reason check_request(struct exchange *exchange, bool *ret_file,
                                 struct adamd_fault *fault) {
    const char *type = exchange_header(exchange, "Content-Type");

    *ret_file = content_type_is(type, "application/x-safetensors") ||
                content_type_is(type, "application/octet-stream");
    if (exchange_server(exchange)->draining) {
        (void)adamd_fail_plain(fault, ADAMD_DRAINING);
        return REASON_DRAINING;
    }
    if (!*ret_file && type != NULL && !content_type_is(type, "application/json") &&
        !content_type_is(type, "application/proto") &&
        !content_type_is(type, "application/x-www-form-urlencoded")) {
        (void)adamd_fail(fault, ADAMD_BAD_FIELD, "Content-Type",
                         "a group comes as application/json, application/proto or "
                         "application/x-safetensors");
        return REASON_UNSUPPORTED_MEDIA_TYPE;
    }
    if (!*ret_file && exchange_content_length(exchange) > CODEC_JSON_CREATE_MAX) {
        (void)adamd_fail(fault, ADAMD_TOO_LARGE, "Content-Length",
                         "a message of this call has at most %d bytes", CODEC_JSON_CREATE_MAX);
        return REASON_TOO_LARGE;
    }
    return REASON_COUNT;
}

static void on_begin(struct exchange *exchange) {
    struct adamd_fault fault = {0};
    bool is_file = false;
    struct served_model *served = find_model_of_path(exchange, &fault);

    if (served == NULL) {
        exchange_answer_fault(exchange, &fault);
        return;
    }
    const enum reason reason = check_request(exchange, &is_file, &fault);
    if (reason != REASON_COUNT) {
        exchange_answer_problem(exchange, reason, &fault);
        return;
    }
    struct add_call *call = calloc(1, sizeof *call);
    if (call == NULL) {
        exchange_answer_problem(exchange, REASON_NO_MEMORY, NULL);
        return;
    }
    call->exchange = exchange;
    call->is_file = is_file;
    call->upload.file_bytes = exchange_content_length(exchange);
    call->document_size = is_file ? 0 : (size_t)exchange_content_length(exchange);
    use_begin(&call->use, served, on_deleted, call);
    exchange_set_state(exchange, call);
}

static void on_body(struct exchange *exchange, const unsigned char *data, size_t size) {
    struct add_call *call = exchange_state(exchange);
    struct adamd_fault fault = {0};

    if (call->answered) {
        return;
    }
    const enum adamd_status status = call->is_file ? take_file(call, data, size, &fault)
                                                   : take_document(call, data, size, &fault);
    if (status != ADAMD_OK) {
        refuse(call, &fault);
    }
}

static void on_end(struct exchange *exchange) {
    struct add_call *call = exchange_state(exchange);
    struct adamd_fault fault = {0};
    enum adamd_status status = ADAMD_OK;

    if (call->answered) {
        return;
    }
    if (!call->is_file) {
        status = read_document(call, &fault);
        status = status == ADAMD_OK ? begin_addition(call, &fault) : status;
    } else if (call->addition == NULL || !codec_upload_complete(&call->upload)) {
        status = adamd_fail(&fault, ADAMD_BAD_FIELD, "body", "the safetensors file is cut off");
    }
    if (status != ADAMD_OK) {
        refuse(call, &fault);
        return;
    }
    commit(call);
}

static void on_gone(struct exchange *exchange) {
    struct add_call *call = exchange_state(exchange);

    if (call != NULL) {
        call->exchange = NULL;
        end_call(call);
    }
}

const struct handler add_group_handler = {
    .begin = on_begin, .body = on_body, .end = on_end, .gone = on_gone};

// ---------------------------------------------------------------------------------------- by RPC

static void run_add(struct call_frame *frame) {
    const Adamd__V1__AddParamGroupRequest *request =
        (Adamd__V1__AddParamGroupRequest *)frame->request;
    struct served_model *served = find_model_named(exchange_server(frame->exchange),
                                                   request->parent, "parent", &frame->fault);
    struct add_call *call = served != NULL ? calloc(1, sizeof *call) : NULL;

    if (served == NULL) {
        call_fail(frame);
        return;
    }
    if (call == NULL) {
        call_answer(frame, NULL);
        return;
    }
    call->exchange = frame->exchange;
    use_begin(&call->use, served, on_deleted, call);
    // Before the call: it may answer from inside.
    exchange_set_state(frame->exchange, call);
    if (codec_addition_read(request, served->model, &served->defaults, &frame->arena, &call->codec,
                            &frame->fault) != ADAMD_OK ||
        begin_addition(call, &frame->fault) != ADAMD_OK) {
        refuse(call, &frame->fault);
        return;
    }
    commit(call);
}

const struct handler add_group_call_handler = {.end = call_end, .gone = on_gone};

const struct call call_add_param_group = {
    .request = &adamd__v1__add_param_group_request__descriptor,
    .resource = CALL_PARENT,
    .drained = true,
    .run = run_add,
};
