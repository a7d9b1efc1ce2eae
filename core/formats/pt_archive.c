// The zip archive: read from its end, with everything that two readers could understand
// differently refused. Nothing is compressed in these files, so nothing can grow.
#include "adamd/crc32.h"
#include "formats/pt_impl.h"

#include <stdlib.h>
#include <string.h>

enum {
    LOCAL_BYTES = 30,
    CENTRAL_BYTES = 46,
    END_BYTES = 22,
    LOCATOR_BYTES = 20,
    END64_BYTES = 56,
    FLAG_DESCRIPTOR = 1 << 3,
    FLAG_UTF8 = 1 << 11,
    EXTRA_ZIP64 = 1,
};

static const uint32_t local_signature = 0x04034b50;
static const uint32_t central_signature = 0x02014b50;
static const uint32_t end_signature = 0x06054b50;
static const uint32_t locator_signature = 0x07064b50;
static const uint32_t end64_signature = 0x06064b50;
static const uint32_t descriptor_signature = 0x08074b50;
static const uint32_t saturated = UINT32_MAX;

static uint64_t get(const unsigned char *at, size_t size) {
    uint64_t value = 0;

    for (size_t i = size; i > 0; i--) {
        value = value << 8 | at[i - 1];
    }
    return value;
}

static uint16_t get16(const unsigned char *at) {
    return (uint16_t)get(at, 2);
}

static uint32_t get32(const unsigned char *at) {
    return (uint32_t)get(at, 4);
}

static uint64_t get64(const unsigned char *at) {
    return get(at, 8);
}

static bool refuse(struct adamd_pt_file *file, const char *text) {
    (void)pt_refuse(file, ADAMD_BAD_FIELD, NULL, "zip archive: %s", text);
    return false;
}

static bool refuse_record(struct adamd_pt_file *file, const struct pt_record *record,
                          const char *text) {
    const struct pt_shown shown = pt_show(record->name, record->name_size);
    return pt_refuse(file, ADAMD_BAD_FIELD, shown.text, "zip archive, record %s: %s", shown.text,
                     text);
}

// ------------------------------------------------------------------------------------ the end

struct directory {
    uint64_t count, size, offset;
};

// The wide end record, whose values must be those of the narrow one where that has room for them.
static bool read_wide_end(struct adamd_pt_file *file, const unsigned char *locator,
                          struct directory *directory) {
    const uint64_t offset = get64(locator + 8);
    const uint64_t place = (uint64_t)(locator - file->bytes);

    if (get32(locator + 4) != 0 || get32(locator + 16) != 1) {
        return refuse(file, "it has several disks");
    }
    if (place < END64_BYTES || offset != place - END64_BYTES ||
        get32(file->bytes + offset) != end64_signature) {
        return refuse(file, "the zip64 end record is not where its locator says");
    }
    const unsigned char *end = file->bytes + offset;
    if (get64(end + 4) != END64_BYTES - 12 || get32(end + 16) != 0 || get32(end + 20) != 0 ||
        get64(end + 24) != get64(end + 32)) {
        return refuse(file, "the zip64 end record is malformed");
    }
    const struct directory wide = {get64(end + 32), get64(end + 40), get64(end + 48)};
    if ((directory->count != UINT16_MAX && directory->count != wide.count) ||
        (directory->size != saturated && directory->size != wide.size) ||
        (directory->offset != saturated && directory->offset != wide.offset)) {
        return refuse(file, "the two end records differ");
    }
    *directory = wide;
    return directory->offset <= offset && directory->size == offset - directory->offset
               ? true
               : refuse(file, "the directory does not end where the end record begins");
}

