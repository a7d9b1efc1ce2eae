// A pull: one version, whole, sent from the published copy; waits for it if asked to.
#include "handlers.h"

#include "arguments.h"
#include "codec/tensors.h"
#include "etag.h"
#include "framed.h"
#include "range.h"
#include "use.h"

#include <stdlib.h>
#include <string.h>

enum pull_form { PULL_SAFETENSORS, PULL_RAW, PULL_FRAMED };

struct pull_call {
    struct exchange *exchange; // NULL: gone, only the timer's closing is waited for
    struct use use;
    enum pull_form form;
    bool answered;
    bool conditional; // If-None-Match was given: no news is 304
    bool of_average;
    struct adamd_wait wait;
    uv_timer_t timer;
    bool timed; // the timer is open
    const struct adamd_published *published;
    struct codec_file file;
};

static const char *format_name(const struct pull_call *call) {
    if (call->of_average) {
        return call->form == PULL_SAFETENSORS ? "ema.st" : "ema.raw";
    }
    return call->form == PULL_SAFETENSORS ? "st" : "raw";
}

// Nothing may touch `call` after an answer was given: the exchange may be over.
static void refuse(struct pull_call *call, struct adamd_fault *fault) {
    call->answered = true;
    exchange_answer_fault(call->exchange, fault);
}

// --------------------------------------------------------------------------------------- answers

// Once for a layout, which is another one after a group was added.
static enum adamd_status make_plan(struct served_model *served, struct adamd_fault *fault) {
    const uint64_t layout_count = adamd_model_info(served->model, 0).layout_count;

    if (served->plan != NULL && served->plan_layout_count != layout_count) {
        codec_plan_destroy(served->plan);
        served->plan = NULL;
    }
    served->plan_layout_count = layout_count;
    return served->plan != NULL
               ? ADAMD_OK
               : codec_plan_create(adamd_model_layout(served->model), &served->plan, fault);
}

static enum adamd_status make_file(struct pull_call *call, struct adamd_fault *fault) {
    struct served_model *served = call->use.served;
    const struct adamd_layout *layout = adamd_model_layout(served->model);

    if (call->form == PULL_FRAMED) {
        return framed_file(served, call->published, NULL, &call->file);
    }
    if (call->form == PULL_RAW) {
        return codec_raw_file(layout, call->published, NULL, 0, &call->file);
    }
    if (make_plan(served, fault) != ADAMD_OK) {
        return fault->status;
    }
    return codec_parameters_file(served->plan, call->published, &call->file);
}

static void on_published(void *arg, enum adamd_status status, const void *what) {
    static const char *const types[] = {
        [PULL_SAFETENSORS] = "application/x-safetensors",
        [PULL_RAW] = "application/octet-stream",
        [PULL_FRAMED] = ADAMD_PULL_TYPE,
    };
    struct pull_call *call = arg;
    struct adamd_fault fault = {0};

    if (call->timed) {
        uv_timer_stop(&call->timer);
    }
    if (status != ADAMD_OK) {
        if (status == ADAMD_NOT_FOUND) {
            (void)adamd_fail(&fault, status, "source",
                             "the model has no average: POST /v1/models/%s/hooks with the action "
                             "ema begins one with the next version",
                             call->use.served->id);
        } else {
            (void)adamd_fail_plain(&fault, status);
        }
        refuse(call, &fault);
        return;
    }
    call->published = what;
    status = make_file(call, &fault);
    if (status != ADAMD_OK) {
        (void)adamd_fail_plain(&fault, status);
        refuse(call, &fault);
        return;
    }
    const struct etag etag = etag_of_version(call->use.served, call->published->generation,
                                             call->published->version, format_name(call));
    add_version_headers(call->exchange, call->published->generation, call->published->version,
                        &etag);
    call->answered = true;
    exchange_answer_bytes(call->exchange, 200, types[call->form], call->file.vector,
                          call->file.vector_count);
}

