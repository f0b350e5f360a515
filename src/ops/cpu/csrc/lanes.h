// One sequence per lane of a SIMD vector: functions, sums and layer norm.
//
// A block is one vector of sequences. A quantity of n units at one time step is n vectors, [unit, lane]: no sum over
// units crosses lanes, and no width has to be padded. The code uses the compiler's vector types, so that the same
// source works on every processor; a few functions have faster versions for AVX-512. A vector is as wide as a register
// of the processor: compilers keep wider ones in memory, which makes all arithmetic several times slower.
//
// A few sequences would leave most lanes unused. So everything but the linear recurrence is also compiled with
// ONE_LANE: then a block is one sequence, a quantity is n numbers, and the compiler vectorizes over neighboring units.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <type_traits>
#include <vector>

#if defined(__AVX512F__)
#include <immintrin.h>
#define VECTOR_BYTES 64
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif

// The namespace names the width: a process may load several libraries, and a step finds no functions of a library whose
// vectors are of another width, as when only one of the two could be compiled for this processor.
#define JOIN(a, b) a##b
#define JOINED(a, b) JOIN(a, b)
#ifdef ONE_LANE
#define fused JOINED(fused_one_lane_, VECTOR_BYTES)
constexpr bool one_lane = true;
#else
#define fused JOINED(fused_, VECTOR_BYTES)
constexpr bool one_lane = false;
#endif

namespace fused {

// A SIMD vector, whether its numbers belong to sequences or to units.
template <class S>
struct Simd;

template <>
struct Simd<float> {
  static constexpr int count = VECTOR_BYTES / 4;
  typedef float vector __attribute__((vector_size(VECTOR_BYTES)));
  typedef float unaligned __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));
  typedef uint32_t integers __attribute__((vector_size(VECTOR_BYTES)));
};

template <>
struct Simd<double> {
  static constexpr int count = VECTOR_BYTES / 8;
  typedef double vector __attribute__((vector_size(VECTOR_BYTES)));
  typedef double unaligned __attribute__((vector_size(VECTOR_BYTES), aligned(8), may_alias));
  typedef uint64_t integers __attribute__((vector_size(VECTOR_BYTES)));
};

template <class S>
using Wide = typename Simd<S>::vector;
template <class S>
using Unaligned = typename Simd<S>::unaligned;

// One number for each sequence of a block.
template <class S>
struct Lanes;

template <>
struct Lanes<float> {
  static constexpr int count = one_lane ? 1 : Simd<float>::count;
  using vector = std::conditional_t<one_lane, float, Simd<float>::vector>;
  using integers = std::conditional_t<one_lane, uint32_t, Simd<float>::integers>;
  static constexpr int mantissa_bits = 23, exponent_bias = 127;
  static constexpr float least_exponent = -87.33f, greatest_exponent = 88.0f;
  static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  static constexpr int taylor_terms = 7;
  static constexpr float rounding = 12582912.0f;  // 1.5 * 2^23: x plus this has no fraction
};

template <>
struct Lanes<double> {
  static constexpr int count = one_lane ? 1 : Simd<double>::count;
  using vector = std::conditional_t<one_lane, double, Simd<double>::vector>;
  using integers = std::conditional_t<one_lane, uint64_t, Simd<double>::integers>;
  static constexpr int mantissa_bits = 52, exponent_bias = 1023;
  static constexpr double least_exponent = -708.39, greatest_exponent = 709.0;
  static constexpr double ln2_high = 6.93145751953125e-1, ln2_low = 1.42860682030941723212e-6;
  static constexpr int taylor_terms = 13;
  static constexpr double rounding = 6755399441055744.0;  // 1.5 * 2^52
};

template <class S>
using Vector = typename Lanes<S>::vector;

// Vectors in memory aligned to 64 bytes; initially zero, or not cleared if they are written before they are read.
template <class V>
class Buffer {
 public:
  explicit Buffer(int64_t size, bool clear = true) : storage_(new char[size * sizeof(V) + 64]) {
    if (clear) std::memset(storage_.get(), 0, size * sizeof(V) + 64);
    auto address = reinterpret_cast<uintptr_t>(storage_.get());
    data_ = reinterpret_cast<V*>((address + 63) / 64 * 64);
  }
  V* data() { return data_; }
  const V* data() const { return data_; }
  V& operator[](int64_t i) { return data_[i]; }

