// Conversion between tensors and blocks of sequences, and the loop over the blocks.
#pragma once

#include <atomic>
#include <new>
#include <utility>

#include "lanes.h"

namespace fused {

// One row of numbers per sequence and time step: from a table [V, units] by id, or without ids [batch, time, units].
template <class S>
struct Rows {
  const S* table;
  const int64_t* ids;
  int64_t time, units;

  const S* row(int64_t sequence, int64_t t) const {
    int64_t position = sequence * time + t;
    return table + (ids ? ids[position] : position) * units;
  }
};

inline bool any_outside(const int64_t* ids, int64_t positions, int64_t symbols) {
  bool outside = false;
  for (int64_t position = 0; ids && position < positions; ++position)
    outside |= ids[position] < 0 || ids[position] >= symbols;
  return outside;
}

#if defined(__has_builtin) && !defined(ONE_LANE)
#if __has_builtin(__builtin_shufflevector)
#define TRANSPOSES_IN_REGISTERS 1
#endif
#endif

#ifdef TRANSPOSES_IN_REGISTERS
// a[0], b[0], a[1], b[1], ...: the lower half in `low`, the rest in `high`.
template <class V, int... lane>
inline void interleave(V a, V b, V& low, V& high, std::integer_sequence<int, lane...>) {
  constexpr int count = sizeof...(lane);
  low = __builtin_shufflevector(a, b, (lane / 2 + lane % 2 * count)...);
  high = __builtin_shufflevector(a, b, (count / 2 + lane / 2 + lane % 2 * count)...);
}

// Transposes a square of numbers with log2(count) perfect shuffles of its two halves.
template <class S>
inline void transpose(Vector<S>* square) {
  constexpr int count = Lanes<S>::count;
  for (int n = 1; n < count; n *= 2) {
    Vector<S> shuffled[count];
    for (int i = 0; i < count / 2; ++i)
      interleave(square[i], square[i + count / 2], shuffled[2 * i], shuffled[2 * i + 1],
                 std::make_integer_sequence<int, count>());
    for (int i = 0; i < count; ++i) square[i] = shuffled[i];
  }
}
#endif

// Load and store the first n numbers of a vector. The others are zero when loaded, and left unchanged in memory.
#if defined(__AVX512F__)
constexpr int64_t shortest_vector = 7;  // fewer numbers are faster one by one
template <class S>
inline Vector<S> load_first(const S* from, int64_t n) {
  if constexpr (std::is_same_v<S, float>)
    return _mm512_maskz_loadu_ps((1u << n) - 1, from);
  else
    return _mm512_maskz_loadu_pd((1u << n) - 1, from);
}
template <class S>
inline void store_first(Vector<S> x, S* to, int64_t n) {
  if constexpr (std::is_same_v<S, float>)
    _mm512_mask_storeu_ps(to, (1u << n) - 1, x);
  else
    _mm512_mask_storeu_pd(to, (1u << n) - 1, x);
}
#endif

// The sequences of one block.
struct Block {
  int64_t first, lanes;

  template <class S>
  void load(const Rows<S>& rows, int64_t t, Vector<S>* to) const {
    load_each<S>([&](int64_t lane) { return rows.row(first + lane, t); }, rows.units, to);
  }

  // Rows are `width` numbers apart, by default `units`.
  template <class S>
  void store(const Vector<S>* from, S* rows, int64_t time, int64_t units, int64_t t, int64_t width = 0) const {
    if (width == 0) width = units;
    store_each<S>(from, units, [&](int64_t lane) { return rows + ((first + lane) * time + t) * width; });
  }

  // Rows at any address: `row(lane)` is the row of a lane of this block.
  template <class S, class Row>
  void load_each(Row row, int64_t units, Vector<S>* to) const {
    constexpr int count = Lanes<S>::count;
    S* scalars = reinterpret_cast<S*>(to);
    if (one_lane) {
      std::copy(row(0), row(0) + units, scalars);
      return;
    }
    int64_t done = 0;
#ifdef TRANSPOSES_IN_REGISTERS
    const S* starts[count];
    for (int64_t lane = 0; lane < lanes; ++lane) starts[lane] = row(lane);
    for (; lanes == count && count <= units && done < units; done += count) {
      int64_t first = std::min(done, units - count);  // the last square may overlap with the one before
      Vector<S> square[count];
      for (int lane = 0; lane < count; ++lane)
        square[lane] = *reinterpret_cast<const Unaligned<S>*>(starts[lane] + first);
      transpose<S>(square);
      for (int i = 0; i < count; ++i) to[first + i] = square[i];  // std::copy would call memmove
    }
#if defined(__AVX512F__)
    if (int64_t rest = units - done; lanes == count && rest >= shortest_vector) {
      Vector<S> square[count];
      for (int lane = 0; lane < count; ++lane) square[lane] = load_first<S>(starts[lane] + done, rest);
      transpose<S>(square);
      for (int64_t i = 0; i < rest; ++i) to[done + i] = square[i];
      done = units;
    }
#endif
#endif
    if (lanes < count) std::fill(to + done, to + units, Vector<S>{});
    for (int64_t lane = 0; lane < lanes; ++lane) {
      const S* from = row(lane);
      for (int64_t i = done; i < units; ++i) scalars[i * count + lane] = from[i];
    }
  }

