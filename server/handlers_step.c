// MANUAL: step and zero_grad.
#include "handlers.h"

#include "codec/convert.h"
#include "codec/message.h"
#include "use.h"

#include <stdlib.h>
#include <string.h>

// A step that was submitted cannot be called back, so this outlives an exchange that goes away.
struct stepping {
    struct exchange *exchange; // NULL: gone
    struct use use;
};

static void answer_stepped(struct stepping *stepping, const struct adamd_step_record *record,
                           bool duplicate) {
    struct codec_arena arena = {0};
    Adamd__V1__OptimStepResponse answer = ADAMD__V1__OPTIM_STEP_RESPONSE__INIT;

    answer.duplicate = duplicate;
    if (record != NULL) {
        answer.record = codec_record_message(&arena, record);
    }
    if (record != NULL && answer.record == NULL) {
        exchange_answer_problem(stepping->exchange, REASON_NO_MEMORY, NULL);
    } else {
        exchange_answer_message(stepping->exchange, 200, &answer.base);
    }
    codec_arena_finish(&arena);
}

static void end_stepping(struct stepping *stepping) {
    use_end(&stepping->use);
    free(stepping);
}

static void answer_failed(struct stepping *stepping, enum adamd_status status) {
    struct adamd_fault fault = {0};

    (void)adamd_fail_plain(&fault, status);
    if (status == ADAMD_HOOK_FAILED) {
        fault = *adamd_model_hook_fault(stepping->use.served->model);
    }
    exchange_answer_fault(stepping->exchange, &fault);
}

static void on_stepped(void *arg, enum adamd_status status, const struct adamd_step_record *record,
                       bool duplicate) {
    struct stepping *stepping = arg;

    if (stepping->exchange != NULL) {
        exchange_set_state(stepping->exchange, NULL);
        if (status == ADAMD_OK) {
            answer_stepped(stepping, record, duplicate);
        } else {
            answer_failed(stepping, status);
        }
    }
    end_stepping(stepping);
}

// `options` over each group's own, for this step; `ret_options` stays NULL if there are none.
static enum adamd_status lay_options(struct call_frame *frame, const struct adamd_model *model,
                                     const Adamd__V1__AdamOptions *message,
                                     struct adamd_options **ret_options) {
    const uint32_t count = adamd_model_info(model, 0).group_count;

    if (message == NULL) {
        return ADAMD_OK;
    }
    struct adamd_options *options =
        codec_arena_array(&frame->arena, count, sizeof(struct adamd_options));
    if (options == NULL) {
        return adamd_fail_plain(&frame->fault, ADAMD_NO_MEMORY);
    }
    for (uint32_t i = 0; i < count; i++) {
        options[i] = *adamd_model_options(model, i);
        const enum adamd_status status =
            codec_options_lay(message, "options", &options[i], &frame->fault);
        if (status != ADAMD_OK) {
            return status;
        }
    }
    *ret_options = options;
    return ADAMD_OK;
}

static void run_step(struct call_frame *frame) {
    const Adamd__V1__OptimStepRequest *request = (Adamd__V1__OptimStepRequest *)frame->request;
    struct server *server = exchange_server(frame->exchange);
    struct served_model *served = find_model_named(server, request->name, "name", &frame->fault);
    const uint64_t expected =
        request->expected_version_oneof_case != 0 ? request->expected_version : UINT64_MAX;
    struct adamd_options *options = NULL;

    if (served == NULL ||
        lay_options(frame, served->model, request->options, &options) != ADAMD_OK) {
        call_fail(frame);
        return;
    }
    struct stepping *stepping = calloc(1, sizeof *stepping);
    if (stepping == NULL) {
        call_answer(frame, NULL);
        return;
    }
    stepping->exchange = frame->exchange;
    use_begin(&stepping->use, served, NULL, NULL);
    // Before the call: it may answer from inside.
    exchange_set_state(frame->exchange, stepping);
    if (adamd_model_step(served->model, expected, options, on_stepped, stepping, &frame->fault) !=
        ADAMD_OK) {
        exchange_set_state(frame->exchange, NULL);
        end_stepping(stepping);
        call_fail(frame);
        return;
    }
    server_rearm(server);
}

static void on_step_gone(struct exchange *exchange) {
    struct stepping *stepping = exchange_state(exchange);

    if (stepping != NULL) {
        stepping->exchange = NULL;
    }
}

const struct handler step_handler = {.end = call_end, .gone = on_step_gone};

const struct call call_optim_step = {
    .request = &adamd__v1__optim_step_request__descriptor,
    .resource = CALL_NAME,
    .body = "",
    .drained = true,
    .run = run_step,
};

static void run_zero_grad(struct call_frame *frame) {
    const Adamd__V1__ZeroGradRequest *request = (Adamd__V1__ZeroGradRequest *)frame->request;
    const Adamd__V1__ZeroGradResponse answer = ADAMD__V1__ZERO_GRAD_RESPONSE__INIT;
    struct served_model *served =
        find_model_named(exchange_server(frame->exchange), request->name, "name", &frame->fault);
    const bool set_to_none = request->set_to_none_oneof_case == 0 || request->set_to_none;

    if (served == NULL ||
        adamd_model_zero_grad(served->model, set_to_none, &frame->fault) != ADAMD_OK) {
        call_fail(frame);
        return;
    }
    call_answer(frame, &answer.base);
}

const struct call call_zero_grad = {
    .request = &adamd__v1__zero_grad_request__descriptor,
    .resource = CALL_NAME,
    .body = "",
    .run = run_zero_grad,
};
