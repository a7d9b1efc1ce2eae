// A push over HTTP: its head is admitted before its bytes are taken, its bytes go straight to their
// slot, its answer waits for the decision and, if asked for, brings the new parameters along.
#include "handlers.h"

#include "arguments.h"
#include "codec/envelope.h"
#include "codec/message.h"
#include "codec/tensors.h"
#include "config.h"
#include "framed.h"
#include "push_head.h"
#include "use.h"

#include <inttypes.h>
#include <stdlib.h>

// A header that lists every tensor of the largest model takes less.
enum { PUSH_HEADER_MAX = 512 << 10 };

struct push_call {
    struct exchange *exchange;
    struct use use;
    enum push_form form;
    bool pulls;    // the answer brings parameters
    bool discards; // the same push is staged: only its decision is waited for
    bool answered;
    struct codec_arena arena;
    Adamd__V1__PushHeader *header;
    struct deframer deframer;         // PUSH_FRAMED
    struct codec_upload upload;       // PUSH_SAFETENSORS
    struct codec_gradients gradients; //
    struct adamd_push *push;          // from admission to decision
    bool duplicate;
    struct adamd_outcome outcome;
    struct adamd_wait wait; // for the parameters
    const struct adamd_published *published;
    struct codec_file file;
};

// Nothing may touch `call` after an answer was given: the exchange may be over.
static void refuse(struct push_call *call, struct adamd_fault *fault) {
    if (call->header != NULL) {
        advise_registration(fault, call->use.served, call->header->worker);
    }
    if (call->push != NULL) {
        adamd_push_abandon(call->push);
        call->push = NULL;
    }
    if (fault->status == ADAMD_CANCELLED) {
        fault->status = ADAMD_OPERATION_RUNNING; // its repeat on another connection goes on
    }
    call->answered = true;
    exchange_answer_fault(call->exchange, fault);
}

// --------------------------------------------------------------------------------------- the end

static Adamd__V1__PushGradientsResponse *make_response(struct push_call *call) {
    const struct adamd_model_info info = adamd_model_info(call->use.served->model, 0);

    return codec_push_message(&call->arena, &call->outcome, info.generation, call->duplicate);
}

static void on_published(void *arg, enum adamd_status status, const void *what) {
    struct push_call *call = arg;
    const struct served_model *served = call->use.served;
    struct adamd_fault fault = {0};

    if (status != ADAMD_OK) {
        (void)adamd_fail_plain(&fault, status);
        refuse(call, &fault);
        return;
    }
    call->published = what;
    const Adamd__V1__PushGradientsResponse *response = make_response(call);
    if (response == NULL ||
        framed_file(served, call->published, &response->base, &call->file) != ADAMD_OK) {
        (void)adamd_fail_plain(&fault, ADAMD_NO_MEMORY);
        refuse(call, &fault);
        return;
    }
    call->answered = true;
    exchange_answer_bytes(call->exchange, 200, ADAMD_PULL_TYPE, call->file.vector,
                          call->file.vector_count);
}

static void answer_stale(struct push_call *call) {
    const struct adamd_model_info info = adamd_model_info(call->use.served->model, 0);
    struct adamd_fault fault = {0};

    (void)adamd_fail(&fault, ADAMD_STALE, "base_version",
                     "the gradient is %" PRIu64 " versions behind, the current one is %" PRIu64
                     ": pull, compute again, and push with the next sequence",
                     call->outcome.staleness, info.version);
    adamd_fault_tell(&fault, "current_version", "%" PRIu64, info.version);
    adamd_fault_tell(&fault, "staleness", "%" PRIu64, call->outcome.staleness);
    adamd_fault_tell(&fault, "sequence", "%" PRIu64, call->outcome.sequence);
    adamd_fault_tell(&fault, "duplicate", "%s", call->duplicate ? "true" : "false");
    refuse(call, &fault);
}

