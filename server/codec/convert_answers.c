// Core's things as messages. Strings that live as long as the model are borrowed, not copied: an
// answer is printed before anything else happens.
#include "codec/convert.h"

#include "codec/fields.h"
#include "codec/message.h"

#include <string.h>

enum { NS_PER_S = 1000000000, NS_PER_MS = 1000000 };

Google__Protobuf__Timestamp *codec_timestamp(struct codec_arena *arena, uint64_t unix_ns) {
    Google__Protobuf__Timestamp *message =
        CODEC_NEW(arena, Google__Protobuf__Timestamp, google__protobuf__timestamp);

    if (message != NULL) {
        message->seconds = (int64_t)(unix_ns / NS_PER_S);
        message->nanos = (int32_t)(unix_ns % NS_PER_S);
    }
    return message;
}

Google__Protobuf__Duration *codec_duration(struct codec_arena *arena, uint64_t ns) {
    Google__Protobuf__Duration *message =
        CODEC_NEW(arena, Google__Protobuf__Duration, google__protobuf__duration);

    if (message != NULL) {
        message->seconds = (int64_t)(ns / NS_PER_S);
        message->nanos = (int32_t)(ns % NS_PER_S);
    }
    return message;
}

Adamd__V1__PushCounts *codec_counts_message(struct codec_arena *arena,
                                            const struct adamd_push_counts *counts) {
    Adamd__V1__PushCounts *message =
        CODEC_NEW(arena, Adamd__V1__PushCounts, adamd__v1__push_counts);

    if (message != NULL) {
        message->applied = counts->applied;
        message->staged = counts->staged;
        message->duplicate = counts->duplicate;
        message->stale = counts->stale;
        message->skipped = counts->skipped;
        message->rejected = counts->rejected;
        message->aborted = counts->aborted;
    }
    return message;
}

// --------------------------------------------------------------------------------------- model

Adamd__V1__Tensor *codec_tensor_message(struct codec_arena *arena, const struct adamd_model *model,
                                        const char *model_id, uint32_t index) {
    const struct adamd_tensor *tensor = &adamd_model_layout(model)->tensors[index];
    Adamd__V1__Tensor *message = CODEC_NEW(arena, Adamd__V1__Tensor, adamd__v1__tensor);
    char *name = codec_arena_format(arena, "models/%s/tensors/%u", model_id, (unsigned)index);

    if (message == NULL || name == NULL) {
        return NULL;
    }
    message->name = name;
    message->index = index;
    message->key = tensor->key;
    message->data_type = codec_dtype_message(tensor->dtype);
    message->n_shape = tensor->rank;
    message->shape = (uint64_t *)tensor->shape;
    message->group = adamd_model_group_of(model, index);
    message->flat_offset = tensor->wire_offset;
    message->byte_size = adamd_tensor_bytes(tensor);
    message->step = adamd_model_step_of(model, index);
    return message;
}

static bool fill_tensors(struct codec_arena *arena, const struct codec_model_view *view,
                         Adamd__V1__Model *message) {
    const uint32_t count = adamd_model_layout(view->model)->tensor_count;

    message->tensors = codec_arena_array(arena, count, sizeof(Adamd__V1__Tensor *));
    if (message->tensors == NULL) {
        return false;
    }
    for (uint32_t i = 0; i < count; i++) {
        message->tensors[i] = codec_tensor_message(arena, view->model, view->id, i);
        if (message->tensors[i] == NULL) {
            return false;
        }
    }
    message->n_tensors = count;
    return true;
}

static bool fill_groups(struct codec_arena *arena, const struct codec_model_view *view,
                        uint32_t count, Adamd__V1__Model *message) {
    message->param_groups = codec_arena_array(arena, count, sizeof(Adamd__V1__ParamGroup *));
    if (message->param_groups == NULL) {
        return false;
    }
    for (uint32_t i = 0; i < count; i++) {
        message->param_groups[i] =
            codec_group_message(arena, view->model, view->id, i, view->with_tensors);
        if (message->param_groups[i] == NULL) {
            return false;
        }
    }
    message->n_param_groups = count;
    return true;
}

static bool fill_labels(struct codec_arena *arena, const struct codec_model_view *view,
                        Adamd__V1__Model *message) {
    message->labels = codec_arena_array(arena, view->label_count, sizeof(Adamd__V1__Label *));
    if (message->labels == NULL) {
        return false;
    }
    for (size_t i = 0; i < view->label_count; i++) {
        Adamd__V1__Label *label = CODEC_NEW(arena, Adamd__V1__Label, adamd__v1__label);
        if (label == NULL) {
            return false;
        }
        label->key = (char *)view->labels[i].key;
        label->value = (char *)view->labels[i].value;
        message->labels[i] = label;
    }
    message->n_labels = view->label_count;
    return true;
}

