/* Products of bf16 activations with bf16 weights: y = x · Wᵀ + bias, sums in fp32, rounded once.
 *
 * The layout (serving/layers/linear.py writes it): 32 output rows are a panel; in it the inputs come in pairs, and for
 * each pair stand the 32 outputs' two weights side by side, 128 bytes. A product reads panel after panel, front to back.
 *
 * What a row gets does not depend, to the bit, on how many rows there are, nor on the threads: each (row, output) is
 * summed over the pairs in order, in one lane, by the same instructions whatever stands beside it. So a token gets the
 * same hidden row whether it is decoded alone, in a batch, or as part of a prompt.
 */
#include <stddef.h>

#include "numbers.h"
#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define LINEAR_AVX512 1
#include <immintrin.h>
#endif

enum { PANEL = 32, PAIR_BYTES = 128, CHUNK_BYTES = 512 * 1024 };

typedef struct {
    const uint16_t *packed;
    const float *bias; /* may be NULL */
    size_t inputs, outputs;
} Weight;

static size_t panel_outputs(const Weight *weight, size_t panel) {
    size_t left = weight->outputs - panel * PANEL;
    return left < PANEL ? left : PANEL;
}

#ifdef LINEAR_AVX512
enum { TILE_ROWS = 12, AHEAD = 2048 };

INLINE void store(const Weight *weight, size_t panel, uint16_t *y, __m512 low, __m512 high) {
    const uint32_t mask = (uint32_t)((1ull << panel_outputs(weight, panel)) - 1);
    if (weight->bias != NULL) {
        const float *bias = weight->bias + panel * PANEL;
        low = _mm512_add_ps(low, _mm512_maskz_loadu_ps((__mmask16)mask, bias));
        high = _mm512_add_ps(high, _mm512_maskz_loadu_ps((__mmask16)(mask >> 16), bias + 16));
    }
    __m512i both = (__m512i)_mm512_cvtne2ps_pbh(high, low);
    _mm512_mask_storeu_epi16(y + panel * PANEL, mask, both);
}

/* `rows` is a constant where this is inlined, so that the sums stay in registers. */
INLINE void tile(const int rows, const Weight *weight, size_t panel, const uint16_t *x, uint16_t *y) {
    const size_t inputs = weight->inputs;
    const char *stream = (const char *)(weight->packed + panel * PANEL * inputs);
    __m512 low[TILE_ROWS], high[TILE_ROWS];
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++) low[r] = high[r] = _mm512_setzero_ps();
#pragma GCC unroll 2
    for (size_t input = 0; input < inputs; input += 2, stream += PAIR_BYTES) {
        const __m512bh first = (__m512bh)_mm512_loadu_si512(stream);
        const __m512bh second = (__m512bh)_mm512_loadu_si512(stream + 64);
        _mm_prefetch(stream + AHEAD, _MM_HINT_T0);
        _mm_prefetch(stream + AHEAD + 64, _MM_HINT_T0);
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) {
            int32_t pair;
            memcpy(&pair, x + (size_t)r * inputs + input, sizeof pair);
            const __m512bh inputs_of_row = (__m512bh)_mm512_set1_epi32(pair);
            low[r] = _mm512_dpbf16_ps(low[r], first, inputs_of_row);
            high[r] = _mm512_dpbf16_ps(high[r], second, inputs_of_row);
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++) store(weight, panel, y + (size_t)r * weight->outputs, low[r], high[r]);
}
#else
enum { TILE_ROWS = 4 };

