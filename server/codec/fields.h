/** What the files behind convert.h share. */
#ifndef ADAMD_CODEC_FIELDS_H
#define ADAMD_CODEC_FIELDS_H

#include "codec/convert.h"

/** Puts `path` before the field that a fault names; returns `status`. */
enum adamd_status codec_fail_at(struct adamd_fault *fault, enum adamd_status status,
                                const char *path);

/** The option called `name`, in snake_case or lowerCamelCase; NULL if there is none. */
const ProtobufCFieldDescriptor *codec_option_find(const char *name);

/**
 * As codec_options_lay(), of one option alone, which `message` must set; foreach and fused become
 * None where it does not.
 */
ADAMD_MUST_USE enum adamd_status codec_option_lay(const Adamd__V1__AdamOptions *message,
                                                  const ProtobufCFieldDescriptor *option,
                                                  const char *path, struct adamd_options *options,
                                                  struct adamd_fault *fault);

/** A table of tensors, of which the first gets the index `first`: that is what one without a key is
 *  called by. */
ADAMD_MUST_USE enum adamd_status codec_tensors_read(Adamd__V1__Tensor *const *messages,
                                                    size_t count, uint32_t first,
                                                    struct codec_arena *arena,
                                                    struct adamd_tensor_spec **ret_specs,
                                                    struct adamd_fault *fault);

/** What a group holds beyond options and parameters; core checks what is in it. */
ADAMD_MUST_USE enum adamd_status codec_group_keys_read(const Adamd__V1__ParamGroup *message,
                                                       struct codec_arena *arena,
                                                       struct adamd_group_keys_spec *ret_keys,
                                                       struct adamd_fault *fault);

enum { CODEC_MASK_PATH_MAX = 64 };

/** A list of paths with commas between them, each given to `apply`, which may write into it. */
ADAMD_MUST_USE enum adamd_status codec_mask_walk(const char *mask,
                                                 enum adamd_status (*apply)(void *arg, char *path),
                                                 void *arg, struct adamd_fault *fault);

/** As codec_policy_read(), but the whole is not checked yet. */
ADAMD_MUST_USE enum adamd_status codec_policy_take(const Adamd__V1__StepPolicy *message,
                                                   struct adamd_policy *ret_policy,
                                                   struct adamd_fault *fault);

/** `to` has room for CODEC_DISPLAY_NAME_MAX and a NUL. */
ADAMD_MUST_USE enum adamd_status codec_display_name_read(const char *text, char *to,
                                                         struct adamd_fault *fault);

/** How core's word for an outcome is called on the wire. */
Adamd__V1__PushOutcome codec_outcome_of(enum adamd_outcome_kind kind);

/** A model is kept in memory only, so far: any other durability is UNSUPPORTED. */
ADAMD_MUST_USE enum adamd_status codec_durability_check(const Adamd__V1__Model *message,
                                                        struct adamd_fault *fault);

#endif
