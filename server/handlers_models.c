// Calls on models: made, looked at, listed, paused, deleted.
#include "handlers.h"

#include "adamd/safetensors.h"
#include "arguments.h"
#include "codec/json.h"
#include "codec/message.h"
#include "config.h"
#include "etag.h"
#include "models.h"
#include "range.h"
#include "use.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void answer_model(struct call_frame *frame, const struct served_model *served) {
    if (!exchange_is_rpc(frame->exchange)) {
        exchange_add_header(frame->exchange, "ETag", "%s", etag_of_model(served).text);
    }
    call_answer(frame, (ProtobufCMessage *)served_message(served, &frame->arena, true));
}

// ---------------------------------------------------------------------------------------- create

// The tensors and groups of the request with what the layout and the defaults make of them.
static bool complete_tensors(struct call_frame *frame, const struct adamd_model_spec *spec,
                             const struct adamd_layout *layout, Adamd__V1__Model *model) {
    for (size_t i = 0; i < model->n_tensors; i++) {
        Adamd__V1__Tensor *tensor = model->tensors[i];
        tensor->index = (uint32_t)i;
        tensor->key = (char *)spec->tensors[i].key;
        tensor->data_type = codec_dtype_message(layout->tensors[i].dtype);
        tensor->flat_offset = layout->tensors[i].wire_offset;
        tensor->byte_size = adamd_tensor_bytes(&layout->tensors[i]);
    }
    for (uint32_t i = 0; i < spec->group_count; i++) {
        for (uint32_t j = 0; j < spec->groups[i].tensor_count; j++) {
            model->tensors[spec->groups[i].tensors[j]]->group = i;
        }
    }
    for (size_t i = 0; i < model->n_param_groups; i++) {
        model->param_groups[i]->options =
            codec_options_message(&frame->arena, &spec->groups[i].options);
        if (model->param_groups[i]->options == NULL) {
            return false;
        }
    }
    return true;
}

// What the model would be, without making it.
static void answer_validated(struct call_frame *frame, Adamd__V1__CreateModelRequest *request,
                             const struct codec_creation *creation) {
    const struct adamd_model_spec *spec = &creation->spec;
    Adamd__V1__Model *model = request->model;
    struct adamd_layout layout = {0};
    uint64_t resident_bytes = 0;
    char digest[33];

    // A model without tensors was refused, so there is a message.
    if (adamd_model_validate(spec, &resident_bytes, &frame->fault) != ADAMD_OK ||
        adamd_layout_init(&layout, spec->tensors, spec->tensor_count, &frame->fault) != ADAMD_OK) {
        call_fail(frame);
        return;
    }
    codec_digest_text(layout.digest, digest);
    model->name = codec_arena_format(&frame->arena, "models/%s", request->model_id);
    model->parameter_count = layout.parameter_count;
    model->byte_size = layout.wire_bytes;
    model->resident_bytes = resident_bytes;
    model->layout_digest = digest;
    model->state = ADAMD__V1__MODEL__STATE__STATE_INITIALIZING;
    model->step_policy = codec_policy_message(&frame->arena, &spec->policy);
    const bool whole = model->name != NULL && model->step_policy != NULL &&
                       complete_tensors(frame, spec, &layout, model);
    call_answer(frame, whole ? &model->base : NULL);
    adamd_layout_finish(&layout);
}

static void run_create(struct call_frame *frame) {
    Adamd__V1__CreateModelRequest *request = (Adamd__V1__CreateModelRequest *)frame->request;
    struct server *server = exchange_server(frame->exchange);
    struct served_model *served = NULL;
    struct codec_creation *creation = codec_arena_alloc(&frame->arena, sizeof *creation);

    if (creation == NULL) {
        call_answer(frame, NULL);
        return;
    }
    if (check_model_id(request->model_id, &frame->fault) != ADAMD_OK ||
        check_room(server, request->model_id, &frame->fault) != ADAMD_OK ||
        codec_creation_read(request->model, &frame->arena, creation, &frame->fault) != ADAMD_OK) {
        call_fail(frame);
        return;
    }
    fill_grants(server, &creation->spec);
    if (request->validate_only) {
        answer_validated(frame, request, creation);
    } else if (served_create(server, request->model_id, creation, &served, &frame->fault) !=
               ADAMD_OK) {
        call_fail(frame);
    } else {
        answer_model(frame, served);
    }
}

