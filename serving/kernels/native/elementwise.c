/* What stands between a layer's products, on a CPU. Each rounds where torch's own operators round.
 *
 * Numbers are bf16 or fp32; sums are fp32. A row is computed by one thread and by the same instructions whatever
 * stands beside it, so that it does not depend on the batch.
 */
#include <math.h>
#include <stddef.h>

#include "numbers.h"

INLINE float load(const void *numbers, int64_t dtype, int64_t i) {
    return dtype == BF16 ? bf16_to_float(((const uint16_t *)numbers)[i]) : ((const float *)numbers)[i];
}

INLINE float rounded(float value, int64_t dtype) { return dtype == BF16 ? round_to_bf16(value) : value; }

INLINE void put(void *numbers, int64_t dtype, int64_t i, float value) {
    if (dtype == BF16)
        ((uint16_t *)numbers)[i] = float_to_bf16(value);
    else
        ((float *)numbers)[i] = value;
}

/* hidden + added → total, and total's root mean square norm times weight → normed. added may be NULL, then total is not
 * written; else added may be total. */
INLINE void add_rms_norm_row(const int64_t dtype, const void *hidden, const void *added, const void *weight, void *total,
                             void *normed, int64_t row, int64_t size, float eps) {
    const int64_t start = row * size;
    const void *summed = added == NULL ? hidden : total;
    float squares = 0.0f;
    if (added != NULL)
        for (int64_t i = start; i < start + size; i++)
            put(total, dtype, i, load(hidden, dtype, i) + load(added, dtype, i));
#pragma omp simd reduction(+ : squares)
    for (int64_t i = start; i < start + size; i++) {
        const float value = load(summed, dtype, i);
        squares += value * value;
    }
    const float factor = 1.0f / sqrtf(squares / (float)size + eps);
    for (int64_t i = 0; i < size; i++) {
        const float value = rounded(load(summed, dtype, start + i) * factor, dtype);
        put(normed, dtype, start + i, value * load(weight, dtype, i));
    }
}

void add_rms_norm(const void *hidden, const void *added, const void *weight, void *total, void *normed, int64_t rows,
                  int64_t size, float eps, int64_t dtype, int64_t threads) {
    UNUSED_WITHOUT_OPENMP(threads);
#pragma omp parallel for num_threads((int)threads) if (threads > 1 && rows > 1)
    for (int64_t row = 0; row < rows; row++) {
        if (dtype == BF16)
            add_rms_norm_row(BF16, hidden, added, weight, total, normed, row, size, eps);
        else
            add_rms_norm_row(FP32, hidden, added, weight, total, normed, row, size, eps);
    }
}

/* silu(gate) · up of [rows][2 · size], the gate in front; rounded after silu, as torch rounds between operators. */
INLINE void silu_mul_row(const int64_t dtype, const void *gate_up, void *gated, int64_t row, int64_t size) {
    const int64_t gates = row * 2 * size, ups = gates + size;
    for (int64_t i = 0; i < size; i++) {
        const float gate = load(gate_up, dtype, gates + i);
        const float opened = rounded(gate / (1.0f + exp_float(-gate)), dtype);
        put(gated, dtype, row * size + i, opened * load(gate_up, dtype, ups + i));
    }
}

void silu_mul(const void *gate_up, void *gated, int64_t rows, int64_t size, int64_t dtype, int64_t threads) {
    UNUSED_WITHOUT_OPENMP(threads);
#pragma omp parallel for num_threads((int)threads) if (threads > 1 && rows > 1)
    for (int64_t row = 0; row < rows; row++) {
        if (dtype == BF16)
            silu_mul_row(BF16, gate_up, gated, row, size);
        else
            silu_mul_row(FP32, gate_up, gated, row, size);
    }
}

typedef struct {
    const void *query, *key, *value;
    const void *cosines, *sines; /* NULL: nothing is turned */
    void *turned;
    void *keys, *values;
    float *key_scales, *value_scales;
    const int64_t *slots;
    int64_t query_stride, key_stride, value_stride; /* numbers from row to row */
    int64_t heads, kv_heads, head_dim, cache_dtype;
} Rows;

