// Sums over the blocks of a backward pass: the gradients of weights, of inputs and of input tables.
#pragma once

#include "blocks.h"
#include "products.h"

namespace fused {

// A matrix with rows padded to whole vectors; initially zero, or not cleared if all its rows will be stored.
template <class S>
class WideRows {
 public:
  WideRows(int64_t rows, int64_t columns, bool clear = true)
      : columns_(columns), vectors_((columns + Simd<S>::count - 1) / Simd<S>::count), data_(rows * vectors_, clear) {}

  Wide<S>* row(int64_t i) { return data_.data() + i * vectors_; }
  const S* numbers(int64_t i) const { return reinterpret_cast<const S*>(data_.data() + i * vectors_); }
  int64_t vectors() const { return vectors_; }

  // Stores row t of the `time` rows of every lane.
  void store(Block block, const Vector<S>* from, int64_t time, int64_t t) {
    S* rows = reinterpret_cast<S*>(data_.data());
    Block{0, block.lanes}.store(from, rows, time, columns_, t, vectors_ * Simd<S>::count);
  }

 private:
  int64_t columns_, vectors_;
  Buffer<Wide<S>> data_;
};

// Gradients of a matrix [rows, columns], one sum per block. Serial blocks share two matrices, the total and the sum of
// the current block, which stay in the cache; if each block is added in one piece, the total is enough. The result is
// the same to the last bit, since the terms are added in the same order.
template <class S>
class BlockGradients {
 public:
  BlockGradients(int64_t blocks, int64_t rows, int64_t columns, bool shared, bool in_one_piece = true)
      : blocks_(shared ? 1 : blocks), rows_(rows), columns_(columns), shared_(shared),
        apart_(shared && !in_one_piece), data_((blocks_ + apart_) * rows, columns) {}

  // Adds left^T right, both with `rows` rows for every sequence. Rows of `left` are `left_width` numbers apart, and
  // its sequences `left_group` numbers. In the first `skipped` rows of a sequence, one of the two factors is zero.
  void add(int64_t block, const S* left, int64_t left_width, int64_t left_group, const Wide<S>* right,
           int64_t sequences, int64_t rows, int64_t skipped) {
    Wide<S>* own = data_.row((shared_ ? apart_ : block) * rows_);
    OuterProducts<S>{left, left_width, left_group, rows_, right, data_.vectors(), sequences, rows, skipped, own}.add();
  }

  // To be called when a block is done.
  void finish() {
    if (!apart_) return;
    Wide<S>*total = data_.row(0), *own = data_.row(rows_);
    for (int64_t i = 0; i < rows_ * data_.vectors(); ++i) {
      total[i] += own[i];
      own[i] = Wide<S>{};
    }
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
  bool shared_, apart_;
  WideRows<S> data_;
};

// The gradient of the inputs: of every position or, with ids, of every row of the table, as the sum over the positions
// with its id, block by block. With ids, serial blocks share one buffer of rows, which stays in the cache; they also do
// if the gradient is not wanted and `to` is null.
template <class S>
class InputGradients {
 public:
  InputGradients(S* to, const int64_t* ids, int64_t symbols, int64_t batch, int64_t time, int64_t units, bool shared)
      : to_(to), ids_(to ? ids : nullptr), batch_(batch), time_(time), units_(units), shared_(shared) {
    if (to && !ids) return;
    if (to) std::fill(to, to + symbols * units, S(0));
    rows_.reset(new S[(shared ? std::min<int64_t>(batch, Lanes<S>::count) : batch) * time * units]);
  }

  // Where a block writes its gradients, [lanes, time, units].
  S* rows(Block block) { return (rows_ ? rows_.get() : to_) + (rows_ && shared_ ? 0 : first(block) * units_); }

  // To be called when a block has written all its gradients and no longer needs them.
  void finish(Block block) {
    if (ids_ && shared_) add(first(block), block.lanes * time_, rows_.get());
  }

  // To be called after all blocks.
  void finish() {
    if (!ids_ || shared_) return;
    for (int64_t end = batch_; end > 0;) {  // in the order of serial blocks
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