 private:
  std::unique_ptr<char[]> storage_;
  V* data_;
};

template <class S>
inline Vector<S> all(S value) {
  return value - Vector<S>{};
}

template <class S>
inline S on_lane(const Vector<S>& x, int64_t lane) {
  return reinterpret_cast<const S*>(&x)[lane];
}

// The vector of function(lane) for every lane.
template <class S, class Function>
inline __attribute__((always_inline)) Vector<S> on_lanes(Function function) {
  Vector<S> y{};
  for (int lane = 0; lane < Lanes<S>::count; ++lane) reinterpret_cast<S*>(&y)[lane] = function(lane);
  return y;
}

// The sum over the lanes in use: values in the others may have overflowed.
template <class S>
inline S sum_of_lanes(Vector<S> x, int64_t lanes) {
  S sum = 0;
  for (int64_t lane = 0; lane < lanes; ++lane) sum += on_lane<S>(x, lane);
  return sum;
}

// x, but at most the limit; NaN stays NaN.
template <class S>
inline Vector<S> at_most(Vector<S> x, S most) {
#if defined(__AVX512F__) && !defined(ONE_LANE)
  if constexpr (std::is_same_v<S, float>)
    return _mm512_min_ps(all<S>(most), x);
  else
    return _mm512_min_pd(all<S>(most), x);
#else
  return x > most ? all<S>(most) : x;
#endif
}

template <class S>
inline Vector<S> clamped(Vector<S> x, S least, S most) {
#if defined(__AVX512F__) && !defined(ONE_LANE)
  if constexpr (std::is_same_v<S, float>)
    x = _mm512_max_ps(all<S>(least), x);
  else
    x = _mm512_max_pd(all<S>(least), x);
#else
  x = x < least ? all<S>(least) : x;
#endif
  return at_most<S>(x, most);
}

// 1 / k!
template <class S>
constexpr S inverse_factorial(int k) {
  return k < 2 ? S(1) : inverse_factorial<S>(k - 1) / S(k);
}

// For x = n ln 2 + r: the sum of n and a constant, from whose last bits n can be read, and e^r - 1.
template <class S>
struct Exponent {
  Vector<S> rounded, fraction;
};

template <class S>
inline Exponent<S> exponent_of(Vector<S> x) {
  using L = Lanes<S>;
  Vector<S> rounded = x * S(1.44269504088896340736) + L::rounding;
  Vector<S> whole = rounded - L::rounding;
  Vector<S> r = (x - whole * L::ln2_high) - whole * L::ln2_low;
  Vector<S> series = all<S>(inverse_factorial<S>(L::taylor_terms));
  for (int k = L::taylor_terms - 1; k >= 2; --k) series = series * r + inverse_factorial<S>(k);
  return {rounded, r + r * r * series};
}

// 2^n
template <class S>
inline Vector<S> power_of_2(Vector<S> rounded) {
  using L = Lanes<S>;
  typename L::integers bits;
  std::memcpy(&bits, &rounded, sizeof(bits));  // those of n and of the constant, which the shift drops
  bits = (bits + L::exponent_bias) << L::mantissa_bits;
  Vector<S> power;
  std::memcpy(&power, &bits, sizeof(power));
  return power;
}

// e^x - less, also accurate near 0 for less = 1. Where n is too large by one, the result for n - 1 is doubled, which
// yields infinity where it should.
template <class S>
inline Vector<S> exponential_less(Vector<S> x, S less) {
  using L = Lanes<S>;
  auto [rounded, fraction] = exponent_of<S>(clamped<S>(x, L::least_exponent, L::greatest_exponent + 1));
  Vector<S> fitting = at_most<S>(rounded, L::rounding + L::exponent_bias);
  Vector<S> power = power_of_2<S>(fitting);
  Vector<S> y = power * fraction + (power - less);
  return y + y * (rounded - fitting);
}

template <class S>
inline Vector<S> exp_minus_1(Vector<S> x) {
  return exponential_less<S>(x, S(1));
}

