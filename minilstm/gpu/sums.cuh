// A sum over the threads of a block, in double and in an order that depends on their number alone.
//
// So the same numbers have the same sum to the last bit. Files with kernels include this text.

#define THREADS 256

// The sum of `mine` over all threads of a block, for thread 0. blockDim.x is a power of two.
__device__ inline double sum_of_block(double mine) {
    __shared__ double sums[THREADS];
    const int t = threadIdx.x;
    sums[t] = mine;
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        __syncthreads();
        if (t < half) sums[t] += sums[t + half];
    }
    return sums[0];
}
