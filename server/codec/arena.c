// A list of blocks, each bump-allocated. Blocks come zeroed from calloc, so pieces do too.
#include "codec/arena.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PIECE = 16, BLOCK_FIRST = 4 << 10, BLOCK_MAX = 256 << 10 };

struct codec_block {
    struct codec_block *next;
    size_t size, used;
    size_t unused; // keeps the bytes behind this struct at 16
    unsigned char bytes[];
};

_Static_assert(sizeof(struct codec_block) % PIECE == 0, "pieces are aligned");

// Each block is twice the last, so that a large message takes few and a small one little.
static struct codec_block *add_block(struct codec_arena *arena, size_t bytes) {
    size_t size = arena->blocks == NULL ? BLOCK_FIRST : arena->blocks->size * 2;

    size = size > BLOCK_MAX ? BLOCK_MAX : size;
    size = size < bytes ? bytes : size;
    struct codec_block *block = calloc(1, sizeof *block + size);
    if (block != NULL) {
        block->size = size;
        block->next = arena->blocks;
        arena->blocks = block;
    }
    return block;
}

void *codec_arena_alloc(struct codec_arena *arena, size_t bytes) {
    struct codec_block *block = arena->blocks;

    if (bytes > SIZE_MAX / 2 || (arena->limit != 0 && (arena->taken > arena->limit ||
                                                       bytes > arena->limit - arena->taken))) {
        arena->over = true;
        return NULL;
    }
    const size_t rounded = bytes == 0 ? PIECE : (bytes + PIECE - 1) / PIECE * PIECE;
    if (block == NULL || block->size - block->used < rounded) {
        block = add_block(arena, rounded);
        if (block == NULL) {
            return NULL;
        }
    }
    void *piece = block->bytes + block->used;
    block->used += rounded;
    arena->taken += rounded;
    return piece;
}

void *codec_arena_array(struct codec_arena *arena, size_t count, size_t size) {
    size_t bytes = 0;
    return __builtin_mul_overflow(count, size, &bytes) ? NULL : codec_arena_alloc(arena, bytes);
}

char *codec_arena_copy(struct codec_arena *arena, const void *bytes, size_t size) {
    char *copy = size < SIZE_MAX ? codec_arena_alloc(arena, size + 1) : NULL;

    if (copy != NULL && size > 0) {
        memcpy(copy, bytes, size);
    }
    return copy;
}

char *codec_arena_format(struct codec_arena *arena, const char *format, ...) {
    va_list arguments;

    va_start(arguments, format);
    const int size = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    char *text = size >= 0 ? codec_arena_alloc(arena, (size_t)size + 1) : NULL;
    if (text != NULL) {
        va_start(arguments, format);
        (void)vsnprintf(text, (size_t)size + 1, format, arguments);
        va_end(arguments);
    }
    return text;
}

static void *allocate_piece(void *arena, size_t bytes) {
    return codec_arena_alloc(arena, bytes);
}

static void keep_piece(void *arena, void *piece) {
    (void)arena;
    (void)piece;
}

ProtobufCAllocator codec_arena_allocator(struct codec_arena *arena) {
    return (ProtobufCAllocator){
        .alloc = allocate_piece, .free = keep_piece, .allocator_data = arena};
}

void codec_arena_finish(struct codec_arena *arena) {
    while (arena->blocks != NULL) {
        struct codec_block *next = arena->blocks->next;
        free(arena->blocks);
        arena->blocks = next;
    }
    *arena = (struct codec_arena){0};
}