template <class S>
inline Vector<S> exponential(Vector<S> x) {
  return x < Lanes<S>::least_exponent ? Vector<S>{} : exponential_less<S>(x, S(0));
}

// e^x - 1 in fewer operations, for functions that no longer change where it is large.
template <class S>
inline Vector<S> limited_exp_minus_1(Vector<S> x) {
  auto [rounded, fraction] = exponent_of<S>(clamped<S>(x, Lanes<S>::least_exponent, Lanes<S>::greatest_exponent));
  Vector<S> power = power_of_2<S>(rounded);
  return power * fraction + (power - S(1));
}

// 1 / x. A division takes as long as ten other operations; an estimate and one step of Newton's method yield the same
// result to within the last bit or two.
template <class S>
inline Vector<S> reciprocal(Vector<S> x) {
#if defined(__AVX512F__) && !defined(ONE_LANE)
  if constexpr (std::is_same_v<S, float>) {
    Vector<S> estimate = _mm512_rcp14_ps(x);
    return estimate + estimate * (S(1) - x * estimate);
  }
#endif
  return S(1) / x;
}

template <class S>
inline Vector<S> sigmoid(Vector<S> x) {
  return reciprocal<S>(S(2) + limited_exp_minus_1<S>(-x));
}

template <class S>
inline Vector<S> hyperbolic_tangent(Vector<S> x) {
  Vector<S> e = limited_exp_minus_1<S>(S(2) * clamped<S>(x, S(-20), S(20)));
  return e * reciprocal<S>(e + S(2));
}

template <class S>
inline Vector<S> each_lane(Vector<S> x, S (*function)(S)) {
  return on_lanes<S>([&](int lane) { return function(on_lane<S>(x, lane)); });
}

template <class S>
inline Vector<S> root(Vector<S> x) {  // not through `each_lane`, so that it becomes one instruction
  return on_lanes<S>([&](int lane) { return std::sqrt(on_lane<S>(x, lane)); });
}

template <class S>
inline Vector<S> power(Vector<S> x, Vector<S> exponent) {
  return on_lanes<S>([&](int lane) { return std::pow(on_lane<S>(x, lane), on_lane<S>(exponent, lane)); });
}

// The remainder of x divided by y, with the sign of y.
template <class S>
inline Vector<S> remainder(Vector<S> x, Vector<S> y) {
  return on_lanes<S>([&](int lane) {
    S divisor = on_lane<S>(y, lane), left = std::fmod(on_lane<S>(x, lane), divisor);
    return left != 0 && (left < 0) != (divisor < 0) ? left + divisor : left;
  });
}

// NaN if either is NaN, as in torch.
template <class S>
inline Vector<S> larger(Vector<S> a, Vector<S> b) {
  return a > b ? a : (a == a ? b : a);
}

template <class S>
inline Vector<S> smaller(Vector<S> a, Vector<S> b) {
  return a < b ? a : (a == a ? b : a);
}

template <class S>
inline Vector<S> absolute(Vector<S> x) {
  return x <= S(0) ? S(0) - x : x;  // also correct for -0
}

template <class S>
inline Vector<S> sign(Vector<S> x) {
  return (x > S(0) ? all<S>(1) : Vector<S>{}) - (x < S(0) ? all<S>(1) : Vector<S>{});
}

template <class S>
inline Vector<S> rectified(Vector<S> x) {
  return x > S(0) ? x : (x == x ? Vector<S>{} : x);
}

enum Nonlinearity { relu = 0, tanh = 1, linear = 2 };

template <class S>
inline Vector<S> apply(int nonlinearity, Vector<S> a) {
  if (nonlinearity == relu) return rectified<S>(a);
  if (nonlinearity == tanh) return hyperbolic_tangent<S>(a);
  return a;
}

// f'(a) in terms of y = f(a).
template <class S>
inline Vector<S> derivative(int nonlinearity, Vector<S> y) {
  if (nonlinearity == relu) return y > S(0) ? all<S>(1) : Vector<S>{};
  if (nonlinearity == tanh) return S(1) - y * y;
  return all<S>(1);
}