static void answer_not_modified(struct pull_call *call) {
    const struct adamd_model_info info = adamd_model_info(call->use.served->model, 0);
    const struct etag etag =
        etag_of_version(call->use.served, info.generation, info.version, format_name(call));
    struct iovec whole;

    add_version_headers(call->exchange, info.generation, info.version, &etag);
    call->answered = true;
    if (call->form != PULL_FRAMED) {
        exchange_answer_text(call->exchange, 304, NULL, "");
    } else if (framed_not_modified(call->use.served, info.generation, info.version,
                                   &call->file.head, &call->file.head_size) != ADAMD_OK) {
        exchange_answer_problem(call->exchange, REASON_NO_MEMORY, NULL);
    } else {
        whole = (struct iovec){call->file.head, call->file.head_size};
        exchange_answer_bytes(call->exchange, 200, ADAMD_PULL_TYPE, &whole, 1);
    }
}

// The version did not come in time.
static void answer_late(struct pull_call *call, uint64_t min_version) {
    const struct adamd_model_info info = adamd_model_info(call->use.served->model, 0);
    struct adamd_fault fault = {0};

    if (call->conditional) {
        answer_not_modified(call);
        return;
    }
    (void)adamd_fail(&fault, ADAMD_CANCELLED, "min_version", "version %llu did not come in time",
                     (unsigned long long)min_version);
    adamd_fault_tell(&fault, "current_version", "%llu", (unsigned long long)info.version);
    call->answered = true;
    exchange_answer_problem(call->exchange, REASON_TIMED_OUT, &fault);
}

static void on_late(uv_timer_t *timer) {
    struct pull_call *call = timer->data;
    const uint64_t min_version = call->wait.min_version;

    adamd_wait_cancel(&call->wait);
    answer_late(call, min_version);
}

// ----------------------------------------------------------------------------------- the request

struct pull_query {
    bool has_min_version, has_wait, of_average;
    uint64_t min_version, wait_ms;
};

static enum adamd_status read_form(const struct exchange *exchange, enum pull_form *ret_form,
                                   struct adamd_fault *fault) {
    const char *format = exchange_parameter(exchange, "format");

    if (accepts(exchange, ADAMD_PULL_TYPE)) {
        *ret_form = PULL_FRAMED;
    } else if (format == NULL || strcmp(format, "safetensors") == 0) {
        *ret_form = PULL_SAFETENSORS;
    } else if (strcmp(format, "raw") == 0) {
        *ret_form = PULL_RAW;
    } else {
        return adamd_fail(fault, ADAMD_BAD_FIELD, "format",
                          "format must be safetensors or raw, not \"%s\"", show(format).text);
    }
    return ADAMD_OK;
}

static enum adamd_status read_query(const struct exchange *exchange, struct pull_query *query,
                                    struct adamd_fault *fault) {
    const char *wait = exchange_parameter(exchange, "wait");

    query->has_min_version = exchange_parameter(exchange, "min_version") != NULL;
    if (argument_u64(exchange, "min_version", &query->min_version, fault) != ADAMD_OK) {
        return fault->status;
    }
    const char *source = exchange_parameter(exchange, "source");
    if (source != NULL && strcmp(source, "ema") != 0 && strcmp(source, "parameters") != 0) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, "source",
                          "source must be parameters or ema, not \"%s\"", show(source).text);
    }
    query->of_average = source != NULL && strcmp(source, "ema") == 0;
    if (query->of_average && (query->has_min_version || wait != NULL)) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, "source",
                          "the average is of the version that there is: leave min_version and wait "
                          "out");
    }
    query->has_wait = wait != NULL;
    if (wait != NULL && !parse_duration_ms(wait, &query->wait_ms)) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, "wait",
                          "wait must be a time such as 10s or 250ms, not \"%s\"", show(wait).text);
    }
    if (query->wait_ms > CALL_WAIT_MAX_MS) {
        query->wait_ms = CALL_WAIT_MAX_MS;
    }
    return ADAMD_OK;
}

