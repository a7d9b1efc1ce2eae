// A file of torch.save, put as a state: held until it is whole, since its directory stands at its
// end; read, held against the model and copied on another thread. One array is copied after the
// other and what was copied is given back at once, so that file and new state together take the
// file's memory and that of one array.
#define _GNU_SOURCE // MAP_ANONYMOUS, MADV_DONTNEED
#include "restore.h"

#include "codec/convert.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    SLACK_BYTES = 64 << 20,   // what a checkpoint may hold besides
    RECORD_BYTES = 1 << 10,   // heads, padding, directory and pickle of one tensor
    WIDEST = 4,               // times the model's own: float64 for bfloat16
    COPY_ELEMENTS = 64 << 10, // between two looks at what can be given back
};

void restore_pt_finish(struct restore_pt *pt) {
    adamd_pt_close(pt->file);
    if (pt->bytes != NULL) {
        (void)munmap(pt->bytes, (size_t)pt->size);
    }
    *pt = (struct restore_pt){0};
}

uint64_t restore_pt_bytes_max(const struct adamd_model *model) {
    const struct adamd_layout *layout = adamd_model_layout(model);

    return SLACK_BYTES + ADAMD_ARRAY_COUNT * (WIDEST * layout->wire_bytes +
                                              RECORD_BYTES * (uint64_t)layout->tensor_count);
}

enum adamd_status restore_pt_begin(struct restore_call *call, struct adamd_fault *fault) {
    struct restore_pt *pt = &call->pt;
    const uint64_t size = call->upload.file_bytes;
    // First of all, so that a second file is refused before it is received.
    const enum adamd_status status =
        adamd_restore_begin(call->use.served->model, &call->restore, fault);

    if (status != ADAMD_OK) {
        return status;
    }
    void *bytes = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (bytes == MAP_FAILED) {
        return adamd_fail_plain(fault, ADAMD_NO_MEMORY);
    }
    pt->bytes = bytes;
    pt->size = size;
    return ADAMD_OK;
}

enum adamd_status restore_pt_take(struct restore_call *call, const unsigned char *data, size_t size,
                                  struct adamd_fault *fault) {
    struct restore_pt *pt = &call->pt;

    if (size > pt->size - pt->filled) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, "body", "the body is longer than it said");
    }
    memcpy(pt->bytes + pt->filled, data, size);
    pt->filled += size;
    return ADAMD_OK;
}

// ------------------------------------------------------------------------------- the other thread

static void read_file(uv_work_t *work) {
    struct restore_call *call = work->data;
    struct restore_pt *pt = &call->pt;
    const struct adamd_layout *layout = adamd_model_layout(call->use.served->model);
    const struct adamd_pt_limits limits = {.expanded_bytes_max = WIDEST * layout->wire_bytes};
    const struct codec_pt_model model = {layout, call->groups, call->group_count, call->load};
    const struct adamd_pt_value *root = NULL;

    pt->status = adamd_pt_read(pt->bytes, pt->size, &limits, &pt->file, &pt->fault);
    if (pt->status == ADAMD_OK) {
        pt->status = adamd_pt_find(adamd_pt_root(pt->file), pt->path, &root, &pt->fault);
    }
    if (pt->status == ADAMD_OK) {
        pt->status = codec_map_pt(root, &model, &call->arena, &pt->state, &pt->list, &pt->fault);
    }
}

// Whole pages between two bytes that nobody reads any more.
static void give_back(const struct restore_pt *pt, const unsigned char *bytes, uint64_t size) {
    const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE); // the mapping begins at one
    const uint64_t from = (uint64_t)(bytes - pt->bytes);
    const uint64_t begin = (from + page - 1) / page * page;
    const uint64_t end = (from + size) / page * page;

    if (begin < end) {
        (void)madvise(pt->bytes + begin, (size_t)(end - begin), MADV_DONTNEED);
    }
}

static bool is_in_order(const struct adamd_pt_tensor *tensor) {
    uint64_t stride = 1;

    for (uint32_t i = tensor->rank; i > 0; i--) {
        if (tensor->shape[i - 1] != 1 && tensor->strides[i - 1] != stride) {
            return false;
        }
        stride *= tensor->shape[i - 1];
    }
    return true;
}

static void copy_item(const struct restore_pt *pt, const struct codec_pt_item *item,
                      enum adamd_pt_dtype dtype, unsigned char *to) {
    const struct adamd_pt_tensor *from = item->from;
    const size_t from_size = adamd_pt_dtype_size(from->dtype);
    const size_t to_size = adamd_pt_dtype_size(dtype);
    const bool is_last = !item->is_shared && from->storage->tensor_count == 1;
    const bool goes_on = is_last && is_in_order(from);

    for (uint64_t at = 0; at < from->count; at += COPY_ELEMENTS) {
        const uint64_t left = from->count - at;
        const uint64_t count = left < COPY_ELEMENTS ? left : COPY_ELEMENTS;
        adamd_pt_copy(from, at, count, dtype, to + at * to_size);
        if (goes_on) {
            give_back(pt, from->storage->bytes + (from->offset + at) * from_size,
                      count * from_size);
        }
    }
    if (is_last) {
        give_back(pt, from->storage->bytes, from->storage->size);
    }
}

static void copy_array(uv_work_t *work) {
    struct restore_call *call = work->data;
    struct restore_pt *pt = &call->pt;
    const struct adamd_layout *layout = adamd_model_layout(call->use.served->model);

    for (size_t i = 0; i < pt->state.item_count; i++) {
        const struct codec_pt_item *item = &pt->state.items[i];
        if (item->array == pt->array) {
            copy_item(pt, item, codec_pt_dtype(layout->tensors[item->tensor].dtype), pt->places[i]);
        }
    }
    if (pt->array == ADAMD_ARRAY_COUNT - 1 && pt->state.has_digest) {
        adamd_state_digest(layout, &call->view, call->group_count, call->digest);
    }
}

