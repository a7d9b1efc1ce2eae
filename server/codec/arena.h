/**
 * The memory of one request: taken in pieces, given back whole. Messages that are decoded or built
 * for an answer live here and are never freed one by one.
 */
#ifndef ADAMD_CODEC_ARENA_H
#define ADAMD_CODEC_ARENA_H

#include "adamd/status.h"

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>

struct codec_block;

/** Zeroed means empty and without a limit. */
struct codec_arena {
    struct codec_block *blocks;
    size_t taken; // bytes handed out, each piece rounded up to 16
    size_t limit; // of `taken`; 0 means none
    bool over;    // an allocation failed because of the limit, not for want of memory
};

/** Zeroed memory, aligned to 16; NULL past the limit or without memory. 0 bytes are a valid piece.
 */
void *codec_arena_alloc(struct codec_arena *arena, size_t bytes);

/** Room for `count` things of `size` bytes; NULL also where that overflows. */
void *codec_arena_array(struct codec_arena *arena, size_t count, size_t size);

/** A formatted string; NULL as above. */
char *codec_arena_format(struct codec_arena *arena, const char *format, ...) ADAMD_PRINTF(2, 3);

/** A copy of `size` bytes with a NUL behind. */
char *codec_arena_copy(struct codec_arena *arena, const void *bytes, size_t size);

/** For protobuf-c: its free() does nothing. Borrows the arena. */
ProtobufCAllocator codec_arena_allocator(struct codec_arena *arena);

/** Frees everything; the arena is then empty. */
void codec_arena_finish(struct codec_arena *arena);

#endif