static Adamd__V1__Model__State state_of(enum adamd_model_state state) {
    switch (state) {
    case ADAMD_MODEL_INITIALIZING:
        return ADAMD__V1__MODEL__STATE__STATE_INITIALIZING;
    case ADAMD_MODEL_ACTIVE:
        return ADAMD__V1__MODEL__STATE__STATE_ACTIVE;
    case ADAMD_MODEL_PAUSED:
        return ADAMD__V1__MODEL__STATE__STATE_PAUSED;
    case ADAMD_MODEL_RESTORING:
        return ADAMD__V1__MODEL__STATE__STATE_RESTORING;
    default:
        return ADAMD__V1__MODEL__STATE__STATE_FAILED;
    }
}

static char *text_or_empty(const char *text) {
    return text != NULL ? (char *)text : (char *)protobuf_c_empty_string;
}

static bool fill_info(struct codec_arena *arena, const struct codec_model_view *view,
                      const struct adamd_model_info *info, Adamd__V1__Model *message) {
    const struct adamd_layout *layout = adamd_model_layout(view->model);
    char digest[33];

    codec_digest_text(layout->digest, digest);
    message->name = codec_arena_format(arena, "models/%s", view->id);
    message->layout_digest = codec_arena_copy(arena, digest, strlen(digest));
    message->step_policy = codec_policy_message(arena, &info->policy);
    message->create_time = codec_timestamp(arena, view->create_time_ns);
    message->update_time = codec_timestamp(arena, view->update_time_ns);
    message->push_counts = codec_counts_message(arena, &info->counts);
    message->uid = text_or_empty(view->uid);
    message->display_name = text_or_empty(view->display_name);
    message->device = text_or_empty(view->device);
    message->state_reason = text_or_empty(view->state_reason);
    message->durability = ADAMD__V1__MODEL__DURABILITY__DURABILITY_NONE;
    message->state = state_of(info->state);
    message->generation = info->generation;
    message->version = info->version;
    message->parameter_count = layout->parameter_count;
    message->byte_size = layout->wire_bytes;
    message->resident_bytes = info->resident_bytes;
    message->live_workers = info->live_workers;
    return message->name != NULL && message->layout_digest != NULL &&
           message->step_policy != NULL && message->create_time != NULL &&
           message->update_time != NULL && message->push_counts != NULL;
}

static bool fill_defaults(struct codec_arena *arena, const struct codec_model_view *view,
                          Adamd__V1__Model *message) {
    if (view->defaults == NULL) {
        return true;
    }
    message->defaults = codec_options_message(arena, view->defaults);
    return message->defaults != NULL;
}

Adamd__V1__Model *codec_model_message(struct codec_arena *arena,
                                      const struct codec_model_view *view) {
    const struct adamd_model_info info = adamd_model_info(view->model, view->now_ms);
    Adamd__V1__Model *message = CODEC_NEW(arena, Adamd__V1__Model, adamd__v1__model);

    if (message == NULL || !fill_info(arena, view, &info, message) ||
        !fill_defaults(arena, view, message) || !fill_labels(arena, view, message) ||
        !fill_groups(arena, view, info.group_count, message) ||
        (view->with_tensors && !fill_tensors(arena, view, message))) {
        return NULL;
    }
    return message;
}

// --------------------------------------------------------------------------------------- workers

static uint64_t lease_end_ns(const struct adamd_worker *worker, struct codec_now now) {
    if (worker->lease_end_ms >= now.loop_ms) {
        return now.unix_ns + (worker->lease_end_ms - now.loop_ms) * NS_PER_MS;
    }
    const uint64_t ago_ns = (now.loop_ms - worker->lease_end_ms) * NS_PER_MS;
    return ago_ns < now.unix_ns ? now.unix_ns - ago_ns : 0;
}

static Adamd__V1__Worker *make_worker(struct codec_arena *arena, const char *model_id,
                                      const struct adamd_worker *worker, struct codec_now now,
                                      const struct adamd_outcome *last) {
    Adamd__V1__Worker *message = CODEC_NEW(arena, Adamd__V1__Worker, adamd__v1__worker);

    if (message == NULL) {
        return NULL;
    }
    message->name = codec_arena_format(arena, "models/%s/workers/%s", model_id, worker->id);
    message->lease_expire_time = codec_timestamp(arena, lease_end_ns(worker, now));
    message->push_counts = codec_counts_message(arena, &worker->counts);
    message->epoch = worker->epoch;
    message->rank = worker->rank;
    message->live = adamd_worker_live(worker, now.loop_ms);
    message->last_sequence = last->sequence;
    message->last_version = last->version;
    message->last_outcome = codec_outcome_of(last->kind);
    return message->name != NULL && message->lease_expire_time != NULL &&
                   message->push_counts != NULL
               ? message
               : NULL;
}