static bool read_end(struct adamd_pt_file *file, struct directory *ret_directory) {
    if (file->size < END_BYTES || get32(file->bytes + file->size - END_BYTES) != end_signature) {
        return refuse(file, "it does not end with an end record: the file is cut off, or has bytes "
                            "behind its end");
    }
    const uint64_t place = file->size - END_BYTES;
    const unsigned char *end = file->bytes + place;
    *ret_directory = (struct directory){get16(end + 10), get32(end + 12), get32(end + 16)};
    if (get16(end + 4) != 0 || get16(end + 6) != 0 || get16(end + 8) != get16(end + 10)) {
        return refuse(file, "it has several disks");
    }
    if (get16(end + 20) != 0) {
        return refuse(file, "it has a comment");
    }
    if (place >= LOCATOR_BYTES && get32(end - LOCATOR_BYTES) == locator_signature) {
        return read_wide_end(file, end - LOCATOR_BYTES, ret_directory);
    }
    return ret_directory->offset <= place && ret_directory->size == place - ret_directory->offset
               ? true
               : refuse(file, "the directory does not end where the end record begins");
}

// -------------------------------------------------------------------------------- the directory

// The zip64 field: the values of what is saturated, in their fixed order.
static bool read_wide(const unsigned char *field, size_t size, uint64_t *values[3]) {
    size_t used = 0;

    for (int i = 0; i < 3; i++) {
        if (values[i] == NULL || *values[i] != saturated) {
            continue;
        }
        if (size - used < 8) {
            return false;
        }
        *values[i] = get64(field + used);
        used += 8;
    }
    return true;
}

// Walks all extra fields; the first zip64 field counts.
static bool read_extra(struct adamd_pt_file *file, const struct pt_record *record,
                       const unsigned char *extra, size_t extra_size, uint64_t *values[3]) {
    bool found = false;
    size_t at = 0;

    while (extra_size - at >= 4) {
        const size_t size = get16(extra + at + 2);
        const bool is_wide = get16(extra + at) == EXTRA_ZIP64 && !found;
        at += 4;
        if (size > extra_size - at) {
            return refuse_record(file, record, "its extra field is cut off");
        }
        if (is_wide && !read_wide(extra + at, size, values)) {
            return refuse_record(file, record, "its zip64 field is too short");
        }
        found = found || is_wide;
        at += size;
    }
    return at == extra_size || refuse_record(file, record, "its extra field is cut off");
}

static bool check_name(struct adamd_pt_file *file, const struct pt_record *record) {
    const char *name = record->name;
    const size_t size = record->name_size;

    if (size == 0 || size > ADAMD_PT_NAME_MAX) {
        return refuse_record(file, record, "its name is empty or longer than 512 bytes");
    }
    for (size_t i = 0; i < size; i++) {
        if ((unsigned char)name[i] < 0x20 || name[i] == '\\' || name[i] == 0x7F) {
            return refuse_record(file, record, "its name has a backslash or a control character");
        }
        if (name[i] == '.' && i + 1 < size && name[i + 1] == '.') {
            return refuse_record(file, record, "its name has '..' in it");
        }
    }
    if (file->folder == NULL) {
        const char *slash = memchr(name, '/', size);
        if (slash == NULL || slash == name) {
            return refuse_record(file, record, "the first name must lie in a folder");
        }
        file->folder = name;
        file->folder_size = (size_t)(slash - name) + 1;
    }
    return (size >= file->folder_size && memcmp(name, file->folder, file->folder_size) == 0) ||
           refuse_record(file, record, "it lies outside the folder of the first one");
}

// The flags, the sizes and the place of one entry; `at` is its header.
static bool read_central(struct adamd_pt_file *file, const unsigned char *at,
                         struct pt_record *record) {
    const unsigned flags = get16(at + 8);
    uint64_t packed = get32(at + 20);
    uint64_t plain = get32(at + 24);
    uint64_t header = get32(at + 42);
    uint64_t *values[3] = {&plain, &packed, &header};

    if (!check_name(file, record)) {
        return false;
    }
    if ((flags & ~(unsigned)(FLAG_DESCRIPTOR | FLAG_UTF8)) != 0) {
        return refuse_record(file, record, "it is encrypted, or has flags that are not known");
    }
    if (get16(at + 10) != 0) {
        return refuse_record(file, record, "it is compressed: torch.save only stores");
    }
    if (get16(at + 34) != 0 || get16(at + 32) != 0) {
        return refuse_record(file, record, "it has a comment or lies on another disk");
    }
    if (!read_extra(file, record, at + CENTRAL_BYTES + record->name_size, get16(at + 30), values)) {
        return false;
    }
    if (packed != plain) {
        return refuse_record(file, record, "it is stored, but with two sizes");
    }
    record->crc = get32(at + 16);
    record->header = header;
    record->storage.size = plain;
    record->has_descriptor = (flags & FLAG_DESCRIPTOR) != 0;
    return true;
}

