// What a file of torch.save is, from its first bytes to its value; and what is told of those that
// are none.
#include "formats/pt_impl.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { VALUES_PER_BYTE = 64, VALUES_LEAST = 64 << 10, VALUES_MAX = 256 << 20, TAR_MAGIC_AT = 257 };

static const char zip_magic[] = "PK\3\4";
static const char old_magic[] = "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
static const char tar_magic[] = "ustar";

// --------------------------------------------------------------------------------------- refusals

bool pt_refuse(struct adamd_pt_file *file, enum adamd_status status, const char *field,
               const char *format, ...) {
    char message[sizeof((struct adamd_fault *)NULL)->message];
    va_list arguments;

    if (file->status == ADAMD_OK) {
        va_start(arguments, format);
        (void)vsnprintf(message, sizeof message, format, arguments);
        va_end(arguments);
        file->status = adamd_fail(file->fault, status, field, "%s", message);
    }
    return false;
}

bool pt_refuse_memory(struct adamd_pt_file *file) {
    if (file->memory.over) {
        return pt_refuse(file, ADAMD_TOO_LARGE, NULL, "data.pkl makes too many objects");
    }
    return pt_refuse(file, ADAMD_NO_MEMORY, NULL, "%s", adamd_status_text(ADAMD_NO_MEMORY));
}

struct pt_shown pt_show(const char *bytes, size_t size) {
    struct pt_shown shown = {""};
    size_t i = 0;

    for (; i < size && i < 60; i++) {
        shown.text[i] = '?';
        if (bytes[i] >= 0x20 && bytes[i] < 0x7F) {
            shown.text[i] = bytes[i];
        }
    }
    shown.text[i] = '\0';
    return shown;
}

// ------------------------------------------------------------------------------------------ forms

static bool has_at(const unsigned char *bytes, uint64_t size, size_t at, const char *magic,
                   size_t magic_size) {
    return size >= at + magic_size && memcmp(bytes + at, magic, magic_size) == 0;
}

static bool is_zip(const unsigned char *bytes, uint64_t size) {
    return has_at(bytes, size, 0, zip_magic, sizeof zip_magic - 1);
}

static bool is_old(const unsigned char *bytes, uint64_t size) {
    return has_at(bytes, size, 0, old_magic, sizeof old_magic - 1) ||
           has_at(bytes, size, TAR_MAGIC_AT, tar_magic, sizeof tar_magic - 1);
}

bool adamd_pt_begins(const void *bytes, size_t size) {
    return is_zip(bytes, size) || is_old(bytes, size);
}

static bool check_form(struct adamd_pt_file *file) {
    if (is_old(file->bytes, file->size)) {
        return pt_refuse(file, ADAMD_UNSUPPORTED, NULL,
                         "the file has a form from before PyTorch 1.6: load it there and save it "
                         "again, torch.save(torch.load(\"f\"), \"f\")");
    }
    return is_zip(file->bytes, file->size) ||
           pt_refuse(file, ADAMD_BAD_FIELD, NULL,
                     "the file is none of torch.save: it does not begin as a zip archive");
}

// ---------------------------------------------------------------------------------------- records

static const struct pt_record *find_record(const struct adamd_pt_file *file, const char *name) {
    return pt_archive_find(file, name, strlen(name));
}

// "3", with or without a line's end.
static bool check_version(struct adamd_pt_file *file) {
    const struct pt_record *record = find_record(file, "version");
    unsigned version = 0;

    record = record != NULL ? record : find_record(file, ".data/version");
    if (record == NULL) {
        return pt_refuse(file, ADAMD_BAD_FIELD, NULL, "the file has no record \"version\"");
    }
    for (uint64_t i = 0; i < record->storage.size; i++) {
        const unsigned char c = record->storage.bytes[i];
        if (c == '\n' && i > 0 && i + 1 == record->storage.size) {
            break;
        }
        if (c < '0' || c > '9' || i > 2) {
            version = 0;
            break;
        }
        version = version * 10 + (c - '0');
    }
    return (version >= 1 && version <= 10) ||
           pt_refuse(file, ADAMD_UNSUPPORTED, NULL,
                     "the file's version is none from 1 to 10: save it with a PyTorch of 1.6 to "
                     "2.15");
}

static bool read_byte_order(struct adamd_pt_file *file) {
    const struct pt_record *record = find_record(file, "byteorder");

    if (record == NULL || has_at(record->storage.bytes, record->storage.size, 0, "little", 6)) {
        return record == NULL || record->storage.size == 6 ||
               pt_refuse(file, ADAMD_BAD_FIELD, NULL, "the record \"byteorder\" is malformed");
    }
    file->big_endian = record->storage.size == 3 && has_at(record->storage.bytes, 3, 0, "big", 3);
    return file->big_endian ||
           pt_refuse(file, ADAMD_BAD_FIELD, NULL, "the record \"byteorder\" is malformed");
}

static bool read_value(struct adamd_pt_file *file) {
    const struct pt_record *record = find_record(file, "data.pkl");
    struct adamd_pt_value *root = NULL;

    if (find_record(file, "constants.pkl") != NULL) {
        return pt_refuse(file, ADAMD_UNSUPPORTED, NULL,
                         "the file is a TorchScript module: save its state_dict() with torch.save");
    }
    if (record == NULL) {
        return pt_refuse(file, ADAMD_BAD_FIELD, NULL,
                         "the file is none of torch.save: it has no record data.pkl");
    }
    const uint64_t size = record->storage.size;
    if (size > ADAMD_PT_PICKLE_MAX) {
        return pt_refuse(file, ADAMD_TOO_LARGE, NULL, "data.pkl has more than 128 MiB");
    }
    file->memory.limit = VALUES_LEAST + VALUES_PER_BYTE * size;
    file->memory.limit = file->memory.limit < VALUES_MAX ? file->memory.limit : VALUES_MAX;
    if (!pt_pickle_run(file, record->storage.bytes, (size_t)size, &root) ||
        !pt_values_check(file, root)) {
        return false;
    }
    file->root = root;
    return true;
}

enum adamd_status adamd_pt_read(const void *bytes, uint64_t size,
                                const struct adamd_pt_limits *limits,
                                struct adamd_pt_file **ret_file, struct adamd_fault *fault) {
    struct adamd_pt_file *file = calloc(1, sizeof *file);

    if (file == NULL) {
        return adamd_fail_plain(fault, ADAMD_NO_MEMORY);
    }
    file->bytes = bytes;
    file->size = size;
    file->limits = *limits;
    file->fault = fault;
    if (check_form(file) && pt_archive_read(file) && check_version(file) && read_byte_order(file) &&
        read_value(file)) {
        file->fault = NULL;
        *ret_file = file;
        return ADAMD_OK;
    }
    const enum adamd_status status = file->status;
    adamd_pt_close(file);
    return status;
}

void adamd_pt_close(struct adamd_pt_file *file) {
    if (file != NULL) {
        pt_free_all(&file->memory);
        free(file->records);
        free(file);
    }
}

const struct adamd_pt_value *adamd_pt_root(const struct adamd_pt_file *file) {
    return file->root;
}