static void answer_outcome(struct push_call *call) {
    if (call->outcome.kind == ADAMD_OUTCOME_STALE) {
        answer_stale(call);
        return;
    }
    if (call->pulls) {
        exchange_set_deadline(call->exchange,
                              server_now_ms(exchange_server(call->exchange)) +
                                  published_patience_ms(call->use.served),
                              REASON_BUSY);
        adamd_model_pull(call->use.served->model, call->outcome.version, &call->wait, on_published,
                         call);
        return;
    }
    const Adamd__V1__PushGradientsResponse *response = make_response(call);
    call->answered = true;
    if (response == NULL) {
        exchange_answer_problem(call->exchange, REASON_NO_MEMORY, NULL);
        return;
    }
    exchange_answer_message(call->exchange, 200, &response->base);
}

static void on_decided(void *arg, enum adamd_status status, const struct adamd_outcome *outcome,
                       bool duplicate, const struct adamd_fault *fault) {
    struct push_call *call = arg;
    struct adamd_fault why = {0};

    call->push = NULL;
    if (status != ADAMD_OK) {
        if (fault != NULL) {
            why = *fault;
        } else {
            (void)adamd_fail_plain(&why, status);
        }
        refuse(call, &why);
        return;
    }
    call->outcome = *outcome;
    call->duplicate = duplicate;
    answer_outcome(call);
}

// ----------------------------------------------------------------------------------- the admission

static void bound_wait(struct push_call *call) {
    const struct server *server = exchange_server(call->exchange);

    exchange_set_deadline(call->exchange, server_now_ms(server) + server->config->wait_timeout_ms,
                          REASON_STILL_STAGED);
}

// What adamd_push_begin() may find: a push that wants its bytes, one that waits for the decision of
// its twin, or an answer that was given before. False: answered.
static bool admit(struct push_call *call, struct adamd_push_head *head) {
    struct adamd_model *model = call->use.served->model;
    struct adamd_fault fault = {0};
    bool wants_body = false;

    head->wants_parameters = call->pulls;
    if (adamd_push_begin(model, head, server_now_ms(exchange_server(call->exchange)), on_decided,
                         call, &call->push, &wants_body, &call->outcome, &fault) != ADAMD_OK) {
        call->push = NULL;
        refuse(call, &fault);
        return false;
    }
    if (call->push != NULL) {
        call->discards = !wants_body;
        if (call->discards) {
            bound_wait(call);
        }
        return true;
    }
    call->duplicate = true;
    answer_outcome(call);
    return false;
}

static bool admit_header(struct push_call *call, uint64_t byte_size) {
    const struct adamd_layout *layout = adamd_model_layout(call->use.served->model);
    struct adamd_push_head head;
    struct adamd_fault fault = {0};

    if (call->header->worker[0] == '\0') {
        (void)adamd_fail(&fault, ADAMD_BAD_FIELD, "worker", "worker must not be empty");
        refuse(call, &fault);
        return false;
    }
    if (codec_push_head_read(call->header, layout, &call->arena, &head, &fault) != ADAMD_OK) {
        refuse(call, &fault);
        return false;
    }
    head.byte_size = byte_size;
    if (call->form == PUSH_SAFETENSORS) {
        head.tensors = call->gradients.tensors;
        head.tensor_count = call->gradients.count;
    }
    return admit(call, &head);
}

static enum adamd_status begin_form(struct push_call *call, struct adamd_fault *fault) {
    struct exchange *exchange = call->exchange;
    const struct served_model *served = call->use.served;
    const uint64_t length = exchange_content_length(exchange);
    const uint64_t wire_bytes = adamd_model_layout(served->model)->wire_bytes;
    uint64_t head_max = 0;

