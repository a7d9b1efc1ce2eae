/**
 * The state of a model as a file of torch.save, and such files against a model: what is
 * `optimizer.state_dict()`, what is `model.state_dict()`, by which rules they fit. Nothing is
 * copied here; all of it may run on another thread than the loop's, while nothing else uses the
 * arguments.
 */
#ifndef ADAMD_CODEC_PT_STATE_H
#define ADAMD_CODEC_PT_STATE_H

#include "adamd/pt.h"
#include "codec/tensors.h"
#include "problem.h"

/** The same dtype in the files of torch.save. */
enum adamd_pt_dtype codec_pt_dtype(enum adamd_dtype dtype);

// --------------------------------------------------------------------------------------- out

enum codec_content {
    CODEC_CONTENT_OPTIMIZER, // optimizer.state_dict()
    CODEC_CONTENT_MODEL,     // model.state_dict()
    CODEC_CONTENT_ALL        // {"model": ..., "optimizer": ..., "adamd": ...}
};

/** What a state file is made of: borrowed until the file is finished. */
struct codec_source {
    const struct adamd_layout *layout;
    const struct adamd_capture *capture;
    const struct adamd_group_spec *groups; // who belongs where; the options are the capture's
    uint32_t group_count;
    const uint64_t *digest; // of adamd_state_digest()
};

/** As codec_state_file(). Reads all tensors, for their checksums. NO_MEMORY. */
ADAMD_MUST_USE enum adamd_status codec_pt_file(const struct codec_source *source,
                                               enum codec_content content,
                                               struct codec_file *ret_file,
                                               struct adamd_fault *fault);

// --------------------------------------------------------------------------------------- in

/** What of a file is wanted. */
enum codec_load {
    CODEC_LOAD_ALL,     // everything that it holds
    CODEC_LOAD_WEIGHTS, // parameters; the state stays
    CODEC_LOAD_MOMENTS, // state and groups; the parameters stay
    CODEC_LOAD_RESET    // parameters, if it has any; the state is zeros, groups stay
};

/** One tensor of a file that goes into one array of a tensor of the model. */
struct codec_pt_item {
    const struct adamd_pt_tensor *from;
    uint32_t array, tensor; // enum adamd_array
    bool is_shared;         // another item has the same tensor of the file
};

/** What a file says to a model. Arrays live in the arena, tensors in the file. */
struct codec_pt_state {
    struct codec_pt_item *items;
    size_t item_count;
    bool has_parameters, has_state;
    uint64_t *steps;                 // by tensor, with has_state
    struct adamd_group_spec *groups; // with options and keys of the file; NULL: the model's stay
    const char *hooks;               // the built-in hooks; "": none; NULL: the model's stay
    bool has_version, has_digest;
    uint64_t version, largest_step;
    uint64_t digest[2];
};

/** A model as files are held against it. */
struct codec_pt_model {
    const struct adamd_layout *layout;
    const struct adamd_group_spec *groups;
    uint32_t group_count;
    enum codec_load load;
};

/**
 * An optimizer's dict, a model's, or a dict with "optimizer" and "model". Optimizers fit by place:
 * the n-th parameter of the m-th group, as PyTorch's load_state_dict has it; what an older file
 * lacks has the value that PyTorch fills in. Models fit by name. What PyTorch would find out at the
 * next step, or never, is refused: `list` has every difference, the fault the first.
 * LAYOUT_MISMATCH, BAD_FIELD, UNSUPPORTED, NO_MEMORY.
 */
ADAMD_MUST_USE enum adamd_status codec_map_pt(const struct adamd_pt_value *root,
                                              const struct codec_pt_model *model,
                                              struct codec_arena *arena,
                                              struct codec_pt_state *ret_state,
                                              struct problem_list *list, struct adamd_fault *fault);

// ---------------------------------------------------------------------- unknown keys of groups

/**
 * A value as the JSON text that a group keeps: {"tuple":[…]} and {"tensor":x} are what JSON has no
 * word for. NULL where it cannot be said (a tensor of many elements, NaN, a dict with keys that
 * are no texts) or memory ran out.
 */
char *codec_pt_to_json(const struct adamd_pt_value *value);

/** The reverse, of a checked text. */
void codec_pt_put_json(struct adamd_pt_writer *writer, const char *json);

#endif
