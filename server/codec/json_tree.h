/** For those in the codec that read JSON which is not a message. */
#ifndef ADAMD_CODEC_JSON_TREE_H
#define ADAMD_CODEC_JSON_TREE_H

#include "adamd/status.h"

#include <cjson/cJSON.h>

/** Checks a document as codec_json_parse() does, then has cJSON read it. The caller deletes it. */
ADAMD_MUST_USE enum adamd_status codec_json_tree(const char *text, size_t size, cJSON **ret_tree,
                                                 struct adamd_fault *fault);

#endif
