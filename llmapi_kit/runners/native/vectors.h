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
