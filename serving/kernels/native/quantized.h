/* What products with quantized weights share. serving/quantize/packing.py writes the layouts. */
#ifndef COSTWATCH_QUANTIZED_H
#define COSTWATCH_QUANTIZED_H

#include <stddef.h>
#ifdef _OPENMP
#include <omp.h>
#endif
#include "numbers.h"

enum { LANES = 16, GROUP = 32, TILE_ROWS = 8, INT4_GROUP_BYTES = 320, INT8_GROUP_BYTES = 512 };

/* x [rows, inputs] and y [rows, outputs] are bf16, or fp32 where wide. bias [outputs] may be NULL. */
typedef struct {
    const uint8_t *packed;
    const float *bias;
    const void *x;
    void *y;
    size_t rows, inputs, outputs, groups, block_bytes;
    int wide;
} Product;

INLINE size_t smaller(size_t one, size_t other) { return one < other ? one : other; }

INLINE const uint8_t *block_of(const Product *p, size_t block) { return p->packed + block * p->block_bytes; }

INLINE size_t lanes_in_block(const Product *p, size_t block) { return smaller(p->outputs - block * LANES, LANES); }

INLINE Product int4_product(const uint8_t *packed, const float *bias, const void *x, void *y, int64_t rows,
                            int64_t inputs, int64_t outputs, int wide) {
    size_t groups = (size_t)inputs / GROUP, block_bytes = groups * INT4_GROUP_BYTES;
    return (Product){packed, bias, x, y, (size_t)rows, (size_t)inputs, (size_t)outputs, groups, block_bytes, wide};
}

INLINE Product int8_product(const uint8_t *packed, const float *bias, const void *x, void *y, int64_t rows,
                            int64_t inputs, int64_t outputs, int wide) {
    size_t groups = (size_t)inputs / GROUP, block_bytes = groups * INT8_GROUP_BYTES + LANES * sizeof(float);
    return (Product){packed, bias, x, y, (size_t)rows, (size_t)inputs, (size_t)outputs, groups, block_bytes, wide};
}

/* The blocks of the calling thread, of a team's. */
INLINE void my_blocks(const Product *p, size_t *from, size_t *to) {
    size_t blocks = (p->outputs + LANES - 1) / LANES, thread = 0, threads = 1;
#ifdef _OPENMP
    thread = (size_t)omp_get_thread_num();
    threads = (size_t)omp_get_num_threads();
#endif
    *from = blocks * thread / threads;
    *to = blocks * (thread + 1) / threads;
}

INLINE float fp16_to_float(uint16_t half) { /* scales and minimums are finite */
    /* 2^112 moves the exponent's bias, and makes subnormals right as well. */
    float value = bits_to_float((uint32_t)(half & 0x7fff) << 13) * 0x1p112f;
    return half & 0x8000 ? -value : value;
}

INLINE void read_group(const Product *p, size_t row, size_t group, float x[GROUP]) {
    size_t at = row * p->inputs + group * GROUP;
    if (p->wide)
        memcpy(x, (const float *)p->x + at, GROUP * sizeof(float));
    else
        for (int i = 0; i < GROUP; i++) x[i] = bf16_to_float(((const uint16_t *)p->x)[at + i]);
}

/* One row's sums of a block's outputs, with the bias. */
INLINE void write_lanes(const Product *p, size_t row, size_t block, const float totals[LANES]) {
    size_t first = block * LANES, lanes = lanes_in_block(p, block), at = row * p->outputs + first;
    float sums[LANES];
    uint16_t narrow[LANES];
    memcpy(sums, totals, sizeof sums);
    if (p->bias != NULL)
        for (size_t lane = 0; lane < lanes; lane++) sums[lane] += p->bias[first + lane];
    if (p->wide) {
        memcpy((float *)p->y + at, sums, lanes * sizeof(float));
        return;
    }
    for (int lane = 0; lane < LANES; lane++) narrow[lane] = float_to_bf16(sums[lane]);
    memcpy((uint16_t *)p->y + at, narrow, lanes * sizeof(uint16_t));
}

#endif
