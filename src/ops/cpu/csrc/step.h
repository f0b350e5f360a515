// The interface of a generated step, and what it is called with; recurrence.cpp has everything around it.
#pragma once

#include "products.h"

#include <limits>

namespace fused {

// The exit status of a kernel; an exception would end the process.
enum Exit { done, wrong_ids, out_of_memory };

// The arguments of a kernel. A pointer to pointers has one of them for each input, state or constant.
struct Call {
  int64_t batch, time, symbols, threads;
  bool return_sequence, save_every_step;
  const int64_t* sizes;          // the integers of the step
  const double* numbers;         // its other numbers
  const int64_t* ids;            // [batch, time]; if null, inputs have a row for every position
  const bool* resets;            // [batch, time], or null
  void* outputs;                 // [batch, time, size], or the last one [batch, size]
  void* saved;                   // null if there is no backward pass
  const void* d_outputs;         // null for zeros
  const void* const* inputs;     // [symbols or batch * time, size]
  const void* const* constants;
  const void* const* initial;    // [batch, size], or null for zeros
  const void* const* restart;    // the states after a reset, [batch, size], or null for zeros
  void* const* last;             // [batch, size], or null
  const void* const* d_last;     // null for zeros
  void* const* d_inputs;         // all gradients: null where none is wanted
  void* const* d_constants;
  void* const* d_initial;
  void* const* d_restart;

  // Reads the integers and the addresses in the order in which `Kernel.call` of kernel.py passes them.
  Call(const int64_t* whole, void* const* at)
      : batch(whole[0]), time(whole[1]), symbols(whole[2]), threads(whole[3]), return_sequence(whole[4]),
        save_every_step(whole[5]) {
    int64_t num_inputs = whole[6], num_constants = whole[7], num_states = whole[8];
    sizes = static_cast<const int64_t*>(*at++);
    numbers = static_cast<const double*>(*at++);
    ids = static_cast<const int64_t*>(*at++);
    resets = static_cast<const bool*>(*at++);
    outputs = *at++;
    saved = *at++;
    d_outputs = *at++;
    auto next = [&](int64_t count) { return (at += count) - count; };
    inputs = next(num_inputs);
    constants = next(num_constants);
    initial = next(num_states);
    restart = next(num_states);
    last = next(num_states);
    d_last = next(num_states);
    d_inputs = next(num_inputs);
    d_constants = next(num_constants);
    d_initial = next(num_states);
    d_restart = next(num_states);
  }
};

// Rows from which the gradient of a matrix is computed: `count` rows of `width` numbers at every step.
struct RowsOfStep {
  int64_t count, width, stride;
  int64_t input, offset;  // where they are part of the gradient of an input; -1 if they are not
  bool of_state;          // whether they are a state, which is zero in the first step if it starts from zero
};

// The gradient of constant number `constant`, a matrix: the sum of left^T right over its terms.
struct WeightGradient {
  int64_t constant, rows, columns;
};

// A term of a gradient: the index of the gradient, and those of its left and right rows.
struct Term {
  int64_t gradient, left, right;
};

// The gradient of constant number `constant`, which is a plain sum.
struct Sum {
  int64_t constant, size;
};

// The sizes of a step, in vectors.
struct Layout {
  std::vector<int64_t> inputs, states, history;  // history: the indices of the states that are saved
  int64_t output, saved, forward_scratch, backward_scratch;
  bool reads_inputs;  // whether the backward pass reads the inputs
  std::vector<RowsOfStep> lefts, rights;
  std::vector<WeightGradient> gradients;
  std::vector<Term> terms;
  std::vector<Sum> sums;
};

// Where a step reads and writes.
template <class S>
struct Places {
  std::vector<Vector<S>*> inputs, before, after;  // inputs; states before and after the step
  Vector<S>*output, *saved, *scratch;
  bool started;  // whether the states may differ from zero
  // for the backward pass
  std::vector<Vector<S>*> d_inputs, d_before, d_after, sums;
  std::vector<const Vector<S>*> lefts, rights;
  Vector<S>* d_output;
  bool d_before_wanted;
};

template <class S>
inline const S* as(const void* pointer) {
  return static_cast<const S*>(pointer);
}

// The arithmetic of one time step for one block of sequences.
template <class S>
struct Step {
  virtual ~Step() = default;
  virtual Layout layout() const = 0;
  virtual const Vector<S>* forward(Places<S>& at) const = 0;  // returns where the output is
  virtual void backward(Places<S>& at) const = 0;
};

template <class S>
void run_forward(const Call& call, const Step<S>& step);
template <class S>
void run_backward(const Call& call, const Step<S>& step);
extern template void run_forward<float>(const Call&, const Step<float>&);
extern template void run_forward<double>(const Call&, const Step<double>&);
extern template void run_backward<float>(const Call&, const Step<float>&);
extern template void run_backward<double>(const Call&, const Step<double>&);

bool any_outside(const Call& call);

template <class S, class Own>
Exit forward_pass(const int64_t* whole, void* const* addresses) try {
  Call call(whole, addresses);
  if (any_outside(call)) return wrong_ids;
  run_forward<S>(call, Own(call, true, false));
  return done;
} catch (const std::exception&) {
  return out_of_memory;
}

template <class S, class Own>
Exit backward_pass(const int64_t* whole, void* const* addresses) try {
  Call call(whole, addresses);
  run_backward<S>(call, Own(call, !call.save_every_step, true));
  return done;
} catch (const std::exception&) {
  return out_of_memory;
}

}  // namespace fused
