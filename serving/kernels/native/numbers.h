/* Numbers that C has no types for, and an exponential that compilers turn into vectors. */
#ifndef COSTWATCH_NUMBERS_H
#define COSTWATCH_NUMBERS_H

#include <stdint.h>
#include <string.h>
#ifdef _OPENMP
#define UNUSED_WITHOUT_OPENMP(argument)
#else
#define UNUSED_WITHOUT_OPENMP(argument) (void)(argument)
#endif

/* A tensor's numbers; serving/kernels/native.py names them likewise. */
enum { FP32, BF16, INT8, E4M3 };

#define INLINE static inline __attribute__((always_inline, unused))

INLINE float bits_to_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

INLINE uint32_t float_to_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

INLINE float bf16_to_float(uint16_t half) { return bits_to_float((uint32_t)half << 16); }

INLINE uint16_t float_to_bf16(float value) { /* nearest, ties to even; a NaN stays one */
    uint32_t bits = float_to_bits(value);
    uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1)) >> 16;
    uint32_t nan = (bits >> 16) | 0x40;
    return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
}

INLINE float e4m3_to_float(uint8_t code) { /* one sign, four exponent and three mantissa bits; no infinity */
    uint32_t magnitude = code & 0x7f, sign = (uint32_t)(code & 0x80) << 24;
    float scaled = bits_to_float(magnitude << 20) * 0x1p120f; /* the exponents' biases differ by 120 */
    uint32_t bits = magnitude == 0x7f ? 0x7fc00000u : float_to_bits(scaled);
    return bits_to_float(bits | sign);
}

INLINE uint8_t float_to_e4m3(float value) { /* nearest, ties to even; 448 beyond 448, as a GPU has it; a NaN stays one */
    uint32_t bits = float_to_bits(value), sign = bits >> 24 & 0x80, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return (uint8_t)(sign | 0x7f);
    if (magnitude >= 0x43e00000u) return (uint8_t)(sign | 0x7e);
    if (magnitude < 0x3c800000u) { /* below 2^-6: steps of 2^-9, which adding 2^14 leaves in the last place */
        float shifted = bits_to_float(magnitude) + 0x1p14f;
        return (uint8_t)(sign | (float_to_bits(shifted) - float_to_bits(0x1p14f)));
    }
    magnitude += ((uint32_t)(7 - 127) << 23) + 0x7ffffu + (magnitude >> 20 & 1);
    return (uint8_t)(sign | magnitude >> 20);
}

INLINE float round_to_bf16(float value) { return bf16_to_float(float_to_bf16(value)); }

/* e^x to about two units in the last place: 2^n · e^r with |r| ≤ ln 2 / 2. Below -87.3 it is 0, above 88.7 infinite. */
INLINE float exp_float(float x) {
    float clamped = x < -88.0f ? -88.0f : x > 89.0f ? 89.0f : x;
    float shifted = clamped * 1.44269504f + 12582912.0f; /* 1.5 · 2²³: rounds to a whole number */
    float n = shifted - 12582912.0f;
    float r = clamped - n * 0.693359375f;
    r -= n * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    /* Two factors, because 2^128 is no float and 2^-127 no normal one. */
    int32_t whole = (int32_t)n, half = whole >> 1;
    float scaled = p * bits_to_float((uint32_t)(half + 127) << 23) *
                   bits_to_float((uint32_t)(whole - half + 127) << 23);
    return x < -87.33654f ? 0.0f : x != x ? x : scaled;
}

#endif
