/* GroupNorm, 2 x 2 max pool (where pool is set) and ReLU of bf16 activations in one go, and its gradient.

Arrays: y [B, H, W, C] and z, gz [B, h, w, C] in bf16, channels last; h, w = H / 2, W / 2 with a pool, else H, W.
weight, bias [C], mean, rstd [B, G] and sums in float. One image's activations stay in a processor's cache between the
passes over them. A normalised value is a*y + b with a, b per image and channel. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define MOST 1024 /* channels */

typedef uint16_t bf16;
typedef struct { int B, H, W, C, G, pool; float eps; } Shape;

INLINE float widen(bf16 value) {
    uint32_t bits = (uint32_t)value << 16;
    float wide;
    memcpy(&wide, &bits, 4);
    return wide;
}

INLINE bf16 narrow(float value) { /* to nearest, ties to even */
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return value != value ? 0x7fc0 : (bf16)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

INLINE float relu(float value) { return value < 0 ? 0 : value; } /* NaN stays NaN */
INLINE float pass(float value, float gradient) { return value > 0 ? gradient : 0; } /* of ReLU */
INLINE float larger(float one, float other) { return one > other ? one : other; }

/* The value of four that a*value + b is largest for. */
INLINE float winner(float a, float v0, float v1, float v2, float v3) {
    float sign = a < 0 ? -1.0f : 1.0f;
    return sign * larger(larger(sign * v0, sign * v1), larger(sign * v2, sign * v3));
}

INLINE void forward_one(const int C, Shape s, const bf16 *restrict y, const float *restrict weight,
                        const float *restrict bias, bf16 *restrict z, float *restrict mean, float *restrict rstd) {
    float sum[MOST], square[MOST], a[MOST], b[MOST];
    const int per_group = C / s.G, pixels = s.H * s.W, h = s.H / 2, w = s.W / 2;
    for (int c = 0; c < C; c++) sum[c] = square[c] = 0;
    for (int p = 0; p < pixels; p++)
        for (int c = 0; c < C; c++) {
            float v = widen(y[p * C + c]);
            sum[c] += v;
            square[c] += v * v;
        }
    for (int g = 0; g < s.G; g++) {
        double first = 0, second = 0, number = (double)per_group * pixels;
        for (int c = g * per_group; c < (g + 1) * per_group; c++) first += sum[c], second += square[c];
        first /= number;
        double variance = second / number - first * first;
        mean[g] = (float)first;
        rstd[g] = (float)(1 / sqrt((variance < 0 ? 0 : variance) + s.eps));
    }
    for (int c = 0; c < C; c++) {
        a[c] = rstd[c / per_group] * weight[c];
        b[c] = bias[c] - mean[c / per_group] * a[c];
    }
    if (!s.pool) {
        for (int p = 0; p < pixels; p++)
            for (int c = 0; c < C; c++) z[p * C + c] = narrow(relu(a[c] * widen(y[p * C + c]) + b[c]));
        return;
    }
    for (int i = 0; i < h; i++)
        for (int j = 0; j < w; j++) {
            const bf16 *top = y + (2 * i * s.W + 2 * j) * C, *low = top + s.W * C;
            for (int c = 0; c < C; c++) {
                float v = winner(a[c], widen(top[c]), widen(top[C + c]), widen(low[c]), widen(low[C + c]));
                z[(i * w + j) * C + c] = narrow(relu(a[c] * v + b[c]));
            }
        }
}

INLINE void backward_one(const int C, Shape s, const bf16 *restrict y, const bf16 *restrict gz,
                         const float *restrict weight, const float *restrict bias, const float *restrict mean,
                         const float *restrict rstd, bf16 *restrict gy, float *restrict gweight,
                         float *restrict gbias) {
    float sum[MOST], product[MOST], a[MOST], b[MOST], slope[MOST], shift[MOST];
    const int per_group = C / s.G, pixels = s.H * s.W, h = s.H / 2, w = s.W / 2;
    for (int c = 0; c < C; c++) {
        sum[c] = product[c] = 0;
        a[c] = rstd[c / per_group] * weight[c];
        b[c] = bias[c] - mean[c / per_group] * a[c];
    }
    if (!s.pool)
        for (int p = 0; p < pixels; p++)
            for (int c = 0; c < C; c++) {
                float v = widen(y[p * C + c]), g = pass(a[c] * v + b[c], widen(gz[p * C + c]));
                sum[c] += g;
                product[c] += g * v;
            }
    else
        for (int i = 0; i < h; i++)
            for (int j = 0; j < w; j++) {
                const bf16 *top = y + (2 * i * s.W + 2 * j) * C, *low = top + s.W * C;
                for (int c = 0; c < C; c++) {
                    float v = winner(a[c], widen(top[c]), widen(top[C + c]), widen(low[c]), widen(low[C + c]));
                    float g = pass(a[c] * v + b[c], widen(gz[(i * w + j) * C + c]));
                    sum[c] += g;
                    product[c] += g * v;
                }
            }
    for (int g = 0; g < s.G; g++) { /* as for any norm: what mean and deviation of the group pass on */
        float first = 0, second = 0, number = (float)per_group * pixels;
        for (int c = g * per_group; c < (g + 1) * per_group; c++) {
            float scaled = rstd[g] * (product[c] - mean[g] * sum[c]);
            gweight[c] += scaled;
            gbias[c] += sum[c];
            first += weight[c] * sum[c];
            second += weight[c] * scaled;
        }
        for (int c = g * per_group; c < (g + 1) * per_group; c++) {
            slope[c] = -rstd[g] * rstd[g] * second / number;
            shift[c] = -rstd[g] * first / number - mean[g] * slope[c];
        }
    }
    if (!s.pool)
        for (int p = 0; p < pixels; p++)
            for (int c = 0; c < C; c++) {
                float v = widen(y[p * C + c]), g = pass(a[c] * v + b[c], widen(gz[p * C + c]));
                gy[p * C + c] = narrow(a[c] * g + slope[c] * v + shift[c]);
            }
    else
        for (int i = 0; i < h; i++)
            for (int j = 0; j < w; j++) {
                const int t = (2 * i * s.W + 2 * j) * C, l = t + s.W * C;
                for (int c = 0; c < C; c++) { /* the first of equal values gets the gradient, as torch's pool */
                    float v0 = widen(y[t + c]), v1 = widen(y[t + C + c]);
                    float v2 = widen(y[l + c]), v3 = widen(y[l + C + c]), v = winner(a[c], v0, v1, v2, v3);
                    float left = a[c] * pass(a[c] * v + b[c], widen(gz[(i * w + j) * C + c]));
                    float g0 = v0 == v ? left : 0;
                    left -= g0;
                    float g1 = v1 == v ? left : 0;
                    left -= g1;
                    float g2 = v2 == v ? left : 0;
                    left -= g2;
                    gy[t + c] = narrow(slope[c] * v0 + shift[c] + g0);
                    gy[t + C + c] = narrow(slope[c] * v1 + shift[c] + g1);
                    gy[l + c] = narrow(slope[c] * v2 + shift[c] + g2);
                    gy[l + C + c] = narrow(slope[c] * v3 + shift[c] + left);
                }
            }
}

/* A constant number of channels lets the compiler use whole registers; 0: any number. */
#define FOR_CHANNELS(C, WORK) \
    switch (C) { \
        case 16: WORK(16); break; \
        case 32: WORK(32); break; \
        case 64: WORK(64); break; \
        case 128: WORK(128); break; \
        case 192: WORK(192); break; \
        default: WORK(C); \
    }

void norm_pool_forward(const Shape *shape, const bf16 *y, const float *weight, const float *bias, bf16 *z, float *mean,
                       float *rstd) {
    const Shape s = *shape;
    const long in = (long)s.H * s.W * s.C, out = s.pool ? in / 4 : in;
#define WORK(C) \
    for (int n = 0; n < s.B; n++) \
        forward_one(C, s, y + n * in, weight, bias, z + n * out, mean + n * s.G, rstd + n * s.G)
    FOR_CHANNELS(s.C, WORK)
#undef WORK
}

void norm_pool_backward(const Shape *shape, const bf16 *y, const bf16 *gz, const float *weight, const float *bias,
                        const float *mean, const float *rstd, bf16 *gy, float *gweight, float *gbias) {
    const Shape s = *shape;
    const long in = (long)s.H * s.W * s.C, out = s.pool ? in / 4 : in;
#define WORK(C) \
    for (int n = 0; n < s.B; n++) \
        backward_one(C, s, y + n * in, gz + n * out, weight, bias, mean + n * s.G, rstd + n * s.G, gy + n * in, \
                     gweight, gbias)
    FOR_CHANNELS(s.C, WORK)
#undef WORK
}
