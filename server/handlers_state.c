// The whole state out: one version is frozen on the loop, digested and described on another thread,
// and sent from where it lies.
#include "handlers.h"

#include "codec/convert.h"
#include "codec/pt_state.h"
#include "codec/tensors.h"
#include "etag.h"
#include "range.h"
#include "use.h"

#include <stdlib.h>
#include <string.h>

struct state_call {
    struct exchange *exchange; // NULL: gone while the other thread reads the capture
    struct use use;
    bool answered, working;
    bool is_pt;
    enum codec_content content; // of a file of torch.save
    struct adamd_wait wait;
    const struct adamd_capture *capture;
    struct codec_arena arena;
    struct adamd_group_spec *groups;
    uint32_t group_count;
    struct etag etag;
    uv_work_t work;
    enum adamd_status status;
    struct adamd_fault fault;
    uint64_t digest[2];
    struct codec_file file;
};

static void refuse(struct state_call *call, enum adamd_status status) {
    if (status == ADAMD_HOOK_FAILED) {
        call->fault = *adamd_model_hook_fault(call->use.served->model);
    } else if (call->fault.status != status) {
        (void)adamd_fail_plain(&call->fault, status);
    }
    call->answered = true;
    exchange_answer_fault(call->exchange, &call->fault);
}

static void end_call(struct state_call *call) {
    adamd_wait_cancel(&call->wait);
    if (call->capture != NULL) {
        adamd_capture_release(call->use.served->model, call->capture);
    }
    codec_file_finish(&call->file);
    codec_arena_finish(&call->arena);
    use_end(&call->use);
    free(call);
}

// Another thread: reads the capture, the layout and its own arena, nothing else.
static void describe_state(uv_work_t *work) {
    struct state_call *call = work->data;
    const struct adamd_layout *layout = adamd_model_layout(call->use.served->model);

    adamd_state_digest(layout, call->capture, call->group_count, call->digest);
    if (call->is_pt) {
        const struct codec_source source = {layout, call->capture, call->groups, call->group_count,
                                            call->digest};
        call->status = codec_pt_file(&source, call->content, &call->file, &call->fault);
        return;
    }
    call->status = codec_state_file(layout, call->capture, call->groups, call->group_count,
                                    call->digest, &call->file, &call->fault);
}

static void on_described(uv_work_t *work, int result) {
    struct state_call *call = work->data;
    char digest[33];

    call->working = false;
    if (call->exchange == NULL) {
        end_call(call);
        return;
    }
    if (call->answered) {
        return;
    }
    if (result != 0 || call->status != ADAMD_OK) {
        refuse(call, result != 0 ? ADAMD_CANCELLED : call->status);
        return;
    }
    adamd_capture_detach(call->use.served->model, call->capture);
    codec_digest_text(call->digest, digest);
    add_version_headers(call->exchange, call->capture->generation, call->capture->version,
                        &call->etag);
    exchange_add_header(call->exchange, "Adamd-State-Digest", "%s", digest);
    call->answered = true;
    exchange_answer_bytes(call->exchange, 200,
                          call->is_pt ? "application/x-pytorch" : "application/x-safetensors",
                          call->file.vector, call->file.vector_count);
}

static void on_captured(void *arg, enum adamd_status status, const void *what) {
    struct state_call *call = arg;
    const struct served_model *served = call->use.served;

    if (status != ADAMD_OK) {
        refuse(call, status);
        return;
    }
    call->capture = what;
    call->etag = etag_of_state(served, call->capture->generation, call->capture->version);
    if (codec_groups_of(served->model, &call->arena, &call->groups, &call->group_count) !=
        ADAMD_OK) {
        refuse(call, ADAMD_NO_MEMORY);
        return;
    }
    call->work.data = call;
    if (uv_queue_work(served->server->loop, &call->work, describe_state, on_described) != 0) {
        refuse(call, ADAMD_NO_MEMORY);
        return;
    }
    call->working = true;
}

static void on_deleted(void *arg) {
    struct state_call *call = arg;

    if (call->answered || call->exchange == NULL) {
        return;
    }
    adamd_wait_cancel(&call->wait);
    (void)adamd_fail(&call->fault, ADAMD_NOT_FOUND, "model", "the model was deleted meanwhile");
    refuse(call, ADAMD_NOT_FOUND);
}

// True: it has been answered that nothing changed.
static bool answer_known(struct exchange *exchange, const struct served_model *served,
                         const struct adamd_model_info *info) {
    const struct etag etag = etag_of_state(served, info->generation, info->version);

    if (!tag_listed(exchange_header(exchange, "If-None-Match"), etag.text)) {
        return false;
    }
    add_version_headers(exchange, info->generation, info->version, &etag);
    exchange_answer_text(exchange, 304, NULL, "");
    return true;
}

static bool parse_format(const char *format, const char *content, struct state_call *call,
                         struct adamd_fault *fault) {
    static const char *const names[] = {[CODEC_CONTENT_OPTIMIZER] = "optimizer",
                                        [CODEC_CONTENT_MODEL] = "model",
                                        [CODEC_CONTENT_ALL] = "all"};

    call->is_pt = format != NULL && strcmp(format, "pt") == 0;
    if (format != NULL && !call->is_pt && strcmp(format, "safetensors") != 0) {
        (void)adamd_fail(fault, ADAMD_BAD_FIELD, "format", "format is safetensors or pt");
        return false;
    }
    if (content != NULL && !call->is_pt) {
        (void)adamd_fail(fault, ADAMD_BAD_FIELD, "content",
                         "content goes with format=pt: a safetensors file holds everything");
        return false;
    }
    for (int i = CODEC_CONTENT_OPTIMIZER; content != NULL && i <= CODEC_CONTENT_ALL; i++) {
        if (strcmp(content, names[i]) == 0) {
            call->content = (enum codec_content)i;
            return true;
        }
    }
    if (content != NULL) {
        (void)adamd_fail(fault, ADAMD_BAD_FIELD, "content", "content is optimizer, model or all");
    }
    return content == NULL;
}

static void on_end(struct exchange *exchange) {
    struct adamd_fault fault = {0};
    struct served_model *served = find_model_of_path(exchange, &fault);

    if (served == NULL) {
        exchange_answer_fault(exchange, &fault);
        return;
    }
    const struct adamd_model_info info = adamd_model_info(served->model, 0);
    if (info.state == ADAMD_MODEL_INITIALIZING) {
        (void)adamd_fail_plain(&fault, ADAMD_INITIALIZING);
        exchange_answer_fault(exchange, &fault);
        return;
    }
    if (answer_known(exchange, served, &info)) {
        return;
    }
    struct state_call *call = calloc(1, sizeof *call);
    if (call == NULL) {
        exchange_answer_problem(exchange, REASON_NO_MEMORY, NULL);
        return;
    }
    if (!parse_format(exchange_parameter(exchange, "format"),
                      exchange_parameter(exchange, "content"), call, &fault)) {
        free(call);
        exchange_answer_fault(exchange, &fault);
        return;
    }
    call->exchange = exchange;
    use_begin(&call->use, served, on_deleted, call);
    exchange_set_state(exchange, call);
    adamd_model_capture(served->model, &call->wait, on_captured, call);
}

static void on_gone(struct exchange *exchange) {
    struct state_call *call = exchange_state(exchange);

    if (call == NULL) {
        return;
    }
    call->exchange = NULL;
    if (!call->working) {
        end_call(call);
    }
}

const struct handler state_handler = {.end = on_end, .gone = on_gone};
