// One sequence per lane of a SIMD vector: functions, sums, products with a matrix and layer norm.
//
// A block is one vector of sequences. A quantity of n units at one time step is n vectors, [unit, lane]: no sum over
// units crosses lanes, and no width has to be padded. Only the compiler's vector types are used, so that the same
// source works on every processor.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <type_traits>
#include <vector>

namespace fused {

template <class S>
struct Lanes;

template <>
struct Lanes<float> {
  static constexpr int count = 16;
  typedef float vector __attribute__((vector_size(64)));
  typedef float unaligned __attribute__((vector_size(64), aligned(4), may_alias));
  typedef int32_t integers __attribute__((vector_size(64)));
  static constexpr int mantissa_bits = 23, exponent_bias = 127;
  static constexpr float least_exponent = -87.0f, greatest_exponent = 88.0f;
  static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  static constexpr int taylor_terms = 7;
};

template <>
struct Lanes<double> {
  static constexpr int count = 8;
  typedef double vector __attribute__((vector_size(64)));
  typedef double unaligned __attribute__((vector_size(64), aligned(8), may_alias));
  typedef int64_t integers __attribute__((vector_size(64)));
  static constexpr int mantissa_bits = 52, exponent_bias = 1023;
  static constexpr double least_exponent = -708.0, greatest_exponent = 709.0;
  static constexpr double ln2_high = 6.93145751953125e-1, ln2_low = 1.42860682030941723212e-6;
  static constexpr int taylor_terms = 13;
};

template <class S>
using Vector = typename Lanes<S>::vector;
template <class S>
using Unaligned = typename Lanes<S>::unaligned;

#if defined(__AVX512F__)
constexpr int tile_rows = 8;
#else
constexpr int tile_rows = 4;
#endif

inline int64_t padded(int64_t rows) { return (rows + tile_rows - 1) / tile_rows * tile_rows; }

// Vectors aligned to 64 bytes, initially zero.
template <class S>
class Buffer {
 public:
  explicit Buffer(int64_t size) : storage_(new char[(size + 1) * sizeof(Vector<S>)]()) {
    auto address = reinterpret_cast<uintptr_t>(storage_.get());
    data_ = reinterpret_cast<Vector<S>*>((address + 63) / 64 * 64);
  }
  Vector<S>* data() { return data_; }
  const Vector<S>* data() const { return data_; }
  Vector<S>& operator[](int64_t i) { return data_[i]; }

 private:
  std::unique_ptr<char[]> storage_;
  Vector<S>* data_;
};

template <class S>
inline Vector<S> all(S value) {
  return value - Vector<S>{};
}

// The sum of the lanes in use: values in the others may have overflowed.
template <class S>
inline S sum_of_lanes(Vector<S> x, int64_t lanes) {
  S sum = 0;
  for (int64_t lane = 0; lane < lanes; ++lane) sum += x[lane];
  return sum;
}

// e^x - 1 = 2^n (e^r - 1) + (2^n - 1) with x = n ln 2 + r, accurate near 0 too.
template <class S>
inline Vector<S> exp_minus_1(Vector<S> x) {
  using L = Lanes<S>;
  x = x < L::least_exponent ? all<S>(L::least_exponent) : x;
  x = x > L::greatest_exponent ? all<S>(L::greatest_exponent) : x;
  Vector<S> half = x < S(0) ? all<S>(S(-0.5)) : all<S>(S(0.5));
  auto n = __builtin_convertvector(x * S(1.44269504088896340736) + half, typename L::integers);
  Vector<S> whole = __builtin_convertvector(n, Vector<S>);
  Vector<S> r = (x - whole * L::ln2_high) - whole * L::ln2_low;
  Vector<S> series = all<S>(1);
  for (int term = L::taylor_terms; term >= 2; --term) series = S(1) + series * r * (S(1) / S(term));
  auto bits = (n + L::exponent_bias) << L::mantissa_bits;
  Vector<S> power;
  std::memcpy(&power, &bits, sizeof(power));
  return power * (series * r) + (power - S(1));
}

template <class S>
inline Vector<S> sigmoid(Vector<S> x) {
  return S(1) / (S(2) + exp_minus_1<S>(-x));
}

template <class S>
inline Vector<S> hyperbolic_tangent(Vector<S> x) {
  x = x > S(20) ? all<S>(20) : x;
  x = x < S(-20) ? all<S>(-20) : x;
  Vector<S> e = exp_minus_1<S>(S(2) * x);
  return e / (e + S(2));
}

enum Nonlinearity { relu = 0, tanh = 1, linear = 2 };

template <class S>
inline Vector<S> apply(int nonlinearity, Vector<S> a) {
  if (nonlinearity == relu) return a > S(0) ? a : (a == a ? Vector<S>{} : a);
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

// The dot products of v with `count` vectors of units, `next` apart; eight independent partial sums.
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

// A matrix [rows, columns] with given strides, packed so that a tile of rows is read sequentially.
template <class S>
class Packed {
 public:
  Packed(const S* matrix, int64_t rows, int64_t columns, int64_t row_stride, int64_t column_stride)
      : rows_(rows), columns_(columns), data_(padded(rows) * columns) {
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t column = 0; column < columns; ++column)
        data_[(row / tile_rows * columns + column) * tile_rows + row % tile_rows] =
            matrix[row * row_stride + column * column_stride];
  }

  // y += M x; y has padded(rows) vectors.
  void multiply_add(const Vector<S>* x, Vector<S>* y) const {
    for (int64_t tile = 0; tile < rows_; tile += tile_rows) {
      const S* weights = data_.data() + tile * columns_;
      Vector<S> sums[tile_rows];
      for (int i = 0; i < tile_rows; ++i) sums[i] = y[tile + i];
      for (int64_t column = 0; column < columns_; ++column) {
        Vector<S> value = x[column];
        for (int i = 0; i < tile_rows; ++i) sums[i] += weights[column * tile_rows + i] * value;
      }
      for (int i = 0; i < tile_rows; ++i) y[tile + i] = sums[i];
    }
  }

 private:
  int64_t rows_, columns_;
  std::vector<S> data_;
};

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
    Vector<S> variance = squares / S(units) + S(1e-5), scale{};
    for (int lane = 0; lane < Lanes<S>::count; ++lane) scale[lane] = S(1) / std::sqrt(variance[lane]);
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
