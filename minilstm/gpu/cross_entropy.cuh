// The cross-entropy of losses.py as one kernel in each direction, and its sum.
//
// The letters are those of BernoulliCrossEntropy. There every operation computes a whole array. Here
// a thread makes all operations for one pixel k, and then goes on to its next pixel. REAL is float
// or double. Read losses.py first. cross_entropy.py launches these kernels.

#include "loops.cuh"
#include "sums.cuh"

// p = sigmoid(z), and the loss max(z, 0) - log(max(p, 1 - p)) - y z, added up for each block.
//
// z, y, p (size,), sums (blocks,).
extern "C" __global__ void bernoulli(long long size, const REAL* z, const REAL* y, REAL* p,
                                     double* sums) {
    double mine = 0;
    FOR_EVERY(k, size) {
        const REAL logit = z[k], mean = REAL(0.5) * tanh(REAL(0.5) * logit) + REAL(0.5);
        const REAL likely = fabs(mean - REAL(0.5)) + REAL(0.5);  // max(p, 1 - p)
        mine += (logit + fabs(logit)) * REAL(0.5) - log(likely) - y[k] * logit;
        p[k] = mean;
    }
    mine = sum_of_block(mine);
    if (threadIdx.x == 0) sums[blockIdx.x] = mine;
}

// loss = the sum of sums (count,), over the number of frames: one block.
extern "C" __global__ void mean_loss(long long count, double frames, const double* sums,
                                     REAL* loss) {
    double mine = 0;
    for (long long k = threadIdx.x; k < count; k += blockDim.x) mine += sums[k];
    mine = sum_of_block(mine);
    if (threadIdx.x == 0) *loss = (REAL)(mine / frames);
}

// dz = (p - y) dloss / frames, in the memory of p. dloss is (1,), or null for the number given.
extern "C" __global__ void bernoulli_backward(long long size, const REAL* dloss, REAL given,
                                              REAL frames, const REAL* y, REAL* p) {
    const REAL scale = (dloss ? *dloss : given) / frames;
    FOR_EVERY(k, size) p[k] = (p[k] - y[k]) * scale;
}
