/**
 * Files of tensors: which bytes, from where, make up a pull or a state file, and where the bytes of
 * a push or of a state that is put belong. No bytes of tensors are copied here.
 */
#ifndef ADAMD_CODEC_TENSORS_H
#define ADAMD_CODEC_TENSORS_H

#include "adamd/model.h"
#include "adamd/safetensors.h"
#include "codec/arena.h"

#include <sys/uio.h>

// --------------------------------------------------------------------------------------- out

/** A body as a vector over memory that stays where it is. */
struct codec_file {
    unsigned char *head; // malloc'ed: what stands before the tensors
    size_t head_size;
    uint64_t *steps;                // little-endian; what `<key>.step` of a state file points to
    struct adamd_pt_writer *writer; // whose memory a file of torch.save points to
    struct iovec *vector;
    size_t vector_count;
    uint64_t size; // of all of it
};

/** Takes anything from zeroed to whole. */
void codec_file_finish(struct codec_file *file);

/**
 * The part [offset, offset + size) of a file, which must lie inside; the vector is malloc'ed and
 * points into the same memory. NO_MEMORY.
 */
ADAMD_MUST_USE enum adamd_status codec_file_slice(const struct codec_file *file, uint64_t offset,
                                                  uint64_t size, struct iovec **ret_vector,
                                                  size_t *ret_count);

struct codec_plan;

/**
 * What the parameter files of all versions share: the order of the tensors and most of the header.
 * Made once for a model, so that a pull need not sort. `layout` is borrowed and outlives the plan.
 * NO_MEMORY, TOO_LARGE.
 */
ADAMD_MUST_USE enum adamd_status codec_plan_create(const struct adamd_layout *layout,
                                                   struct codec_plan **ret_plan,
                                                   struct adamd_fault *fault);
void codec_plan_destroy(struct codec_plan *plan);

/** One version as safetensors. The same version always gives the same bytes. NO_MEMORY. */
ADAMD_MUST_USE enum adamd_status codec_parameters_file(const struct codec_plan *plan,
                                                       const struct adamd_published *published,
                                                       struct codec_file *ret_file);

/**
 * One version as raw bytes in table order, behind `head` (malloc'ed, may be NULL; taken over, also
 * on failure). NO_MEMORY.
 */
ADAMD_MUST_USE enum adamd_status codec_raw_file(const struct adamd_layout *layout,
                                                const struct adamd_published *published,
                                                unsigned char *head, size_t head_size,
                                                struct codec_file *ret_file);

/** The groups of a model with their options, in the arena. */
ADAMD_MUST_USE enum adamd_status codec_groups_of(const struct adamd_model *model,
                                                 struct codec_arena *arena,
                                                 struct adamd_group_spec **ret_groups,
                                                 uint32_t *ret_count);

/**
 * The whole state. `groups` says who belongs where; the options are the capture's. `digest` is what
 * adamd_state_digest() gave. NO_MEMORY, TOO_LARGE.
 */
ADAMD_MUST_USE enum adamd_status
codec_state_file(const struct adamd_layout *layout, const struct adamd_capture *capture,
                 const struct adamd_group_spec *groups, uint32_t group_count,
                 const uint64_t digest[2], struct codec_file *ret_file, struct adamd_fault *fault);

/**
 * Cotangents of what a step read, and in the metadata those of its options. `groups` says who
 * belongs where. NO_MEMORY, TOO_LARGE.
 */
ADAMD_MUST_USE enum adamd_status codec_cotangents_file(const struct adamd_layout *layout,
                                                       const struct adamd_cotangents *cotangents,
                                                       const struct adamd_group_spec *groups,
                                                       struct codec_file *ret_file,
                                                       struct adamd_fault *fault);

// --------------------------------------------------------------------------------------- in

/** Where the bytes of one entry of a file go. */
struct codec_target {
    uint32_t array; // enum adamd_array, or CODEC_TARGET_STEP
    uint32_t tensor;
};
enum { CODEC_TARGET_STEP = ADAMD_ARRAY_COUNT };

/**
 * A body that is a safetensors file, as it arrives. First the header is collected and parsed, then
 * each piece of data is told apart by entry. Zeroed but for `file_bytes` (the Content-Length)
 * means: before the first byte.
 */
struct codec_upload {
    uint64_t file_bytes;
    unsigned char length[8];
    size_t length_filled;
    unsigned char *json;
    size_t json_size, json_filled;
    bool ready; // the header was parsed
    struct adamd_safetensors header;
    size_t entry; // the one that the next byte of data belongs to
    uint64_t at;  // bytes of data seen
};

/**
 * Takes bytes until the header is whole, which `ready` then says; `*ret_used` were taken. As
 * adamd_safetensors_parse(), with the same names of faults.
 */
ADAMD_MUST_USE enum adamd_status codec_upload_head(struct codec_upload *upload, const void *data,
                                                   size_t size, size_t *ret_used,
                                                   struct adamd_fault *fault);