// The sum of term(i) over i = 0 ... n-1, as four independent partial sums.
template <class S, class Term>
inline Vector<S> sum_over(int64_t n, Term term) {
  Vector<S> sums[4] = {};
  int64_t i = 0;
  for (; i + 4 <= n; i += 4)
    for (int k = 0; k < 4; ++k) sums[k] += term(i + k);
  for (; i < n; ++i) sums[0] += term(i);
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

// Calls body(i, part) for i = 0 ... n-1, with parts cycling through 0 ... 3, for four independent partial sums.
template <class Body>
inline __attribute__((always_inline)) void in_parts(int64_t n, Body body) {
  int64_t i = 0;
  for (; i + 4 <= n; i += 4)
    for (int part = 0; part < 4; ++part) body(i + part, part);
  for (; i < n; ++i) body(i, 0);
}

// The dot products of v with `count` vectors of units, `next` apart, in eight independent partial sums.
template <class S, int count>
inline void dot_products(const Vector<S>* x, int64_t next, const Vector<S>* v, int64_t units, Vector<S>* to) {
  constexpr int parts = 8 / count;
  Vector<S> sums[parts][count] = {};
  int64_t i = 0;
  for (; i + parts <= units; i += parts)
    for (int part = 0; part < parts; ++part)
      for (int n = 0; n < count; ++n) sums[part][n] += x[n * next + i + part] * v[i + part];
  for (; i < units; ++i)
    for (int n = 0; n < count; ++n) sums[0][n] += x[n * next + i] * v[i];
  for (int n = 0; n < count; ++n) {
    to[n] = sums[0][n];
    for (int part = 1; part < parts; ++part) to[n] += sums[part][n];
  }
}

// Calls run(count, j) for begin <= j < end in steps of four, and then for the remaining one to three; `count` is a
// compile-time constant.
template <class Run>
inline void in_fours(int64_t begin, int64_t end, Run run) {
  int64_t j = begin;
  for (; j + 4 <= end; j += 4) run(std::integral_constant<int, 4>(), j);
  if (end - j == 3) run(std::integral_constant<int, 3>(), j);
  if (end - j == 2) run(std::integral_constant<int, 2>(), j);
  if (end - j == 1) run(std::integral_constant<int, 1>(), j);
}

template <class S>
inline void activate(int nonlinearity, const Vector<S>* a, int64_t units, Vector<S>* to) {
  for (int64_t i = 0; i < units; ++i) to[i] = apply<S>(nonlinearity, a[i]);
}

// LN(a) = gain * x + bias with x = (a - mean) / sqrt(variance + epsilon), over the units of each lane.
template <class S>
struct LayerNorm {
  const S* gain;
  const S* bias;
  int64_t units;

  // Writes x, followed by 1 / sqrt(variance + epsilon); overwrites a.
  void normalize(Vector<S>* a, Vector<S>* x) const {
    Vector<S> mean = sum_over<S>(units, [&](int64_t i) { return a[i]; }) / S(units);
    Vector<S> squares = sum_over<S>(units, [&](int64_t i) {
      a[i] -= mean;
      return a[i] * a[i];
    });
    Vector<S> scale = S(1) / root<S>(squares / S(units) + S(1e-5));
    for (int64_t i = 0; i < units; ++i) x[i] = a[i] * scale;
    x[units] = scale;
  }

  // f(LN(a)), from x.
  void activate(int nonlinearity, const Vector<S>* x, Vector<S>* to) const {
    for (int64_t i = 0; i < units; ++i) to[i] = apply<S>(nonlinearity, x[i] * gain[i] + bias[i]);
  }

  // Turns the gradient g of LN(a) into that of a, in place; adds to the gradients of gain and bias.
  void backward(Vector<S>* g, const Vector<S>* x, Vector<S>* d_gain, Vector<S>* d_bias) const {
    Vector<S> sum{}, along{};
    for (int64_t i = 0; i < units; ++i) {
      d_gain[i] += g[i] * x[i];
      d_bias[i] += g[i];
      g[i] *= gain[i];
      sum += g[i];
      along += g[i] * x[i];
    }
    sum /= S(units);
    along /= S(units);
    Vector<S> scale = x[units];
    for (int64_t i = 0; i < units; ++i) g[i] = scale * (g[i] - sum - x[i] * along);
  }
};

}  // namespace fused
