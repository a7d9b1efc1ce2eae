// The steps of a model: listed as a message, as lines, or followed as they are made.
#include "handlers.h"

#include "arguments.h"
#include "codec/convert.h"
#include "codec/json.h"
#include "followers.h"
#include "records.h"
#include "use.h"

#include <stdlib.h>
#include <string.h>

// -------------------------------------------------------------------------------------- as message

static void run_list(struct call_frame *frame) {
    const Adamd__V1__ListStepsRequest *request = (Adamd__V1__ListStepsRequest *)frame->request;
    const uint32_t page_size = page_size_of(request->page_size);
    Adamd__V1__ListStepsResponse answer = ADAMD__V1__LIST_STEPS_RESPONSE__INIT;
    const struct served_model *served = find_model_named(exchange_server(frame->exchange),
                                                         request->parent, "parent", &frame->fault);

    if (served == NULL) {
        call_fail(frame);
        return;
    }
    struct records_at at = {.after_version = request->after_version};
    answer.steps = codec_arena_array(&frame->arena, page_size, sizeof(void *));
    const struct adamd_step_record *record = records_next(served->model, &at);
    for (; answer.steps != NULL && record != NULL && answer.n_steps < page_size;
         record = records_next(served->model, &at)) {
        Adamd__V1__StepRecord *message = codec_record_message(&frame->arena, record);
        if (message == NULL) {
            answer.steps = NULL;
        } else {
            answer.steps[answer.n_steps++] = message;
        }
    }
    call_answer(frame, answer.steps != NULL ? &answer.base : NULL);
}

const struct call call_list_steps = {
    .request = &adamd__v1__list_steps_request__descriptor,
    .resource = CALL_PARENT,
    .run = run_list,
};

// ---------------------------------------------------------------------------------------- as lines

// A follower that comes late is brought up to date in portions, so that what waits to be sent stays
// under what exchange_stream_write() puts up with.
enum { PORTION_BYTES = 256 << 10, PORTION_MS = 20, LINES_BYTES_MAX = 8 << 20 };

struct follower {
    struct exchange *exchange; // NULL: gone, only the timer's closing is waited for
    struct use use;
    struct follower *next, **link; // of the model's followers
    struct records_at at;
    enum records_format format;
    bool ended;
    uv_timer_t more;
};

static void end_stream(struct follower *follower) {
    if (!follower->ended) {
        follower->ended = true;
        uv_timer_stop(&follower->more);
        exchange_stream_end(follower->exchange);
    }
}

static void send_records(struct follower *follower);

static void on_more(uv_timer_t *timer) {
    send_records(timer->data);
}

static void send_records(struct follower *follower) {
    struct records_text text = {.bytes_max = PORTION_BYTES};
    bool more = false;

    if (follower->ended) {
        return;
    }
    const bool written = records_write(follower->use.served->model, &follower->at, follower->format,
                                       UINT32_MAX, &text, &more);
    const bool sent = written && (text.size == 0 ||
                                  exchange_stream_write(follower->exchange, text.bytes, text.size));
    records_text_finish(&text);
    if (!sent) {
        end_stream(follower);
    } else if (more) {
        (void)uv_timer_start(&follower->more, on_more, PORTION_MS, 0);
    }
}

void followers_wake(void *arg) {
    const struct served_model *served = arg;

    for (struct follower *at = served->followers; at != NULL; at = at->next) {
        if (!uv_is_active((uv_handle_t *)&at->more)) {
            send_records(at);
        }
    }
}

static void on_deleted(void *arg) {
    end_stream(arg);
}

static void start_following(struct exchange *exchange, struct served_model *served,
                            struct records_at at, enum records_format format) {
    struct follower *follower = calloc(1, sizeof *follower);

    if (follower == NULL) {
        exchange_answer_problem(exchange, REASON_NO_MEMORY, NULL);
        return;
    }
    follower->exchange = exchange;
    follower->at = at;
    follower->format = format;
    follower->more.data = follower;
    (void)uv_timer_init(served->server->loop, &follower->more);
    use_begin(&follower->use, served, on_deleted, follower);
    follower->next = served->followers;
    follower->link = &served->followers;
    if (follower->next != NULL) {
        follower->next->link = &follower->next;
    }
    served->followers = follower;
    exchange_set_state(exchange, follower);
    exchange_stream_start(exchange, records_type(format));
    send_records(follower);
}

static void answer_lines(struct exchange *exchange, const struct served_model *served,
                         struct records_at at, enum records_format format, uint32_t page_size) {
    struct records_text text = {.bytes_max = LINES_BYTES_MAX};
    bool more = false;

    if (records_write(served->model, &at, format, page_size, &text, &more)) {
        exchange_answer_text(exchange, 200, records_type(format),
                             text.bytes != NULL ? text.bytes : "");
    } else {
        exchange_answer_problem(exchange, REASON_NO_MEMORY, NULL);
    }
    records_text_finish(&text);
}

static void on_end(struct exchange *exchange) {
    struct adamd_fault fault = {0};
    struct served_model *served = find_model_of_path(exchange, &fault);
    struct records_at at = {0};
    uint64_t page_size = 0;
    bool follow = false;

    if (served == NULL ||
        argument_u64(exchange, "after_version", &at.after_version, &fault) != ADAMD_OK ||
        argument_u64(exchange, "page_size", &page_size, &fault) != ADAMD_OK ||
        argument_bool(exchange, "follow", &follow, &fault) != ADAMD_OK) {
        exchange_answer_fault(exchange, &fault);
        return;
    }
    const enum records_format format = accepts(exchange, "text/csv") ? RECORDS_CSV : RECORDS_JSONL;
    if (follow && !exchange_is_head(exchange)) {
        start_following(exchange, served, at, format);
        return;
    }
    answer_lines(exchange, served, at, format,
                 page_size_of(page_size > UINT32_MAX ? UINT32_MAX : (uint32_t)page_size));
}

static void on_timer_closed(uv_handle_t *handle) {
    free(handle->data);
}

static void on_gone(struct exchange *exchange) {
    struct follower *follower = exchange_state(exchange);

    if (follower == NULL) {
        return;
    }
    follower->ended = true;
    *follower->link = follower->next;
    if (follower->next != NULL) {
        follower->next->link = follower->link;
    }
    use_end(&follower->use);
    uv_close((uv_handle_t *)&follower->more, on_timer_closed);
}

const struct handler records_handler = {.end = on_end, .gone = on_gone};
