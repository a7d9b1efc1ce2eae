// The history: how each version came about, and which pushes made none.
#include "model_impl.h"

#include <stdlib.h>

// ------------------------------------------------------------------------------------------- tally

void tally_clear(struct tally *tally) {
    tally->count = 0;
    tally->metric_count = 0;
    tally->weight = 0;
}

static bool reserve(struct tally *tally) {
    const uint32_t capacity = tally->capacity == 0 ? 8 : tally->capacity * 2;
    struct adamd_contribution *contributions;
    uint32_t *ranks;

    if (tally->count < tally->capacity) {
        return true;
    }
    contributions = realloc(tally->contributions, capacity * sizeof *contributions);
    tally->contributions = contributions != NULL ? contributions : tally->contributions;
    ranks = realloc(tally->ranks, capacity * sizeof *ranks);
    tally->ranks = ranks != NULL ? ranks : tally->ranks;
    if (contributions == NULL || ranks == NULL) {
        return false;
    }
    tally->capacity = capacity;
    return true;
}

static void tally_metrics(struct tally *tally, const struct gradient *gradient) {
    for (uint32_t i = 0; i < gradient->metric_count; i++) {
        const struct adamd_metric *metric = &gradient->metrics[i];
        uint32_t k = 0;
        while (k < tally->metric_count && strcmp(tally->metrics[k].key, metric->key) != 0) {
            k++;
        }
        if (k == ADAMD_METRICS_MAX) {
            continue;
        }
        if (k == tally->metric_count) {
            tally->metric_count++;
            memcpy(tally->metrics[k].key, metric->key, sizeof metric->key);
            tally->metrics[k].sum = 0;
            tally->metrics[k].weight = 0;
        }
        tally->metrics[k].sum += gradient->weight * metric->value;
        tally->metrics[k].weight += gradient->weight;
    }
}

// Ascending rank; a worker that pushed more than once (MANUAL) has one entry.
enum adamd_status tally_add(struct tally *tally, const struct gradient *gradient) {
    const uint32_t rank = gradient->worker->rank;
    uint32_t place = 0;

    while (place < tally->count && tally->ranks[place] < rank) {
        place++;
    }
    if (place == tally->count || tally->ranks[place] != rank) {
        if (!reserve(tally)) {
            return ADAMD_NO_MEMORY;
        }
        memmove(&tally->ranks[place + 1], &tally->ranks[place],
                (tally->count - place) * sizeof tally->ranks[0]);
        memmove(&tally->contributions[place + 1], &tally->contributions[place],
                (tally->count - place) * sizeof tally->contributions[0]);
        tally->count++;
        tally->ranks[place] = rank;
        tally->contributions[place] = (struct adamd_contribution){0};
    }
    struct adamd_contribution *contribution = &tally->contributions[place];
    memcpy(contribution->worker, gradient->worker->id, sizeof contribution->worker);
    contribution->epoch = gradient->epoch;
    contribution->sequence = gradient->sequence;
    contribution->staleness = gradient->staleness;
    contribution->weight += gradient->weight;
    tally->weight += gradient->weight;
    tally_metrics(tally, gradient);
    return ADAMD_OK;
}

// ----------------------------------------------------------------------------------------- records

// One allocation: the record, then what it points to.
struct adamd_step_record *record_create(const struct adamd_model *model,
                                        const struct tally *tally) {
    const size_t contributions_bytes = tally->count * sizeof(struct adamd_contribution);
    const size_t metrics_bytes = tally->metric_count * sizeof(struct adamd_metric);
    struct adamd_step_record *record =
        calloc(1, sizeof *record + contributions_bytes + metrics_bytes);

    if (record == NULL) {
        return NULL;
    }
    record->contributions = (struct adamd_contribution *)(record + 1);
    record->contribution_count = tally->count;
    record->metrics = (struct adamd_metric *)(record->contributions + tally->count);
    record->metric_count = tally->metric_count;
    if (tally->count > 0) {
        memcpy(record->contributions, tally->contributions, contributions_bytes);
    }
    for (uint32_t i = 0; i < tally->metric_count; i++) {
        memcpy(record->metrics[i].key, tally->metrics[i].key, sizeof record->metrics[i].key);
        record->metrics[i].value = tally->metrics[i].sum / tally->metrics[i].weight;
    }
    record->weight = tally->weight;
    record->generation = model->generation;
    record->lr = model->groups[0].options.lr;
    return record;
}

void record_commit(struct adamd_model *model, struct adamd_step_record *record) {
    struct adamd_step_record **place;

    record->ordinal = ++model->last_ordinal;
    record->version = model->version;
    record->time_unix_ns = model_unix_ns();
    record->counts = model->counts;
    place = &model->records[record->ordinal % ADAMD_STEPS_KEPT];
    free(*place);
    *place = record;
    model_note_change(model);
}

void record_commit_skipped(struct adamd_model *model, struct adamd_step_record *record) {
    if (record != NULL) {
        record->skipped = true;
        record_commit(model, record);
    }
}

struct adamd_step_record *record_of_one(const struct adamd_model *model,
                                        const struct gradient *gradient) {
    struct tally *tally = calloc(1, sizeof *tally);
    struct adamd_step_record *record = NULL;

    if (tally == NULL) {
        return NULL;
    }
    if (tally_add(tally, gradient) == ADAMD_OK) {
        record = record_create(model, tally);
    }
    free(tally->contributions);
    free(tally->ranks);
    free(tally);
    return record;
}

void records_finish(struct adamd_model *model) {
    for (uint32_t i = 0; model->records != NULL && i < ADAMD_STEPS_KEPT; i++) {
        free(model->records[i]);
    }
    free((void *)model->records);
    free(model->tally.contributions);
    free(model->tally.ranks);
}

const struct adamd_step_record *adamd_model_next_record(const struct adamd_model *model,
                                                        uint64_t after_ordinal) {
    const uint64_t oldest =
        model->last_ordinal > ADAMD_STEPS_KEPT ? model->last_ordinal - ADAMD_STEPS_KEPT + 1 : 1;
    const uint64_t ordinal = after_ordinal >= oldest ? after_ordinal + 1 : oldest;

    return after_ordinal < model->last_ordinal ? model->records[ordinal % ADAMD_STEPS_KEPT] : NULL;
}

const struct adamd_step_record *adamd_model_record_of(const struct adamd_model *model,
                                                      uint64_t version) {
    for (uint64_t back = 0; back < ADAMD_STEPS_KEPT && back < model->last_ordinal; back++) {
        const struct adamd_step_record *record =
            model->records[(model->last_ordinal - back) % ADAMD_STEPS_KEPT];
        if (record->generation != model->generation || record->version < version) {
            return NULL;
        }
        if (record->version == version && !record->skipped) {
            return record;
        }
    }
    return NULL;
}
