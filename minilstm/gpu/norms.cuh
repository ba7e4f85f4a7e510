// Norms of many pieces of one long array, in one pass over it.
//
// A block of threads adds up the squares of one piece; a second kernel adds up the pieces that
// belong together. Sums are in double, in an order that depends on the sizes alone, so the same
// gradient has the same norm to the last bit. REAL is float or double. optimizers.py launches this.

#include "sums.cuh"

// sums[p] = the sum of dw^2 over elements starts[p] to starts[p + 1] - 1, for block p.
extern "C" __global__ void squares(const long long* starts, const REAL* dw, double* sums) {
    double mine = 0;
    const long long stop = starts[blockIdx.x + 1];
    for (long long k = starts[blockIdx.x] + threadIdx.x; k < stop; k += blockDim.x)
        mine += (double)dw[k] * dw[k];
    mine = sum_of_block(mine);
    if (threadIdx.x == 0) sums[blockIdx.x] = mine;
}

// norms[a] = the square root of the sum over pieces ranges[2a] to ranges[2a + 1] - 1, for block a.
extern "C" __global__ void roots(const long long* ranges, const double* sums, REAL* norms) {
    double mine = 0;
    const long long stop = ranges[2 * blockIdx.x + 1];
    for (long long k = ranges[2 * blockIdx.x] + threadIdx.x; k < stop; k += blockDim.x)
        mine += sums[k];
    mine = sum_of_block(mine);
    if (threadIdx.x == 0) norms[blockIdx.x] = (REAL)sqrt(mine);
}
