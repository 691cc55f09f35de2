/* Products of activations with int8 and int4 weights: y = x · Wᵀ + bias, only the weights being quantized.
 *
 * The layout (serving/quantize/packing.py writes it): 16 output rows are a block and stand side by side in the
 * lanes of a vector; a block is one stream of 32-input groups that is read once, front to back. Decoding one
 * token waits for memory, so what counts is that a core reads one straight line, prefetched.
 *
 * int4 group: 256 bytes of codes, 16 fp16 scales, 16 fp16 minimums
 * int8 group: 512 bytes of codes (sign and magnitude); behind a block's last group 16 fp32 scales
 *
 * Codes are small integers, exact in bf16, so that the dot product takes them as they are; a group's sum is
 * scaled once, in fp32. A minimum multiplies the sum of the group's activations, which is worked out once.
 *
 * What a row gets does not depend on how many rows there are, nor on the threads: each (row, output) is summed
 * over the groups in order, in one lane, by the same instructions whatever stands beside it.
 */
#include "quantized.h"

#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512VBMI__)
#define QUANT_AVX512 1
#include <immintrin.h>
#endif

/* Activations that a core keeps near while all its weights pass by: a part of a common L2. */
enum { CHUNK_BYTES = 256 * 1024 };

/* ---- plain C: any machine, and fp32 activations everywhere. Compilers turn loops over lanes into vectors. ---- */

/* Four bytes a lane hold eight inputs: 0, 2 | 4, 6 | 1, 3 | 5, 7 (low four bits first). */
static void unpack_int4(const uint8_t *group, float weights[GROUP][LANES]) {
    static const int order[8] = {0, 2, 4, 6, 1, 3, 5, 7};
    for (int eight = 0; eight < GROUP / 8; eight++)
        for (int nibble = 0; nibble < 8; nibble++)
            for (int lane = 0; lane < LANES; lane++) {
                uint8_t byte = group[eight * 64 + lane * 4 + nibble / 2];
                weights[eight * 8 + order[nibble]][lane] = (float)(nibble % 2 ? byte >> 4 : byte & 15);
            }
}

/* 64 bytes hold four inputs: in each quarter first inputs 0, 1 of its four lanes, then inputs 2, 3. */
static void unpack_int8(const uint8_t *group, float weights[GROUP][LANES]) {
    for (int four = 0; four < GROUP / 4; four++)
        for (int place = 0; place < 64; place++) {
            uint8_t byte = group[four * 64 + place];
            int lane = place / 16 * 4 + place % 8 / 2, input = place % 16 / 8 * 2 + place % 2;
            float magnitude = (float)(byte & 127);
            weights[four * 4 + input][lane] = byte & 128 ? -magnitude : magnitude;
        }
}

static void dot_group(const float x[GROUP], float weights[GROUP][LANES], float sums[LANES]) {
    memset(sums, 0, LANES * sizeof(float));
    for (int input = 0; input < GROUP; input++)
        for (int lane = 0; lane < LANES; lane++) sums[lane] += x[input] * weights[input][lane];
}

static void add_int4(const float x[GROUP], const uint8_t *scaling, float sums[LANES], float totals[LANES]) {
    uint16_t halves[2 * LANES];
    float all = 0;
    memcpy(halves, scaling, sizeof halves);
    for (int input = 0; input < GROUP; input++) all += x[input];
    for (int lane = 0; lane < LANES; lane++)
        totals[lane] += sums[lane] * fp16_to_float(halves[lane]) + fp16_to_float(halves[LANES + lane]) * all;
}

/* `rows` rows from `row` on of one block's outputs. */
static void plain_int4(const Product *p, size_t block, size_t row, size_t rows) {
    const uint8_t *stream = block_of(p, block);
    float weights[GROUP][LANES], x[GROUP], sums[LANES], totals[TILE_ROWS][LANES] = {{0}};
    for (size_t group = 0; group < p->groups; group++, stream += INT4_GROUP_BYTES) {
        unpack_int4(stream, weights);
        for (size_t r = 0; r < rows; r++) {
            read_group(p, row + r, group, x);
            dot_group(x, weights, sums);
            add_int4(x, stream + GROUP * LANES / 2, sums, totals[r]);
        }
    }
    for (size_t r = 0; r < rows; r++) write_lanes(p, row + r, block, totals[r]);
}

static void plain_int8(const Product *p, size_t block, size_t row, size_t rows) {
    const uint8_t *stream = block_of(p, block);
    float weights[GROUP][LANES], x[GROUP], sums[LANES], scales[LANES], totals[TILE_ROWS][LANES] = {{0}};
    for (size_t group = 0; group < p->groups; group++, stream += INT8_GROUP_BYTES) {
        unpack_int8(stream, weights);
        for (size_t r = 0; r < rows; r++) {
            read_group(p, row + r, group, x);
            dot_group(x, weights, sums);
            for (int lane = 0; lane < LANES; lane++) totals[r][lane] += sums[lane];
        }
    }
    memcpy(scales, stream, sizeof scales);
    for (size_t r = 0; r < rows; r++) {
        for (int lane = 0; lane < LANES; lane++) totals[r][lane] *= scales[lane];
        write_lanes(p, row + r, block, totals[r]);
    }
}

