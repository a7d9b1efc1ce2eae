/**
 * Files of torch.save: the zip archive and the pickle in it, read without ever running what they
 * say, and written byte for byte as PyTorch lays them out. Bytes in, bytes out: no files, no
 * models. What a state_dict means is for others to say.
 *
 * The reader takes what PyTorch 1.6 and later write of dicts, lists, tuples, numbers, texts and
 * tensors, and refuses everything else by name: there is a fixed table of globals, and no name in a
 * file is ever looked up anywhere.
 */
#ifndef ADAMD_PT_H
#define ADAMD_PT_H

#include "adamd/status.h"

#include <stdbool.h>

enum {
    ADAMD_PT_RANK_MAX = 64,
    ADAMD_PT_DEPTH_MAX = 64,           // of containers in containers
    ADAMD_PT_RECORDS_MAX = 1 << 20,    // of the archive
    ADAMD_PT_NAME_MAX = 512,           // bytes, of a record
    ADAMD_PT_PICKLE_MAX = 128 << 20,   // bytes
    ADAMD_PT_TEXT_MAX = 1 << 20,       // bytes, of one text
    ADAMD_PT_PATH_MAX = 256,           // bytes, of adamd_pt_find()
    ADAMD_PT_ALIGNMENT = 64,           // of each record that is written
    ADAMD_PT_SERIALIZATION_DIGITS = 40 // of a file's own id
};

// ------------------------------------------------------------------------------------------ dtypes

enum adamd_pt_dtype {
    ADAMD_PT_FLOAT64,
    ADAMD_PT_FLOAT32,
    ADAMD_PT_FLOAT16,
    ADAMD_PT_BFLOAT16,
    ADAMD_PT_COMPLEX64,
    ADAMD_PT_COMPLEX128,
    ADAMD_PT_INT64,
    ADAMD_PT_INT32,
    ADAMD_PT_INT16,
    ADAMD_PT_INT8,
    ADAMD_PT_UINT8,
    ADAMD_PT_BOOL,
    // Those that PyTorch has no storage class for.
    ADAMD_PT_UINT16,
    ADAMD_PT_UINT32,
    ADAMD_PT_UINT64,
    ADAMD_PT_FLOAT8_E4M3FN,
    ADAMD_PT_FLOAT8_E5M2,
    ADAMD_PT_FLOAT8_E4M3FNUZ,
    ADAMD_PT_FLOAT8_E5M2FNUZ,
    ADAMD_PT_DTYPE_COUNT
};

enum adamd_pt_class { ADAMD_PT_CLASS_REAL, ADAMD_PT_CLASS_COMPLEX, ADAMD_PT_CLASS_OTHER };

/** "float32". Static storage. */
const char *adamd_pt_dtype_name(enum adamd_pt_dtype dtype);
/** Bytes of one element: 1 to 16. */
size_t adamd_pt_dtype_size(enum adamd_pt_dtype dtype);
/** What may be cast into what: REAL and COMPLEX each among themselves. Floats of 8 bits are OTHER.
 */
enum adamd_pt_class adamd_pt_dtype_class(enum adamd_pt_dtype dtype);

// ------------------------------------------------------------------------------------------ values

/** The bytes of one record. */
struct adamd_pt_storage {
    const unsigned char *bytes; // inside the file
    uint64_t size;
    uint32_t tensor_count; // that show it
};

/** Offsets and strides in elements. All of it lies inside its storage. */
struct adamd_pt_tensor {
    enum adamd_pt_dtype dtype;
    uint32_t rank;
    bool big_endian;
    const uint64_t *shape, *strides;
    uint64_t offset, count;
    const struct adamd_pt_storage *storage;
};

enum adamd_pt_kind {
    ADAMD_PT_NONE,
    ADAMD_PT_TRUTH, // a bool
    ADAMD_PT_INT,
    ADAMD_PT_BIG_INT, // does not fit into 64 bits: its bytes, two's complement, little-endian
    ADAMD_PT_FLOAT,
    ADAMD_PT_TEXT,
    ADAMD_PT_TUPLE,
    ADAMD_PT_LIST,
    ADAMD_PT_DICT,
    ADAMD_PT_TENSOR,
    ADAMD_PT_DTYPE_VALUE, // torch.float32
    ADAMD_PT_INNER        // of the reader's own: no part of what it gives
};

struct adamd_pt_value;

struct adamd_pt_pair {
    const struct adamd_pt_value *key, *value;
};

/** One Python object. Objects that the file shares are shared here. */
struct adamd_pt_value {
    enum adamd_pt_kind kind;
    uint32_t mark; // the reader's own
    union {
        bool truth;
        int64_t integer;
        double number;
        struct {
            const char *bytes; // UTF-8, perhaps with surrogates; inside the file, not terminated
            size_t size;
        } text; // of BIG_INT too
        struct {
            const struct adamd_pt_value **items;
            size_t count;
        } list; // of TUPLE and LIST
        struct {
            struct adamd_pt_pair *pairs; // in the dict's own order, no key twice
            const struct adamd_pt_pair **sorted;
            size_t count;
        } dict;
        const struct adamd_pt_tensor *tensor;
        enum adamd_pt_dtype dtype;
        const void *inner; // the reader's own
    };
};

// ----------------------------------------------------------------------------------------- reading

struct adamd_pt_limits {
    bool skip_crc;               // PyTorch can write files without checksums
    uint64_t expanded_bytes_max; // of one tensor that shows more elements than its storage has
};

struct adamd_pt_file;

/** True if a file that starts like this may be one of torch.save, old forms included. */
bool adamd_pt_begins(const void *bytes, size_t size);

