// The fused operations' array code once more, as kernels: one text that a C compiler and CUDA's both take.
//
// Each kernel stands for the array code of the operation of its name, in minivit/autograd/fused/, and the tests hold the
// two together. What it saves is passes: array code reads and writes its arrays once for every `+=`, a kernel once.
// Written once for two machines, it says what is done with an element or a row, and not by whom:
//
//     EACH(i, n)            for every element: one core, eight or sixteen at a time; or thousands of GPU threads
//     ROWS(r, rows)         for every row: one after the other; or one for each warp, 32 threads that work together
//     COLUMNS(j, D)         for every number of that row
//     SUM(s, j, D, term)    s is the sum over the row: of a vector's parts on a core, of the warp's threads on a GPU
//     MAX(m, j, D, term)    m is the largest number of the row, NaN apart
//     ONCE                  what is said once for a row
//
// `real` is the type that arrays hold: float, on a GPU also __half. Everything is computed in float. The
// first parameter is always how many elements or rows there are; each thread of the processor has a part of them.

#ifdef __CUDACC__

typedef long long size;

#ifdef HALF
#include <cuda_fp16.h>
typedef __half real;
#else
typedef float real;
#endif
#define KERNEL extern "C" __global__ void
#define INLINE static __device__ __forceinline__
#define EACH(i, n) for (size i = ((size)blockIdx.x * blockDim.y + threadIdx.y) * 32 + threadIdx.x; i < (n); i += (size)gridDim.x * blockDim.y * 32)
#define ROWS(r, rows) for (size r = (size)blockIdx.x * blockDim.y + threadIdx.y; r < (rows); r += (size)gridDim.x * blockDim.y)
#define COLUMNS(j, D) for (size j = threadIdx.x; j < (D); j += 32)
#define SUM(s, j, D, term) float s = 0; COLUMNS(j, D) s += (term); s = over_the_warp(s, 0)
#define MAX(m, j, D, term) float m = -1.0f / 0.0f; COLUMNS(j, D) { float t_ = (term); m = t_ > m ? t_ : m; } m = over_the_warp(m, 1)
#define ONCE if (threadIdx.x == 0)
#define EXP expf
#define LOG logf
#define RSQRT(x) (1.0f / sqrtf(x))
#define SQRT sqrtf

INLINE float over_the_warp(float x, int largest) {
    for (int other = 16; other; other /= 2) {
        float y = __shfl_xor_sync(0xffffffffu, x, other);
        x = !largest ? x + y : y > x ? y : x;
    }
    return x;
}

#else

#include <math.h>
typedef float real;
#define ONE_COPY static __attribute__((noinline, noclone)) void  // not one for every call: compiling would take twice as long
#define KERNEL ONE_COPY
#define INLINE static inline
#define SIMD(what) _Pragma(#what)
#define FIRST(n) ((n) * part_ / parts_)  // of this thread's part, see threads.c
#define LAST(n) ((n) * (part_ + 1) / parts_)
#define EACH(i, n) SIMD(omp simd) for (size i = FIRST(n); i < LAST(n); i++)
#define ROWS(r, rows) for (size r = FIRST(rows); r < LAST(rows); r++)
#define COLUMNS(j, D) SIMD(omp simd) for (size j = 0; j < (D); j++)
#if defined __AVX512F__
#define LANES 16  // what a row is taken by: one vector. Of more than one the compiler keeps the sum in memory
#elif defined __AVX__
#define LANES 8
#else
#define LANES 4
#endif
#define SUM(s, j, D, term) OVER_THE_ROW(s, j, D, term, 0, sum_ + *(lanes *)part_, sum_of_lanes(sum_), s += term_)
#define MAX(m, j, D, term) OVER_THE_ROW(m, j, D, term, -INFINITY, larger_lanes(*(lanes *)part_, sum_), max_of_lanes(sum_), m = term_ > m ? term_ : m)
#define NO_COPY 0.0f  // of a mere copy gcc makes two stores of half a vector, and the whole one that is read next waits for both
#define OVER_THE_ROW(s, j, D, term, begin, next, end, rest) \
    float s; \
    { \
        size whole_ = (D) - (D) % LANES; \
        lanes sum_ = (lanes){0} + (begin); \
        for (size at_ = 0; at_ < whole_; at_ += LANES) { \
            float part_[LANES] __attribute__((aligned(64))); \
            COLUMNS(lane_, LANES) { size j = at_ + lane_; part_[lane_] = (term) + NO_COPY; } \
            sum_ = next; \
        } \
        s = end; \
        for (size j = whole_; j < (D); j++) { float term_ = (term); rest; } \
    }
