// The LSTM cells of cells.py for a GPU: one launch for one time step, in each direction.
//
// The equations, the letters and their order are those of cells.py. There every operation computes
// a whole array. Here a thread makes all operations for unit j of sequence row, and then goes on to
// its next unit. REAL is float or double. Read cells.py first. kernels.py launches these kernels.

#include "loops.cuh"

__device__ inline REAL sigmoid(REAL a) { return REAL(0.5) * tanh(REAL(0.5) * a) + REAL(0.5); }

// Every unit k = row * H + j of (B, H) is visited once.
#define FOR_EVERY_UNIT(k) FOR_EVERY(k, (long long)B * H)

// The index of gate i of unit k in (B, 4H); the gates f, g and o lie H, 2H and 3H further on.
__device__ inline long long gate_i(long long k, int H) { return k / H * 4 * H + k % H; }

// ------------------------------------------------------------- paper, section 2.1: the LSTM

// One step of the paper's LSTM, or of the standard LSTM if Wp is null (no peepholes).
//
// a (B, 4H) becomes the gates. c_prev (B, H), Wp (3, H) or null. Writes c, h (B, H).
extern "C" __global__ void lstm_cell(int B, int H, REAL* a, const REAL* c_prev, const REAL* Wp,
                                     REAL* c, REAL* h) {
    FOR_EVERY_UNIT(k) {
        const long long at = gate_i(k, H), j = k % H;
        REAL a_i = a[at];
        REAL a_f = a[at + H];
        REAL a_g = a[at + 2 * H];
        REAL a_o = a[at + 3 * H];
        if (Wp) {
            a_i += Wp[j] * c_prev[k];
            a_f += Wp[H + j] * c_prev[k];
        }
        const REAL i = sigmoid(a_i), f = sigmoid(a_f), g = tanh(a_g);
        c[k] = f * c_prev[k] + i * g;
        if (Wp) a_o += Wp[2 * H + j] * c[k];
        const REAL o = sigmoid(a_o);
        h[k] = o * tanh(c[k]);
        a[at] = i;
        a[at + H] = f;
        a[at + 2 * H] = g;
        a[at + 3 * H] = o;
    }
}

// One step back through any LSTM whose slopes are given: cells.lstm_cell_backward.
//
// Returns dc_prev; da receives da_i, da_f, da_g and da_o.
__device__ inline REAL back(REAL dh, REAL dc, REAL s_i, REAL s_f, REAL s_g, REAL s_o, REAL h_to_c,
                            REAL c_to_c, REAL* da, int H) {
    da[3 * H] = dh * s_o;
    dc += dh * h_to_c;
    da[0] = dc * s_i;
    da[H] = dc * s_f;
    da[2 * H] = dc * s_g;
    return dc * c_to_c;
}

// The slopes of one step, as cells.lstm_slopes has them, and the step back.
//
// dh and dc (B, H) come from the step after, dy (B, H) or null from the output; a (B, 4H), the
// gates, becomes da, and dc becomes dc_prev.
extern "C" __global__ void lstm_cell_backward(int B, int H, const REAL* dy, const REAL* dh,
                                              REAL* dc, REAL* a, const REAL* c_prev, const REAL* c,
                                              const REAL* Wp) {
    FOR_EVERY_UNIT(k) {
        const long long at = gate_i(k, H), j = k % H;
        const REAL i = a[at], f = a[at + H], g = a[at + 2 * H], o = a[at + 3 * H];
        const REAL tanh_c = tanh(c[k]);
        const REAL s_i = i * g * (1 - i);
        const REAL s_f = f * (1 - f) * c_prev[k];
        const REAL s_g = i * (1 - g * g);
        const REAL s_o = tanh_c * o * (1 - o);
        REAL h_to_c = o * (1 - tanh_c * tanh_c);
        REAL c_to_c = f;
        if (Wp) {
            c_to_c += s_i * Wp[j] + s_f * Wp[H + j];
            h_to_c += s_o * Wp[2 * H + j];
        }
        const REAL dh_total = dy ? dh[k] + dy[k] : dh[k];
        dc[k] = back(dh_total, dc[k], s_i, s_f, s_g, s_o, h_to_c, c_to_c, a + at, H);
    }
}

// Sums over parts of the rows r = t B + b, for the gradient of the peepholes.
//
// dWp_i = sum of da_i c_prev, dWp_f = sum of da_f c_prev, dWp_o = sum of da_o c. A thread adds up
// `rows` rows for one unit j. da (T, B, 4H), c (T+1, B, H), sums (parts, 3, H).
extern "C" __global__ void peephole_sums(int T, int B, int H, int rows, const REAL* da,
                                         const REAL* c, REAL* sums) {
    const long long parts = ((long long)T * B + rows - 1) / rows;
    FOR_EVERY(k, parts * H) {
        const long long part = k / H, j = k % H, first = part * rows;
        const long long stop = first + rows < (long long)T * B ? first + rows : (long long)T * B;
        REAL dWp_i = 0, dWp_f = 0, dWp_o = 0;
        for (long long r = first; r < stop; r++) {
            const REAL c_prev = c[r * H + j];
            dWp_i += da[r * 4 * H + j] * c_prev;
            dWp_f += da[r * 4 * H + H + j] * c_prev;
            dWp_o += da[r * 4 * H + 3 * H + j] * c[(r + B) * H + j];
        }
        sums[part * 3 * H + j] = dWp_i;
        sums[part * 3 * H + H + j] = dWp_f;
        sums[part * 3 * H + 2 * H + j] = dWp_o;
    }
}

// ------------------------------------------------------------- slides: "Cells: LSTM"

// The slides' LSTM, read literally: its m is c. See lstm_cell for the shapes.
extern "C" __global__ void slides_lstm_cell(int B, int H, REAL* a, const REAL* m_prev, REAL* m,
                                            REAL* h) {
    FOR_EVERY_UNIT(k) {
        const long long at = gate_i(k, H);
        const REAL i = sigmoid(a[at]);
        const REAL f = sigmoid(a[at + H]);
        const REAL g = tanh(a[at + 2 * H]);
        const REAL o = sigmoid(a[at + 3 * H]);
        m[k] = f * m_prev[k] + i * g;
        h[k] = tanh(o * m[k]);
        a[at] = i;
        a[at + H] = f;
        a[at + 2 * H] = g;
        a[at + 3 * H] = o;
    }
}

// The slopes of cells.slides_lstm_slopes, and the step back. See lstm_cell_backward.
extern "C" __global__ void slides_lstm_cell_backward(int B, int H, const REAL* dy, const REAL* dh,
                                                     REAL* dm, REAL* a, const REAL* m_prev,
                                                     const REAL* m, const REAL* h) {
    FOR_EVERY_UNIT(k) {
        const long long at = gate_i(k, H);
        const REAL i = a[at], f = a[at + H], g = a[at + 2 * H], o = a[at + 3 * H];
        const REAL s_i = i * g * (1 - i);
        const REAL s_f = f * (1 - f) * m_prev[k];
        const REAL s_g = i * (1 - g * g);
        const REAL h_to_m = (1 - h[k] * h[k]) * o;
        const REAL s_o = h_to_m * (1 - o) * m[k];
        const REAL dh_total = dy ? dh[k] + dy[k] : dh[k];
        dm[k] = back(dh_total, dm[k], s_i, s_f, s_g, s_o, h_to_m, f, a + at, H);
    }
}
