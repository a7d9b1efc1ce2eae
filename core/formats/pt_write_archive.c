// The writer of archives: PyTorch's padding, descriptors and end records round the data of tensors,
// which stay where they are.
#include "adamd/crc32.h"
#include "formats/pt_write_impl.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { LOCAL_BYTES = 30, DESCRIPTOR = 1 << 3, UTF8 = 1 << 11 };

static const uint64_t wide_from = UINT32_MAX; // sizes and offsets that take zip64

static void add_heads(struct adamd_pt_writer *writer, size_t from) {
    const size_t size = writer->heads.size - from;
    const size_t count = writer->piece_count;

    writer->place += size;
    if (count > 0 && writer->pieces[count - 1].bytes == NULL) {
        writer->pieces[count - 1].size += size;
        return;
    }
    writer->pieces[writer->piece_count++] = (struct adamd_pt_piece){.size = size};
}

static bool is_wide(const struct pt_entry *entry) {
    return entry->size >= wide_from || entry->header >= wide_from;
}

// The zip64 field; `packed` differs from the size in local headers, which are written before.
static size_t wide_bytes(const struct pt_entry *entry) {
    return !is_wide(entry)
               ? 0
               : 4 + (entry->size >= wide_from ? 16U : 0) + (entry->header >= wide_from ? 8U : 0);
}

static void put_wide(struct pt_bytes *to, const struct pt_entry *entry, uint64_t packed) {
    if (!is_wide(entry)) {
        return;
    }
    pt_put_uint(to, 1, 2);
    pt_put_uint(to, wide_bytes(entry) - 4, 2);
    if (entry->size >= wide_from) {
        pt_put_uint(to, entry->size, 8);
        pt_put_uint(to, packed, 8);
    }
    if (entry->header >= wide_from) {
        pt_put_uint(to, entry->header, 8);
    }
}

static unsigned flags_of(const struct pt_entry *entry) {
    return entry->size > 0 ? UTF8 | DESCRIPTOR : UTF8;
}

// Sizes and checksum are told behind the data; padding in an extra field "FB" aligns the data.
static void put_local(struct pt_bytes *to, const struct pt_entry *entry) {
    const size_t name_size = strlen(entry->name);
    const size_t fixed = LOCAL_BYTES + name_size + wide_bytes(entry) + 4;
    const size_t padding =
        (size_t)((ADAMD_PT_ALIGNMENT - (entry->header + fixed) % ADAMD_PT_ALIGNMENT) %
                 ADAMD_PT_ALIGNMENT);

    pt_put_uint(to, 0x04034b50, 4);
    pt_put_uint(to, 0, 2);
    pt_put_uint(to, flags_of(entry), 2);
    pt_put_uint(to, 0, 2); // stored
    pt_put_uint(to, 0, 4); // no date
    pt_put_uint(to, 0, 4); // no checksum yet
    pt_put_uint(to, 0, 8); // no sizes yet
    pt_put_uint(to, name_size, 2);
    pt_put_uint(to, wide_bytes(entry) + 4 + padding, 2);
    pt_put_text(to, entry->name);
    put_wide(to, entry, 0);
    pt_put_text(to, "FB");
    pt_put_uint(to, padding, 2);
    for (size_t i = 0; i < padding; i++) {
        pt_put_byte(to, 'Z');
    }
}

static void put_descriptor(struct pt_bytes *to, const struct pt_entry *entry) {
    const size_t width = is_wide(entry) ? 8 : 4;

    if (entry->size > 0) {
        pt_put_uint(to, 0x08074b50, 4);
        pt_put_uint(to, entry->crc, 4);
        pt_put_uint(to, entry->size, width);
        pt_put_uint(to, entry->size, width);
    }
}

static void put_record(struct adamd_pt_writer *writer, const char *name, const void *bytes,
                       uint64_t size, uint32_t crc) {
    struct pt_entry *entry = &writer->entries[writer->entry_count++];
    const size_t from = writer->heads.size;

    *entry = (struct pt_entry){.header = writer->place, .size = size, .crc = crc};
    (void)snprintf(entry->name, sizeof entry->name, "%s/%s", writer->folder, name);
    put_local(&writer->heads, entry);
    add_heads(writer, from);
    if (size > 0) {
        writer->pieces[writer->piece_count++] = (struct adamd_pt_piece){bytes, size};
        writer->place += size;
    }
    const size_t behind = writer->heads.size;
    put_descriptor(&writer->heads, entry);
    add_heads(writer, behind);
}

static void put_owned(struct adamd_pt_writer *writer, const char *name, const char *text) {
    put_record(writer, name, text, strlen(text), adamd_crc32(0, text, strlen(text)));
}