    call->pulls = accepts(exchange, ADAMD_PULL_TYPE);
    if (call->form == PUSH_FRAMED) {
        call->deframer.message_max = PUSH_HEADER_MAX;
        head_max = ENVELOPE_HEAD_SIZE + PUSH_HEADER_MAX;
    } else if (call->form == PUSH_SAFETENSORS) {
        call->upload.file_bytes = length;
        head_max = 8 + ADAMD_SAFETENSORS_HEADER_MAX;
    }
    // A raw body of the wrong length is told apart by the admission, which knows the tensors.
    if (call->form != PUSH_RAW && length > wire_bytes + head_max) {
        return adamd_fail(fault, ADAMD_TOO_LARGE, "Content-Length",
                          "the body has %" PRIu64 " bytes, all tensors of the model take %" PRIu64,
                          length, wire_bytes);
    }
    if (call->form == PUSH_FRAMED) {
        return push_check_no_query(exchange, fault);
    }
    if (push_head_of_query(exchange, &call->arena, &call->header, fault) != ADAMD_OK) {
        return fault->status;
    }
    return call->form == PUSH_SAFETENSORS ? push_check_worker(served, call->header, fault)
                                          : ADAMD_OK;
}

static void on_deleted(void *arg) {
    struct push_call *call = arg;
    struct adamd_fault fault;

    if (call->answered) {
        return; // being sent: the use keeps its memory
    }
    adamd_wait_cancel(&call->wait);
    (void)adamd_fail(&fault, ADAMD_NOT_FOUND, "model", "the model was deleted meanwhile");
    refuse(call, &fault);
}

static void refuse_type(struct exchange *exchange) {
    struct adamd_fault fault;

    (void)adamd_fail(&fault, ADAMD_BAD_FIELD, "Content-Type",
                     "say what the body is: -H 'Content-Type: application/x-safetensors', "
                     "application/octet-stream or application/x-adamd-push");
    exchange_answer_problem(exchange, REASON_UNSUPPORTED_MEDIA_TYPE, &fault);
}

static void on_begin(struct exchange *exchange) {
    const enum push_form form = push_form_of(exchange);
    struct adamd_fault fault = {0};
    struct served_model *served = find_model_of_path(exchange, &fault);

    if (served == NULL) {
        exchange_answer_fault(exchange, &fault);
        return;
    }
    if (form == PUSH_UNKNOWN) {
        refuse_type(exchange);
        return;
    }
    struct push_call *call = calloc(1, sizeof *call);
    if (call == NULL) {
        exchange_answer_problem(exchange, REASON_NO_MEMORY, NULL);
        return;
    }
    call->exchange = exchange;
    call->form = form;
    use_begin(&call->use, served, on_deleted, call);
    exchange_set_state(exchange, call);
    if (begin_form(call, &fault) != ADAMD_OK) {
        refuse(call, &fault);
    } else if (form == PUSH_RAW) {
        (void)admit_header(call, exchange_content_length(exchange));
    }
}

// ---------------------------------------------------------------------------------------- the body

static void append_bytes(struct push_call *call, const unsigned char *data, size_t size) {
    struct adamd_fault fault = {0};

    if (size > 0 && adamd_push_append(call->push, data, size, &fault) != ADAMD_OK) {
        refuse(call, &fault);
    }
}

static enum adamd_status read_header(struct push_call *call, const unsigned char *message,
                                     size_t size, struct adamd_fault *fault) {
    const uint64_t rest = exchange_content_length(call->exchange) - ENVELOPE_HEAD_SIZE - size;
    ProtobufCMessage *header = NULL;

    if (codec_unpack(&adamd__v1__push_header__descriptor, message, size, &call->arena, &header,
                     fault) != ADAMD_OK) {
        return fault->status;
    }
    call->header = (Adamd__V1__PushHeader *)header;
    if (call->header->byte_size != rest) {
        (void)adamd_fail(fault, ADAMD_LAYOUT_MISMATCH, "byte_size",
                         "the header announces %" PRIu64 " bytes of tensors, %" PRIu64
                         " follow by the Content-Length",
                         call->header->byte_size, rest);
        return ADAMD_LAYOUT_MISMATCH;
    }
    return ADAMD_OK;
}