const struct call call_create_model = {
    .request = &adamd__v1__create_model_request__descriptor,
    .body = "model",
    .drained = true,
    .run = run_create,
};

// ------------------------------------------------------------------------------------- get, list

static void run_get(struct call_frame *frame) {
    const Adamd__V1__GetModelRequest *request = (Adamd__V1__GetModelRequest *)frame->request;
    struct served_model *served =
        find_model_named(exchange_server(frame->exchange), request->name, "name", &frame->fault);

    if (served == NULL) {
        call_fail(frame);
        return;
    }
    const struct etag etag = etag_of_model(served);
    const char *header = exchange_header(frame->exchange, "If-None-Match");
    if (!exchange_is_rpc(frame->exchange) && tag_listed(header, etag.text)) {
        exchange_add_header(frame->exchange, "ETag", "%s", etag.text);
        exchange_answer_text(frame->exchange, 304, NULL, "");
        return;
    }
    answer_model(frame, served);
}

const struct call call_get_model = {
    .request = &adamd__v1__get_model_request__descriptor,
    .resource = CALL_NAME,
    .run = run_get,
};

static bool read_token(struct call_frame *frame, const char *token, uint64_t *ret_after) {
    *ret_after = 0;
    if (token[0] == '\0' || (token[0] == 'n' && parse_u64(token + 1, ret_after))) {
        return true;
    }
    (void)adamd_fail(&frame->fault, ADAMD_BAD_FIELD, "page_token",
                     "page_token is not one that this daemon gave out");
    return false;
}

static void run_list(struct call_frame *frame) {
    const Adamd__V1__ListModelsRequest *request = (Adamd__V1__ListModelsRequest *)frame->request;
    const uint32_t page_size = page_size_of(request->page_size);
    const struct served_model *at = exchange_server(frame->exchange)->models;
    Adamd__V1__ListModelsResponse answer = ADAMD__V1__LIST_MODELS_RESPONSE__INIT;
    Adamd__V1__Model **models = codec_arena_array(
        &frame->arena, exchange_server(frame->exchange)->model_count, sizeof(void *));
    uint64_t after = 0;

    if (!read_token(frame, request->page_token, &after)) {
        call_fail(frame);
        return;
    }
    while (at != NULL && at->create_time_ns <= after) {
        at = at->next;
    }
    for (; models != NULL && at != NULL && answer.n_models < page_size; at = at->next) {
        models[answer.n_models] = served_message(at, &frame->arena, false);
        if (models[answer.n_models++] == NULL) {
            models = NULL;
        }
        after = at->create_time_ns;
    }
    answer.models = models;
    if (at != NULL) {
        answer.next_page_token = codec_arena_format(&frame->arena, "n%" PRIu64, after);
    }
    call_answer(frame, models != NULL && answer.next_page_token != NULL ? &answer.base : NULL);
}

const struct call call_list_models = {
    .request = &adamd__v1__list_models_request__descriptor,
    .run = run_list,
};

static void run_tensors(struct call_frame *frame) {
    const Adamd__V1__ListTensorsRequest *request = (Adamd__V1__ListTensorsRequest *)frame->request;
    const uint32_t page_size = page_size_of(request->page_size);
    Adamd__V1__ListTensorsResponse answer = ADAMD__V1__LIST_TENSORS_RESPONSE__INIT;
    struct served_model *served = find_model_named(exchange_server(frame->exchange),
                                                   request->parent, "parent", &frame->fault);
    uint64_t at = 0;

    if (served == NULL || !read_token(frame, request->page_token, &at)) {
        call_fail(frame);
        return;
    }
    const uint32_t count = adamd_model_layout(served->model)->tensor_count;
    answer.tensors = codec_arena_array(&frame->arena, page_size, sizeof(void *));
    for (; answer.tensors != NULL && at < count && answer.n_tensors < page_size; at++) {
        Adamd__V1__Tensor *tensor =
            codec_tensor_message(&frame->arena, served->model, served->id, (uint32_t)at);
        if (tensor == NULL) {
            answer.tensors = NULL;
        } else {
            answer.tensors[answer.n_tensors++] = tensor;
        }
    }
    if (at < count) {
        answer.next_page_token = codec_arena_format(&frame->arena, "n%" PRIu64, at);
    }
    call_answer(frame,
                answer.tensors != NULL && answer.next_page_token != NULL ? &answer.base : NULL);
}