// That the local header says the same; then the data's place is known.
static bool read_local(struct adamd_pt_file *file, uint64_t directory, struct pt_record *record) {
    if (record->header > directory || directory - record->header < LOCAL_BYTES) {
        return refuse_record(file, record, "its offset lies behind the directory");
    }
    const unsigned char *at = file->bytes + record->header;
    const uint64_t room = directory - record->header - LOCAL_BYTES;
    const uint64_t head = (uint64_t)get16(at + 26) + get16(at + 28);
    uint64_t packed = get32(at + 18);
    uint64_t plain = get32(at + 22);
    uint64_t *values[3] = {&plain, &packed, NULL};
    if (get32(at) != local_signature || head > room) {
        return refuse_record(file, record, "there is no header at its offset");
    }
    if (get16(at + 26) != record->name_size ||
        memcmp(at + LOCAL_BYTES, record->name, record->name_size) != 0 || get16(at + 8) != 0 ||
        ((get16(at + 6) & FLAG_DESCRIPTOR) != 0) != record->has_descriptor) {
        return refuse_record(file, record, "its header differs from the directory");
    }
    if (!read_extra(file, record, at + LOCAL_BYTES + record->name_size, get16(at + 28), values)) {
        return false;
    }
    if (!record->has_descriptor &&
        (plain != record->storage.size || packed != plain || get32(at + 14) != record->crc)) {
        return refuse_record(file, record, "its header differs from the directory");
    }
    if (record->storage.size > room - head) {
        return refuse_record(file, record, "it ends behind the directory");
    }
    record->data = record->header + LOCAL_BYTES + head;
    record->end = record->data + record->storage.size;
    record->storage.bytes = file->bytes + record->data;
    return true;
}

static bool read_entries(struct adamd_pt_file *file, const struct directory *directory) {
    const unsigned char *at = file->bytes + directory->offset;
    uint64_t left = directory->size;

    for (size_t i = 0; i < file->record_count; i++) {
        struct pt_record *record = &file->records[i];
        if (left < CENTRAL_BYTES || get32(at) != central_signature) {
            return refuse(file, "the directory has fewer entries than it says");
        }
        const uint64_t tail = (uint64_t)get16(at + 28) + get16(at + 30) + get16(at + 32);
        if (tail > left - CENTRAL_BYTES) {
            return refuse(file, "the directory is cut off");
        }
        record->name = (const char *)at + CENTRAL_BYTES;
        record->name_size = get16(at + 28);
        if (!read_central(file, at, record) || !read_local(file, directory->offset, record)) {
            return false;
        }
        at += CENTRAL_BYTES + tail;
        left -= CENTRAL_BYTES + tail;
    }
    return left == 0 || refuse(file, "the directory has more entries than it says");
}

// ------------------------------------------------------------------------------ what lies where

static int compare_places(const void *a, const void *b) {
    const struct pt_record *left = a;
    const struct pt_record *right = b;

    return (left->header > right->header) - (left->header < right->header);
}