static void take_framed(struct push_call *call, const unsigned char *data, size_t size) {
    struct adamd_fault fault = {0};
    const unsigned char *message = NULL;
    size_t message_size = 0;
    size_t used = 0;

    if (call->push != NULL) {
        append_bytes(call, data, size);
        return;
    }
    if (deframer_take(&call->deframer, data, size, &used, &message, &message_size, &fault) !=
        ADAMD_OK) {
        refuse(call, &fault);
        return;
    }
    if (message == NULL) {
        return;
    }
    if (read_header(call, message, message_size, &fault) != ADAMD_OK) {
        refuse(call, &fault);
    } else if (admit_header(call, call->header->byte_size) && !call->discards) {
        append_bytes(call, data + used, size - used);
    }
}

static enum adamd_status write_piece(void *arg, size_t entry, const void *data, size_t size,
                                     struct adamd_fault *fault) {
    struct push_call *call = arg;

    return adamd_push_write(call->push, call->gradients.targets[entry].tensor, data, size, fault);
}

static void write_pieces(struct push_call *call, const unsigned char *data, size_t size) {
    struct adamd_fault fault = {0};

    if (codec_upload_data(&call->upload, data, size, write_piece, call, &fault) != ADAMD_OK) {
        refuse(call, &fault);
    }
}

static void take_safetensors(struct push_call *call, const unsigned char *data, size_t size) {
    const struct adamd_layout *layout = adamd_model_layout(call->use.served->model);
    struct adamd_fault fault = {0};
    size_t used = 0;

    if (call->push != NULL) {
        write_pieces(call, data, size);
        return;
    }
    if (codec_upload_head(&call->upload, data, size, &used, &fault) != ADAMD_OK) {
        refuse(call, &fault);
        return;
    }
    if (!call->upload.ready) {
        return;
    }
    if (codec_map_gradients(layout, &call->upload.header, &call->arena, &call->gradients, &fault) !=
        ADAMD_OK) {
        refuse(call, &fault);
    } else if (call->gradients.count == 0) {
        (void)adamd_fail(&fault, ADAMD_LAYOUT_MISMATCH, "body", "the file holds no tensor");
        refuse(call, &fault);
    } else if (admit_header(call, call->gradients.byte_size) && !call->discards) {
        write_pieces(call, data + used, size - used);
    }
}

static void on_body(struct exchange *exchange, const unsigned char *data, size_t size) {
    struct push_call *call = exchange_state(exchange);

    if (call->discards || call->answered) {
        return;
    }
    if (call->form == PUSH_RAW) {
        append_bytes(call, data, size);
    } else if (call->form == PUSH_FRAMED) {
        take_framed(call, data, size);
    } else {
        take_safetensors(call, data, size);
    }
}

static void on_end(struct exchange *exchange) {
    struct push_call *call = exchange_state(exchange);
    struct server *server = exchange_server(exchange);
    struct adamd_fault fault = {0};

    if (call->discards || call->answered) {
        return;
    }
    if (call->push == NULL) {
        (void)adamd_fail(&fault, ADAMD_BAD_FIELD, "body", "the body ends inside its head");
        refuse(call, &fault);
        return;
    }
    struct adamd_push *push = call->push;
    bound_wait(call);
    // It may decide from inside; if it fails, the push is gone and nobody was called.
    if (adamd_push_commit(push, server_now_ms(server), &fault) != ADAMD_OK) {
        call->push = NULL;
        refuse(call, &fault);
    }
    server_rearm(server);
}

static void on_gone(struct exchange *exchange) {
    struct push_call *call = exchange_state(exchange);

    if (call == NULL) {
        return;
    }
    if (call->push != NULL) {
        adamd_push_abandon(call->push);
    }
    adamd_wait_cancel(&call->wait);
    if (call->published != NULL) {
        adamd_published_release(call->use.served->model, call->published);
    }
    codec_file_finish(&call->file);
    codec_upload_finish(&call->upload);
    deframer_finish(&call->deframer);
    codec_arena_finish(&call->arena);
    use_end(&call->use);
    free(call);
}

const struct handler push_handler = {
    .begin = on_begin, .body = on_body, .end = on_end, .gone = on_gone};
