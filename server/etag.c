// Entity tags from versions.
#include "etag.h"

#include <inttypes.h>
#include <stdio.h>

static uint64_t count_changes(const struct served_model *served,
                              const struct adamd_model_info *info) {
    return info->config_count + served->meta_count;
}

struct etag etag_of_model(const struct served_model *served) {
    const struct adamd_model_info info = adamd_model_info(served->model, 0);
    struct etag etag;

    snprintf(etag.text, sizeof etag.text, "\"g%" PRIu64 ".v%" PRIu64 ".c%" PRIu64 "\"",
             info.generation, info.version, count_changes(served, &info));
    return etag;
}

struct etag etag_of_version(const struct served_model *served, uint64_t generation,
                            uint64_t version, const char *format) {
    const uint64_t layout_count = adamd_model_info(served->model, 0).layout_count;
    struct etag etag;
    char layout[24] = "";

    // A group that is added makes no version, but other bytes of the same one.
    if (layout_count > 0) {
        snprintf(layout, sizeof layout, ".l%" PRIu64, layout_count);
    }
    snprintf(etag.text, sizeof etag.text, "\"g%" PRIu64 ".v%" PRIu64 "%s.%s\"", generation, version,
             layout, format);
    return etag;
}

struct etag etag_of_state(const struct served_model *served, uint64_t generation,
                          uint64_t version) {
    const struct adamd_model_info info = adamd_model_info(served->model, 0);
    struct etag etag;

    snprintf(etag.text, sizeof etag.text, "\"g%" PRIu64 ".v%" PRIu64 ".c%" PRIu64 ".state\"",
             generation, version, info.config_count);
    return etag;
}

void add_version_headers(struct exchange *exchange, uint64_t generation, uint64_t version,
                         const struct etag *etag) {
    exchange_add_header(exchange, "Adamd-Generation", "%" PRIu64, generation);
    exchange_add_header(exchange, "Adamd-Version", "%" PRIu64, version);
    exchange_add_header(exchange, "ETag", "%s", etag->text);
}
