// Sums over the blocks of a backward pass: the gradients of weights, of inputs and of input tables.
#pragma once

#include "blocks.h"

namespace fused {

// A matrix with rows padded to whole vectors, initially zero.
template <class S>
class WideRows {
 public:
  WideRows(int64_t rows, int64_t columns)
      : columns_(columns), vectors_((columns + Lanes<S>::count - 1) / Lanes<S>::count), data_(rows * vectors_) {}

  Vector<S>* row(int64_t i) { return data_.data() + i * vectors_; }
  const S* numbers(int64_t i) const { return reinterpret_cast<const S*>(data_.data() + i * vectors_); }
  int64_t vectors() const { return vectors_; }

  // Stores row t of the `time` rows of every lane.
  void store(Block block, const Vector<S>* from, int64_t time, int64_t t) {
    S* rows = reinterpret_cast<S*>(data_.data());
    Block{0, block.lanes}.store(from, rows, time, columns_, t, vectors_ * Lanes<S>::count);
  }

 private:
  int64_t columns_, vectors_;
  Buffer<S> data_;
};

// to[i, j] += sum over rows of left[row, i] right[row, j] for i < high. Rows of `right` and `to` are `vectors` long,
// those of `left` are `left_width` numbers apart. Rows come in groups; the first `skipped` of each are left out.
template <class S>
struct OuterProducts {
  const S* left;
  int64_t left_width, high;
  const Vector<S>* right;
  int64_t vectors, groups, rows, skipped;
  Vector<S>* to;

  // Columns are the outer loop, so that what is read repeatedly is narrow enough for the cache.
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
      for (int64_t row = group * rows + skipped; row < (group + 1) * rows; ++row) {
        const S* factors = left + row * left_width + i;
        const Vector<S>* values = right + row * vectors + j;
        for (int k = 0; k < tall; ++k)
          for (int n = 0; n < wide; ++n) sums[k][n] += factors[k] * values[n];
      }
    for (int k = 0; k < tall; ++k)
      for (int n = 0; n < wide; ++n) to[(i + k) * vectors + j + n] += sums[k][n];
  }
};

// Gradients of a matrix [rows, columns], one sum per block. Serial blocks share a single matrix, which stays in the
// cache: it is the same sum in the same order, to the last bit.
template <class S>
class BlockGradients {
 public:
  BlockGradients(int64_t blocks, int64_t rows, int64_t columns, bool shared)
      : blocks_(shared ? 1 : blocks), rows_(rows), columns_(columns), data_(blocks_ * rows, columns) {}

  // Adds left^T right, both with a row for every step of every sequence; in the first `skipped` steps of a sequence
  // right is zero.
  void add(int64_t block, const S* left, int64_t left_width, const Vector<S>* right, int64_t sequences, int64_t steps,
           int64_t skipped) {
    Vector<S>* own = data_.row(blocks_ == 1 ? 0 : block * rows_);
    OuterProducts<S>{left, left_width, rows_, right, data_.vectors(), sequences, steps, skipped, own}.add();
  }

  // Adds the sum over steps of (gradient of the sums at t) (hidden state before t)^T; `before(t)` is that state;
  // `first` is the first step at which it is not zero.
  template <class Before>
  void add_recurrent(int64_t number, Block block, int64_t time, const S* d_sums, int64_t first, Before before) {
    WideRows<S> states(block.lanes * time, columns_);
    for (int64_t t = first; t < time; ++t) states.store(block, before(t), time, t);
    add(number, d_sums, rows_, states.row(0), block.lanes, time, first);
  }

  // Copies the gradients of all blocks, [blocks, rows, columns].
  void copy_to(S* to) const {
    for (int64_t row = 0; row < blocks_ * rows_; ++row)
      to = std::copy(data_.numbers(row), data_.numbers(row) + columns_, to);
  }

  // Writes the sum over the blocks, in the order in which serial blocks are added.
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

// The gradient of the inputs: of every position or, with ids, of every row of the table, which sums over the positions
// with its id, block by block. Serial blocks then share one buffer of rows, which stays in the cache.
template <class S>
class InputGradients {
 public:
  InputGradients(S* to, const int64_t* ids, int64_t symbols, int64_t batch, int64_t time, int64_t units, bool shared)
      : to_(to), ids_(ids), batch_(batch), time_(time), units_(units), shared_(shared) {
    if (!ids) return;
    std::fill(to, to + symbols * units, S(0));
    rows_.reset(new S[(shared ? std::min<int64_t>(batch, Lanes<S>::count) : batch) * time * units]);
  }

  // Where a block writes its gradients, [lanes, time, units].
  S* rows(Block block) { return (ids_ ? rows_.get() : to_) + (ids_ && shared_ ? 0 : first(block) * units_); }

  // To be called when a block has written all its gradients and no longer needs them.
  void finish(Block block) {
    if (ids_ && shared_) add(first(block), block.lanes * time_, rows_.get());
  }

  // To be called after all blocks.
  void finish() {
    if (!ids_ || shared_) return;
    for (int64_t end = batch_; end > 0;) {  // the order of serial blocks
      int64_t begin = (end - 1) / Lanes<S>::count * Lanes<S>::count;
      add(begin * time_, (end - begin) * time_, rows_.get() + begin * time_ * units_);
      end = begin;
    }
  }

 private:
  int64_t first(Block block) const { return block.first * time_; }

  void add(int64_t first, int64_t positions, const S* rows) {
    for (const int64_t* id = ids_ + first; id < ids_ + first + positions; ++id, rows += units_) {
      S* row = to_ + *id * units_;
      for (int64_t i = 0; i < units_; ++i) row[i] += rows[i];
    }
  }

  S* to_;
  const int64_t* ids_;
  int64_t batch_, time_, units_;
  bool shared_;
  std::unique_ptr<S[]> rows_;
};

// Sums the partial results of the blocks, always in the same order.
template <class S>
void add_blocks(const std::vector<S>& partial, int64_t blocks, int64_t size, S* to) {
  std::fill(to, to + size, S(0));
  for (int64_t number = 0; number < blocks; ++number)
    for (int64_t i = 0; i < size; ++i) to[i] += partial[number * size + i];
}

}  // namespace fused