#define ONCE
#define EXP exponential
#define LOG logf
#define SQRT sqrtf
#define RSQRT(x) (1.0f / sqrtf(x))

typedef float lanes __attribute__((vector_size(4 * LANES)));
typedef float lanes4 __attribute__((vector_size(16)));
typedef int lane_bits __attribute__((vector_size(4 * LANES)));

INLINE lanes larger_lanes(lanes a, lanes b) {
    lane_bits a_is = a > b;
    return (lanes)((a_is & (lane_bits)a) | (~a_is & (lane_bits)b));
}

INLINE float sum_of_lanes(lanes x) {  // in halves, not one after the other
    union { lanes whole; lanes4 part[LANES / 4]; } a = {x};
    for (int half = LANES / 8; half; half /= 2)
        for (int i = 0; i < half; i++) a.part[i] += a.part[i + half];
    lanes4 c = a.part[0];
    return (c[0] + c[2]) + (c[1] + c[3]);
}

INLINE float max_of_lanes(lanes x) {
    float part[LANES] __attribute__((aligned(64)));
    *(lanes *)part = x;
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) part[i] = part[i + half] > part[i] ? part[i + half] : part[i];
    return part[0];
}

// exp(x) = 2ⁿ exp(f) with n whole and |f| ≤ ½ log 2, where eight terms of the series are exact to 1e-8. The C library's
// is as good, but takes one number at a time.
INLINE float exponential(float x) {
    float c = x > -88 ? x : -88;  // and NaN, too, is dealt with below
    c = c < 89 ? c : 89;
    float n = rintf(c * 1.442695041f);
    float f = c - n * 0.693359375f + n * 2.121944401e-4f;  // log 2 in two parts, the first of few digits: exact
    float e = 1 + f * (1 + f * (1 / 2.0f + f * (1 / 6.0f + f * (1 / 24.0f + f * (1 / 120.0f + f * (1 / 720.0f + f / 5040.0f))))));
    union { int bits; float value; } power = {((int)n + 126) * (1 << 23)};  // 2ⁿ⁻¹, since 2¹²⁸ is no float
    e *= power.value;
    e *= 2;
    return x > 88.72283f ? INFINITY : x >= -87.33654f ? e : x < 0 ? 0 : x;  // the last: NaN
}

#endif

KERNEL add(size n, const real *x, const real *y, real *out) {
    EACH(i, n) out[i] = (float)x[i] + (float)y[i];
}

// ---- GELU ----

// Φ(x) and the slope of x Φ(x), which is Φ(x) + x φ(x), are both ½ plus an odd function, x times a function of x². As a
// polynomial in u = c x² - 1 ∈ [-1, 1] that function needs no exponential and no division. Fitted to the smallest largest
// error: 2e-8 of Φ for |x| ≤ √28, 7e-8 of the slope for |x| ≤ 6. Beyond, float knows 0 and 1 only.
INLINE float odd_half(float x, float bound, float value) { return x > bound ? 0.5f : x < -bound ? -0.5f : x * value; }

