// Products with a matrix, and sums of outer products of rows, in tiles that stay in registers. The heights of tiles are
// compile-time constants, the sizes of matrices are not, so the library holds a single copy for all kernels.
#pragma once

#include "lanes.h"

namespace fused {

// rows of a tile that is one vector wide, or two
#if defined(__AVX512F__) || defined(__aarch64__)  // 32 registers
constexpr int tallest = 16, tall_of_two = 8;
#else
constexpr int tallest = 12, tall_of_two = 6;
#endif

// Calls run(height) with a compile-time height of 1 ... most.
template <int most, class Run>
inline void with_height(int64_t height, Run run) {
  if constexpr (most > 0) {
    if (height == most)
      run(std::integral_constant<int, most>());
    else
      with_height<most - 1>(height, run);
  }
}

// A matrix [rows, columns] with given strides, packed in tiles of nearly equal heights, each read sequentially. With
// one lane, the numbers of a vector belong to consecutive rows of the matrix.
template <class S>
class Matrix {
 public:
  Matrix() = default;
  Matrix(const S* from, int64_t rows, int64_t columns, int64_t row_stride, int64_t column_stride);

  // y = start + M x; without a start, y = M x.
  void multiply(const Vector<S>* x, const Vector<S>* start, Vector<S>* y) const;

 private:
  static constexpr int64_t wide = one_lane ? Simd<S>::count : 1;
  void multiply_one(const S* x, const S* start, S* y) const;

  int64_t rows_ = 0, columns_ = 0;
  int64_t groups_ = 0;  // of `wide` rows each
  Buffer<Wide<S>> data_{0};
};

// to[i, j] += sum over rows of left[row, i] right[row, j] for i < high. Rows of `right` and `to` are `vectors` long,
// rows of `left` are `left_width` numbers apart. Rows come in groups, which in `left` are `left_group` numbers apart;
// the first `skipped` rows of each group are left out.
template <class S>
struct OuterProducts {
  const S* left;
  int64_t left_width, left_group, high;
  const Wide<S>* right;
  int64_t vectors, groups, rows, skipped;
  Wide<S>* to;

  // Columns are the outer loop, so that what is read repeatedly is narrow enough for the cache.
  void add() const;

 private:
  template <int wide>
  void add_columns(int64_t j) const;
  template <int tall, int wide>
  void add_tile(int64_t i, int64_t j) const;
};

extern template class Matrix<float>;
extern template class Matrix<double>;
extern template struct OuterProducts<float>;
extern template struct OuterProducts<double>;

}  // namespace fused
