/** Groups of an optimizer's dict: for pt_state.c. */
#ifndef ADAMD_CODEC_PT_OPTIONS_H
#define ADAMD_CODEC_PT_OPTIONS_H

#include "codec/pt_state.h"

/** One difference between a file and a model. The first of all is also the fault's. */
void pt_note(struct problem_list *list, const char *field, const char *format, ...)
    ADAMD_PRINTF(3, 4);

/**
 * Options and unknown keys of the saved group `index`, `old` being the model's; what is wrong goes
 * to the list. False for want of memory.
 */
bool pt_read_group(const struct adamd_pt_value *saved, const struct adamd_group_spec *old,
                   uint32_t index, struct codec_arena *arena, struct problem_list *list,
                   struct adamd_group_spec *ret_group);

#endif