enum { MAX_DIM = 256 };

/* One head turned by its row's angles. Each product and the sum are rounded, as plain torch does it. */
INLINE void turn(const int64_t dtype, const Rows *rows, int64_t row, const void *heads, int64_t start, float *turned) {
    const int64_t half = rows->head_dim / 2, angles = row * rows->head_dim;
    if (rows->cosines == NULL) {
        for (int64_t i = 0; i < rows->head_dim; i++) turned[i] = load(heads, dtype, start + i);
        return;
    }
    for (int64_t i = 0; i < half; i++) {
        const float first = load(heads, dtype, start + i), second = load(heads, dtype, start + half + i);
        const float cosine = load(rows->cosines, dtype, angles + i), sine = load(rows->sines, dtype, angles + i);
        turned[i] = rounded(rounded(first * cosine, dtype) - rounded(second * sine, dtype), dtype);
        turned[half + i] = rounded(rounded(second * cosine, dtype) + rounded(first * sine, dtype), dtype);
    }
}

/* One head to its place in the cache, rounded as the cache is. */
INLINE void keep(const Rows *rows, const float *head, void *blocks, float *scales, int64_t place) {
    const int64_t size = rows->head_dim, start = place * size;
    if (rows->cache_dtype == INT8) {
        float largest = 0.0f;
        for (int64_t i = 0; i < size; i++) largest = fabsf(head[i]) > largest ? fabsf(head[i]) : largest;
        const float scale = largest / 127.0f, divisor = scale > 0.0f ? scale : 1.0f;
        scales[place] = scale;
        for (int64_t i = 0; i < size; i++) ((int8_t *)blocks)[start + i] = (int8_t)rintf(head[i] / divisor);
    } else if (rows->cache_dtype == E4M3) {
        for (int64_t i = 0; i < size; i++) ((uint8_t *)blocks)[start + i] = float_to_e4m3(head[i]);
    } else {
        for (int64_t i = 0; i < size; i++) put(blocks, rows->cache_dtype, start + i, head[i]);
    }
}

INLINE void rotate_and_cache_row(const int64_t dtype, const Rows *rows, int64_t row) {
    const int64_t size = rows->head_dim;
    float head[MAX_DIM];
    for (int64_t h = 0; h < rows->heads; h++) {
        turn(dtype, rows, row, rows->query, row * rows->query_stride + h * size, head);
        for (int64_t i = 0; i < size; i++) put(rows->turned, dtype, (row * rows->heads + h) * size + i, head[i]);
    }
    for (int64_t h = 0; h < rows->kv_heads; h++) {
        const int64_t place = rows->slots[row] * rows->kv_heads + h, value = row * rows->value_stride + h * size;
        turn(dtype, rows, row, rows->key, row * rows->key_stride + h * size, head);
        keep(rows, head, rows->keys, rows->key_scales, place);
        for (int64_t i = 0; i < size; i++) head[i] = load(rows->value, dtype, value + i);
        keep(rows, head, rows->values, rows->value_scales, place);
    }
}

/* Turns queries and keys by their rows' angles; writes keys and values to the slots of their rows. */
void rotate_and_cache(const void *query, const void *key, const void *value, const void *cosines, const void *sines,
                      void *turned, void *keys, void *values, float *key_scales, float *value_scales,
                      const int64_t *slots, int64_t query_stride, int64_t key_stride, int64_t value_stride,
                      int64_t count, int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t dtype,
                      int64_t cache_dtype, int64_t threads) {
    const Rows rows = {query,        key,        value,        cosines,    sines,      turned,
                       keys,         values,     key_scales,   value_scales, slots,    query_stride,
                       key_stride,   value_stride, heads,      kv_heads,   head_dim,   cache_dtype};
    UNUSED_WITHOUT_OPENMP(threads);
#pragma omp parallel for num_threads((int)threads) if (threads > 1 && count > 1)
    for (int64_t row = 0; row < count; row++) {
        if (dtype == BF16)
            rotate_and_cache_row(BF16, &rows, row);
        else
            rotate_and_cache_row(FP32, &rows, row);
    }
}