INLINE float normal_cdf(float x) {
    const float bound = 5.291502622f;
    float c = x > bound ? bound : x, u = c * c * (2 / 28.0f) - 1, p = 0.000278032802f;
    p = p * u - 0.000746979064f; p = p * u + 0.000713557797f; p = p * u - 0.00108162108f; p = p * u + 0.0031007264f;
    p = p * u - 0.00578556034f;  p = p * u + 0.00875386704f;  p = p * u - 0.0131137673f;  p = p * u + 0.0188625517f;
    p = p * u - 0.0252569905f;   p = p * u + 0.032072628f;    p = p * u - 0.0396193434f;  p = p * u + 0.0493290892f;
    p = p * u - 0.0666212744f;   p = p * u + 0.133606194f;
    return 0.5f + odd_half(x, bound, p);
}

INLINE float gelu_slope(float x) {
    const float bound = 6;
    float c = x > bound ? bound : x, u = c * c * (2 / 36.0f) - 1, p = -0.0058743504f;
    p = p * u + 0.0138636464f;  p = p * u - 0.00244694124f; p = p * u - 0.00549312921f; p = p * u - 0.0262569966f;
    p = p * u + 0.052218564f;   p = p * u - 0.0421721585f;  p = p * u + 0.0427416721f;  p = p * u - 0.0628796617f;
    p = p * u + 0.0707203203f;  p = p * u - 0.0651100457f;  p = p * u + 0.0579835562f;  p = p * u - 0.0508194726f;
    p = p * u + 0.0446209559f;  p = p * u - 0.042373146f;   p = p * u + 0.0460554069f;  p = p * u - 0.0593426664f;
    p = p * u + 0.117897775f;
    return 0.5f + odd_half(x, bound, p);
}

KERNEL gelu(size n, const real *x, real *y) {
    EACH(i, n) y[i] = (float)x[i] * normal_cdf(x[i]);
}

KERNEL gelu_vjp(size n, const real *g, const real *x, real *gx) {
    EACH(i, n) gx[i] = (float)g[i] * gelu_slope(x[i]);
}

INLINE float logistic_of_tanh_form(float x) {  // ½ (1 + tanh u), u = √(2/π) (x + 0.044715 x³)
    return 1 / (1 + EXP(-2 * 0.7978845608f * x * (1 + 0.044715f * x * x)));
}

KERNEL gelu_tanh(size n, const real *x, real *y) {
    EACH(i, n) y[i] = (float)x[i] * logistic_of_tanh_form(x[i]);
}

KERNEL gelu_tanh_vjp(size n, const real *g, const real *x, real *gx) {
    EACH(i, n) {
        float v = x[i], s = logistic_of_tanh_form(v);
        float slope = 2 * 0.7978845608f * (1 + 3 * 0.044715f * v * v);  // of 2u
        float rest = s * (1 - s);
        gx[i] = (float)g[i] * (s + (rest > 0 ? v * rest * slope : 0 * v));  // 0 · ∞ far out, where the slope is 0
    }
}

// ---- layer norm ----

KERNEL layer_norm(size rows, size D, float eps, const real *x, const real *weight, const real *bias, real *y, float *mu, float *rstd) {
    ROWS(r, rows) {
        const real *v = x + r * D;
        real *out = y + r * D;
        SUM(total, j, D, (float)v[j]);
        float m = total / D;
        SUM(rest, j, D, (float)v[j] - m);  // of a row far from zero, the first mean has lost digits
        m += rest / D;
        SUM(squares, j, D, ((float)v[j] - m) * ((float)v[j] - m));
        float s = RSQRT(squares / D + eps);
        COLUMNS(j, D) out[j] = ((float)v[j] - m) * s * (float)weight[j] + (float)bias[j];
        ONCE { mu[r] = m; rstd[r] = s; }
    }
}

