/* Products of int8 and int4 weights with activations that are rounded to eight bits as well, each row's by groups of
 * 32 inputs with a scale of their own (as llama.cpp does): whole numbers are multiplied, four at a time a lane.
 *
 * One row is not faster than with activations as they are, because it waits for the weights; many rows are.
 * Layouts as in quantized_linear.c, but for the order in a group: four inputs of an output stand side by side.
 *
 * int4 group: 256 bytes of codes 0 … 15, inputs 8i … 8i + 3 of a lane in the low four bits of 4 bytes, 8i + 4 … 8i + 7
 *             in the high ones; 16 fp16 scales, 16 fp16 minimums
 * int8 group: 512 bytes of codes + 128; behind a block's last group 16 fp32 scales
 */
#include "quantized.h"

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
#define DYNAMIC_AVX512 1
#include <immintrin.h>
#endif

/* Rounded activations that a core keeps near, and that lie on the stack. */
enum { CHUNK_BYTES = 64 * 1024, AHEAD_BYTES = 2048 };

/* Activations: codes [rows, inputs]; by row and group their scale and the sum of their codes. */
typedef struct {
    int8_t *codes;
    float *scales;
    int32_t *sums;
} Rounded;

static void round_group(const float x[GROUP], int8_t codes[GROUP], float *scale, int32_t *sum) {
    uint32_t largest = 0;
    int32_t total = 0;
    for (int i = 0; i < GROUP; i++) { /* as whole numbers, magnitudes sort alike, and what is no number is largest */
        uint32_t magnitude = float_to_bits(x[i]) & 0x7fffffffu;
        largest = magnitude > largest ? magnitude : largest;
    }
    *scale = bits_to_float(largest) / 127.0f;
    float divisor = largest == 0 ? 1.0f : *scale;
    for (int i = 0; i < GROUP; i++) {
        /* 1.5 · 2²³ rounds to a whole number, nearest, ties to even, and leaves it in the lowest bits. */
        codes[i] = (int8_t)(float_to_bits(x[i] / divisor + 12582912.0f) & 0xff);
        total += codes[i];
    }
    *sum = total;
}

/* Row `from` of x as row `to` of rounded ones. */
static void round_row(const Product *p, size_t from, size_t to, const Rounded *rounded) {
    float x[GROUP];
    for (size_t group = 0; group < p->groups; group++) {
        size_t at = to * p->groups + group;
        read_group(p, from, group, x);
        round_group(x, rounded->codes + at * GROUP, rounded->scales + at, rounded->sums + at);
    }
}

/* `rows` rows of one block's outputs: of rounded ones from `first` on, to y from `row` on. */
typedef void Tile(const Product *, const Rounded *, size_t block, size_t first, size_t row, size_t rows);

#ifdef DYNAMIC_AVX512
INLINE void ahead(const uint8_t *address) { _mm_prefetch((const char *)address + AHEAD_BYTES, _MM_HINT_T0); }

INLINE __m512 fp16_lanes(const uint8_t *halves) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)halves));
}

INLINE __m512i dot_four(__m512i sum, __m512i weights, const int8_t *x) {
    int four;
    memcpy(&four, x, sizeof four);
    return _mm512_dpbusd_epi32(sum, weights, _mm512_set1_epi32(four));
}

INLINE void write_sums(const Product *p, size_t row, size_t block, __m512 sums) {
    float totals[LANES];
    _mm512_storeu_ps(totals, sums);
    write_lanes(p, row, block, totals);
}

INLINE void int4_tile(const size_t rows, const Product *p, const Rounded *x, size_t block, size_t first, size_t row) {
    const uint8_t *stream = block_of(p, block);
    const __m512i low = _mm512_set1_epi8(15);
    const size_t groups = p->groups;
    __m512 totals[TILE_ROWS];
#pragma GCC unroll 8
    for (size_t r = 0; r < rows; r++) totals[r] = _mm512_setzero_ps();
    for (size_t group = 0; group < groups; group++, stream += INT4_GROUP_BYTES) {
        const size_t at = first * groups + group;
        __m512i sums[TILE_ROWS];
#pragma GCC unroll 8
        for (size_t r = 0; r < rows; r++) sums[r] = _mm512_setzero_si512();
#pragma GCC unroll 4
        for (int eight = 0; eight < GROUP / 8; eight++) {
            __m512i both = _mm512_loadu_si512(stream + eight * 64);
            ahead(stream + eight * 64);
            __m512i front = _mm512_and_si512(both, low), back = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
#pragma GCC unroll 8
            for (size_t r = 0; r < rows; r++) {
                const int8_t *codes = x->codes + (at + r * groups) * GROUP + eight * 8;
                sums[r] = dot_four(dot_four(sums[r], front, codes), back, codes + 4);
            }
        }
        ahead(stream + 256);
        __m512 scales = fp16_lanes(stream + 256), minimums = fp16_lanes(stream + 288);
#pragma GCC unroll 8
        for (size_t r = 0; r < rows; r++) {
            __m512 all = _mm512_set1_ps((float)x->sums[at + r * groups]);
            __m512 sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[r]), scales, _mm512_mul_ps(minimums, all));
            totals[r] = _mm512_fmadd_ps(sum, _mm512_set1_ps(x->scales[at + r * groups]), totals[r]);
        }
    }