  template <class S, class Row>
  void store_each(const Vector<S>* from, int64_t units, Row row) const {
    constexpr int count = Lanes<S>::count;
    const S* scalars = reinterpret_cast<const S*>(from);
    if (one_lane) {
      std::copy(scalars, scalars + units, row(0));
      return;
    }
    int64_t done = 0;
#ifdef TRANSPOSES_IN_REGISTERS
    for (; lanes == count && count <= units && done < units; done += count) {
      int64_t first = std::min(done, units - count);
      Vector<S> square[count];
      for (int i = 0; i < count; ++i) square[i] = from[first + i];
      transpose<S>(square);
      for (int lane = 0; lane < count; ++lane) *reinterpret_cast<Unaligned<S>*>(row(lane) + first) = square[lane];
    }
#if defined(__AVX512F__)
    if (int64_t rest = units - done; lanes == count && rest >= shortest_vector) {
      Vector<S> square[count] = {};
      for (int64_t i = 0; i < rest; ++i) square[i] = from[done + i];
      transpose<S>(square);
      for (int lane = 0; lane < count; ++lane) store_first<S>(square[lane], row(lane) + done, rest);
      done = units;
    }
#endif
#endif
    for (int64_t lane = 0; lane < lanes; ++lane) {
      S* to = row(lane);
      for (int64_t i = done; i < units; ++i) to[i] = scalars[i * count + lane];
    }
  }
};

template <class S>
inline int64_t num_blocks(int64_t batch) {
  return (batch + Lanes<S>::count - 1) / Lanes<S>::count;
}

// The outputs of every step, [batch, time, units], or only of the last one, [batch, units].
template <class S>
struct Outputs {
  S* data;
  int64_t time, units;
  bool return_sequence;

  void store(Block block, const Vector<S>* from, int64_t t) const {
    if (return_sequence)
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
  bool return_sequence;

  void load(Block block, int64_t t, Vector<S>* to) const {
    if (return_sequence)
      block.load(Rows<S>{data, nullptr, time, units}, t, to);
    else if (t == time - 1)
      block.load(Rows<S>{data, nullptr, 1, units}, 0, to);
    else
      std::fill(to, to + units, Vector<S>{});
  }
};

// Whether blocks run one after another, so that the result of each can be added to a shared sum immediately.
inline bool serial([[maybe_unused]] int threads) {
#ifdef _OPENMP
  return threads == 1;
#else
  return true;
#endif
}

enum Order { ascending, descending };

// Calls run(block number, block) for every block. No two blocks write to the same place, so the number of threads does
// not change results. A backward pass begins with the blocks with which the forward pass ended: their saved tensors may
// still be in the cache.
template <class S, class Run>
void for_each_block(int64_t batch, int threads, Order order, Run run) {
  int64_t blocks = num_blocks<S>(batch), parts = serial(threads) ? 1 : std::min<int64_t>(threads, blocks);
  std::atomic<bool> out_of_memory{false};
#ifdef _OPENMP
#pragma omp parallel for schedule(static) num_threads(parts) if (parts > 1)
#endif
  for (int64_t part = 0; part < parts; ++part) {
    int64_t begin = part * blocks / parts, end = (part + 1) * blocks / parts;
    try {  // an exception that escapes a thread would end the process
      for (int64_t n = begin; n < end; ++n) {
        int64_t number = order == ascending ? n : begin + end - 1 - n, first = number * Lanes<S>::count;
        run(number, Block{first, std::min<int64_t>(Lanes<S>::count, batch - first)});
      }
    } catch (const std::exception&) {
      out_of_memory = true;
    }
  }
  if (out_of_memory) throw std::bad_alloc();
}

}  // namespace fused