/**
 * Reads all of a file but the data of tensors, of which it checks the checksums: so it takes about
 * a second for a gigabyte, and may run on any thread. `bytes` is borrowed and outlives the result.
 * Takes at most 64 times the pickle's bytes of memory, and 256 MiB. BAD_FIELD says what is wrong
 * and where, UNSUPPORTED what is sound but not taken, and how to save it instead; CRC_MISMATCH;
 * TOO_LARGE; NO_MEMORY.
 */
ADAMD_MUST_USE enum adamd_status adamd_pt_read(const void *bytes, uint64_t size,
                                               const struct adamd_pt_limits *limits,
                                               struct adamd_pt_file **ret_file,
                                               struct adamd_fault *fault);
/** NULL is harmless. */
void adamd_pt_close(struct adamd_pt_file *file);

/** What torch.load would return. */
const struct adamd_pt_value *adamd_pt_root(const struct adamd_pt_file *file);

/** The value of a key of a dict, or NULL; also where `dict` is NULL or no dict. */
const struct adamd_pt_value *adamd_pt_get(const struct adamd_pt_value *dict, const char *key);
const struct adamd_pt_value *adamd_pt_get_text(const struct adamd_pt_value *dict, const char *key,
                                               size_t size);
const struct adamd_pt_value *adamd_pt_get_int(const struct adamd_pt_value *dict, int64_t key);

/** True if the value is this text. NULL is no text. */
bool adamd_pt_text_is(const struct adamd_pt_value *value, const char *text);

/**
 * A part of nested dicts: "optimizer", "run.model". A key may have points in it. NOT_FOUND says
 * which keys there are.
 */
ADAMD_MUST_USE enum adamd_status adamd_pt_find(const struct adamd_pt_value *root, const char *path,
                                               const struct adamd_pt_value **ret_value,
                                               struct adamd_fault *fault);

/** A number, or a tensor of one real or integer element. A bool is no number here. */
bool adamd_pt_number(const struct adamd_pt_value *value, double *ret_number);

/**
 * Elements [first, first + count) of a tensor in C order, cast to `dtype` of the same class (each
 * rounded once, to nearest even) or to its own, as this machine's. Any thread.
 */
void adamd_pt_copy(const struct adamd_pt_tensor *tensor, uint64_t first, uint64_t count,
                   enum adamd_pt_dtype dtype, void *to);

// ----------------------------------------------------------------------------------------- writing

struct adamd_pt_writer;

/** A piece of a file. */
struct adamd_pt_piece {
    const void *bytes;
    uint64_t size;
};

/**
 * Begins a file whose records lie under `folder` (torch.save takes the file's own name without its
 * extension). Values follow in the order of the pickle. After a failed allocation the writer takes
 * no more, and adamd_pt_finish() says so.
 */
ADAMD_MUST_USE enum adamd_status adamd_pt_create(const char *folder,
                                                 struct adamd_pt_writer **ret_writer);
/** NULL is harmless. Frees the pieces too. */
void adamd_pt_destroy(struct adamd_pt_writer *writer);

void adamd_pt_put_none(struct adamd_pt_writer *writer);
void adamd_pt_put_bool(struct adamd_pt_writer *writer, bool value);
void adamd_pt_put_int(struct adamd_pt_writer *writer, int64_t value);
void adamd_pt_put_float(struct adamd_pt_writer *writer, double value);
/** UTF-8. */
void adamd_pt_put_text(struct adamd_pt_writer *writer, const char *text);
void adamd_pt_put_text_of(struct adamd_pt_writer *writer, const char *text, size_t size);

/** Between begin and end of a dict: key, value, key, value. */
void adamd_pt_begin_dict(struct adamd_pt_writer *writer);
/** collections.OrderedDict, which the dicts of models are. */
void adamd_pt_begin_ordered(struct adamd_pt_writer *writer);
void adamd_pt_end_dict(struct adamd_pt_writer *writer);
void adamd_pt_begin_list(struct adamd_pt_writer *writer);
void adamd_pt_end_list(struct adamd_pt_writer *writer);
void adamd_pt_begin_tuple(struct adamd_pt_writer *writer);
void adamd_pt_end_tuple(struct adamd_pt_writer *writer);

/** For an OrderedDict that has just ended: between begin and end, a dict of its attributes. */
void adamd_pt_begin_attributes(struct adamd_pt_writer *writer);
void adamd_pt_end_attributes(struct adamd_pt_writer *writer);

/** A contiguous tensor in a storage of its own. `bytes` is borrowed until the writer is gone. */
void adamd_pt_put_tensor(struct adamd_pt_writer *writer, enum adamd_pt_dtype dtype, uint32_t rank,
                         const uint64_t *shape, const void *bytes);
/** As above, of no more than 16 bytes, which are copied. */
void adamd_pt_put_small(struct adamd_pt_writer *writer, enum adamd_pt_dtype dtype, uint32_t rank,
                        const uint64_t *shape, const void *bytes);

/**
 * Goes on with the checksums of the tensors, over at most `bytes` of them; true when all are done.
 * Any thread, while nobody else uses the writer.
 */
bool adamd_pt_checksum(struct adamd_pt_writer *writer, uint64_t bytes);

/**
 * The pieces of the whole file in order, once values and checksums are complete; they stay the
 * writer's. NO_MEMORY.
 */
ADAMD_MUST_USE enum adamd_status adamd_pt_finish(struct adamd_pt_writer *writer,
                                                 const struct adamd_pt_piece **ret_pieces,
                                                 size_t *ret_count);

#endif