#pragma GCC unroll 8
    for (size_t r = 0; r < rows; r++) write_sums(p, row + r, block, totals[r]);
}

INLINE void int8_tile(const size_t rows, const Product *p, const Rounded *x, size_t block, size_t first, size_t row) {
    const uint8_t *stream = block_of(p, block);
    const size_t groups = p->groups;
    __m512 totals[TILE_ROWS];
#pragma GCC unroll 8
    for (size_t r = 0; r < rows; r++) totals[r] = _mm512_setzero_ps();
    for (size_t group = 0; group < groups; group++, stream += INT8_GROUP_BYTES) {
        const size_t at = first * groups + group;
        __m512i sums[TILE_ROWS];
#pragma GCC unroll 8
        for (size_t r = 0; r < rows; r++) sums[r] = _mm512_set1_epi32(-128 * x->sums[at + r * groups]);
#pragma GCC unroll 8
        for (int four = 0; four < GROUP / 4; four++) {
            __m512i weights = _mm512_loadu_si512(stream + four * 64);
            ahead(stream + four * 64);
#pragma GCC unroll 8
            for (size_t r = 0; r < rows; r++)
                sums[r] = dot_four(sums[r], weights, x->codes + (at + r * groups) * GROUP + four * 4);
        }
#pragma GCC unroll 8
        for (size_t r = 0; r < rows; r++)
            totals[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[r]), _mm512_set1_ps(x->scales[at + r * groups]), totals[r]);
    }
    __m512 scales = _mm512_loadu_ps(stream);
#pragma GCC unroll 8
    for (size_t r = 0; r < rows; r++) write_sums(p, row + r, block, _mm512_mul_ps(totals[r], scales));
}

/* Of constant height each, so that sums stay in registers. */
#define HEIGHTS(kind)                                                                                              \
    static void tile_##kind(const Product *p, const Rounded *x, size_t block, size_t first, size_t row, size_t rows) { \
        switch (rows) {                                                                                            \
            case 1: kind##_tile(1, p, x, block, first, row); break;                                                \
            case 2: kind##_tile(2, p, x, block, first, row); break;                                                \
            case 3: kind##_tile(3, p, x, block, first, row); break;                                                \
            case 4: kind##_tile(4, p, x, block, first, row); break;                                                \
            case 5: kind##_tile(5, p, x, block, first, row); break;                                                \
            case 6: kind##_tile(6, p, x, block, first, row); break;                                                \
            case 7: kind##_tile(7, p, x, block, first, row); break;                                                \
            default: kind##_tile(TILE_ROWS, p, x, block, first, row);                                              \
        }                                                                                                          \
    }
HEIGHTS(int4)
HEIGHTS(int8)
#else
static void unpack_int4(const uint8_t *group, int32_t weights[GROUP][LANES]) {
    for (int eight = 0; eight < GROUP / 8; eight++)
        for (int lane = 0; lane < LANES; lane++)
            for (int i = 0; i < 4; i++) {
                uint8_t both = group[eight * 64 + lane * 4 + i];
                weights[eight * 8 + i][lane] = both & 15;
                weights[eight * 8 + 4 + i][lane] = both >> 4;
            }
}

static void unpack_int8(const uint8_t *group, int32_t weights[GROUP][LANES]) {
    for (int four = 0; four < GROUP / 4; four++)
        for (int lane = 0; lane < LANES; lane++)
            for (int i = 0; i < 4; i++) weights[four * 4 + i][lane] = group[four * 64 + lane * 4 + i] - 128;
}

