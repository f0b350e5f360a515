// The LSTM:  i, f, o = σ(·), g = tanh(·) of W h_{t-1} + p_t;  c_t = f c_{t-1} + i g;  h_t = o tanh(c_t).
//
// Backward, with x' the gradient of the loss with respect to x, from the last step to the first:
//
//     h_t' = y_t' + W^T p_{t+1}'                    c_t' = f_{t+1} c_{t+1}' + o h_t' (1 - tanh(c_t)^2)
//     p_t' = (i(1-i) g c_t',  f(1-f) c_{t-1} c_t',  o(1-o) tanh(c_t) h_t',  (1-g^2) i c_t')
//     W'   = sum_t p_t' h_{t-1}^T
#pragma once

#include "gradients.h"

namespace fused {

template <class S>
struct LSTM {
  int64_t batch, time, units;
  int threads;
  const S* weight;                         // [4 units, units], gates in the order i, f, o, g
  const S *initial_hidden, *initial_cell;  // [batch, units], or null for zeros

  // Saved for the backward pass: per step the four gates and c; per block the cell state before the first step.
  int64_t saved_per_step() const { return 5 * units; }
  int64_t saved_per_block() const { return units + time * saved_per_step(); }

  void forward(Rows<S> inputs, Outputs<S> outputs, S* last_cell, S* saved) const {
    Packed<S> recurrent(weight, 4 * units, units, units, 1);
    for_each_block<S>(batch, threads, ascending, [&](int64_t number, Block block) {
      Buffer<S> h(units), c(units), a(padded(4 * units));
      if (initial_hidden) block.load(Rows<S>{initial_hidden, nullptr, 1, units}, 0, h.data());
      if (initial_cell) block.load(Rows<S>{initial_cell, nullptr, 1, units}, 0, c.data());
      auto* save = saved ? reinterpret_cast<Vector<S>*>(saved) + number * saved_per_block() : nullptr;
      if (save) save = std::copy(c.data(), c.data() + units, save);
      Vector<S>*i = a.data(), *f = i + units, *o = f + units, *g = o + units;
      for (int64_t t = 0; t < time; ++t) {
        block.load(inputs, t, a.data());
        if (t > 0 || initial_hidden) recurrent.multiply_add(h.data(), a.data());
        for (int64_t n = 0; n < 3 * units; ++n) a[n] = sigmoid<S>(a[n]);
        for (int64_t n = 0; n < units; ++n) {
          g[n] = hyperbolic_tangent<S>(g[n]);
          c[n] = f[n] * c[n] + i[n] * g[n];
          h[n] = o[n] * hyperbolic_tangent<S>(c[n]);
        }
        if (save) {
          save = std::copy(a.data(), a.data() + 4 * units, save);
          save = std::copy(c.data(), c.data() + units, save);
        }
        outputs.store(block, h.data(), t);
      }
      block.store(c.data(), last_cell, 1, units, 0);
    });
  }

  void backward(const S* saved, OutputGradients<S> d_outputs, const S* d_last_cell, InputGradients<S> d_inputs,
                S* d_initial_hidden, S* d_initial_cell, S* d_weight) const {
    Packed<S> transposed(weight, units, 4 * units, 1, units);
    BlockGradients<S> weights(num_blocks<S>(batch), 4 * units, units, serial(threads));
    for_each_block<S>(batch, threads, descending, [&](int64_t number, Block block) {
      Buffer<S> h(units), d_h(units), d_c(units), from_next(padded(units)), d_a(4 * units);
      WideRows<S> h_rows(block.lanes * time, units);
      Block own{0, block.lanes};
      S* rows = d_inputs.rows(block);
      if (d_last_cell) block.load(Rows<S>{d_last_cell, nullptr, 1, units}, 0, d_c.data());
      Vector<S>*d_i = d_a.data(), *d_f = d_i + units, *d_o = d_f + units, *d_g = d_o + units;
      for (int64_t t = time - 1; t >= 0; --t) {
        auto* c_before = reinterpret_cast<const Vector<S>*>(saved) + number * saved_per_block() + t * saved_per_step();
        const Vector<S>*i = c_before + units, *f = i + units, *o = f + units, *g = o + units, *c = g + units;
        d_outputs.load(block, t, d_h.data());
        for (int64_t n = 0; n < units; ++n) {
          Vector<S> of_h = d_h[n] + from_next[n];
          Vector<S> tanh_c = hyperbolic_tangent<S>(c[n]);  // as fast as saving it, and a sixth less memory
          Vector<S> of_c = d_c[n] + o[n] * of_h * (S(1) - tanh_c * tanh_c);
          h[n] = o[n] * tanh_c;
          d_i[n] = i[n] * (S(1) - i[n]) * g[n] * of_c;
          d_f[n] = f[n] * (S(1) - f[n]) * c_before[n] * of_c;
          d_o[n] = o[n] * (S(1) - o[n]) * tanh_c * of_h;
          d_g[n] = (S(1) - g[n] * g[n]) * i[n] * of_c;
          d_c[n] = f[n] * of_c;
        }
        if (t + 1 < time) h_rows.store(block, h.data(), time, t + 1);
        own.store(d_a.data(), rows, time, 4 * units, t);
        std::fill(from_next.data(), from_next.data() + padded(units), Vector<S>{});
        if (t > 0 || d_initial_hidden) transposed.multiply_add(d_a.data(), from_next.data());
      }
      if (d_initial_hidden) block.store(from_next.data(), d_initial_hidden, 1, units, 0);
      if (d_initial_cell) block.store(d_c.data(), d_initial_cell, 1, units, 0);
      if (initial_hidden) {
        block.load(Rows<S>{initial_hidden, nullptr, 1, units}, 0, h.data());
        h_rows.store(block, h.data(), time, 0);
      }
      weights.add(number, rows, 4 * units, h_rows.row(0), block.lanes, time, initial_hidden ? 0 : 1);
      d_inputs.finish(block);
    });
    d_inputs.finish();
    weights.sum_to(d_weight);
  }
};

}  // namespace fused
