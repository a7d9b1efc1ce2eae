/** How a codec_file is put together: for the files behind tensors.h. */
#ifndef ADAMD_CODEC_FILES_H
#define ADAMD_CODEC_FILES_H

#include "codec/tensors.h"

/** Takes `head` over, also on failure. The vector gets room for `pieces` and the head. */
ADAMD_MUST_USE enum adamd_status codec_file_begin(struct codec_file *file, unsigned char *head,
                                                  size_t head_size, size_t pieces);

/**
 * Neighbours in memory become one piece, so that a model of many small tensors is not sent in as
 * many. Nothing is added for nothing.
 */
void codec_file_add(struct codec_file *file, const void *bytes, size_t size);
void codec_file_add_tensor(struct codec_file *file, const struct adamd_tensor *tensor,
                           const unsigned char *arena);

/**
 * What stands under "adamd.complex128" in the metadata: the keys of those parameters, which a file
 * holds as pairs of F64, a line each; malloc'ed, NULL where there are none. False if out of memory.
 */
bool codec_pairs_list(const struct adamd_layout *layout, char **ret_text);

/** An entry with the shape and type of a tensor. */
void codec_entry_of(struct adamd_safetensors_entry *entry, const struct adamd_tensor *tensor,
                    const char *name);

/** The dtype of parameters of that type; false if there is none. */
bool codec_dtype_of(enum adamd_safetensors_type type, enum adamd_dtype *ret_dtype);

/** ".exp_avg" for ADAMD_EXP_AVG and so on; "" for ADAMD_PARAM, ".step" for CODEC_TARGET_STEP. */
extern const char *const codec_suffixes[CODEC_TARGET_STEP + 1];

#endif