INLINE void tile(const int rows, const Weight *weight, size_t panel, const uint16_t *x, uint16_t *y) {
    const size_t inputs = weight->inputs, lanes = panel_outputs(weight, panel);
    const char *stream = (const char *)(weight->packed + panel * PANEL * inputs);
    float sums[TILE_ROWS][PANEL] = {{0}};
    for (size_t input = 0; input < inputs; input += 2, stream += PAIR_BYTES) {
        uint32_t pairs[PANEL];
        memcpy(pairs, stream, sizeof pairs);
        for (int r = 0; r < rows; r++) {
            const float first = bf16_to_float(x[(size_t)r * inputs + input]);
            const float second = bf16_to_float(x[(size_t)r * inputs + input + 1]);
            for (int lane = 0; lane < PANEL; lane++) {
                sums[r][lane] += first * bits_to_float(pairs[lane] << 16);
                sums[r][lane] += second * bits_to_float(pairs[lane] & 0xffff0000u);
            }
        }
    }
    for (int r = 0; r < rows; r++)
        for (size_t lane = 0; lane < lanes; lane++) {
            const size_t output = panel * PANEL + lane;
            const float bias = weight->bias == NULL ? 0.0f : weight->bias[output];
            y[(size_t)r * weight->outputs + output] = float_to_bf16(sums[r][lane] + bias);
        }
}
#endif

typedef void Tile(const Weight *, size_t, const uint16_t *, uint16_t *);
#define TILE(rows)                                                                               \
    static void tile_##rows(const Weight *weight, size_t panel, const uint16_t *x, uint16_t *y) { \
        tile(rows, weight, panel, x, y);                                                         \
    }
TILE(1) TILE(2) TILE(3) TILE(4)
#ifdef LINEAR_AVX512
TILE(5) TILE(6) TILE(7) TILE(8) TILE(9) TILE(10) TILE(11) TILE(12)
static Tile *const tiles[] = {tile_1, tile_2, tile_3, tile_4,  tile_5,  tile_6,
                              tile_7, tile_8, tile_9, tile_10, tile_11, tile_12};
#else
static Tile *const tiles[] = {tile_1, tile_2, tile_3, tile_4};
#endif

static void panels(const Weight *weight, size_t from, size_t to, const uint16_t *x, uint16_t *y, size_t rows) {
    for (size_t panel = from; panel < to; panel++)
        for (size_t row = 0; row < rows; row += TILE_ROWS) {
            const size_t count = rows - row < TILE_ROWS ? rows - row : TILE_ROWS;
            tiles[count - 1](weight, panel, x + row * weight->inputs, y + row * weight->outputs);
        }
}

/* So many rows that they stay in a core's second cache while all of its weights pass by. */
static size_t chunk_rows(const Weight *weight) {
    const size_t fitting = CHUNK_BYTES / (weight->inputs * sizeof(uint16_t)) / TILE_ROWS * TILE_ROWS;
    return fitting < TILE_ROWS ? TILE_ROWS : fitting;
}

/* x [rows][inputs] → y [rows][outputs]; inputs are even. */
void linear_bf16(const uint16_t *packed, const float *bias, const uint16_t *x, uint16_t *y, int64_t rows,
                 int64_t inputs, int64_t outputs, int64_t threads) {
    const Weight weight = {packed, bias, (size_t)inputs, (size_t)outputs};
    const size_t chunk = chunk_rows(&weight), all = (weight.outputs + PANEL - 1) / PANEL;
    UNUSED_WITHOUT_OPENMP(threads);
#pragma omp parallel num_threads((int)threads)
    {
        size_t mine = 0, team = 1;
#ifdef _OPENMP
        mine = (size_t)omp_get_thread_num();
        team = (size_t)omp_get_num_threads();
#endif
        for (size_t row = 0; row < (size_t)rows; row += chunk) {
            const size_t left = (size_t)rows - row;
            panels(&weight, all * mine / team, all * (mine + 1) / team, x + row * weight.inputs,
                   y + row * weight.outputs, left < chunk ? left : chunk);
        }
    }
}

/* Rows of the weight as they were before they were packed, for embeddings that share it: [count][inputs]. */
void linear_rows(const uint16_t *packed, const int64_t *ids, uint16_t *rows, int64_t count, int64_t inputs) {
    for (int64_t i = 0; i < count; i++) {
        const uint16_t *pair = packed + ids[i] / PANEL * PANEL * inputs + ids[i] % PANEL * 2;
        for (int64_t input = 0; input < inputs; input += 2, pair += 2 * PANEL)
            memcpy(rows + i * inputs + input, pair, 2 * sizeof(uint16_t));
    }
}