// ------------------------------------------------------------------------------------ on the loop

static void commit(struct restore_call *call) {
    const struct codec_pt_state *state = &call->pt.state;
    uint64_t version = state->has_version ? state->version : state->largest_step;

    if (call->load == CODEC_LOAD_RESET) {
        version = 0;
    } else if (!state->has_state) {
        version = ADAMD_SAME_VERSION;
    }
    restore_commit(call, version);
}

static void check_digest(struct restore_call *call) {
    const struct codec_pt_state *state = &call->pt.state;
    struct adamd_fault fault = {0};
    char given[33];
    char found[33];

    if (!state->has_digest || memcmp(call->digest, state->digest, sizeof call->digest) == 0) {
        commit(call);
        return;
    }
    codec_digest_text(state->digest, given);
    codec_digest_text(call->digest, found);
    (void)adamd_fail(&fault, ADAMD_LAYOUT_MISMATCH, "adamd.state_digest",
                     "the file names the digest %s, what it holds digests to %s", given, found);
    restore_refuse(call, &fault);
}

static enum adamd_status place_array(struct restore_call *call, struct adamd_fault *fault) {
    struct restore_pt *pt = &call->pt;
    enum adamd_status status = ADAMD_OK;

    for (size_t i = 0; i < pt->state.item_count && status == ADAMD_OK; i++) {
        const struct codec_pt_item *item = &pt->state.items[i];
        if (item->array == pt->array) {
            status = adamd_restore_place(call->restore, (enum adamd_array)item->array, item->tensor,
                                         &pt->places[i], fault);
        }
    }
    return status;
}

static void on_copied(uv_work_t *work, int result);

// The next array goes to the other thread.
static void advance(struct restore_call *call) {
    struct restore_pt *pt = &call->pt;
    struct adamd_fault fault = {0};

    if (place_array(call, &fault) != ADAMD_OK) {
        restore_refuse(call, &fault);
        return;
    }
    if (pt->array == ADAMD_ARRAY_COUNT - 1 && pt->state.has_digest) {
        adamd_restore_view(call->restore, &call->view);
    }
    call->working = uv_queue_work(exchange_server(call->exchange)->loop, &call->work, copy_array,
                                  on_copied) == 0;
    if (!call->working) {
        (void)adamd_fail_plain(&fault, ADAMD_NO_MEMORY);
        restore_refuse(call, &fault);
    }
}

// True if somebody still waits for what the other thread did.
static bool goes_on(struct restore_call *call) {
    call->working = false;
    if (call->exchange == NULL) {
        restore_end_call(call);
        return false;
    }
    return !call->answered;
}

static void on_copied(uv_work_t *work, int result) {
    struct restore_call *call = work->data;

    (void)result;
    if (!goes_on(call)) {
        return;
    }
    if (++call->pt.array < ADAMD_ARRAY_COUNT) {
        advance(call);
    } else {
        check_digest(call);
    }
}

// Steps and groups, and room to note where each tensor goes.
static enum adamd_status prepare(struct restore_call *call, struct adamd_fault *fault) {
    struct restore_pt *pt = &call->pt;
    const struct codec_pt_state *state = &pt->state;
    const uint32_t count = adamd_model_layout(call->use.served->model)->tensor_count;

    pt->places = codec_arena_array(&call->arena, state->item_count, sizeof *pt->places);
    if (pt->places == NULL) {
        return adamd_fail_plain(fault, ADAMD_NO_MEMORY);
    }
    for (uint32_t i = 0; i < count && state->has_state; i++) {
        adamd_restore_step(call->restore, i, state->steps[i]);
    }
    adamd_restore_keep(call->restore, !state->has_parameters,
                       !state->has_state && call->load != CODEC_LOAD_RESET);
    const enum adamd_status status =
        state->hooks != NULL ? adamd_restore_hooks(call->restore, state->hooks, fault) : ADAMD_OK;
    if (status != ADAMD_OK || state->groups == NULL) {
        return status;
    }
    return adamd_restore_groups(call->restore, state->groups, call->group_count, fault);
}

static void on_read(uv_work_t *work, int result) {
    struct restore_call *call = work->data;
    struct restore_pt *pt = &call->pt;

    (void)result;
    if (!goes_on(call)) {
        return;
    }
    if (pt->status == ADAMD_OK) {
        pt->status = prepare(call, &pt->fault);
    }
    if (pt->status == ADAMD_OK) {
        advance(call);
        return;
    }
    call->answered = true;
    exchange_answer_listing(call->exchange, reason_of_status(pt->status), &pt->fault, &pt->list);
}

void restore_pt_end(struct restore_call *call) {
    struct restore_pt *pt = &call->pt;
    struct adamd_fault fault = {0};

    if (pt->filled < pt->size) {
        (void)adamd_fail(&fault, ADAMD_BAD_FIELD, "body", "the file is cut off");
        restore_refuse(call, &fault);
        return;
    }
    const char *path = exchange_parameter(call->exchange, "path");
    pt->path = path != NULL ? codec_arena_copy(&call->arena, path, strlen(path)) : "";
    call->work.data = call;
    if (pt->path == NULL ||
        codec_groups_of(call->use.served->model, &call->arena, &call->groups, &call->group_count) !=
            ADAMD_OK ||
        uv_queue_work(exchange_server(call->exchange)->loop, &call->work, read_file, on_read) !=
            0) {
        (void)adamd_fail_plain(&fault, ADAMD_NO_MEMORY);
        restore_refuse(call, &fault);
        return;
    }
    call->working = true;
}
