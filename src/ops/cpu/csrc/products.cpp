#include "products.h"

namespace fused {

// y[i] = start[i] + sum over columns of w[column, i] value(column) for i < height. Few rows are summed in several parts,
// since a sum has to wait for the one before.
template <class S, int height, class Weight, class Value>
inline void multiply_tile(const Weight* w, int64_t columns, Value value, const Vector<S>* start, Vector<S>* y) {
  constexpr int parts = height >= 7 ? 1 : height >= 4 ? 2 : 4;
  Vector<S> sums[parts][height] = {};
  for (int i = 0; start && i < height; ++i) sums[0][i] = start[i];
  int64_t c = 0;
  for (; c + parts <= columns; c += parts)
    for (int part = 0; part < parts; ++part) {
      auto factor = value(c + part);
      for (int i = 0; i < height; ++i) sums[part][i] += w[(c + part) * height + i] * factor;
    }
  for (; c < columns; ++c)
    for (int i = 0; i < height; ++i) sums[0][i] += w[c * height + i] * value(c);
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
Matrix<S>::Matrix(const S* from, int64_t rows, int64_t columns, int64_t row_stride, int64_t column_stride, int64_t batch)
    : rows_(rows), columns_(columns), wide_(batch == 1 ? Lanes<S>::count : 1), groups_((rows + wide_ - 1) / wide_),
      data_((groups_ * wide_ * columns + Lanes<S>::count - 1) / Lanes<S>::count, false) {
  S* to = reinterpret_cast<S*>(data_.data());
  for_each_tile(groups_, [&](int64_t group, int64_t height) {
    int64_t first = group * wide_, last = (group + height) * wide_;
    for (int64_t c = 0; c < columns; ++c)
      for (int64_t row = first; row < last; ++row)
        *to++ = row < rows ? from[row * row_stride + c * column_stride] : S(0);
  });
}

template <class S>
void Matrix<S>::multiply(const Vector<S>* x, const Vector<S>* start, Vector<S>* y) const {
  if (wide_ > 1) return multiply_one(x, start, y);
  for_each_tile(rows_, [&](int64_t row, int64_t height) {
    const S* w = reinterpret_cast<const S*>(data_.data()) + row * columns_;
    with_height<tallest>(height, [&](auto rows) {
      multiply_tile<S, rows>(w, columns_, [x](int64_t c) { return x[c]; }, start ? start + row : nullptr, y + row);
    });
  });
}

template <class S>
void Matrix<S>::multiply_one(const Vector<S>* x, const Vector<S>* start, Vector<S>* y) const {
  for_each_tile(groups_, [&](int64_t group, int64_t height) {
    Vector<S> sums[tallest];
    with_height<tallest>(height, [&](auto groups) {
      auto value = [x](int64_t c) { return x[c][0]; };
      multiply_tile<S, groups>(data_.data() + group * columns_, columns_, value, nullptr, sums);
    });
    int64_t first = group * wide_, last = std::min(first + height * wide_, rows_);
    for (int64_t row = first; row < last; ++row) {
      Vector<S> sum = all<S>(sums[(row - first) / wide_][(row - first) % wide_]);
      y[row] = start ? start[row] + sum : sum;
    }
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
  Vector<S> sums[tall][wide] = {};
  for (int64_t group = 0; group < groups; ++group) {
    const S* factors = left + group * left_group + skipped * left_width + i;
    const Vector<S>* values = right + (group * rows + skipped) * vectors + j;
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
