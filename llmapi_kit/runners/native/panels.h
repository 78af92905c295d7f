/* Products with weights that lie in panels of PANEL outputs, padded with zeros, so that a product streams through them
   once and keeps ROWS x PANEL sums in registers. How weights are stored is chosen where this is compiled. */

#ifdef WEIGHT_BITS
#include "integers.h"
#else
#include "floats.h"
#endif

/* Packed weights, and the bits of each where they are integers. */
typedef struct {
    const weight_t *weights;
    int64_t bits;
} Matrix;

#define AHEAD 8192 /* bytes */
#define CHUNK 131072 /* bytes, about */

int64_t panel_width(void) { return PANEL; }
int64_t vector_width(void) { return LANES; }

/* Elements that a matrix takes; `bits` of integers. */
int64_t packed_size(int64_t bits, int64_t outputs, int64_t inputs) {
    return PADDED(outputs, PANEL) / PANEL * panel_size(bits, inputs);
}

/* Some rows of a packed matrix as floats (num_rows, inputs). */
void unpack(int64_t bits, const weight_t *packed, int64_t inputs, int64_t first, int64_t num_rows, float *out) {
    for (long i = 0; i < num_rows; i++) unpack_row(bits, packed, inputs, first + i, out + i * inputs);
}

/* out (rows, width) = x (rows, depth), rounded, times packed weights, or added to what is there; in whole panels.

   Weights come from beyond the caches, and the processor itself fetches only to the end of a page: left to it, six rows
   would take twice the time. With one group of rows, what lies AHEAD is fetched; a thread takes several panels that
   lie one after the other, as what it fetches at their end is another's. With several groups, a part of the panel after
   this one is fetched beside each. */
INLINE void multiply_by(const int bits, Team *team, long rows, const float *x, long x_stride, const weight_t *packed,
                        long depth, long width, const float *bias, int adds, float *out, long out_stride) {
    if (!rows) return;
    const long num_panels = width / PANEL, groups = (rows + ROWS - 1) / ROWS, size = panel_size(bits, depth);
    const long stride = STRIP * sizeof(weight_t) / groups;
    const long wanted = groups == 1 ? 1 + CHUNK / (size * (long)sizeof(weight_t)) : 1;
    const long shares = 4 * team->num_active, most = (num_panels + shares - 1) / shares;
    const long chunk = wanted < most ? wanted : most;
    SHARED(team, n, num_panels, chunk) {
        const weight_t *panel = packed + n * size;
        const float *own_bias = bias ? bias + n * PANEL : 0;
        const long next = n + team->num_active < num_panels ? n + team->num_active : n;
        const char *ahead = groups == 1 ? (const char *)panel + AHEAD : (const char *)(packed + next * size);
        for (long m = 0; m < rows; m += ROWS, ahead += size / STRIP * stride) {
            const float *from = x + m * x_stride;
            float *to = out + m * out_stride + n * PANEL;
#define CASE(count) \
    case count: tile(bits, count, from, x_stride, panel, depth, own_bias, adds, to, out_stride, ahead, stride); break;
            switch (rows - m) {
                CASE(1) CASE(2) CASE(3) CASE(4) CASE(5)
#if ROWS > 6
                CASE(6) CASE(7)
#endif
                default: tile(bits, ROWS, from, x_stride, panel, depth, own_bias, adds, to, out_stride, ahead, stride);
            }
        }
    }
    barrier(team);
}

/* The same with a matrix that knows its bits. */
static void multiply(Team *team, long rows, const float *x, long x_stride, const Matrix *matrix, long depth, long width,
                     const float *bias, int adds, float *out, long out_stride) {
    const weight_t *packed = matrix->weights;
#if defined(WEIGHT_BITS) && WEIGHT_BITS == 4
    if (matrix->bits == 4) {
        multiply_by(4, team, rows, x, x_stride, packed, depth, width, bias, adds, out, out_stride);
        return;
    }
#endif
    multiply_by(8, team, rows, x, x_stride, packed, depth, width, bias, adds, out, out_stride);
}
