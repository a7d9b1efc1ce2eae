/** Archives for tests of pt.h, built apart from the writer: with every part that can be wrong. */
#ifndef ADAMD_TESTS_PT_FILES_H
#define ADAMD_TESTS_PT_FILES_H

#include "adamd/pt.h"

struct pt_part {
    const char *name;
    const void *bytes;
    size_t size;
};

/** What is wrong with an archive; zeroed: nothing. Most of it concerns the record `at`. */
struct pt_flaws {
    int at;
    unsigned flags, method, local_method, disk, extra_bytes;
    const char *local_name;
    int crc_add, size_add, local_size_add, offset_add; // of the directory's entry, but for local
    bool in_front, behind, gap, comment;               // stray bytes; a comment
    int count_add;                                     // of the end record
    int directory_add;                                 // bytes to the directory's offset
    bool wide;                                         // zip64 end records, right ones
    int wide_count_add, locator_add, disks_add;
    bool described; // descriptors behind the data
    int descriptor_add;
};

enum { PT_PARTS_MAX = 16, PT_FILE_MAX = 1 << 16 };

struct pt_built {
    unsigned char bytes[PT_FILE_MAX];
    size_t size;
};

void pt_build(struct pt_built *built, const struct pt_part *parts, size_t count,
              const struct pt_flaws *flaws);

/** A file with this data.pkl and one storage of `size` bytes, data/0. */
void pt_build_pickle(struct pt_built *built, const void *pickle, size_t pickle_size,
                     const void *data, size_t size);

#endif