/* ---- AVX-512 with BF16 and VBMI ---- */
#ifdef QUANT_AVX512
enum { AHEAD_BYTES = 2048 };

typedef struct {
    __m512i low0, low1, high0, high1; /* int8: a bf16's low and high byte, by magnitude */
    __m512i nibble;                   /* int4: bf16 of the low four bits; the fifth bit of an index is ignored */
} Tables;

static Tables make_tables(void) {
    uint8_t low[128], high[128];
    uint16_t nibble[32];
    Tables tables;
    for (int i = 0; i < 128; i++) {
        uint16_t code = float_to_bf16((float)i);
        low[i] = (uint8_t)code;
        high[i] = (uint8_t)(code >> 8);
    }
    for (int i = 0; i < 32; i++) nibble[i] = float_to_bf16((float)(i & 15));
    tables.low0 = _mm512_loadu_si512(low);
    tables.low1 = _mm512_loadu_si512(low + 64);
    tables.high0 = _mm512_loadu_si512(high);
    tables.high1 = _mm512_loadu_si512(high + 64);
    tables.nibble = _mm512_loadu_si512(nibble);
    return tables;
}

/* Adds the products of two inputs of one row with the weights of 16 outputs. */
INLINE __m512 dot_pair(__m512 sum, __m512i weights, const uint16_t *x) {
    int pair;
    memcpy(&pair, x, sizeof pair);
    return _mm512_dpbf16_ps(sum, (__m512bh)weights, (__m512bh)_mm512_set1_epi32(pair));
}

INLINE void ahead(const uint8_t *address) { _mm_prefetch((const char *)address + AHEAD_BYTES, _MM_HINT_T0); }

INLINE __m512 fp16_lanes(const uint8_t *halves) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)halves));
}

INLINE void store_bf16(const Product *p, size_t block, size_t row, __m512 total) {
    uint16_t *y = (uint16_t *)p->y + row * p->outputs + block * LANES;
    __mmask16 mask = (__mmask16)((1u << lanes_in_block(p, block)) - 1);
    if (p->bias != NULL) total = _mm512_add_ps(total, _mm512_maskz_loadu_ps(mask, p->bias + block * LANES));
    _mm256_mask_storeu_epi16(y, mask, (__m256i)_mm512_cvtneps_pbh(total));
}

INLINE void int4_tile(const int rows, const Product *p, const Tables *tables, size_t block, size_t row,
                      const float *group_sums) {
    const uint8_t *stream = block_of(p, block);
    const size_t inputs = p->inputs, groups = p->groups;
    const uint16_t *x = (const uint16_t *)p->x + row * inputs;
    __m512 totals[TILE_ROWS];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) totals[r] = _mm512_setzero_ps();
    for (size_t group = 0; group < groups; group++, stream += INT4_GROUP_BYTES) {
        const uint16_t *at = x + group * GROUP;
        __m512 sums[TILE_ROWS];
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) sums[r] = _mm512_setzero_ps();
#pragma GCC unroll 4
        for (int eight = 0; eight < 4; eight++) {
            __m512i codes = _mm512_loadu_si512(stream + eight * 64);
            ahead(stream + eight * 64);
#pragma GCC unroll 4
            for (int pair = 0; pair < 4; pair++) {
                __m512i weights = _mm512_permutexvar_epi16(_mm512_srli_epi16(codes, 4 * pair), tables->nibble);
#pragma GCC unroll 8
                for (int r = 0; r < rows; r++)
                    sums[r] = dot_pair(sums[r], weights, at + r * inputs + eight * 8 + pair * 2);
            }
        }
        ahead(stream + 256);
        __m512 scales = fp16_lanes(stream + 256), minimums = fp16_lanes(stream + 288);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            totals[r] = _mm512_fmadd_ps(sums[r], scales, totals[r]);
            totals[r] = _mm512_fmadd_ps(minimums, _mm512_set1_ps(group_sums[r * groups + group]), totals[r]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) store_bf16(p, block, row + r, totals[r]);
}

INLINE void int8_tile(const int rows, const Product *p, const Tables *tables, size_t block, size_t row,
                      const float *group_sums) {
    const uint8_t *stream = block_of(p, block);
    const size_t inputs = p->inputs, groups = p->groups;
    const uint16_t *x = (const uint16_t *)p->x + row * inputs;
    const __m512i sign = _mm512_set1_epi8((char)0x80);
    __m512 totals[TILE_ROWS];
    (void)group_sums;
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) totals[r] = _mm512_setzero_ps();
    for (size_t group = 0; group < groups; group++, stream += INT8_GROUP_BYTES) {
        const uint16_t *at = x + group * GROUP;
        __m512 sums[TILE_ROWS];
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) sums[r] = _mm512_setzero_ps();
#pragma GCC unroll 8
        for (int four = 0; four < 8; four++) {
            __m512i codes = _mm512_loadu_si512(stream + four * 64);
            ahead(stream + four * 64);
            __m512i low = _mm512_permutex2var_epi8(tables->low0, codes, tables->low1);
            __m512i high = _mm512_permutex2var_epi8(tables->high0, codes, tables->high1);
            high = _mm512_ternarylogic_epi32(high, codes, sign, 0xF8); /* high | (codes & sign) */
            __m512i first = _mm512_unpacklo_epi8(low, high), second = _mm512_unpackhi_epi8(low, high);
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++) sums[r] = dot_pair(sums[r], first, at + r * inputs + four * 4);
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++) sums[r] = dot_pair(sums[r], second, at + r * inputs + four * 4 + 2);
        }
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) totals[r] = _mm512_add_ps(totals[r], sums[r]);
    }
    __m512 scales = _mm512_loadu_ps(stream);
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) store_bf16(p, block, row + r, _mm512_mul_ps(totals[r], scales));
}

