// The log of a training run on the device: a ring of rows, one for each step.
//
// REAL is float or double. transfers.py launches this.

// The addresses of the numbers of a row. transfers.py has the same 64.
struct Addresses {
    const REAL* of[64];
};

// table[written % rows, first + k] = *numbers.of[k] for k < count. The last part adds 1 to written.
//
// One block of threads. table (rows, width). A row has one part, or several of up to 64 numbers.
extern "C" __global__ void append(int rows, int width, int first, int count, Addresses numbers,
                                  REAL* table, long long* written) {
    REAL* row = table + *written % rows * width;
    for (int k = threadIdx.x; k < count; k += blockDim.x) row[first + k] = *numbers.of[k];
    __syncthreads();
    if (threadIdx.x == 0 && first + count == width) ++*written;
}
