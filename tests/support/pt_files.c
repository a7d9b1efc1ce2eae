#include "pt_files.h"

#include "adamd/crc32.h"

#include <check.h>
#include <string.h>

static void put(struct pt_built *built, const void *bytes, size_t size) {
    ck_assert_uint_le(size, sizeof built->bytes - built->size);
    if (size > 0) {
        memcpy(built->bytes + built->size, bytes, size);
    }
    built->size += size;
}

static void put_uint(struct pt_built *built, uint64_t value, size_t size) {
    for (size_t i = 0; i < size; i++) {
        const unsigned char byte = (unsigned char)(value >> (8 * i));
        put(built, &byte, 1);
    }
}

struct place {
    size_t header;
    uint32_t crc;
};

static void put_record(struct pt_built *built, const struct pt_part *part,
                       const struct pt_flaws *flaws, bool flawed, struct place *place) {
    const char *name = flawed && flaws->local_name != NULL ? flaws->local_name : part->name;
    const bool described = flaws->described && part->size > 0;
    const uint64_t size = part->size + (uint64_t)(flawed ? flaws->local_size_add : 0);

    place->header = built->size;
    place->crc = adamd_crc32(0, part->bytes, part->size);
    put_uint(built, 0x04034b50, 4);
    put_uint(built, 0, 2);
    put_uint(built, described ? 8 : 0, 2);
    put_uint(built, flawed ? flaws->local_method : 0, 2);
    put_uint(built, 0, 4);
    put_uint(built, described ? 0 : place->crc, 4);
    put_uint(built, described ? 0 : size, 4);
    put_uint(built, described ? 0 : size, 4);
    put_uint(built, strlen(name), 2);
    put_uint(built, 0, 2);
    put(built, name, strlen(name));
    put(built, part->bytes, part->size);
    if (described) {
        put_uint(built, 0x08074b50, 4);
        put_uint(built, place->crc + (uint64_t)(flawed ? flaws->descriptor_add : 0), 4);
        put_uint(built, part->size, 4);
        put_uint(built, part->size, 4);
    }
    if (flawed && flaws->gap) {
        put(built, "gap", 3);
    }
}

static void put_entry(struct pt_built *built, const struct pt_part *part,
                      const struct pt_flaws *flaws, bool flawed, const struct place *place) {
    const struct pt_flaws none = {.described = flaws->described};
    const struct pt_flaws *mine = flawed ? flaws : &none;

    put_uint(built, 0x02014b50, 4);
    put_uint(built, 0, 4);
    put_uint(built, mine->flags | (mine->described && part->size > 0 ? 8U : 0), 2);
    put_uint(built, mine->method, 2);
    put_uint(built, 0, 4);
    put_uint(built, place->crc + (uint64_t)mine->crc_add, 4);
    put_uint(built, part->size + (uint64_t)mine->size_add, 4);
    put_uint(built, part->size + (uint64_t)mine->size_add, 4);
    put_uint(built, strlen(part->name), 2);
    put_uint(built, mine->extra_bytes, 2);
    put_uint(built, 0, 2);
    put_uint(built, mine->disk, 2);
    put_uint(built, 0, 6);
    put_uint(built, place->header + (uint64_t)mine->offset_add, 4);
    put(built, part->name, strlen(part->name));
    for (unsigned i = 0; i < mine->extra_bytes; i++) {
        put(built, "\x7f", 1);
    }
}

static void put_ends(struct pt_built *built, size_t offset, size_t count,
                     const struct pt_flaws *flaws) {
    const size_t end = built->size;

    if (flaws->wide) {
        put_uint(built, 0x06064b50, 4);
        put_uint(built, 44, 8);
        put_uint(built, 0x031e, 2);
        put_uint(built, 45, 2);
        put_uint(built, 0, 8);
        put_uint(built, count + (uint64_t)flaws->wide_count_add, 8);
        put_uint(built, count + (uint64_t)flaws->wide_count_add, 8);
        put_uint(built, end - offset, 8);
        put_uint(built, offset, 8);
        put_uint(built, 0x07064b50, 4);
        put_uint(built, 0, 4);
        put_uint(built, end + (uint64_t)flaws->locator_add, 8);
        put_uint(built, 1 + (uint64_t)flaws->disks_add, 4);
    }
    put_uint(built, 0x06054b50, 4);
    put_uint(built, flaws->wide ? 0 : (uint64_t)flaws->disks_add, 4);
    put_uint(built, count + (uint64_t)flaws->count_add, 2);
    put_uint(built, count + (uint64_t)flaws->count_add, 2);
    put_uint(built, end - offset, 4);
    put_uint(built, offset + (uint64_t)flaws->directory_add, 4);
    put_uint(built, flaws->comment ? 4 : 0, 2);
    if (flaws->comment) {
        put(built, "note", 4);
    }
}

void pt_build(struct pt_built *built, const struct pt_part *parts, size_t count,
              const struct pt_flaws *flaws) {
    static const struct pt_flaws none;
    struct place places[PT_PARTS_MAX];

    ck_assert_uint_le(count, PT_PARTS_MAX);
    flaws = flaws != NULL ? flaws : &none;
    built->size = 0;
    if (flaws->in_front) {
        put_record(built, &(struct pt_part){"x/stray", "", 0}, &none, false, &places[0]);
    }
    for (size_t i = 0; i < count; i++) {
        put_record(built, &parts[i], flaws, (size_t)flaws->at == i, &places[i]);
    }
    const size_t offset = built->size;
    for (size_t i = 0; i < count; i++) {
        put_entry(built, &parts[i], flaws, (size_t)flaws->at == i, &places[i]);
    }
    put_ends(built, offset, count, flaws);
    if (flaws->behind) {
        put(built, "\n", 1);
    }
}

void pt_build_pickle(struct pt_built *built, const void *pickle, size_t pickle_size,
                     const void *data, size_t size) {
    const struct pt_part parts[] = {
        {"x/data.pkl", pickle, pickle_size}, {"x/data/0", data, size}, {"x/version", "3\n", 2}};
    pt_build(built, parts, 3, NULL);
}
