// Reaches adamd_safetensors_parse, adamd_safetensors_write, codec_upload_head, codec_upload_piece.
// The input is a file.
// Oracle: accepted ranges tile the data section exactly; the header, written anew, is read as the
// same; and the file in pieces of any size is the same file.
#include "fuzz.h"

#include "codec/tensors.h"

#include <stdlib.h>
#include <string.h>

static void check_tiling(const struct adamd_safetensors *header) {
    uint64_t at = 0;

    for (size_t i = 0; i < header->entry_count; i++) {
        const struct adamd_safetensors_entry *entry = &header->entries[i];
        uint64_t bits = 1;
        ADAMD_ASSERT(entry->begin == at && entry->end >= at && entry->rank <= ADAMD_RANK_MAX);
        for (uint32_t k = 0; k < entry->rank; k++) {
            ADAMD_ASSERT(!__builtin_mul_overflow(bits, entry->shape[k], &bits));
        }
        ADAMD_ASSERT(
            !__builtin_mul_overflow(bits, adamd_safetensors_type_bits(entry->type), &bits));
        ADAMD_ASSERT(bits / 8 == entry->end - entry->begin);
        at = entry->end;
        for (size_t k = i + 1; k < header->entry_count && k < i + 8; k++) {
            ADAMD_ASSERT(strcmp(entry->name, header->entries[k].name) != 0);
        }
    }
    ADAMD_ASSERT(at == header->data_bytes);
}

static void check_written(const struct adamd_safetensors *header) {
    const size_t bytes_size = header->entry_count * sizeof *header->entries;
    struct adamd_safetensors_entry *entries = malloc(bytes_size + 1);
    struct adamd_safetensors back = {0};
    unsigned char *bytes = NULL;
    size_t size = 0;

    ADAMD_ASSERT(entries != NULL);
    if (bytes_size > 0) {
        memcpy(entries, header->entries, bytes_size);
    }
    ADAMD_ASSERT(adamd_safetensors_write(entries, header->entry_count, header->metadata,
                                         header->metadata_count, &bytes, &size, NULL) == ADAMD_OK);
    ADAMD_ASSERT(size % 8 == 0);
    ADAMD_ASSERT(adamd_safetensors_parse(bytes + 8, size - 8, size + header->data_bytes, &back,
                                         NULL) == ADAMD_OK);
    ADAMD_ASSERT(back.entry_count == header->entry_count &&
                 back.metadata_count == header->metadata_count &&
                 back.data_bytes == header->data_bytes);
    check_tiling(&back);
    free(bytes);
    free(entries);
    adamd_safetensors_finish(&back);
}

// The whole file in pieces; how many bytes of data each entry got is folded into one number.
static enum adamd_status upload(const uint8_t *data, size_t size, size_t step,
                                uint64_t *ret_digest) {
    struct codec_upload upload = {.file_bytes = size};
    enum adamd_status status = ADAMD_OK;
    uint64_t digest = 0;
    size_t at = 0;

    while (status == ADAMD_OK && !upload.ready && at < size) {
        size_t used = 0;
        const size_t given = size - at < step ? size - at : step;
        status = codec_upload_head(&upload, data + at, given, &used, NULL);
        at += status == ADAMD_OK ? used : 0;
    }
    while (status == ADAMD_OK && upload.ready && at < size) {
        size_t entry = 0;
        const size_t piece =
            codec_upload_piece(&upload, size - at < step ? size - at : step, &entry);
        ADAMD_ASSERT(piece > 0 && upload.at <= upload.header.entries[entry].end);
        for (size_t i = 0; i < piece; i++) {
            digest = (digest ^ data[at + i] ^ entry) * UINT64_C(0x100000001b3);
        }
        at += piece;
    }
    ADAMD_ASSERT(status != ADAMD_OK || !upload.ready || codec_upload_complete(&upload));
    status = status == ADAMD_OK && !upload.ready ? ADAMD_BAD_FIELD : status;
    codec_upload_finish(&upload);
    *ret_digest = digest;
    return status;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct adamd_safetensors header = {0};
    struct adamd_fault fault = {0};
    uint64_t whole = 0;
    uint64_t pieces = 0;
    const enum adamd_status status = upload(data, size, SIZE_MAX, &whole);

    ADAMD_ASSERT(upload(data, size, 3, &pieces) == status);
    ADAMD_ASSERT(status != ADAMD_OK || whole == pieces);
    // The bytes as a bare header too, so that a length that does not fit is no wall.
    const size_t skipped = size > 8 ? 8 : size;
    const enum adamd_status bare =
        adamd_safetensors_parse(data + skipped, size - skipped, UINT64_MAX, &header, &fault);
    if (bare == ADAMD_OK) {
        check_tiling(&header);
        check_written(&header);
    } else {
        ADAMD_ASSERT(fault.status == bare && header.memory == NULL);
    }
    adamd_safetensors_finish(&header);
    return 0;
}
