#include "products.h"

namespace fused {

// y[i] = start[i] + sum over columns of w[column, i] x[column] for i < height: the numbers of a matrix times vectors,
// or its vectors times numbers. A few rows are summed in several parts, since each addition has to wait for the one
// before it.
template <class S, int height, class Weight, class Factor>
inline void multiply_tile(const Weight* w, int64_t columns, const Factor* x, const Wide<S>* start, Wide<S>* y) {
  constexpr int parts = height >= 7 ? 1 : height >= 4 ? 2 : 4;
  Wide<S> sums[parts][height] = {};
  for (int i = 0; start && i < height; ++i) sums[0][i] = start[i];
  int64_t c = 0;
  for (; c + parts <= columns; c += parts)
    for (int part = 0; part < parts; ++part)
      for (int i = 0; i < height; ++i) sums[part][i] += w[(c + part) * height + i] * x[c + part];
  for (; c < columns; ++c)
    for (int i = 0; i < height; ++i) sums[0][i] += w[c * height + i] * x[c];
  for (int i = 0; i < height; ++i) {
    for (int part = 1; part < parts; ++part) sums[0][i] += sums[part][i];
    y[i] = sums[0][i];
  }
}

// Calls run(first row, height) for every tile.
template <class Run>
inline void for_each_tile(int64_t rows, Run run) {
  int64_t tiles = (rows + tallest - 1) / tallest;
  for (int64_t n = 0, row = 0; n < tiles; ++n) {
    int64_t height = rows / tiles + (n < rows % tiles);
    run(row, height);
    row += height;
  }
}

template <class S>
Matrix<S>::Matrix(const S* from, int64_t rows, int64_t columns, int64_t row_stride, int64_t column_stride)
    : rows_(rows), columns_(columns), groups_((rows + wide - 1) / wide),
      data_((groups_ * wide * columns + Simd<S>::count - 1) / Simd<S>::count, false) {
  S* to = reinterpret_cast<S*>(data_.data());
  for_each_tile(groups_, [&](int64_t group, int64_t height) {
    int64_t first = group * wide, last = (group + height) * wide;
    for (int64_t c = 0; c < columns; ++c)
      for (int64_t row = first; row < last; ++row)
        *to++ = row < rows ? from[row * row_stride + c * column_stride] : S(0);
  });
}

template <class S>
void Matrix<S>::multiply(const Vector<S>* x, const Vector<S>* start, Vector<S>* y) const {
  if constexpr (one_lane)
    multiply_one(x, start, y);
  else
    for_each_tile(rows_, [&](int64_t row, int64_t height) {
      const S* w = reinterpret_cast<const S*>(data_.data()) + row * columns_;
      with_height<tallest>(height, [&](auto rows) {
        multiply_tile<S, rows>(w, columns_, x, start ? start + row : nullptr, y + row);
      });
    });
}

template <class S>
void Matrix<S>::multiply_one(const S* x, const S* start, S* y) const {
  for_each_tile(groups_, [&](int64_t group, int64_t height) {
    Wide<S> sums[tallest];
    with_height<tallest>(height, [&](auto groups) {
      multiply_tile<S, groups>(data_.data() + group * columns_, columns_, x, nullptr, sums);
    });
    const S* numbers = reinterpret_cast<const S*>(sums);
    int64_t first = group * wide, count = std::min(height * wide, rows_ - first);
    for (int64_t i = 0; i < count; ++i) y[first + i] = start ? start[first + i] + numbers[i] : numbers[i];
  });
}

template <class S>
void OuterProducts<S>::add() const {
  int64_t j = 0;
  for (; j + 2 <= vectors; j += 2) add_columns<2>(j);
  for (; j < vectors; ++j) add_columns<1>(j);
}

template <class S>
template <int wide>
void OuterProducts<S>::add_columns(int64_t j) const {
  constexpr int tall = wide == 2 ? tall_of_two : tall_of_two * 3 / 2;
  int64_t i = 0;
  for (; i + tall <= high; i += tall) add_tile<tall, wide>(i, j);
  with_height<tall - 1>(high - i, [&](auto rest) { add_tile<rest, wide>(i, j); });
}

template <class S>
template <int tall, int wide>
void OuterProducts<S>::add_tile(int64_t i, int64_t j) const {
  Wide<S> sums[tall][wide] = {};
  for (int64_t group = 0; group < groups; ++group) {
    const S* factors = left + group * left_group + skipped * left_width + i;
    const Wide<S>* values = right + (group * rows + skipped) * vectors + j;
    for (int64_t row = skipped; row < rows; ++row, factors += left_width, values += vectors)
      for (int k = 0; k < tall; ++k)
        for (int n = 0; n < wide; ++n) sums[k][n] += factors[k] * values[n];
  }
  for (int k = 0; k < tall; ++k)
    for (int n = 0; n < wide; ++n) to[(i + k) * vectors + j + n] += sums[k][n];
}

template class Matrix<float>;
template class Matrix<double>;
template struct OuterProducts<float>;
template struct OuterProducts<double>;

}  // namespace fused
