/** What the files of the reader and of the writer of pt.h share. Nobody else includes this. */
#ifndef ADAMD_FORMATS_PT_IMPL_H
#define ADAMD_FORMATS_PT_IMPL_H

#include "adamd/pt.h"

// ------------------------------------------------------------------------------------------ dtypes

struct pt_dtype_info {
    const char *name;
    const char *storage; // PyTorch's class, or NULL
    uint8_t size;        // of an element
    uint8_t part;        // bytes that have an order: half of a complex number
    enum adamd_pt_class class;
};

extern const struct pt_dtype_info pt_dtypes[ADAMD_PT_DTYPE_COUNT];

// ------------------------------------------------------------------------------------------ memory

struct pt_block;

/** All values of a file: taken in pieces, given back whole. */
struct pt_memory {
    struct pt_block *blocks;
    uint64_t taken, limit;
    bool over; // an allocation failed because of the limit
};

/** Zeroed, aligned for everything; NULL past the limit or without memory. */
void *pt_alloc(struct pt_memory *memory, size_t bytes);
void pt_free_all(struct pt_memory *memory);

// --------------------------------------------------------------------------------------- a reading

/** A record of the archive, and the storage that it may be. */
struct pt_record {
    const char *name; // in the central directory
    uint32_t name_size, crc;
    uint64_t header, data, end; // offsets: local header, first byte, behind the last
    bool has_descriptor, claimed;
    enum adamd_pt_dtype dtype; // once claimed; ADAMD_PT_DTYPE_COUNT: untyped
    struct adamd_pt_storage storage;
};

struct adamd_pt_file {
    const unsigned char *bytes;
    uint64_t size;
    struct adamd_pt_limits limits;
    enum adamd_status status; // once something was refused
    struct adamd_fault *fault;
    const char *folder; // with its '/'
    size_t folder_size;
    struct pt_record *records; // by name, once the archive was read
    size_t record_count;
    bool big_endian;
    struct pt_memory memory;
    const struct adamd_pt_value *root;
};

/** Notes the first failure of a reading; returns false. */
bool pt_refuse(struct adamd_pt_file *file, enum adamd_status status, const char *field,
               const char *format, ...) ADAMD_PRINTF(4, 5);
/** Memory ran out, or the limit of the values. */
bool pt_refuse_memory(struct adamd_pt_file *file);

/** Text from a file, for a message: at most 60 bytes, all printable. */
struct pt_shown {
    char text[64];
};
struct pt_shown pt_show(const char *bytes, size_t size);

// ------------------------------------------------------------------------------------ pt_archive.c

/** The directory, checked wholly: names, places, what lies where; and the checksums. */
bool pt_archive_read(struct adamd_pt_file *file);
/** The record `name` inside the folder, or NULL. */
struct pt_record *pt_archive_find(const struct adamd_pt_file *file, const char *name, size_t size);

// ------------------------------------------------------------------------------------- pt_pickle.c

/** Runs the pickle and gives its value, not yet checked for cycles and keys. */
bool pt_pickle_run(struct adamd_pt_file *file, const unsigned char *bytes, size_t size,
                   struct adamd_pt_value **ret_value);

// ------------------------------------------------------------------------------------ pt_objects.c

/** What a GLOBAL may name. */
enum pt_callable {
    PT_STORAGE_CLASS,
    PT_DTYPE,
    PT_ORDERED_DICT,
    PT_SIZE,
    PT_REBUILD_TENSOR_V2,
    PT_REBUILD_TENSOR_V3,
    PT_REBUILD_PARAMETER,
    PT_REBUILD_PARAMETER_WITH_STATE
};

struct pt_global {
    enum pt_callable callable;
    enum adamd_pt_dtype dtype; // of a storage class; ADAMD_PT_DTYPE_COUNT: UntypedStorage
};

// Kinds of INNER values, in `mark` until the walk.
enum pt_inner { PT_INNER_GLOBAL = 1, PT_INNER_STORAGE };
// An OrderedDict's `mark` until the walk.
enum { PT_ORDERED = 1 };

/** The table's entry, as a value. */
bool pt_global_find(struct adamd_pt_file *file, const char *module, size_t module_size,
                    const char *name, size_t name_size, struct adamd_pt_value **ret_value);
/** REDUCE. */
bool pt_call(struct adamd_pt_file *file, const struct adamd_pt_value *callable,
             const struct adamd_pt_value *arguments, struct adamd_pt_value **ret_value);
/** BINPERSID. */
bool pt_persistent(struct adamd_pt_file *file, const struct adamd_pt_value *id,
                   struct adamd_pt_value **ret_value);

// ------------------------------------------------------------------------------------- pt_values.c

struct adamd_pt_value *pt_value_new(struct adamd_pt_file *file, enum adamd_pt_kind kind);
bool pt_list_add(struct adamd_pt_file *file, struct adamd_pt_value *list,
                 const struct adamd_pt_value *item);
bool pt_dict_add(struct adamd_pt_file *file, struct adamd_pt_value *dict,
                 const struct adamd_pt_value *key, const struct adamd_pt_value *value);
/** Checks a whole tree once: no cycles, no depth, no key twice, nothing of the reader's own. */
bool pt_values_check(struct adamd_pt_file *file, struct adamd_pt_value *root);

#endif