// Between two records there is nothing but the descriptor of the first.
static bool check_gap(struct adamd_pt_file *file, const struct pt_record *record, uint64_t next) {
    const unsigned char *at = file->bytes + record->end;
    const size_t width = next - record->end == 24 ? 8 : 4;

    if (record->end > next) {
        return refuse_record(file, record, "it overlaps what follows");
    }
    if (record->end == next && (!record->has_descriptor || record->storage.size == 0)) {
        return true;
    }
    if (!record->has_descriptor || next - record->end != 8 + 2 * width ||
        get32(at) != descriptor_signature) {
        return refuse_record(file, record, "there are stray bytes behind it, or no descriptor");
    }
    return (get32(at + 4) == record->crc && get(at + 8, width) == record->storage.size &&
            get(at + 8 + width, width) == record->storage.size) ||
           refuse_record(file, record, "its descriptor differs from the directory");
}

static bool check_places(struct adamd_pt_file *file, uint64_t directory) {
    qsort(file->records, file->record_count, sizeof *file->records, compare_places);
    if (file->records[0].header != 0) {
        return refuse_record(file, &file->records[0], "there are bytes before the first one");
    }
    for (size_t i = 0; i < file->record_count; i++) {
        const uint64_t next = i + 1 < file->record_count ? file->records[i + 1].header : directory;
        if (!check_gap(file, &file->records[i], next)) {
            return false;
        }
    }
    return true;
}

static bool check_checksums(struct adamd_pt_file *file) {
    for (size_t i = 0; i < file->record_count && !file->limits.skip_crc; i++) {
        const struct pt_record *record = &file->records[i];
        const struct pt_shown shown = pt_show(record->name, record->name_size);
        if (adamd_crc32(0, record->storage.bytes, (size_t)record->storage.size) != record->crc) {
            return pt_refuse(file, ADAMD_CRC_MISMATCH, shown.text,
                             "zip archive, record %s: its bytes differ from its checksum",
                             shown.text);
        }
    }
    return true;
}

// ---------------------------------------------------------------------------------------- names

static int compare_bytes(const char *a, size_t a_size, const char *b, size_t b_size) {
    const int order = memcmp(a, b, a_size < b_size ? a_size : b_size);
    return order != 0 ? order : (a_size > b_size) - (a_size < b_size);
}

static int compare_names(const void *a, const void *b) {
    const struct pt_record *left = a;
    const struct pt_record *right = b;

    return compare_bytes(left->name, left->name_size, right->name, right->name_size);
}

static bool sort_names(struct adamd_pt_file *file) {
    qsort(file->records, file->record_count, sizeof *file->records, compare_names);
    for (size_t i = 1; i < file->record_count; i++) {
        if (compare_names(&file->records[i - 1], &file->records[i]) == 0) {
            return refuse_record(file, &file->records[i], "there are two of this name");
        }
    }
    return true;
}

struct pt_record *pt_archive_find(const struct adamd_pt_file *file, const char *name, size_t size) {
    size_t begin = 0;
    size_t end = file->record_count;

    while (begin < end) {
        const size_t middle = begin + (end - begin) / 2;
        struct pt_record *record = &file->records[middle];
        const int order = compare_bytes(record->name + file->folder_size,
                                        record->name_size - file->folder_size, name, size);
        if (order == 0) {
            return record;
        }
        if (order < 0) {
            begin = middle + 1;
        } else {
            end = middle;
        }
    }
    return NULL;
}

bool pt_archive_read(struct adamd_pt_file *file) {
    struct directory directory;

    if (!read_end(file, &directory)) {
        return false;
    }
    if (directory.count == 0 || directory.count > directory.size / CENTRAL_BYTES) {
        return refuse(file, "the directory has fewer entries than it says");
    }
    if (directory.count > ADAMD_PT_RECORDS_MAX) {
        return pt_refuse(file, ADAMD_TOO_LARGE, NULL, "zip archive: more than %d records",
                         ADAMD_PT_RECORDS_MAX);
    }
    file->records = calloc((size_t)directory.count, sizeof *file->records);
    if (file->records == NULL) {
        return pt_refuse_memory(file);
    }
    file->record_count = (size_t)directory.count;
    return read_entries(file, &directory) && check_places(file, directory.offset) &&
           sort_names(file) && check_checksums(file);
}