// with n = (x - mean) rstd and h = g · weight:  ∂x = rstd (h - mean(h) - n · mean(h n)). If they are there, gweight and gbias
// take ∂weight = Σ g n and ∂bias = Σ g over the rows, in as many parts as there are chunks: (chunks, D) each. On the
// processor the first is in the end the sum of all.
KERNEL layer_norm_vjp(size chunks, size rows, size D, const real *g, const real *x, const float *mu, const float *rstd,
                      const real *weight, real *gx, float *gweight, float *gbias) {
    ROWS(c, chunks) {
        float *gw = gweight ? gweight + c * D : 0, *gb = gweight ? gbias + c * D : 0;
        if (gweight) COLUMNS(j, D) { gw[j] = 0; gb[j] = 0; }
        for (size r = c * rows / chunks, end = (c + 1) * rows / chunks; r < end; r++) {
            const real *h = g + r * D, *v = x + r * D;
            real *out = gx + r * D;
            float m = mu[r], s = rstd[r];
            SUM(along, j, D, (float)h[j] * (float)weight[j]);
            SUM(along_n, j, D, (float)h[j] * (float)weight[j] * (((float)v[j] - m) * s));
            along /= D;
            along_n /= D;
            COLUMNS(j, D) out[j] = s * ((float)h[j] * (float)weight[j] - along - ((float)v[j] - m) * s * along_n);
            if (gweight) COLUMNS(j, D) { gw[j] += (float)h[j] * (((float)v[j] - m) * s); gb[j] += (float)h[j]; }
        }
    }
}

#ifndef __CUDACC__
KERNEL layer_norm_vjp_end(size chunks, size rows, size D, const real *g, const real *x, const float *mu, const float *rstd,
                          const real *weight, real *gx, float *gweight, float *gbias) {
    if (gweight)
        for (size c = 1; c < chunks; c++)
            COLUMNS(j, D) { gweight[j] += gweight[c * D + j]; gbias[j] += gbias[c * D + j]; }
}
#endif

// ---- softmax and cross-entropy ----

// y may be x. log_total takes log Σ exp of every row, from which attention computes its probabilities again; or it is null
KERNEL softmax(size rows, size D, const real *x, real *y, float *log_total) {
    ROWS(r, rows) {
        const real *v = x + r * D;
        real *out = y + r * D;
        MAX(m, j, D, (float)v[j]);
        SUM(total, j, D, (float)(out[j] = EXP((float)v[j] - m)));
        float s = 1 / total;
        COLUMNS(j, D) out[j] = (float)out[j] * s;
        if (log_total) ONCE log_total[r] = LOG(total) + m;
    }
}

// (diag(p) - p pᵀ) g = p (g - pᵀ g); gx may be g
KERNEL softmax_vjp(size rows, size D, const real *g, const real *p, real *gx) {
    ROWS(r, rows) {
        const real *h = g + r * D, *a = p + r * D;
        real *out = gx + r * D;
        SUM(along, j, D, (float)h[j] * (float)a[j]);
        COLUMNS(j, D) out[j] = (float)a[j] * ((float)h[j] - along);
    }
}

KERNEL cross_entropy(size rows, size K, float smoothing, const real *logits, const size *labels, real *p, real *losses) {
    ROWS(r, rows) {
        const real *v = logits + r * K;
        real *out = p + r * K;
        MAX(m, j, K, (float)v[j]);
        SUM(total, j, K, (float)(out[j] = EXP((float)v[j] - m)));
        SUM(mean, j, K, ((float)v[j] - m) / K);
        COLUMNS(j, K) out[j] = (float)out[j] / total;
        ONCE losses[r] = LOG(total) - (1 - smoothing) * ((float)v[labels[r]] - m) - (smoothing ? smoothing * mean : 0);
    }
}

// ---- Adam ----

// as in minivit/train/optimizers.py; new1 and new2 are 1 - β₁ and 1 - β₂, in which float would lose digits of β, and c1
// and c2 are 1 - β₁ᵗ and 1 - β₂ᵗ
KERNEL adam(size n, float lr, float beta1, float new1, float beta2, float new2, float eps, float c1, float c2, real *theta, const real *g, real *m, real *v) {
    EACH(i, n) {
        m[i] = beta1 * (float)m[i] + new1 * (float)g[i];
        v[i] = beta2 * (float)v[i] + new2 * (float)g[i] * (float)g[i];
        theta[i] = (float)theta[i] - lr * ((float)m[i] / c1) / (SQRT((float)v[i] / c2) + eps);
    }
}
