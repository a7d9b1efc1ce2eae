// Param groups: looked at, listed, changed.
#include "handlers.h"

#include "codec/message.h"
#include "models.h"

#include <inttypes.h>

static void run_get(struct call_frame *frame) {
    const Adamd__V1__GetParamGroupRequest *request =
        (Adamd__V1__GetParamGroupRequest *)frame->request;
    uint32_t group = 0;
    struct served_model *served = find_group_named(exchange_server(frame->exchange), request->name,
                                                   "name", &group, &frame->fault);

    if (served == NULL) {
        call_fail(frame);
        return;
    }
    call_answer(frame, (ProtobufCMessage *)codec_group_message(&frame->arena, served->model,
                                                               served->id, group, true));
}

const struct call call_get_param_group = {
    .request = &adamd__v1__get_param_group_request__descriptor,
    .resource = CALL_GROUP_NAME,
    .run = run_get,
};

static void run_list(struct call_frame *frame) {
    const Adamd__V1__ListParamGroupsRequest *request =
        (Adamd__V1__ListParamGroupsRequest *)frame->request;
    Adamd__V1__ListParamGroupsResponse answer = ADAMD__V1__LIST_PARAM_GROUPS_RESPONSE__INIT;
    struct served_model *served = find_model_named(exchange_server(frame->exchange),
                                                   request->parent, "parent", &frame->fault);

    if (served == NULL) {
        call_fail(frame);
        return;
    }
    const uint32_t count = adamd_model_info(served->model, 0).group_count;
    answer.param_groups = codec_arena_array(&frame->arena, count, sizeof(void *));
    for (uint32_t i = 0; answer.param_groups != NULL && i < count; i++) {
        Adamd__V1__ParamGroup *group =
            codec_group_message(&frame->arena, served->model, served->id, i, true);
        if (group == NULL) {
            answer.param_groups = NULL;
        } else {
            answer.param_groups[answer.n_param_groups++] = group;
        }
    }
    call_answer(frame, answer.param_groups != NULL ? &answer.base : NULL);
}

const struct call call_list_param_groups = {
    .request = &adamd__v1__list_param_groups_request__descriptor,
    .resource = CALL_PARENT,
    .run = run_list,
};

static enum adamd_status update(struct call_frame *frame, struct served_model *served,
                                uint32_t group, uint64_t *ret_version) {
    static const Adamd__V1__ParamGroup empty = ADAMD__V1__PARAM_GROUP__INIT;
    const Adamd__V1__UpdateParamGroupRequest *request =
        (Adamd__V1__UpdateParamGroupRequest *)frame->request;
    struct codec_settings *settings = codec_arena_alloc(&frame->arena, sizeof *settings);

    if (settings == NULL || codec_settings_of(served->model, server_now_ms(served->server),
                                              &frame->arena, settings) != ADAMD_OK) {
        return adamd_fail_plain(&frame->fault, ADAMD_NO_MEMORY);
    }
    const enum adamd_status status = codec_group_update(
        settings, group, request->param_group != NULL ? request->param_group : &empty,
        request->update_mask, "", &frame->fault);
    return status != ADAMD_OK ? status
                              : adamd_model_set_groups(served->model, settings->groups, ret_version,
                                                       &frame->fault);
}

static void run_update(struct call_frame *frame) {
    const Adamd__V1__UpdateParamGroupRequest *request =
        (Adamd__V1__UpdateParamGroupRequest *)frame->request;
    uint32_t group = 0;
    uint64_t holds_from = 0;
    struct served_model *served = find_group_named(exchange_server(frame->exchange), request->name,
                                                   "name", &group, &frame->fault);

    if (served == NULL || update(frame, served, group, &holds_from) != ADAMD_OK) {
        call_fail(frame);
        return;
    }
    served_touch(served);
    server_rearm(served->server);
    exchange_add_header(frame->exchange, "Adamd-Holds-From-Version", "%" PRIu64, holds_from);
    call_answer(frame, (ProtobufCMessage *)codec_group_message(&frame->arena, served->model,
                                                               served->id, group, true));
}

const struct call call_update_param_group = {
    .request = &adamd__v1__update_param_group_request__descriptor,
    .resource = CALL_GROUP_NAME,
    .body = "param_group",
    .run = run_update,
};
