// The whole state as a file of torch.save: structure, order and types of PyTorch's own dicts, with
// the tensors' bytes from where they lie.
#include "codec/pt_state.h"

#include "codec/convert.h"
#include "codec/files.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { FLOAT_STEPS_MAX = 1 << 24 }; // float32 counts no further

enum adamd_pt_dtype codec_pt_dtype(enum adamd_dtype dtype) {
    switch (dtype) {
    case ADAMD_FLOAT16:
        return ADAMD_PT_FLOAT16;
    case ADAMD_BFLOAT16:
        return ADAMD_PT_BFLOAT16;
    case ADAMD_FLOAT64:
        return ADAMD_PT_FLOAT64;
    case ADAMD_COMPLEX64:
        return ADAMD_PT_COMPLEX64;
    case ADAMD_COMPLEX128:
        return ADAMD_PT_COMPLEX128;
    default:
        return ADAMD_PT_FLOAT32;
    }
}

struct writer {
    struct adamd_pt_writer *to;
    const struct codec_source *source;
    uint32_t next_id; // of the optimizer's parameters, over all groups
};

// ----------------------------------------------------------------------------------------- state

static const unsigned char *array_of(const struct writer *writer, enum adamd_array array,
                                     uint32_t tensor) {
    const unsigned char *arena = writer->source->capture->arrays[array];
    return arena != NULL ? arena + writer->source->layout->tensors[tensor].offset : NULL;
}

static void put_array(const struct writer *writer, enum adamd_array array, uint32_t tensor) {
    const struct adamd_tensor *spec = &writer->source->layout->tensors[tensor];

    adamd_pt_put_tensor(writer->to, codec_pt_dtype(spec->dtype), spec->rank, spec->shape,
                        array_of(writer, array, tensor));
}

static bool is_zero(const unsigned char *bytes, uint64_t size) {
    uint64_t i = 0;

    while (i < size && bytes[i] == 0) {
        i++;
    }
    return i == size;
}

// A group that once had amsgrad keeps its maxima, in PyTorch as here.
static bool has_maxima(const struct writer *writer, uint32_t group, uint32_t tensor) {
    const struct codec_source *source = writer->source;
    const unsigned char *maxima = array_of(writer, ADAMD_MAX_EXP_AVG_SQ, tensor);

    return maxima != NULL &&
           (source->capture->options[group].amsgrad ||
            !is_zero(maxima, adamd_tensor_bytes(&source->layout->tensors[tensor])));
}

static void put_step(const struct writer *writer, uint64_t t) {
    const float single = (float)t;
    const double wide = (double)t;

    if (t <= FLOAT_STEPS_MAX) {
        adamd_pt_put_small(writer->to, ADAMD_PT_FLOAT32, 0, NULL, &single);
    } else {
        adamd_pt_put_small(writer->to, ADAMD_PT_FLOAT64, 0, NULL, &wide);
    }
}

// As in PyTorch, a parameter that was never stepped has no state.
static void put_parameter_state(struct writer *writer, uint32_t group, uint32_t tensor) {
    const uint32_t id = writer->next_id++;
    const uint64_t t = writer->source->capture->steps[tensor];

    if (t == 0) {
        return;
    }
    adamd_pt_put_int(writer->to, id);
    adamd_pt_begin_dict(writer->to);
    adamd_pt_put_text(writer->to, "step");
    put_step(writer, t);
    adamd_pt_put_text(writer->to, "exp_avg");
    put_array(writer, ADAMD_EXP_AVG, tensor);
    adamd_pt_put_text(writer->to, "exp_avg_sq");
    put_array(writer, ADAMD_EXP_AVG_SQ, tensor);
    if (has_maxima(writer, group, tensor)) {
        adamd_pt_put_text(writer->to, "max_exp_avg_sq");
        put_array(writer, ADAMD_MAX_EXP_AVG_SQ, tensor);
    }
    adamd_pt_end_dict(writer->to);
}

static void put_state(struct writer *writer) {
    const struct codec_source *source = writer->source;

    adamd_pt_begin_dict(writer->to);
    for (uint32_t i = 0; i < source->group_count; i++) {
        for (uint32_t k = 0; k < source->groups[i].tensor_count; k++) {
            put_parameter_state(writer, i, source->groups[i].tensors[k]);
        }
    }
    adamd_pt_end_dict(writer->to);
}

// ---------------------------------------------------------------------------------------- groups