const struct call call_list_tensors = {
    .request = &adamd__v1__list_tensors_request__descriptor,
    .resource = CALL_PARENT,
    .run = run_tensors,
};

// ---------------------------------------------------------------------------------- change, delete

static void run_change(struct call_frame *frame, const char *name,
                       enum adamd_status (*change)(struct adamd_model *, struct adamd_fault *)) {
    struct served_model *served =
        find_model_named(exchange_server(frame->exchange), name, "name", &frame->fault);

    if (served == NULL || change(served->model, &frame->fault) != ADAMD_OK) {
        call_fail(frame);
        return;
    }
    server_rearm(served->server);
    answer_model(frame, served);
}

static void run_initialize(struct call_frame *frame) {
    const Adamd__V1__InitializeModelRequest *request =
        (Adamd__V1__InitializeModelRequest *)frame->request;

    run_change(frame, request->name, adamd_model_initialize);
}

static void run_pause(struct call_frame *frame) {
    run_change(frame, ((Adamd__V1__PauseModelRequest *)frame->request)->name, adamd_model_pause);
}

static void run_resume(struct call_frame *frame) {
    run_change(frame, ((Adamd__V1__ResumeModelRequest *)frame->request)->name, adamd_model_resume);
}

const struct call call_initialize_model = {
    .request = &adamd__v1__initialize_model_request__descriptor,
    .resource = CALL_NAME,
    .body = "",
    .drained = true,
    .run = run_initialize,
};
const struct call call_pause_model = {
    .request = &adamd__v1__pause_model_request__descriptor,
    .resource = CALL_NAME,
    .body = "",
    .run = run_pause,
};
const struct call call_resume_model = {
    .request = &adamd__v1__resume_model_request__descriptor,
    .resource = CALL_NAME,
    .body = "",
    .run = run_resume,
};

static enum adamd_status check_delete(struct call_frame *frame, const struct served_model *served,
                                      const Adamd__V1__DeleteModelRequest *request) {
    const struct adamd_model_info info =
        adamd_model_info(served->model, server_now_ms(served->server));

    if (check_model_etag(frame->exchange, served, request->etag, &frame->fault) != ADAMD_OK) {
        return frame->fault.status;
    }
    if (info.live_workers > 0 && !request->force) {
        (void)adamd_fail(&frame->fault, ADAMD_BUSY, "force",
                         "%" PRIu32
                         " workers of \"%s\" are live: deregister them, or say force=true",
                         info.live_workers, served->id);
        adamd_fault_tell(&frame->fault, "live_workers", "%" PRIu32, info.live_workers);
        return ADAMD_BUSY;
    }
    return ADAMD_OK;
}

static void run_delete(struct call_frame *frame) {
    const Adamd__V1__DeleteModelRequest *request = (Adamd__V1__DeleteModelRequest *)frame->request;
    Adamd__V1__DeleteModelResponse answer = ADAMD__V1__DELETE_MODEL_RESPONSE__INIT;
    struct served_model *served =
        find_model_named(exchange_server(frame->exchange), request->name, "name", &frame->fault);

    if (served == NULL) {
        call_fail(frame);
        return;
    }
    if (check_delete(frame, served, request) != ADAMD_OK) {
        const bool busy = frame->fault.status == ADAMD_BUSY;
        exchange_answer_problem(frame->exchange,
                                busy ? REASON_HAS_WORKERS : reason_of_status(frame->fault.status),
                                &frame->fault);
        return;
    }
    served_delete(served);
    call_answer(frame, &answer.base);
}

const struct call call_delete_model = {
    .request = &adamd__v1__delete_model_request__descriptor,
    .resource = CALL_NAME,
    .run = run_delete,
};
