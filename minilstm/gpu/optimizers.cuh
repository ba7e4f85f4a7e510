// The update rules of optim.py, each as ONE kernel.
//
// The letters and their order are those of optim.py. There every operation computes a whole array.
// Here a thread makes all operations for one weight, and then goes on to its next weight. Clip
// scale, L2, clamp, subnormal flush and the decision not to update are inside, so that weights
// and state are read once and written once, and the gradient is read once. REAL is float or double.
// Read optim.py first. optimizers.py launches these kernels.

#include "loops.cuh"

// Indices of the numbers that `decide` passes to the rules, and of its two counts.
enum { USABLE, SCALE, RATE, ROOT, STEP };
enum { STEPS, UNUSABLE };

// Decide whether this step may change anything, and compute what all its weights share: one thread.
//
// finite (1,) or null for yes; rate (1,), the learning rate, or null for rate_given; scale (1,) or
// null for 1. counts[STEPS] is the number of updates so far, counts[UNUSABLE] that of the steps in
// a row that were not finite. For Adam ROOT is sqrt(1 - decay^steps) and STEP is
// -rate ROOT / (1 - momentum^steps).
extern "C" __global__ void decide(const bool* finite, const double* rate, double rate_given,
                                  const REAL* scale, double patience, double momentum,
                                  double decay, long long* counts, double* shared) {
    if (blockIdx.x || threadIdx.x) return;
    const bool usable = (!finite || *finite) && counts[UNUSABLE] <= patience;
    counts[UNUSABLE] = usable ? 0 : counts[UNUSABLE] + 1;
    counts[STEPS] += usable;
    const double steps = (double)counts[STEPS];
    shared[USABLE] = usable;
    shared[SCALE] = scale ? *scale : 1;
    shared[RATE] = rate ? *rate : rate_given;
    shared[ROOT] = sqrt(1 - pow(decay, steps));
    shared[STEP] = -shared[RATE] * shared[ROOT] / (1 - pow(momentum, steps));
}

// g = scale dw + l2 w, without L2 from element number `decayed` on.
__device__ inline REAL decay_weight(REAL w, REAL dw, REAL scale, REAL l2, bool decayed) {
    const REAL g = scale * dw;
    return decayed ? g + l2 * w : g;
}

// Without subnormal numbers: see optim.py.
__device__ inline REAL flush(REAL x, REAL c) {
    x = x + c;
    return x - c;
}

// update = min(max(update, -clamp), clamp), flushed. A clamp of 0 is none.
__device__ inline REAL bound(REAL update, REAL clamp, REAL c) {
    if (clamp > 0) update = update < -clamp ? -clamp : update > clamp ? clamp : update;
    return flush(update, c);
}

// SGD with momentum: v = momentum v - rate g, w = w + v.
extern "C" __global__ void sgd(long long size, long long decayed, const double* shared, REAL l2,
                               REAL clamp, REAL c, REAL momentum, const REAL* dw, REAL* w,
                               REAL* v) {
    if (shared[USABLE] == 0) return;
    const REAL scale = (REAL)shared[SCALE], rate = (REAL)shared[RATE];
    FOR_EVERY(k, size) {
        const REAL g = decay_weight(w[k], dw[k], scale, l2, k < decayed);
        v[k] = bound(momentum * v[k] - rate * g, clamp, c);
        w[k] += v[k];
    }
}

// RMSProp: s = decay s + (1 - decay) g^2, v = momentum v - rate g / (sqrt(s) + epsilon), w = w + v.
extern "C" __global__ void rmsprop(long long size, long long decayed, const double* shared, REAL l2,
                                   REAL clamp, REAL c, REAL momentum, REAL decay, REAL new_share,
                                   REAL epsilon, const REAL* dw, REAL* w, REAL* v, REAL* s) {
    if (shared[USABLE] == 0) return;
    const REAL scale = (REAL)shared[SCALE], rate = (REAL)shared[RATE];
    FOR_EVERY(k, size) {
        const REAL g = decay_weight(w[k], dw[k], scale, l2, k < decayed);
        const REAL s_new = flush(decay * s[k] + new_share * (g * g), c);
        const REAL v_new = momentum * v[k] - rate * (g / (sqrt(s_new) + epsilon));
        s[k] = s_new;
        v[k] = bound(v_new, clamp, c);
        w[k] += v[k];
    }
}

// Adam: m = momentum m + (1 - momentum) g, s = decay s + (1 - decay) g^2,
// u = STEP m / (sqrt(s) + ROOT epsilon), w = w + u.
extern "C" __global__ void adam(long long size, long long decayed, const double* shared, REAL l2,
                                REAL clamp, REAL c, REAL momentum, REAL new_share_m, REAL decay,
                                REAL new_share_s, REAL epsilon, const REAL* dw, REAL* w, REAL* m,
                                REAL* s) {
    if (shared[USABLE] == 0) return;
    const REAL scale = (REAL)shared[SCALE], step = (REAL)shared[STEP];
    const REAL least = (REAL)(shared[ROOT] * epsilon);
    FOR_EVERY(k, size) {
        const REAL g = decay_weight(w[k], dw[k], scale, l2, k < decayed);
        const REAL s_new = flush(decay * s[k] + new_share_s * (g * g), c);
        const REAL m_new = flush(momentum * m[k] + new_share_m * g, c);
        s[k] = s_new;
        m[k] = m_new;
        w[k] += bound(step * (m_new / (sqrt(s_new) + least)), clamp, c);
    }
}
