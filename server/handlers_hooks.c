// Calls on the hooks of a model: added, looked at, removed.
#include "handlers.h"

#include "codec/convert.h"
#include "models.h"

#include <inttypes.h>

static void answer_hook(struct call_frame *frame, const struct served_model *served, uint64_t id) {
    struct adamd_action_view view;

    if (!adamd_model_action_of(served->model, id, &view)) {
        (void)adamd_fail(&frame->fault, ADAMD_NOT_FOUND, "name",
                         "the model \"%s\" has no such hook: GET /v1/models/%s/hooks lists them",
                         served->id, served->id);
        call_fail(frame);
        return;
    }
    call_answer(frame, (ProtobufCMessage *)codec_hook_message(&frame->arena, served->id, &view));
}

static void run_create(struct call_frame *frame) {
    const Adamd__V1__CreateHookRequest *request = (Adamd__V1__CreateHookRequest *)frame->request;
    static const Adamd__V1__Hook none = ADAMD__V1__HOOK__INIT;
    struct served_model *served = find_model_named(exchange_server(frame->exchange),
                                                   request->parent, "parent", &frame->fault);
    struct codec_hook hook;
    uint64_t id = 0;

    if (served == NULL ||
        codec_hook_read(request->hook != NULL ? request->hook : &none, &hook, &frame->fault) !=
            ADAMD_OK ||
        adamd_model_add_action(served->model, hook.event, &hook.action, hook.prepend, &id,
                               &frame->fault) != ADAMD_OK) {
        call_fail(frame);
        return;
    }
    served_touch(served);
    server_rearm(served->server);
    answer_hook(frame, served, id);
}

const struct call call_create_hook = {
    .request = &adamd__v1__create_hook_request__descriptor,
    .resource = CALL_PARENT,
    .body = "hook",
    .drained = true,
    .run = run_create,
};

static void run_get(struct call_frame *frame) {
    const Adamd__V1__GetHookRequest *request = (Adamd__V1__GetHookRequest *)frame->request;
    uint64_t id = 0;
    const struct served_model *served = find_hook_named(exchange_server(frame->exchange),
                                                        request->name, "name", &id, &frame->fault);

    if (served == NULL) {
        call_fail(frame);
        return;
    }
    answer_hook(frame, served, id);
}

const struct call call_get_hook = {
    .request = &adamd__v1__get_hook_request__descriptor,
    .resource = CALL_HOOK_NAME,
    .run = run_get,
};

static void run_list(struct call_frame *frame) {
    const Adamd__V1__ListHooksRequest *request = (Adamd__V1__ListHooksRequest *)frame->request;
    const struct served_model *served = find_model_named(exchange_server(frame->exchange),
                                                         request->parent, "parent", &frame->fault);
    Adamd__V1__ListHooksResponse answer = ADAMD__V1__LIST_HOOKS_RESPONSE__INIT;
    struct adamd_action_view view;

    if (served == NULL) {
        call_fail(frame);
        return;
    }
    answer.hooks = codec_arena_array(&frame->arena, ADAMD_HOOKS_MAX, sizeof(void *));
    while (answer.hooks != NULL &&
           adamd_model_action_at(served->model, (uint32_t)answer.n_hooks, &view)) {
        Adamd__V1__Hook *message = codec_hook_message(&frame->arena, served->id, &view);
        answer.hooks[answer.n_hooks++] = message;
        if (message == NULL) {
            answer.hooks = NULL;
        }
    }
    call_answer(frame, answer.hooks != NULL ? &answer.base : NULL);
}

const struct call call_list_hooks = {
    .request = &adamd__v1__list_hooks_request__descriptor,
    .resource = CALL_PARENT,
    .run = run_list,
};

static void run_delete(struct call_frame *frame) {
    const Adamd__V1__DeleteHookRequest *request = (Adamd__V1__DeleteHookRequest *)frame->request;
    Adamd__V1__DeleteHookResponse answer = ADAMD__V1__DELETE_HOOK_RESPONSE__INIT;
    uint64_t id = 0;
    struct served_model *served = find_hook_named(exchange_server(frame->exchange), request->name,
                                                  "name", &id, &frame->fault);

    if (served == NULL) {
        call_fail(frame);
        return;
    }
    answer.removed = adamd_model_remove_hook(served->model, id) ? 1 : 0;
    if (answer.removed != 0) {
        served_touch(served);
        server_rearm(served->server);
    }
    call_answer(frame, &answer.base);
}

const struct call call_delete_hook = {
    .request = &adamd__v1__delete_hook_request__descriptor,
    .resource = CALL_HOOK_NAME,
    .run = run_delete,
};