Adamd__V1__Worker *codec_worker_message(struct codec_arena *arena, const char *model_id,
                                        const struct adamd_worker *worker, struct codec_now now) {
    const struct adamd_outcome *last = &worker->previous;

    if (worker->last_sequence > 0) {
        last = &worker->outcomes[worker->last_sequence % ADAMD_OUTCOMES_KEPT];
    }
    return make_worker(arena, model_id, worker, now, last);
}

Adamd__V1__RegisterWorkerResponse *
codec_registration_message(struct codec_arena *arena, const char *model_id,
                           const struct adamd_model *model,
                           const struct adamd_registration *registration, struct codec_now now) {
    const struct adamd_layout *layout = adamd_model_layout(model);
    const struct adamd_worker *worker = registration->worker;
    Adamd__V1__RegisterWorkerResponse *message =
        CODEC_NEW(arena, Adamd__V1__RegisterWorkerResponse, adamd__v1__register_worker_response);
    char digest[33];

    if (message == NULL) {
        return NULL;
    }
    codec_digest_text(layout->digest, digest);
    message->worker = make_worker(arena, model_id, worker, now, &worker->previous);
    message->generation = registration->generation;
    message->version = registration->version;
    message->epoch = registration->epoch;
    message->lease = codec_duration(arena, registration->lease_ms * NS_PER_MS);
    message->byte_size = layout->wire_bytes;
    message->layout_digest = codec_arena_copy(arena, digest, strlen(digest));
    return message->worker != NULL && message->lease != NULL && message->layout_digest != NULL
               ? message
               : NULL;
}

// --------------------------------------------------------------------------------------- steps

static bool fill_contributions(struct codec_arena *arena, const struct adamd_step_record *record,
                               Adamd__V1__StepRecord *message) {
    message->contributions =
        codec_arena_array(arena, record->contribution_count, sizeof(Adamd__V1__Contribution *));
    if (message->contributions == NULL) {
        return false;
    }
    for (uint32_t i = 0; i < record->contribution_count; i++) {
        const struct adamd_contribution *from = &record->contributions[i];
        Adamd__V1__Contribution *to =
            CODEC_NEW(arena, Adamd__V1__Contribution, adamd__v1__contribution);
        if (to == NULL) {
            return false;
        }
        to->worker = (char *)from->worker;
        to->epoch = from->epoch;
        to->sequence = from->sequence;
        to->weight = from->weight;
        to->staleness = from->staleness;
        message->contributions[i] = to;
    }
    message->n_contributions = record->contribution_count;
    return true;
}

static bool fill_metrics(struct codec_arena *arena, const struct adamd_step_record *record,
                         Adamd__V1__StepRecord *message) {
    message->metrics = codec_arena_array(arena, record->metric_count, sizeof(Adamd__V1__Metric *));
    if (message->metrics == NULL) {
        return false;
    }
    for (uint32_t i = 0; i < record->metric_count; i++) {
        Adamd__V1__Metric *to = CODEC_NEW(arena, Adamd__V1__Metric, adamd__v1__metric);
        if (to == NULL) {
            return false;
        }
        to->key = (char *)record->metrics[i].key;
        to->value = record->metrics[i].value;
        message->metrics[i] = to;
    }
    message->n_metrics = record->metric_count;
    return true;
}

Adamd__V1__StepRecord *codec_record_message(struct codec_arena *arena,
                                            const struct adamd_step_record *record) {
    Adamd__V1__StepRecord *message =
        CODEC_NEW(arena, Adamd__V1__StepRecord, adamd__v1__step_record);

    if (message == NULL || !fill_contributions(arena, record, message) ||
        !fill_metrics(arena, record, message)) {
        return NULL;
    }
    message->generation = record->generation;
    message->version = record->version;
    message->time = codec_timestamp(arena, record->time_unix_ns);
    message->weight = record->weight;
    message->grad_norm = record->grad_norm;
    message->lr = record->lr;
    message->push_counts = codec_counts_message(arena, &record->counts);
    message->barrier_duration = codec_duration(arena, record->barrier_ns);
    message->update_duration = codec_duration(arena, record->update_ns);
    message->skipped = record->skipped;
    message->total_norm = record->total_norm;
    message->clip_coefficient = record->clip_coef;
    message->unscale_factor = record->unscaled_by;
    message->skip_reason = (Adamd__V1__SkipReason)record->skip;
    message->hook_error = (char *)record->hook_error;
    return message->time != NULL && message->push_counts != NULL &&
                   message->barrier_duration != NULL && message->update_duration != NULL
               ? message
               : NULL;
}
