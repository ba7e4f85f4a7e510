// The log of a training run on the device: a ring of rows, one for each step.
//
// REAL is float or double. transfers.py launches this.

// Where the numbers of a row are: each has an address of its own.
struct Addresses {
    const REAL* of[64];
};

// table[written % rows, first + k] = number k of `count`; after the last of a row written += 1.
//
// One block. table (rows, width).
extern "C" __global__ void append(int rows, int width, int first, int count, Addresses numbers,
                                  REAL* table, long long* written) {
    REAL* row = table + *written % rows * width;
    for (int k = threadIdx.x; k < count; k += blockDim.x) row[first + k] = *numbers.of[k];
    __syncthreads();
    if (threadIdx.x == 0 && first + count == width) ++*written;
}
