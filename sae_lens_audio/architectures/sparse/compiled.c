/* Loops over sparse feature activations for which torch has no fast operation. compiled.py builds and calls them; each
   agrees with its fallback in torch. Matrices are row-major float32. */

#include <limits.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define LANES 16 /* loops over so many values become vector instructions */

static long rounded_up(long n) { return (n + LANES - 1) / LANES * LANES; }

/* Integers in the order of the floats; zeros are equal, and NaN is the largest, as in torch.topk. */
static void to_keys(const float *x, long n, int32_t *keys) {
    for (long j = 0; j < n; j++) {
        float value = x[j] + 0.0f; /* -0 becomes 0 */
        int32_t bits;
        memcpy(&bits, &value, sizeof bits);
        keys[j] = value != value ? INT_MAX : bits ^ (int32_t)((uint32_t)(bits >> 31) >> 1);
    }
    for (long j = n; j < rounded_up(n); j++) keys[j] = INT_MIN; /* below all floats */
}

static long count_from(const int32_t *keys, long n, int32_t lower) {
    int32_t count = 0;
    for (long j = 0; j < n; j++) count += keys[j] >= lower;
    return count;
}

/* A number that at least k of the keys reach and, unless exactly k do, no larger number that k of them reach. */
static int32_t kth_largest(const int32_t *keys, long n, long k) {
    int32_t low = INT_MAX, high = INT_MIN;
    for (long j = 0; j < n; j++) {
        low = keys[j] < low ? keys[j] : low;
        high = keys[j] > high ? keys[j] : high;
    }
    while (low < high) { /* at least k reach low */
        int32_t middle = (int32_t)(((int64_t)low + high + 1) >> 1);
        long count = count_from(keys, n, middle);
        if (count == k) return middle;
        if (count > k) low = middle;
        else high = middle - 1;
    }
    return low;
}

/* The k largest of one row, in the order of the row; of equal values the first. work: 4 * rounded_up(n) integers. */
static void top_of_row(const float *x, long n, long k, float *values, int64_t *latents, int32_t *work) {
    long padded = rounded_up(n), groups = rounded_up(4 * k), n_candidates = 0;
    int32_t *keys = work, *best = work + padded, *candidates = best + padded, *positions = candidates + padded;
    int32_t lower = INT_MIN + 1;
    to_keys(x, n, keys);
    if (2 * groups <= n) { /* k groups have a maximum of at least `lower`, so at least k values do */
        memcpy(best, keys, groups * sizeof *best);
        for (long start = groups; start < padded; start += groups) {
            long size = padded - start < groups ? padded - start : groups;
            for (long j = 0; j < size; j++) best[j] = keys[start + j] > best[j] ? keys[start + j] : best[j];
        }
        lower = kth_largest(best, groups, k);
    }
    for (long start = 0; start < padded; start += LANES) {
        int32_t any = 0;
        for (long j = 0; j < LANES; j++) any |= keys[start + j] >= lower;
        if (!any) continue;
        for (long j = 0; j < LANES; j++) { /* without a branch */
            candidates[n_candidates] = keys[start + j];
            positions[n_candidates] = (int32_t)(start + j);
            n_candidates += keys[start + j] >= lower;
        }
    }
    lower = kth_largest(candidates, n_candidates, k);
    long ties = k;
    for (long j = 0; j < n_candidates; j++) ties -= candidates[j] > lower;
    for (long j = 0, i = 0; j < n_candidates && i < k; j++) {
        if (candidates[j] < lower || (candidates[j] == lower && ties-- <= 0)) continue;
        values[i] = x[positions[j]];
        latents[i++] = positions[j];
    }
}

/* Return 0 if there is not enough memory. */
int top_of_rows(const float *x, long rows, long n, long k, float *values, int64_t *latents, int threads) {
    long size = 4 * rounded_up(n) + LANES;
    int32_t *work = malloc(threads * size * sizeof *work);
    if (!work) return 0;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int part = 0; part < threads; part++)
        for (long row = rows * part / threads; row < rows * (part + 1) / threads; row++)
            top_of_row(x + row * n, n, k, values + row * k, latents + row * k, work + part * size);
    free(work);
    return 1;
}

/* out[i] = rows[bag] . table[latents[i]] for the entries i of each bag, which start at offsets[bag]. */
void products(const float *rows, const float *table, const int64_t *latents, const int64_t *offsets, long bags,
              long entries, long d, float *out, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long bag = 0; bag < bags; bag++) {
        const float *row = rows + bag * d;
        long end = bag + 1 < bags ? offsets[bag + 1] : entries;
        for (long i = offsets[bag]; i < end; i++) {
            const float *other = table + latents[i] * d;
            float sums[2 * LANES] = {0}, total = 0;
            long start = 0;
            for (; start + 2 * LANES <= d; start += 2 * LANES)
                for (long j = 0; j < 2 * LANES; j++) sums[j] += row[start + j] * other[start + j];
            for (; start < d; start++) total += row[start] * other[start];
            for (long j = 0; j < 2 * LANES; j++) total += sums[j];
            out[i] = total;
        }
    }
}

/* counts[row]: the number of values above lower, which has one number per column. */
void count_above(const float *x, long rows, long n, const float *lower, int64_t *counts, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long row = 0; row < rows; row++) {
        int32_t count = 0;
        for (long j = 0; j < n; j++) count += x[row * n + j] > lower[j];
        counts[row] = count;
    }
}

/* The values above lower and their columns, in order; those of each row start at offsets[row]. Return 0 if there is not
   enough memory. */
int collect_above(const float *x, long rows, long n, const float *lower, const int64_t *offsets, float *values,
                  int64_t *columns, int threads) {
    int32_t *work = malloc(threads * (n + 1) * sizeof *work);
    if (!work) return 0;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int part = 0; part < threads; part++)
        for (long row = rows * part / threads; row < rows * (part + 1) / threads; row++) {
            const float *from = x + row * n;
            int32_t *positions = work + part * (n + 1), count = 0;
            for (long start = 0; start < n; start += LANES) {
                long size = n - start < LANES ? n - start : LANES;
                int32_t any = 0;
                for (long j = 0; j < size; j++) any |= from[start + j] > lower[start + j];
                if (!any) continue;
                for (long j = start; j < start + size; j++) { /* without a branch */
                    positions[count] = (int32_t)j;
                    count += from[j] > lower[j];
                }
            }
            for (int32_t i = 0; i < count; i++) {
                values[offsets[row] + i] = from[positions[i]];
                columns[offsets[row] + i] = positions[i];
            }
        }
    free(work);
    return 1;
}