static void put_number(const struct writer *writer, const char *name, double value, bool is_int) {
    adamd_pt_put_text(writer->to, name);
    if (is_int && fabs(value) < 9007199254740992.0) {
        adamd_pt_put_int(writer->to, (int64_t)value);
    } else {
        adamd_pt_put_float(writer->to, value);
    }
}

static void put_real(const struct writer *writer, double value, bool is_tensor) {
    const float single = (float)value;

    if (is_tensor) {
        adamd_pt_put_small(writer->to, ADAMD_PT_FLOAT32, 0, NULL, &single);
    } else {
        adamd_pt_put_float(writer->to, value);
    }
}

static void put_bool(const struct writer *writer, const char *name, bool value) {
    adamd_pt_put_text(writer->to, name);
    adamd_pt_put_bool(writer->to, value);
}

static void put_tristate(const struct writer *writer, const char *name, enum adamd_tristate value) {
    adamd_pt_put_text(writer->to, name);
    if (value == ADAMD_NONE) {
        adamd_pt_put_none(writer->to);
    } else {
        adamd_pt_put_bool(writer->to, value == ADAMD_TRUE);
    }
}

static void put_options(const struct writer *writer, const struct adamd_options *options) {
    if (options->lr_is_tensor) {
        adamd_pt_put_text(writer->to, "lr");
        put_real(writer, options->lr, true);
    } else {
        put_number(writer, "lr", options->lr, (options->ints & ADAMD_NUMBER_LR) != 0);
    }
    adamd_pt_put_text(writer->to, "betas");
    adamd_pt_begin_tuple(writer->to);
    put_real(writer, options->betas[0], options->betas_are_tensors);
    put_real(writer, options->betas[1], options->betas_are_tensors);
    adamd_pt_end_tuple(writer->to);
    put_number(writer, "eps", options->eps, (options->ints & ADAMD_NUMBER_EPS) != 0);
    put_number(writer, "weight_decay", options->weight_decay,
               (options->ints & ADAMD_NUMBER_WEIGHT_DECAY) != 0);
    put_bool(writer, "amsgrad", options->amsgrad);
    put_bool(writer, "maximize", options->maximize);
    put_tristate(writer, "foreach", options->foreach);
    put_bool(writer, "capturable", options->capturable);
    put_bool(writer, "differentiable", options->differentiable);
    put_tristate(writer, "fused", options->fused);
    put_bool(writer, "decoupled_weight_decay", options->decoupled_weight_decay);
}

static void put_names(const struct writer *writer, uint32_t group) {
    const struct adamd_group_spec *spec = &writer->source->groups[group];
    const struct adamd_group_keys *keys = writer->source->capture->keys[group];

    adamd_pt_put_text(writer->to, "param_names");
    adamd_pt_begin_list(writer->to);
    for (uint32_t k = 0; k < spec->tensor_count; k++) {
        adamd_pt_put_text(writer->to, keys->names != NULL
                                          ? keys->names[k]
                                          : writer->source->layout->tensors[spec->tensors[k]].key);
    }
    adamd_pt_end_list(writer->to);
}

static void put_group(struct writer *writer, uint32_t group) {
    const struct codec_source *source = writer->source;
    const struct adamd_group_keys *keys =
        source->capture->keys != NULL ? source->capture->keys[group] : NULL;

    adamd_pt_begin_dict(writer->to);
    if (keys != NULL && !keys->unnamed) {
        put_names(writer, group);
    }
    put_options(writer, &source->capture->options[group]);
    for (uint32_t i = 0; keys != NULL && i < keys->extra_count; i++) {
        adamd_pt_put_text(writer->to, keys->extras[i].key);
        codec_pt_put_json(writer->to, keys->extras[i].value);
    }
    adamd_pt_put_text(writer->to, "params");
    adamd_pt_begin_list(writer->to);
    for (uint32_t k = 0; k < source->groups[group].tensor_count; k++) {
        adamd_pt_put_int(writer->to, writer->next_id++);
    }
    adamd_pt_end_list(writer->to);
    adamd_pt_end_dict(writer->to);
}

static void put_optimizer(struct writer *writer) {
    adamd_pt_begin_dict(writer->to);
    adamd_pt_put_text(writer->to, "state");
    writer->next_id = 0;
    put_state(writer);
    adamd_pt_put_text(writer->to, "param_groups");
    adamd_pt_begin_list(writer->to);
    writer->next_id = 0;
    for (uint32_t i = 0; i < writer->source->group_count; i++) {
        put_group(writer, i);
    }
    adamd_pt_end_list(writer->to);
    adamd_pt_end_dict(writer->to);
}

