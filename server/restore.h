/** A state that is put, from its head to its commit: for handlers_restore.c and _restore_pt.c. */
#ifndef ADAMD_SERVER_RESTORE_H
#define ADAMD_SERVER_RESTORE_H

#include "codec/pt_state.h"
#include "codec/tensors.h"
#include "exchange.h"
#include "server.h"
#include "use.h"

/** A file of torch.save: its directory is at its end, so all of it is held. */
struct restore_pt {
    unsigned char *bytes; // mapped: memory is taken as it is written, and given back as it is read
    uint64_t size, filled;
    const char *path; // of the part that is wanted
    struct adamd_pt_file *file;
    struct codec_pt_state state;
    unsigned char **places; // by item
    uint32_t array;         // that is being copied
    struct problem_list list;
    enum adamd_status status; // of the other thread
    struct adamd_fault fault;
};

struct restore_call {
    struct exchange *exchange; // NULL: gone while the other thread reads the new state
    struct use use;
    bool answered, working, force;
    enum codec_load load;
    bool is_pt;
    unsigned char magic[4]; // the first bytes, until they tell what the file is
    size_t magic_filled;
    struct restore_pt pt;
    struct codec_arena arena;
    struct codec_upload upload;
    struct codec_state state;
    struct adamd_group_spec *groups;
    uint32_t group_count;
    struct adamd_restore *restore;
    unsigned char step[8]; // of one tensor, as it arrives
    size_t step_filled;
    uint64_t largest_step;
    uv_work_t work;
    struct adamd_capture view;
    uint64_t digest[2]; // of what arrived
    struct adamd_wait wait;
};

void restore_refuse(struct restore_call *call, const struct adamd_fault *fault);
/** Frees the call; not while the other thread works. */
void restore_end_call(struct restore_call *call);
/** Asks If-Match again and commits, under the file's version or another. */
void restore_commit(struct restore_call *call, uint64_t version);

/** The largest file of torch.save that this model could take. */
uint64_t restore_pt_bytes_max(const struct adamd_model *model);
ADAMD_MUST_USE enum adamd_status restore_pt_begin(struct restore_call *call,
                                                  struct adamd_fault *fault);
ADAMD_MUST_USE enum adamd_status restore_pt_take(struct restore_call *call,
                                                 const unsigned char *data, size_t size,
                                                 struct adamd_fault *fault);
/** The body is complete. Answers later. */
void restore_pt_end(struct restore_call *call);
void restore_pt_finish(struct restore_pt *pt);

#endif
