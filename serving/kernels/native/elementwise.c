/* What stands between a layer's products, on a CPU. Each rounds where torch's own operators round.
 *
 * Numbers are bf16 or fp32; sums are fp32. A row is computed by one thread and by the same instructions whatever
 * stands beside it, so that it does not depend on the batch.
 */
#include "numbers.h"

/* silu(gate) · up of [rows][2 · size], the gate in front; rounded after silu, as torch rounds between operators. */
static void silu_mul_row_bf16(const uint16_t *gate_up, uint16_t *gated, int64_t size) {
    for (int64_t i = 0; i < size; i++) {
        float gate = bf16_to_float(gate_up[i]);
        float opened = round_to_bf16(gate / (1.0f + exp_float(-gate)));
        gated[i] = float_to_bf16(opened * bf16_to_float(gate_up[size + i]));
    }
}

static void silu_mul_row_fp32(const float *gate_up, float *gated, int64_t size) {
    for (int64_t i = 0; i < size; i++)
        gated[i] = gate_up[i] / (1.0f + exp_float(-gate_up[i])) * gate_up[size + i];
}

void silu_mul_bf16(const uint16_t *gate_up, uint16_t *gated, int64_t rows, int64_t size, int64_t threads) {
    UNUSED_WITHOUT_OPENMP(threads);
#pragma omp parallel for num_threads((int)threads) if (threads > 1 && rows > 1)
    for (int64_t row = 0; row < rows; row++)
        silu_mul_row_bf16(gate_up + row * 2 * size, gated + row * size, size);
}

void silu_mul_fp32(const float *gate_up, float *gated, int64_t rows, int64_t size, int64_t threads) {
    UNUSED_WITHOUT_OPENMP(threads);
#pragma omp parallel for num_threads((int)threads) if (threads > 1 && rows > 1)
    for (int64_t row = 0; row < rows; row++)
        silu_mul_row_fp32(gate_up + row * 2 * size, gated + row * size, size);
}
