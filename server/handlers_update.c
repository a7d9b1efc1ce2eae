// PATCH of a model: every change is checked before the first is made.
#include "handlers.h"

#include "etag.h"
#include "models.h"

#include <inttypes.h>
#include <string.h>

static enum adamd_status apply_settings(struct served_model *served,
                                        const struct codec_settings *settings,
                                        uint64_t *ret_version, struct adamd_fault *fault) {
    const uint64_t now_ms = server_now_ms(served->server);
    const bool has_policy = (settings->changes & CODEC_CHANGE_POLICY) != 0;
    enum adamd_status status = ADAMD_OK;

    // First, since it is done last: nothing is half applied.
    if (has_policy) {
        status = adamd_model_check_policy(served->model, &settings->policy, fault);
    }
    if (status == ADAMD_OK && (settings->changes & CODEC_CHANGE_OPTIONS) != 0) {
        status = adamd_model_set_groups(served->model, settings->groups, ret_version, fault);
    }
    if (status == ADAMD_OK && has_policy) {
        status = adamd_model_set_policy(served->model, &settings->policy, now_ms, fault);
    }
    if (status != ADAMD_OK) {
        return status;
    }
    if ((settings->changes & CODEC_CHANGE_LABELS) != 0) {
        memcpy(served->labels, settings->labels, sizeof served->labels);
        served->label_count = settings->label_count;
    }
    if ((settings->changes & CODEC_CHANGE_DISPLAY_NAME) != 0) {
        memcpy(served->display_name, settings->display_name, sizeof served->display_name);
    }
    if ((settings->changes & (CODEC_CHANGE_LABELS | CODEC_CHANGE_DISPLAY_NAME)) != 0) {
        served->meta_count++;
    }
    return ADAMD_OK;
}

// What holds now, with the request laid over it and checked; nothing of the model is touched.
static enum adamd_status read_settings(struct call_frame *frame, struct served_model *served,
                                       struct codec_settings *settings) {
    const Adamd__V1__UpdateModelRequest *request = (Adamd__V1__UpdateModelRequest *)frame->request;
    const Adamd__V1__Model empty = ADAMD__V1__MODEL__INIT;

    if (check_model_etag(frame->exchange, served, request->etag, &frame->fault) != ADAMD_OK) {
        return frame->fault.status;
    }
    if (codec_settings_of(served->model, server_now_ms(served->server), &frame->arena, settings) !=
        ADAMD_OK) {
        return adamd_fail_plain(&frame->fault, ADAMD_NO_MEMORY);
    }
    memcpy(settings->labels, served->labels, sizeof settings->labels);
    settings->label_count = served->label_count;
    memcpy(settings->display_name, served->display_name, sizeof settings->display_name);
    return codec_settings_update(settings, request->model != NULL ? request->model : &empty,
                                 request->update_mask, &frame->fault);
}

static void run_update(struct call_frame *frame) {
    const Adamd__V1__UpdateModelRequest *request = (Adamd__V1__UpdateModelRequest *)frame->request;
    struct codec_settings *settings = codec_arena_alloc(&frame->arena, sizeof *settings);
    struct served_model *served =
        find_model_named(exchange_server(frame->exchange), request->name, "name", &frame->fault);

    if (settings == NULL) {
        call_answer(frame, NULL);
        return;
    }
    if (served == NULL || read_settings(frame, served, settings) != ADAMD_OK) {
        call_fail(frame);
        return;
    }
    // Policy and names hold at once; options hold from the next step on.
    uint64_t holds_from =
        adamd_model_info(served->model, server_now_ms(served->server)).version + 1;
    if (apply_settings(served, settings, &holds_from, &frame->fault) != ADAMD_OK) {
        call_fail(frame);
        return;
    }
    served_touch(served);
    server_rearm(served->server);
    if (!exchange_is_rpc(frame->exchange)) {
        exchange_add_header(frame->exchange, "ETag", "%s", etag_of_model(served).text);
    }
    exchange_add_header(frame->exchange, "Adamd-Holds-From-Version", "%" PRIu64, holds_from);
    call_answer(frame, (ProtobufCMessage *)served_message(served, &frame->arena, true));
}

const struct call call_update_model = {
    .request = &adamd__v1__update_model_request__descriptor,
    .resource = CALL_NAME,
    .body = "model",
    .run = run_update,
};
