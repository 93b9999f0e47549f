/* total[i] += weights[0] * values[0][i], then += weights[1] * values[1][i], and so on, in double.

A few sums stay in registers while all arrays are read, so that memory is what it waits for. Each product and each sum
is rounded by itself: compile with -ffp-contract=off. total [elements], values [arrays] of float [elements]. */
#include <stddef.h>

#define LANES 16

void add_scaled(double *restrict total, const float *const *values, const double *weights, int arrays,
                size_t elements) {
    size_t start = 0;
    for (; start + LANES <= elements; start += LANES) {
        double sum[LANES];
        for (int lane = 0; lane < LANES; lane++) sum[lane] = total[start + lane];
        for (int array = 0; array < arrays; array++) {
            const float *value = values[array] + start;
            for (int lane = 0; lane < LANES; lane++) sum[lane] += weights[array] * (double)value[lane];
        }
        for (int lane = 0; lane < LANES; lane++) total[start + lane] = sum[lane];
    }
    for (; start < elements; start++)
        for (int array = 0; array < arrays; array++) total[start] += weights[array] * (double)values[array][start];
}
