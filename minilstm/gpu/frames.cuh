// Frames drawn or converted on a GPU, to the same numbers as on the host.
//
// The host sends its random draws (which digits, where) or bytes. Here a thread computes one pixel
// from them. Operations, their order and their rounding are the same as on the host, so the bytes
// are the same. REAL, float or double, is the dtype of the model. The functions of the host:
// draw_frames in data/moving_mnist.py, draw_digits and changes_of in data/actions.py, as_vectors in
// data/vectors.py. frames.py launches these kernels.

#include "loops.cuh"

// Products and sums that the compiler must not join into one operation with one rounding.
#ifdef __CUDA_ARCH__
__device__ inline float times(float a, float b) { return __fmul_rn(a, b); }
__device__ inline float plus(float a, float b) { return __fadd_rn(a, b); }
#else
__device__ inline float times(float a, float b) { return a * b; }
__device__ inline float plus(float a, float b) { return a + b; }
#endif

// A byte as a number in [0, 1], or normalised by a mean and a standard deviation: see as_vectors.
__device__ inline REAL scaled(unsigned char byte, const float* mean, const float* std, int colour) {
    float x = byte / 255.0f;
    if (mean) x = plus(x, -mean[colour]) / std[colour];
    return x;
}

// x[k] = frames[k], scaled; the last axis holds `colours` numbers, each with its mean and std.
extern "C" __global__ void from_bytes(long long size, int colours, const unsigned char* frames,
                                      const float* mean, const float* std, REAL* x) {
    FOR_EVERY(k, size) x[k] = scaled(frames[k], mean, std, k % colours);
}

// Moving MNIST: digits (N, side, side), chosen (B, n), corners (T, B, n, 2) -> x (T, B, frame,
// frame), the brighter pixel where digits overlap.
extern "C" __global__ void moving_digits(long long size, int B, int n, int side, int frame,
                                         const unsigned char* digits, const int* chosen,
                                         const int* corners, REAL* x) {
    FOR_EVERY(k, size) {
        const int column = k % frame, row = k / frame % frame;
        const long long tb = k / frame / frame;
        unsigned char brightest = 0;
        for (int d = 0; d < n; d++) {
            const long long digit = tb * n + d;
            const int i = row - corners[2 * digit], j = column - corners[2 * digit + 1];
            if (i < 0 || i >= side || j < 0 || j >= side) continue;
            const long long number = chosen[tb % B * n + d];
            const unsigned char byte = digits[(number * side + i) * side + j];
            if (byte > brightest) brightest = byte;
        }
        x[k] = scaled(brightest, nullptr, nullptr, 0);
    }
}

// The remainder of y by 1, in [0, 1), as NumPy and Python have it.
__device__ inline float remainder_by_1(float y) {
    y = fmodf(y, 1.0f);
    return y < 0 ? plus(y, 1.0f) : y == 0 ? 0.0f : y;
}

// The pixel number k of a digit padded with one row and column of black on every side.
__device__ inline float padded(const unsigned char* digit, int side, int k) {
    const int i = k / (side + 2) - 1, j = k % (side + 2) - 1;
    return i < 0 || i >= side || j < 0 || j >= side ? 0.0f : (float)digit[i * side + j];
}

// One pixel of one acting digit: at holds down, right, cos, sin and light.
__device__ inline int acted(const unsigned char* digit, int side, const float* at, float row_middle,
                            float column_middle) {
    const float y = plus(remainder_by_1(plus(plus(row_middle, -at[0]), 0.5f)), -0.5f);
    const float x = plus(remainder_by_1(plus(plus(column_middle, -at[1]), 0.5f)), -0.5f);
    float place[2] = {plus(times(at[2], y), -times(at[3], x)),
                      plus(times(at[2], x), times(at[3], y))};
    for (int axis = 0; axis < 2; axis++) {
        place[axis] = plus(place[axis], (side + 1) / 2.0f);
        const float last = (float)(side + 0.999);
        place[axis] = place[axis] < 0 ? 0.0f : place[axis] > last ? last : place[axis];
    }
    const int i = (int)place[0], j = (int)place[1];
    const float down = plus(place[0], -(float)i), right = plus(place[1], -(float)j);
    float between[2];
    for (int line = 0; line < 2; line++) {
        const int corner = (i + line) * (side + 2) + j;
        const float a = padded(digit, side, corner), b = padded(digit, side, corner + 1);
        between[line] = plus(a, times(plus(b, -a), right));
    }
    const float ink = plus(between[0], times(down, plus(between[1], -between[0])));
    return (unsigned char)rintf(times(ink, at[4]));
}

// Actions: digits (N, side, side), chosen (B,), at (T, B, 5), middle (frame,) -> x (T, B, frame,
// frame); with `changes` at is (T + 1, B, 5), and a frame is half the difference of two.
extern "C" __global__ void acting_digits(long long size, int B, int side, int frame, int changes,
                                         const unsigned char* digits, const int* chosen,
                                         const float* at, const float* middle, const float* mean,
                                         const float* std, REAL* x) {
    FOR_EVERY(k, size) {
        const int column = k % frame, row = k / frame % frame;
        const long long tb = k / frame / frame;
        const unsigned char* digit = digits + (long long)chosen[tb % B] * side * side;
        int byte = acted(digit, side, at + 5 * tb, middle[row], middle[column]);
        if (changes) {
            const int next = acted(digit, side, at + 5 * (tb + B), middle[row], middle[column]);
            byte = (255 + next - byte) / 2;
        }
        x[k] = scaled((unsigned char)byte, mean, std, 0);
    }
}
