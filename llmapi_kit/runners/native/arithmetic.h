/* Functions of vectors that attention and the step share. */

#include "model.h"

INLINE vec splat(float value) { return value - (vec){0}; }

INLINE float total(vec values) {
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += values[i];
    return sum;
}

/* e^x for x up to 88, to about 1e-7: x / ln 2 = n + r, a polynomial of 2^r, n added to the exponent. */
INLINE vec exponential(vec x) {
    const vec magic = splat(12582912.0f); /* leaves n in the lowest bits of a sum; its own are shifted out */
    x = larger(x, splat(-87.0f));
    const vec shifted = x * 1.44269504f + magic, r = x * 1.44269504f - (shifted - magic);
    vec p = r * 1.5345812426e-4f + 1.3399930904e-3f;
    p = p * r + 9.6184890717e-3f;
    p = p * r + 5.5503286421e-2f;
    p = p * r + 2.4022646248e-1f;
    p = p * r + 6.9314718246e-1f;
    p = p * r + 1.0f;
    return (vec)((ivec)p + ((ivec)shifted << 23));
}

/* cap * tanh(x / cap), to about 1e-7 of cap. */
INLINE vec capped(vec x, float cap) {
    const vec twice = larger(x * (2.0f / cap), splat(-80.0f)); /* as `exponential` takes no more than 88 */
    return cap * (2.0f / (1.0f + exponential(-twice)) - 1.0f);
}

/* x is a whole number of vectors. */
static void cap_all(float *x, long size, float cap) {
    for (long i = 0; i < size; i += LANES) *(vec *)(x + i) = capped(*(const vec *)(x + i), cap);
}

static void normalise(const float *x, const float *weight, long size, float epsilon, float *out) {
    vec squares = {0};
    long i = 0;
    for (; i + LANES <= size; i += LANES) squares += *(const vec *)(x + i) * *(const vec *)(x + i);
    float sum = total(squares);
    for (; i < size; i++) sum += x[i] * x[i];
    const float scale = 1.0f / sqrtf(sum / size + epsilon);
    for (i = 0; i < size; i++) out[i] = x[i] * scale * weight[i];
}
