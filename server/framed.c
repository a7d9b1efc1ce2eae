// Envelopes before raw parameters.
#include "framed.h"

#include "codec/envelope.h"
#include "etag.h"

#include <adamd/v1/adamd.pb-c.h>
#include <stdlib.h>
#include <string.h>

static enum adamd_status pack_header(const struct served_model *served, uint64_t generation,
                                     uint64_t version, bool not_modified, uint64_t byte_size,
                                     unsigned char **ret_bytes, size_t *ret_size) {
    struct etag etag = etag_of_version(served, generation, version, "raw");
    Adamd__V1__PullHeader header = ADAMD__V1__PULL_HEADER__INIT;

    header.generation = generation;
    header.version = version;
    header.etag = etag.text;
    header.not_modified = not_modified;
    header.byte_size = byte_size;
    return envelope_pack(&header.base, ret_bytes, ret_size);
}

// Frees both.
static enum adamd_status join(unsigned char *first, size_t first_size, unsigned char *second,
                              size_t second_size, unsigned char **ret_bytes) {
    unsigned char *bytes = malloc(first_size + second_size);

    if (bytes != NULL) {
        memcpy(bytes, first, first_size);
        memcpy(bytes + first_size, second, second_size);
    }
    free(first);
    free(second);
    *ret_bytes = bytes;
    return bytes != NULL ? ADAMD_OK : ADAMD_NO_MEMORY;
}

enum adamd_status framed_file(const struct served_model *served,
                              const struct adamd_published *published,
                              const ProtobufCMessage *first, struct codec_file *ret_file) {
    const struct adamd_layout *layout = adamd_model_layout(served->model);
    unsigned char *head = NULL;
    unsigned char *before = NULL;
    size_t head_size = 0;
    size_t before_size = 0;

    if (pack_header(served, published->generation, published->version, false, layout->wire_bytes,
                    &head, &head_size) != ADAMD_OK) {
        return ADAMD_NO_MEMORY;
    }
    if (first != NULL) {
        if (envelope_pack(first, &before, &before_size) != ADAMD_OK) {
            free(head);
            return ADAMD_NO_MEMORY;
        }
        if (join(before, before_size, head, head_size, &head) != ADAMD_OK) {
            return ADAMD_NO_MEMORY;
        }
        head_size += before_size;
    }
    return codec_raw_file(layout, published, head, head_size, ret_file);
}

enum adamd_status framed_not_modified(const struct served_model *served, uint64_t generation,
                                      uint64_t version, unsigned char **ret_bytes,
                                      size_t *ret_size) {
    return pack_header(served, generation, version, true, 0, ret_bytes, ret_size);
}

uint64_t published_patience_ms(const struct served_model *served) {
    return 3000 + adamd_model_layout(served->model)->wire_bytes / (128 << 10);
}