static void dot_group(const int8_t *x, int32_t weights[GROUP][LANES], int32_t sums[LANES]) {
    memset(sums, 0, LANES * sizeof(int32_t));
    for (int input = 0; input < GROUP; input++)
        for (int lane = 0; lane < LANES; lane++) sums[lane] += x[input] * weights[input][lane];
}

static void tile_int4(const Product *p, const Rounded *x, size_t block, size_t first, size_t row, size_t rows) {
    const uint8_t *stream = block_of(p, block);
    float totals[TILE_ROWS][LANES] = {{0}};
    int32_t weights[GROUP][LANES], sums[LANES];
    for (size_t group = 0; group < p->groups; group++, stream += INT4_GROUP_BYTES) {
        uint16_t halves[2 * LANES];
        memcpy(halves, stream + 256, sizeof halves);
        unpack_int4(stream, weights);
        for (size_t r = 0; r < rows; r++) {
            size_t at = (first + r) * p->groups + group;
            dot_group(x->codes + at * GROUP, weights, sums);
            for (int lane = 0; lane < LANES; lane++) {
                float lowest = fp16_to_float(halves[LANES + lane]) * (float)x->sums[at];
                totals[r][lane] += ((float)sums[lane] * fp16_to_float(halves[lane]) + lowest) * x->scales[at];
            }
        }
    }
    for (size_t r = 0; r < rows; r++) write_lanes(p, row + r, block, totals[r]);
}

static void tile_int8(const Product *p, const Rounded *x, size_t block, size_t first, size_t row, size_t rows) {
    const uint8_t *stream = block_of(p, block);
    float totals[TILE_ROWS][LANES] = {{0}}, scales[LANES];
    int32_t weights[GROUP][LANES], sums[LANES];
    for (size_t group = 0; group < p->groups; group++, stream += INT8_GROUP_BYTES) {
        unpack_int8(stream, weights);
        for (size_t r = 0; r < rows; r++) {
            size_t at = (first + r) * p->groups + group;
            dot_group(x->codes + at * GROUP, weights, sums);
            for (int lane = 0; lane < LANES; lane++) totals[r][lane] += (float)sums[lane] * x->scales[at];
        }
    }
    memcpy(scales, stream, sizeof scales);
    for (size_t r = 0; r < rows; r++) {
        for (int lane = 0; lane < LANES; lane++) totals[r][lane] *= scales[lane];
        write_lanes(p, row + r, block, totals[r]);
    }
}
#endif

static size_t chunk_rows(const Product *p) {
    size_t fitting = CHUNK_BYTES / p->inputs / TILE_ROWS * TILE_ROWS;
    return smaller(fitting < TILE_ROWS ? TILE_ROWS : fitting, p->rows);
}

static void multiply(Tile *tile, const Product *p, int64_t threads) {
    const size_t chunk = chunk_rows(p);
    int8_t codes[chunk * p->inputs];
    float scales[chunk * p->groups];
    int32_t sums[chunk * p->groups];
    const Rounded rounded = {codes, scales, sums};
    UNUSED_WITHOUT_OPENMP(threads);
#pragma omp parallel num_threads((int)threads) if (threads > 1)
    {
        size_t from, to;
        my_blocks(p, &from, &to);
        for (size_t row = 0; row < p->rows; row += chunk) {
            size_t rows = smaller(p->rows - row, chunk);
#pragma omp for
            for (size_t r = 0; r < rows; r++) round_row(p, row + r, r, &rounded);
            for (size_t block = from; block < to; block++)
                for (size_t r = 0; r < rows; r += TILE_ROWS)
                    tile(p, &rounded, block, r, row + r, smaller(rows - r, TILE_ROWS));
#pragma omp barrier
        }
    }
}

#define ENTRY(kind, type, number, wide)                                                                       \
    void quantized_##kind##_dynamic_##type(const uint8_t *packed, const float *bias, const number *x,         \
                                           number *y, int64_t rows, int64_t inputs, int64_t outputs,          \
                                           int64_t threads) {                                                 \
        Product p = kind##_product(packed, bias, x, y, rows, inputs, outputs, wide);                          \
        if (rows > 0) multiply(tile_##kind, &p, threads);                                                     \
    }
ENTRY(int4, bf16, uint16_t, 0)
ENTRY(int8, bf16, uint16_t, 0)
ENTRY(int4, fp32, float, 1)
ENTRY(int8, fp32, float, 1)
