/* Vectors of LANES floats, as wide as the processor has them, and how numbers of 16 bits become such. */

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif
#if defined(__AVX512F__)
#define LANES 16
#define ROWS 8
#elif defined(__AVX__)
#define LANES 8
#define ROWS 6
#else
#define LANES 4
#define ROWS 8
#endif
#define VECTORS 2
#define PANEL (LANES * VECTORS)
#define INLINE static inline __attribute__((always_inline))
#define PADDED(n, to) (((n) + (to) - 1) / (to) * (to))

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t bits __attribute__((may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int16_t half_vec __attribute__((vector_size(2 * LANES), aligned(2), may_alias));
typedef uint16_t short_vec __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

INLINE vec load_float(const float *from) { return *(const vec *)from; }
INLINE vec load_bfloat16(const uint16_t *from) {
    return (vec)(__builtin_convertvector(*(const short_vec *)from, ivec) << 16);
}
#if defined(__AVX512F__) /* gcc 12 converts bytes one by one otherwise */
INLINE vec load_int8(const int8_t *from) {
    return (vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)from)));
}
#elif defined(__AVX2__)
INLINE vec load_int8(const int8_t *from) {
    return (vec)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)from)));
}
#else
typedef int8_t byte_vec __attribute__((vector_size(LANES), aligned(1), may_alias));
INLINE vec load_int8(const int8_t *from) { return __builtin_convertvector(*(const byte_vec *)from, vec); }
#endif
INLINE float widen_float16(uint16_t value) { /* by hand: compilers have had a type for it only since gcc 12 */
    const uint32_t sign = (uint32_t)(value & 0x8000) << 16, rest = value & 0x7fff;
    uint32_t bits = (rest << 13) + (rest < 0x7c00 ? 0x38000000 : 0x70000000);
    float wide;
    if (rest < 0x400) { /* a number too small for an exponent: 2^-24 of its value */
        wide = (float)rest * 5.9604644775390625e-8f;
        memcpy(&bits, &wide, 4);
    }
    bits |= sign;
    memcpy(&wide, &bits, 4);
    return wide;
}
#if defined(__AVX512F__)
INLINE vec load_float16(const uint16_t *from) {
    return (vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)from));
}
#elif defined(__F16C__) && LANES == 8
INLINE vec load_float16(const uint16_t *from) {
    return (vec)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)from));
}
#else
INLINE vec load_float16(const uint16_t *from) {
    vec wide;
    for (int i = 0; i < LANES; i++) wide[i] = widen_float16(from[i]);
    return wide;
}
#endif
INLINE float widen_bfloat16(uint16_t value) {
    const uint32_t bits = (uint32_t)value << 16;
    float wide;
    memcpy(&wide, &bits, 4);
    return wide;
}
INLINE uint16_t narrow_to_bfloat16(float value) { /* to the nearest, ties to even */
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return value != value ? 0x7fc0 : (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
INLINE vec smaller(vec a, vec b) {
    vec least;
    for (int i = 0; i < LANES; i++) least[i] = a[i] < b[i] ? a[i] : b[i];
    return least;
}
INLINE vec larger(vec a, vec b) {
    vec most;
    for (int i = 0; i < LANES; i++) most[i] = a[i] > b[i] ? a[i] : b[i];
    return most;
}