/**
 * How many of the next `size` bytes of data (more than 0) belong to one entry, and to which; they
 * count as seen. 0 past the end of the data section.
 */
size_t codec_upload_piece(struct codec_upload *upload, size_t size, size_t *ret_entry);

/** Takes bytes that belong to one entry of the header. */
typedef enum adamd_status codec_piece_fn(void *arg, size_t entry, const void *data, size_t size,
                                         struct adamd_fault *fault);

/**
 * All of the next bytes of data, told apart by codec_upload_piece() and given to `take`.
 * LAYOUT_MISMATCH past the end of the data section, or what `take` fails with.
 */
ADAMD_MUST_USE enum adamd_status codec_upload_data(struct codec_upload *upload, const void *data,
                                                   size_t size, codec_piece_fn *take, void *arg,
                                                   struct adamd_fault *fault);

/** True when every byte of the file was seen. */
bool codec_upload_complete(const struct codec_upload *upload);

/** Takes anything from zeroed to whole. */
void codec_upload_finish(struct codec_upload *upload);

/** Which tensors a file of gradients has. Arrays live in the arena. */
struct codec_gradients {
    struct codec_target *targets; // by entry
    uint32_t *tensors;            // ascending
    uint32_t count;
    uint64_t byte_size;
};

/** LAYOUT_MISMATCH names the tensor: unknown, of another shape or another type. */
ADAMD_MUST_USE enum adamd_status codec_map_gradients(const struct adamd_layout *layout,
                                                     const struct adamd_safetensors *header,
                                                     struct codec_arena *arena,
                                                     struct codec_gradients *ret_gradients,
                                                     struct adamd_fault *fault);

/**
 * The entries of a file of cotangents: any arrays of any parameters. `*ret_targets` lives in the
 * arena. LAYOUT_MISMATCH as above.
 */
ADAMD_MUST_USE enum adamd_status codec_map_cotangents(const struct adamd_layout *layout,
                                                      const struct adamd_safetensors *header,
                                                      struct codec_arena *arena,
                                                      struct codec_target **ret_targets,
                                                      struct adamd_fault *fault);

/** What a state file says. Arrays live in the arena. */
struct codec_state {
    struct codec_target *targets; // by entry
    bool parameters_only;
    struct adamd_group_spec *groups; // with options and keys of the file; NULL: the model's stay
    const char *hooks;               // the built-in hooks; "": none; NULL: the model's stay
    bool has_version, has_digest;
    uint64_t version;
    uint64_t digest[2];
};

/**
 * A state file against a model: either all parameters and nothing else, or all parameters with all
 * of exp_avg, exp_avg_sq, step, and max_exp_avg_sq for those whose group says amsgrad (others may
 * have it). Groups, if the file has any, must be the model's. LAYOUT_MISMATCH tells up to a few
 * differences; BAD_FIELD for metadata.
 */
ADAMD_MUST_USE enum adamd_status
codec_map_state(const struct adamd_layout *layout, const struct adamd_group_spec *groups,
                uint32_t group_count, const struct adamd_safetensors *header,
                struct codec_arena *arena, struct codec_state *ret_state,
                struct adamd_fault *fault);

// ------------------------------------------------------------ `adamd.param_groups` of a state file

/** The JSON array of groups; malloc'ed. `keys` by group, may be NULL. NO_MEMORY. */
ADAMD_MUST_USE enum adamd_status
codec_groups_print(const struct adamd_layout *layout, const struct adamd_group_spec *groups,
                   uint32_t group_count, const struct adamd_options *options,
                   struct adamd_group_keys *const *keys, char **ret_text);

/** One group as a text says it; what it leaves out has the reader's default. */
struct codec_parsed_group {
    struct adamd_options options;
    struct adamd_group_keys_spec keys; // unnamed: the text says nothing of names
    const char *const *params;
    uint32_t param_count;
};

/** Reads the same, checked but for the parameters; all of it in the arena. BAD_FIELD, NO_MEMORY. */
ADAMD_MUST_USE enum adamd_status codec_groups_parse(const char *text,
                                                    const struct adamd_options *defaults,
                                                    struct codec_arena *arena,
                                                    struct codec_parsed_group **ret_groups,
                                                    uint32_t *ret_count, struct adamd_fault *fault);

/** Reads groups that must be `groups`, in order, and gives these with the text's options and keys.
 *  As above, and LAYOUT_MISMATCH with PyTorch's texts. */
ADAMD_MUST_USE enum adamd_status codec_groups_match(const char *text,
                                                    const struct adamd_layout *layout,
                                                    const struct adamd_group_spec *groups,
                                                    uint32_t group_count, struct codec_arena *arena,
                                                    struct adamd_group_spec **ret_groups,
                                                    struct adamd_fault *fault);

#endif