static void put_central(struct pt_bytes *to, const struct pt_entry *entry) {
    const bool large = entry->size >= wide_from;

    pt_put_uint(to, 0x02014b50, 4);
    pt_put_uint(to, 0, 4); // versions
    pt_put_uint(to, flags_of(entry), 2);
    pt_put_uint(to, 0, 2);
    pt_put_uint(to, 0, 4);
    pt_put_uint(to, entry->crc, 4);
    pt_put_uint(to, large ? wide_from : entry->size, 4);
    pt_put_uint(to, large ? wide_from : entry->size, 4);
    pt_put_uint(to, strlen(entry->name), 2);
    pt_put_uint(to, wide_bytes(entry), 2);
    pt_put_uint(to, 0, 2); // no comment
    pt_put_uint(to, 0, 2); // the first disk
    pt_put_uint(to, 0, 6); // no attributes
    pt_put_uint(to, entry->header >= wide_from ? wide_from : entry->header, 4);
    pt_put_text(to, entry->name);
    put_wide(to, entry, entry->size);
}

static void put_ends(struct pt_bytes *to, uint64_t count, uint64_t size, uint64_t offset) {
    pt_put_uint(to, 0x06064b50, 4);
    pt_put_uint(to, 44, 8);
    pt_put_uint(to, 0x031e, 2);
    pt_put_uint(to, 45, 2);
    pt_put_uint(to, 0, 8); // disks
    pt_put_uint(to, count, 8);
    pt_put_uint(to, count, 8);
    pt_put_uint(to, size, 8);
    pt_put_uint(to, offset, 8);
    pt_put_uint(to, 0x07064b50, 4);
    pt_put_uint(to, 0, 4);
    pt_put_uint(to, offset + size, 8);
    pt_put_uint(to, 1, 4);
    pt_put_uint(to, 0x06054b50, 4);
    pt_put_uint(to, 0, 4);
    pt_put_uint(to, count < UINT16_MAX ? count : UINT16_MAX, 2);
    pt_put_uint(to, count < UINT16_MAX ? count : UINT16_MAX, 2);
    pt_put_uint(to, size < wide_from ? size : wide_from, 4);
    pt_put_uint(to, offset < wide_from ? offset : wide_from, 4);
    pt_put_uint(to, 0, 2);
}

static void put_directory(struct adamd_pt_writer *writer) {
    const uint64_t offset = writer->place;
    const size_t from = writer->heads.size;

    for (size_t i = 0; i < writer->entry_count; i++) {
        put_central(&writer->heads, &writer->entries[i]);
    }
    put_ends(&writer->heads, writer->entry_count, writer->heads.size - from, offset);
    add_heads(writer, from);
}

// Twenty digits of the names, twenty of the checksums: the same content has the same id.
static void identify(const struct adamd_pt_writer *writer,
                     char ret_id[ADAMD_PT_SERIALIZATION_DIGITS + 1]) {
    XXH64_hash_t names = 0;
    XXH64_hash_t checksums = 0;

    for (size_t i = 0; i < writer->entry_count; i++) {
        const struct pt_entry *entry = &writer->entries[i];
        names = XXH64(entry->name, strlen(entry->name), names);
        checksums = XXH64(&entry->crc, sizeof entry->crc, checksums);
    }
    (void)snprintf(ret_id, ADAMD_PT_SERIALIZATION_DIGITS + 1, "%020" PRIu64 "%020" PRIu64,
                   (uint64_t)names, (uint64_t)checksums);
}

static void put_archive(struct adamd_pt_writer *writer) {
    const struct pt_bytes *pickle = &writer->pickle;

    put_record(writer, "data.pkl", pickle->at, pickle->size,
               adamd_crc32(0, pickle->at, pickle->size));
    put_owned(writer, ".format_version", "1");
    put_owned(writer, ".storage_alignment", "64");
    put_owned(writer, "byteorder", "little");
    for (size_t i = 0; i < writer->storage_count; i++) {
        const struct pt_data *storage = &writer->storages[i];
        char name[32];
        (void)snprintf(name, sizeof name, "data/%zu", i);
        put_record(writer, name, pt_data_bytes(storage), storage->size, storage->crc);
    }
    put_owned(writer, "version", "3\n");
    identify(writer, writer->id);
    put_owned(writer, ".data/serialization_id", writer->id);
    put_directory(writer);
}

enum adamd_status adamd_pt_finish(struct adamd_pt_writer *writer,
                                  const struct adamd_pt_piece **ret_pieces, size_t *ret_count) {
    enum { OWN_RECORDS = 6 };
    const size_t records = writer->storage_count + OWN_RECORDS;
    size_t at = 0;

    ADAMD_ASSERT(writer->depth == 0 && writer->checked == writer->storage_count &&
                 writer->pieces == NULL);
    pt_put_byte(&writer->pickle, '.');
    writer->entries = calloc(records, sizeof *writer->entries);
    writer->pieces = calloc(3 * records + 1, sizeof *writer->pieces);
    if (writer->pickle.failed || writer->entries == NULL || writer->pieces == NULL) {
        return ADAMD_NO_MEMORY;
    }
    put_archive(writer);
    if (writer->heads.failed) {
        return ADAMD_NO_MEMORY;
    }
    for (size_t i = 0; i < writer->piece_count; i++) {
        if (writer->pieces[i].bytes == NULL) {
            writer->pieces[i].bytes = writer->heads.at + at;
            at += (size_t)writer->pieces[i].size;
        }
    }
    *ret_pieces = writer->pieces;
    *ret_count = writer->piece_count;
    return ADAMD_OK;
}