// ----------------------------------------------------------------------------------- model, file

// `_metadata` is what nn.Module.load_state_dict asks a dict for; without modules it is empty.
static void put_model(const struct writer *writer) {
    const struct adamd_layout *layout = writer->source->layout;

    adamd_pt_begin_ordered(writer->to);
    for (uint32_t i = 0; i < layout->tensor_count; i++) {
        adamd_pt_put_text(writer->to, layout->tensors[i].key);
        put_array(writer, ADAMD_PARAM, i);
    }
    adamd_pt_end_dict(writer->to);
    adamd_pt_begin_attributes(writer->to);
    adamd_pt_put_text(writer->to, "_metadata");
    adamd_pt_begin_ordered(writer->to);
    adamd_pt_end_dict(writer->to);
    adamd_pt_end_attributes(writer->to);
}

static void put_hooks(const struct writer *writer) {
    const struct adamd_capture *capture = writer->source->capture;
    const struct adamd_layout *layout = writer->source->layout;

    if (capture->hooks == NULL) {
        return;
    }
    adamd_pt_put_text(writer->to, "hooks");
    adamd_pt_put_text(writer->to, capture->hooks);
    if (capture->arrays[ADAMD_EMA] == NULL) {
        return;
    }
    adamd_pt_put_text(writer->to, "ema");
    adamd_pt_begin_dict(writer->to);
    for (uint32_t i = 0; i < layout->tensor_count; i++) {
        adamd_pt_put_text(writer->to, layout->tensors[i].key);
        put_array(writer, ADAMD_EMA, i);
    }
    adamd_pt_end_dict(writer->to);
}

// What PyTorch has no place for, and leaves alone.
static void put_own(const struct writer *writer) {
    char digest[33];

    codec_digest_text(writer->source->digest, digest);
    adamd_pt_begin_dict(writer->to);
    adamd_pt_put_text(writer->to, "format");
    adamd_pt_put_int(writer->to, 1);
    adamd_pt_put_text(writer->to, "version");
    adamd_pt_put_int(writer->to, (int64_t)writer->source->capture->version);
    adamd_pt_put_text(writer->to, "state_digest");
    adamd_pt_put_text(writer->to, digest);
    put_hooks(writer);
    adamd_pt_end_dict(writer->to);
}

static void put_all(struct writer *writer) {
    adamd_pt_begin_dict(writer->to);
    adamd_pt_put_text(writer->to, "model");
    put_model(writer);
    adamd_pt_put_text(writer->to, "optimizer");
    put_optimizer(writer);
    adamd_pt_put_text(writer->to, "adamd");
    put_own(writer);
    adamd_pt_end_dict(writer->to);
}

static enum adamd_status take_pieces(struct adamd_pt_writer *writer, struct codec_file *file) {
    const struct adamd_pt_piece *pieces = NULL;
    size_t count = 0;
    enum adamd_status status = ADAMD_OK;

    (void)adamd_pt_checksum(writer, UINT64_MAX);
    status = adamd_pt_finish(writer, &pieces, &count);
    if (status == ADAMD_OK) {
        status = codec_file_begin(file, NULL, 0, count);
    }
    if (status != ADAMD_OK) {
        adamd_pt_destroy(writer);
        return status;
    }
    file->writer = writer;
    for (size_t i = 0; i < count; i++) {
        codec_file_add(file, pieces[i].bytes, (size_t)pieces[i].size);
    }
    return ADAMD_OK;
}

enum adamd_status codec_pt_file(const struct codec_source *source, enum codec_content content,
                                struct codec_file *ret_file, struct adamd_fault *fault) {
    struct writer writer = {.source = source};
    enum adamd_status status = adamd_pt_create("archive", &writer.to);

    if (status != ADAMD_OK) {
        return adamd_fail_plain(fault, status);
    }
    switch (content) {
    case CODEC_CONTENT_OPTIMIZER:
        put_optimizer(&writer);
        break;
    case CODEC_CONTENT_MODEL:
        put_model(&writer);
        break;
    case CODEC_CONTENT_ALL:
        put_all(&writer);
        break;
    }
    status = take_pieces(writer.to, ret_file);
    return status == ADAMD_OK ? status : adamd_fail_plain(fault, status);
}