/* A function of constant height each, so that sums stay in registers. */
typedef void Tile(const Product *, const Tables *, size_t, size_t, const float *);
#define TILE(kind, rows)                                                                                          \
    static void kind##_##rows(const Product *p, const Tables *tables, size_t block, size_t row, const float *sums) { \
        kind##_tile(rows, p, tables, block, row, sums);                                                           \
    }
#define TILES(kind)                                                                                   \
    TILE(kind, 1) TILE(kind, 2) TILE(kind, 3) TILE(kind, 4) TILE(kind, 5) TILE(kind, 6) TILE(kind, 7) \
    TILE(kind, 8)                                                                                     \
    static Tile *const kind##_tiles[] = {kind##_1, kind##_2, kind##_3, kind##_4,                      \
                                         kind##_5, kind##_6, kind##_7, kind##_8};
TILES(int4)
TILES(int8)

static void sum_groups(const uint16_t *x, size_t count, float *sums) {
    const __m512i ones = _mm512_set1_epi16(0x3f80);
    for (size_t i = 0; i < count; i++) {
        __m512bh inputs = (__m512bh)_mm512_loadu_si512(x + i * GROUP);
        sums[i] = _mm512_reduce_add_ps(_mm512_dpbf16_ps(_mm512_setzero_ps(), inputs, (__m512bh)ones));
    }
}

/* Rows `row` … `row` + `rows` of the outputs of blocks `from` … `to`. */
static void fast_blocks(Tile *const *tiles, const Product *p, size_t from, size_t to, size_t row, size_t rows) {
    const Tables tables = make_tables();
    float sums[rows * p->groups]; /* 16 KiB, and more only for inputs beyond 16,384 */
    sum_groups((const uint16_t *)p->x + row * p->inputs, rows * p->groups, sums);
    for (size_t block = from; block < to; block++)
        for (size_t r = 0; r < rows; r += TILE_ROWS)
            tiles[smaller(rows - r, TILE_ROWS) - 1](p, &tables, block, row + r, sums + r * p->groups);
}
#else
typedef void Tile(void);
#define int4_tiles NULL
#define int8_tiles NULL
#endif

/* ---- entry points ---- */

typedef void Plain(const Product *, size_t, size_t, size_t);

static void plain_blocks(Plain *plain, const Product *p, size_t from, size_t to, size_t row, size_t rows) {
    for (size_t block = from; block < to; block++)
        for (size_t r = 0; r < rows; r += TILE_ROWS) plain(p, block, row + r, smaller(rows - r, TILE_ROWS));
}

static size_t chunk_rows(const Product *p) {
    size_t fitting = CHUNK_BYTES / (p->inputs * (p->wide ? 4 : 2)) / TILE_ROWS * TILE_ROWS;
    return fitting < TILE_ROWS ? TILE_ROWS : fitting;
}

static void multiply(Plain *plain, Tile *const *tiles, const Product *p, int64_t threads) {
    size_t chunk = chunk_rows(p);
    UNUSED_WITHOUT_OPENMP(threads);
#pragma omp parallel num_threads((int)threads) if (threads > 1)
    {
        size_t from, to;
        my_blocks(p, &from, &to);
        for (size_t row = 0; row < p->rows; row += chunk) {
            size_t rows = smaller(p->rows - row, chunk);
#ifdef QUANT_AVX512
            if (!p->wide) {
                fast_blocks(tiles, p, from, to, row, rows);
                continue;
            }
#endif
            (void)tiles;
            plain_blocks(plain, p, from, to, row, rows);
        }
    }
}

#define ENTRY(kind, type, number, wide)                                                                     \
    void quantized_##kind##_##type(const uint8_t *packed, const float *bias, const number *x, number *y,    \
                                   int64_t rows, int64_t inputs, int64_t outputs, int64_t threads) {        \
        Product p = kind##_product(packed, bias, x, y, rows, inputs, outputs, wide);                        \
        multiply(plain_##kind, kind##_tiles, &p, threads);                                                  \
    }
ENTRY(int4, bf16, uint16_t, 0)
ENTRY(int8, bf16, uint16_t, 0)
ENTRY(int4, fp32, float, 1)
ENTRY(int8, fp32, float, 1)