static void start_timer(struct pull_call *call, uint64_t wait_ms) {
    uv_loop_t *loop = exchange_server(call->exchange)->loop;

    uv_update_time(loop);
    (void)uv_timer_init(loop, &call->timer);
    call->timer.data = call;
    call->timed = true;
    (void)uv_timer_start(&call->timer, on_late, wait_ms, 0);
}

static void start_pull(struct pull_call *call, const struct pull_query *query) {
    struct adamd_model *model = call->use.served->model;
    const struct adamd_model_info info = adamd_model_info(model, 0);
    const struct etag etag =
        etag_of_version(call->use.served, info.generation, info.version, format_name(call));
    const char *known = exchange_header(call->exchange, "If-None-Match");
    const bool is_known = tag_listed(known, etag.text);
    uint64_t min_version = query->min_version;

    call->conditional = known != NULL;
    if (call->of_average && !is_known) {
        adamd_model_pull_ema(model, &call->wait, on_published, call);
        return;
    }
    if (is_known && query->has_wait && !query->has_min_version) {
        min_version = info.version + 1; // "tell me when there is something new"
    } else if (is_known && min_version <= info.version) {
        answer_not_modified(call);
        return;
    }
    if (min_version > info.version) {
        if (query->wait_ms == 0) {
            answer_late(call, min_version);
            return;
        }
        start_timer(call, query->wait_ms);
    } else {
        const struct server *server = exchange_server(call->exchange);
        exchange_set_deadline(call->exchange,
                              server_now_ms(server) + published_patience_ms(call->use.served),
                              REASON_BUSY);
    }
    adamd_model_pull(model, min_version, &call->wait, on_published, call);
}

static void on_deleted(void *arg) {
    struct pull_call *call = arg;
    struct adamd_fault fault;

    if (call->answered || call->exchange == NULL) {
        return;
    }
    if (call->timed) {
        uv_timer_stop(&call->timer);
    }
    adamd_wait_cancel(&call->wait);
    (void)adamd_fail(&fault, ADAMD_NOT_FOUND, "model", "the model was deleted meanwhile");
    refuse(call, &fault);
}

static void on_end(struct exchange *exchange) {
    struct pull_query query = {0};
    struct adamd_fault fault = {0};
    enum pull_form form = PULL_SAFETENSORS;
    struct served_model *served = find_model_of_path(exchange, &fault);

    if (served == NULL || read_form(exchange, &form, &fault) != ADAMD_OK ||
        read_query(exchange, &query, &fault) != ADAMD_OK) {
        exchange_answer_fault(exchange, &fault);
        return;
    }
    if (adamd_model_info(served->model, 0).state == ADAMD_MODEL_INITIALIZING) {
        (void)adamd_fail_plain(&fault, ADAMD_INITIALIZING);
        exchange_answer_fault(exchange, &fault);
        return;
    }
    struct pull_call *call = calloc(1, sizeof *call);
    if (call == NULL) {
        exchange_answer_problem(exchange, REASON_NO_MEMORY, NULL);
        return;
    }
    call->exchange = exchange;
    call->form = form;
    call->of_average = query.of_average;
    use_begin(&call->use, served, on_deleted, call);
    exchange_set_state(exchange, call);
    start_pull(call, &query);
}

static void on_timer_closed(uv_handle_t *handle) {
    free(handle->data);
}

static void on_gone(struct exchange *exchange) {
    struct pull_call *call = exchange_state(exchange);

    if (call == NULL) {
        return;
    }
    call->exchange = NULL;
    adamd_wait_cancel(&call->wait);
    if (call->published != NULL) {
        adamd_published_release(call->use.served->model, call->published);
    }
    codec_file_finish(&call->file);
    use_end(&call->use);
    if (call->timed) {
        uv_close((uv_handle_t *)&call->timer, on_timer_closed);
    } else {
        free(call);
    }
}

const struct handler pull_handler = {.end = on_end, .gone = on_gone};
