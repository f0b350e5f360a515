// Sequences side by side in the lanes of a vector, and what every cell needs on such vectors.
//
// A block is one vector of sequences. A quantity of n units at one time step is n vectors, [unit, lane]: no sum over
// units crosses a lane, and no width has to be padded. Only the compiler's vector types are used, so that the same
// source serves every processor.
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

// Vectors at addresses that are multiples of 64 bytes, zero at first.
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

// Only of the lanes in use: what runs in the others may overflow.
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

// The sum of term(i) over i = 0 ... n-1, as four sums side by side, none of which waits for another.
template <class S, class Term>
inline Vector<S> sum_over(int64_t n, Term term) {
  Vector<S> sums[4] = {};
  int64_t i = 0;
  for (; i + 4 <= n; i += 4)
    for (int k = 0; k < 4; ++k) sums[k] += term(i + k);
  for (; i < n; ++i) sums[0] += term(i);
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

// Of `count` vectors of units, `next` apart, the products with v; eight sums side by side.
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

// Calls run(count, j) for begin <= j < end in steps of four, and then for the one to three that are left; `count` is
// known to the compiler.
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

// A matrix [rows, columns] with given strides, packed so that a tile of rows is read in order.
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

  // Writes x, and 1 / sqrt(variance + epsilon) behind it; a is used up.
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

  // From the gradient g of LN(a) to that of a, in place; adds to the gradients of gain and bias.
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

// Rows of numbers, one per sequence and time step: vectors [batch, time, units], or symbols and a table of rows.
template <class S>
struct Rows {
  const S* data;
  const int64_t* tokens;
  int64_t time, units;

  const S* row(int64_t sequence, int64_t t) const {
    int64_t position = sequence * time + t;
    return data + (tokens ? tokens[position] : position) * units;
  }
};

inline bool any_outside(const int64_t* tokens, int64_t positions, int64_t symbols) {
  bool outside = false;
  for (int64_t position = 0; tokens && position < positions; ++position)
    outside |= tokens[position] < 0 || tokens[position] >= symbols;
  return outside;
}

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define TRANSPOSES_IN_REGISTERS 1
#endif
#endif

#ifdef TRANSPOSES_IN_REGISTERS
inline void interleave(Vector<float> a, Vector<float> b, Vector<float>& low, Vector<float>& high) {
  low = __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  high = __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}
inline void interleave(Vector<double> a, Vector<double> b, Vector<double>& low, Vector<double>& high) {
  low = __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
  high = __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
}

// The transpose of a square of numbers: as many perfect shuffles of its two halves as a lane's number has bits.
template <class S>
inline void transpose(Vector<S>* square) {
  constexpr int count = Lanes<S>::count;
  for (int n = 1; n < count; n *= 2) {
    Vector<S> shuffled[count];
    for (int i = 0; i < count / 2; ++i)
      interleave(square[i], square[i + count / 2], shuffled[2 * i], shuffled[2 * i + 1]);
    for (int i = 0; i < count; ++i) square[i] = shuffled[i];
  }
}
#endif

// The sequences of one block.
struct Block {
  int64_t first, lanes;

  template <class S>
  void load(const Rows<S>& rows, int64_t t, Vector<S>* to) const {
    constexpr int count = Lanes<S>::count;
    S* scalars = reinterpret_cast<S*>(to);
    int64_t done = 0;
#ifdef TRANSPOSES_IN_REGISTERS
    const S* starts[count];
    for (int64_t lane = 0; lane < lanes; ++lane) starts[lane] = rows.row(first + lane, t);
    for (; lanes == count && done + count <= rows.units; done += count) {
      Vector<S> square[count];
      for (int lane = 0; lane < count; ++lane)
        square[lane] = *reinterpret_cast<const Unaligned<S>*>(starts[lane] + done);
      transpose<S>(square);
      std::copy(square, square + count, to + done);
    }
#endif
    if (lanes < count) std::fill(to + done, to + rows.units, Vector<S>{});
    for (int64_t lane = 0; lane < lanes; ++lane) {
      const S* row = rows.row(first + lane, t);
      for (int64_t i = done; i < rows.units; ++i) scalars[i * count + lane] = row[i];
    }
  }

  // Rows lie `width` apart, which is `units` unless said otherwise.
  template <class S>
  void store(const Vector<S>* from, S* rows, int64_t time, int64_t units, int64_t t, int64_t width = 0) const {
    if (width == 0) width = units;
    constexpr int count = Lanes<S>::count;
    const S* scalars = reinterpret_cast<const S*>(from);
    int64_t done = 0;
#ifdef TRANSPOSES_IN_REGISTERS
    for (; lanes == count && done + count <= units; done += count) {
      Vector<S> square[count];
      std::copy(from + done, from + done + count, square);
      transpose<S>(square);
      for (int lane = 0; lane < count; ++lane)
        *reinterpret_cast<Unaligned<S>*>(rows + ((first + lane) * time + t) * width + done) = square[lane];
    }
#endif
    for (int64_t lane = 0; lane < lanes; ++lane) {
      S* row = rows + ((first + lane) * time + t) * width;
      for (int64_t i = done; i < units; ++i) row[i] = scalars[i * count + lane];
    }
  }
};

template <class S>
inline int64_t num_blocks(int64_t batch) {
  return (batch + Lanes<S>::count - 1) / Lanes<S>::count;
}

// What every step gives out, [batch, time, units], or what the last one does, [batch, 1, units].
template <class S>
struct Outputs {
  S* data;
  int64_t time, units;
  bool last_only;

  void store(Block block, const Vector<S>* from, int64_t t) const {
    if (!last_only)
      block.store(from, data, time, units, t);
    else if (t == time - 1)
      block.store(from, data, 1, units, 0);
  }
};

// The gradient of the outputs.
template <class S>
struct OutputGradients {
  const S* data;
  int64_t time, units;
  bool last_only;

  void load(Block block, int64_t t, Vector<S>* to) const {
    if (!last_only)
      block.load(Rows<S>{data, nullptr, time, units}, t, to);
    else if (t == time - 1)
      block.load(Rows<S>{data, nullptr, 1, units}, 0, to);
    else
      std::fill(to, to + units, Vector<S>{});
  }
};

// Whether blocks are done one after the other, so that what one leaves behind can be added to a sum at once.
inline bool one_by_one([[maybe_unused]] int threads) {
#ifdef _OPENMP
  return threads == 1;
#else
  return true;
#endif
}

enum Order { ascending, descending };

// Calls run(block number, block) for every block. What a block writes is its own, so the number of threads cannot
// change a result. A backward pass begins with the blocks that the forward pass ended with: what they have kept may
// still be in the cache.
template <class S, class Run>
void for_each_block(int64_t batch, int threads, Order order, Run run) {
  int64_t blocks = num_blocks<S>(batch), parts = one_by_one(threads) ? 1 : std::min<int64_t>(threads, blocks);
#ifdef _OPENMP
#pragma omp parallel for schedule(static) num_threads(parts) if (parts > 1)
#endif
  for (int64_t part = 0; part < parts; ++part) {
    int64_t begin = part * blocks / parts, end = (part + 1) * blocks / parts;
    for (int64_t n = begin; n < end; ++n) {
      int64_t number = order == ascending ? n : begin + end - 1 - n, first = number * Lanes<S>::count;
      run(number, Block{first, std::min<int64_t>(Lanes<S>::count, batch - first)});
    }
  }
}

// A matrix whose rows are whole vectors, zero at first.
template <class S>
class WideRows {
 public:
  WideRows(int64_t rows, int64_t columns)
      : columns_(columns), vectors_((columns + Lanes<S>::count - 1) / Lanes<S>::count), data_(rows * vectors_) {}

  Vector<S>* row(int64_t i) { return data_.data() + i * vectors_; }
  const S* numbers(int64_t i) const { return reinterpret_cast<const S*>(data_.data() + i * vectors_); }
  int64_t vectors() const { return vectors_; }

  // Row t of the `time` rows of every lane.
  void store(Block block, const Vector<S>* from, int64_t time, int64_t t) {
    S* rows = reinterpret_cast<S*>(data_.data());
    Block{0, block.lanes}.store(from, rows, time, columns_, t, vectors_ * Lanes<S>::count);
  }

 private:
  int64_t columns_, vectors_;
  Buffer<S> data_;
};

// to[i, j] += sum over rows of left[row, i] right[row, j] for i < high, right and to being wide rows of so many
// vectors. The rows come in groups, of each of which the first ones are left out.
template <class S>
class OuterProducts {
 public:
  const S* left;
  int64_t left_width, high;
  const Vector<S>* right;
  int64_t vectors, groups, rows, left_out;
  Vector<S>* to;

  // Columns are the outer loop, so that what is read again and again is narrow enough for the cache.
  void add() const {
    int64_t j = 0;
    for (; j + 2 <= vectors; j += 2) add_columns<2>(j);
    for (; j < vectors; ++j) add_columns<1>(j);
  }

 private:
  template <int wide>
  void add_columns(int64_t j) const {
    int64_t i = 0;
    for (; i + tile_rows <= high; i += tile_rows) add_tile<tile_rows, wide>(i, j);
    for (; i + 2 <= high; i += 2) add_tile<2, wide>(i, j);
    for (; i < high; ++i) add_tile<1, wide>(i, j);
  }

  template <int tall, int wide>
  void add_tile(int64_t i, int64_t j) const {
    Vector<S> sums[tall][wide] = {};
    for (int64_t group = 0; group < groups; ++group)
      for (int64_t row = group * rows + left_out; row < (group + 1) * rows; ++row) {
        const S* factors = left + row * left_width + i;
        const Vector<S>* values = right + row * vectors + j;
        for (int k = 0; k < tall; ++k)
          for (int n = 0; n < wide; ++n) sums[k][n] += factors[k] * values[n];
      }
    for (int k = 0; k < tall; ++k)
      for (int n = 0; n < wide; ++n) to[(i + k) * vectors + j + n] += sums[k][n];
  }
};

// Gradients of a matrix [rows, columns] that every block adds up for itself. Blocks that come one by one share a single
// matrix, which stays in the cache: it is the same sum in the same order, to the last bit.
template <class S>
class BlockGradients {
 public:
  BlockGradients(int64_t blocks, int64_t rows, int64_t columns, bool shared)
      : blocks_(shared ? 1 : blocks), rows_(rows), columns_(columns), data_(blocks_ * rows, columns) {}

  // Adds the sum over the rows of left^T right, those of left [rows] lying `left_width` apart. Where the rows are the
  // steps of several sequences, `left_out` steps are zero at the start of each.
  void add(int64_t block, const S* left, int64_t left_width, const Vector<S>* right, int64_t sequences, int64_t steps,
           int64_t left_out) {
    Vector<S>* own = data_.row(blocks_ == 1 ? 0 : block * rows_);
    OuterProducts<S>{left, left_width, rows_, right, data_.vectors(), sequences, steps, left_out, own}.add();
  }

  // Adds the sum over steps of (gradient of the sums at t) (hidden state before t)^T; `before(t)` is that state, from
  // the first step at which it is not zero.
  template <class Before>
  void add_recurrent(int64_t number, Block block, int64_t time, const S* d_sums, int64_t first, Before before) {
    WideRows<S> states(block.lanes * time, columns_);
    for (int64_t t = first; t < time; ++t) states.store(block, before(t), time, t);
    add(number, d_sums, rows_, states.row(0), block.lanes, time, first);
  }

  // The gradients of all blocks as they are, [blocks, rows, columns].
  void copy_to(S* to) const {
    for (int64_t row = 0; row < blocks_ * rows_; ++row)
      to = std::copy(data_.numbers(row), data_.numbers(row) + columns_, to);
  }

  // The sum over the blocks, in the order in which blocks that share a matrix are added to it.
  void sum_to(S* to) const {
    std::fill(to, to + rows_ * columns_, S(0));
    for (int64_t block = blocks_ - 1; block >= 0; --block)
      for (int64_t row = 0; row < rows_; ++row)
        for (int64_t column = 0; column < columns_; ++column)
          to[row * columns_ + column] += data_.numbers(block * rows_ + row)[column];
  }

 private:
  int64_t blocks_, rows_, columns_;
  WideRows<S> data_;
};

// The gradient of the inputs: of every position, or, where a table is given with tokens, the sum over the positions of
// each symbol, block by block. Then the rows of blocks that come one by one share the room of one block, in the cache.
template <class S>
class InputGradients {
 public:
  InputGradients(S* to, const int64_t* tokens, int64_t symbols, int64_t batch, int64_t time, int64_t units, bool shared)
      : to_(to), tokens_(tokens), batch_(batch), time_(time), units_(units), shared_(shared) {
    if (!tokens) return;
    std::fill(to, to + symbols * units, S(0));
    rows_.reset(new S[(shared ? std::min<int64_t>(batch, Lanes<S>::count) : batch) * time * units]);
  }

  // Where a block writes its gradients, [lanes, time, units].
  S* rows(Block block) { return (tokens_ ? rows_.get() : to_) + (tokens_ && shared_ ? 0 : first(block) * units_); }

  // To be called when a block has written all of them, and has no more use for them.
  void finish(Block block) {
    if (tokens_ && shared_) add(first(block), block.lanes * time_, rows_.get());
  }

  // To be called after all blocks.
  void finish() {
    if (!tokens_ || shared_) return;
    for (int64_t end = batch_; end > 0;) {  // the same order
      int64_t begin = (end - 1) / Lanes<S>::count * Lanes<S>::count;
      add(begin * time_, (end - begin) * time_, rows_.get() + begin * time_ * units_);
      end = begin;
    }
  }

 private:
  int64_t first(Block block) const { return block.first * time_; }

  void add(int64_t first, int64_t positions, const S* rows) {
    for (const int64_t* token = tokens_ + first; token < tokens_ + first + positions; ++token, rows += units_) {
      S* row = to_ + *token * units_;
      for (int64_t i = 0; i < units_; ++i) row[i] += rows[i];
    }
  }

  S* to_;
  const int64_t* tokens_;
  int64_t batch_, time_, units_;
  bool shared_;
  std::unique_ptr<S[]> rows_;
};

// Sums what the blocks have left, always in the same order.
template <class S>
void add_blocks(const std::vector<S>& partial, int64_t blocks, int64_t size, S* to) {
  std::fill(to, to + size, S(0));
  for (int64_t number = 0; number < blocks; ++number)
    for (int64_t i = 0; i < size; ++i) to[i] += partial[number * size + i];
}

}  // namespace fused
