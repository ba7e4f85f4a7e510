// A loop over all elements of an array, shared by all threads.
//
// However many threads there are, each k from 0 to size - 1 is visited once. A thread starts at its
// own number and goes on by the number of threads. Files with kernels include this text.
#define FOR_EVERY(k, size)                                                                         \
    for (long long k = blockIdx.x * (long long)blockDim.x + threadIdx.x; k < (size);               \
         k += (long long)gridDim.x * blockDim.x)
