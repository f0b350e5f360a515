// The GRU:  r, u = σ(W h_{t-1} + p_t),  c_t = tanh(m_t + p_t),  h_t = u h_{t-1} + (1 - u) c_t, where
// m_t = U (r h_{t-1}) if the reset gate acts before the product, and m_t = r (U h_{t-1}) if after.
//
// Backward, with x' the gradient of the loss with respect to x, from the last step to the first:
//
//     u' = (h_{t-1} - c_t) h_t',   c_t' = (1 - u) h_t',   h_{t-1}' = u h_t' + ...,   m_t' = (1 - c_t^2) c_t'
//     before:  k = U^T m_t',  r' = k h_{t-1},  h_{t-1}' += k r,  U' += m_t' (r h_{t-1})^T
//     after:   r' = m_t' (U h_{t-1}),  h_{t-1}' += U^T (r m_t'),  U' += (r m_t') h_{t-1}^T
//     p_t' = (r(1-r) r',  u(1-u) u',  m_t'),   h_{t-1}' += W^T (r(1-r) r', u(1-u) u'),   W' += (...) h_{t-1}^T
#pragma once

#include "gradients.h"

namespace fused {

template <class S>
struct GRU {
  int64_t batch, time, units;
  int threads;
  bool reset_before;
  const S *gates, *candidate;  // W [2 units, units], gates in the order r, u; U [units, units]
  const S* initial;            // [batch, units], or null for zeros

  // Saved per step for the backward pass: r, u, c, h_{t-1}, and U h_{t-1} if the reset gate acts after.
  int64_t saved_per_step() const { return (reset_before ? 4 : 5) * units; }

  void forward(Rows<S> inputs, Outputs<S> outputs, S* saved) const {
    Packed<S> to_gates(gates, 2 * units, units, units, 1), to_candidate(candidate, units, units, units, 1);
    for_each_block<S>(batch, threads, ascending, [&](int64_t number, Block block) {
      // the products write whole tiles, so what follows a group of sums must be read before it is overwritten
      Buffer<S> h(units), p(3 * units), a(padded(2 * units)), m(padded(units)), reset(units);
      if (initial) block.load(Rows<S>{initial, nullptr, 1, units}, 0, h.data());
      for (int64_t t = 0; t < time; ++t) {
        block.load(inputs, t, p.data());
        std::copy(p.data(), p.data() + 2 * units, a.data());
        bool from_zero = t == 0 && !initial;
        if (!from_zero) to_gates.multiply_add(h.data(), a.data());
        for (int64_t n = 0; n < 2 * units; ++n) a[n] = sigmoid<S>(a[n]);
        const Vector<S>*r = a.data(), *u = r + units;
        std::fill(m.data(), m.data() + padded(units), Vector<S>{});
        for (int64_t n = 0; n < units; ++n) reset[n] = reset_before ? r[n] * h[n] : h[n];
        if (!from_zero) to_candidate.multiply_add(reset.data(), m.data());
        auto* save = saved ? reinterpret_cast<Vector<S>*>(saved) + (number * time + t) * saved_per_step() : nullptr;
        for (int64_t n = 0; n < units; ++n) {
          Vector<S> c = hyperbolic_tangent<S>(p[2 * units + n] + (reset_before ? m[n] : r[n] * m[n]));
          if (save) {
            save[n] = r[n];
            save[units + n] = u[n];
            save[2 * units + n] = c;
            save[3 * units + n] = h[n];
            if (!reset_before) save[4 * units + n] = m[n];
          }
          h[n] = c + u[n] * (h[n] - c);
        }
        outputs.store(block, h.data(), t);
      }
    });
  }

  void backward(const S* saved, OutputGradients<S> d_outputs, InputGradients<S> d_inputs, S* d_initial, S* d_gates,
                S* d_candidate) const {
    Packed<S> from_gates(gates, units, 2 * units, 1, units), from_candidate(candidate, units, units, 1, units);
    int64_t blocks = num_blocks<S>(batch);
    bool shared = serial(threads);
    BlockGradients<S> of_gates(blocks, 2 * units, units, shared), of_candidate(blocks, units, units, shared);
    for_each_block<S>(batch, threads, descending, [&](int64_t number, Block block) {
      Buffer<S> d_h(padded(units)), y(units), d_p(3 * units), k(padded(units)), d_m(units);
      std::vector<S> m_rows(block.lanes * time * units);
      WideRows<S> h_rows(block.lanes * time, units), read_rows(block.lanes * time, units);
      S* p_rows = d_inputs.rows(block);
      Block own{0, block.lanes};
      for (int64_t t = time - 1; t >= 0; --t) {
        auto* r = reinterpret_cast<const Vector<S>*>(saved) + (number * time + t) * saved_per_step();
        const Vector<S>*u = r + units, *c = u + units, *h = c + units, *product = h + units;
        d_outputs.load(block, t, y.data());
        Vector<S>*d_r = d_p.data(), *d_u = d_r + units, *d_c = d_u + units;
        for (int64_t n = 0; n < units; ++n) {
          Vector<S> g = d_h[n] + y[n];
          d_u[n] = u[n] * (S(1) - u[n]) * (h[n] - c[n]) * g;
          d_c[n] = (S(1) - c[n] * c[n]) * (S(1) - u[n]) * g;
          d_m[n] = reset_before ? d_c[n] : r[n] * d_c[n];
          d_h[n] = u[n] * g;
        }
        bool from_zero = t == 0 && !d_initial;
        std::fill(k.data(), k.data() + padded(units), Vector<S>{});
        if (!from_zero) from_candidate.multiply_add(d_m.data(), k.data());
        for (int64_t n = 0; n < units; ++n) {
          d_r[n] = r[n] * (S(1) - r[n]) * (reset_before ? k[n] * h[n] : d_c[n] * product[n]);
          d_h[n] += reset_before ? k[n] * r[n] : k[n];
          y[n] = reset_before ? r[n] * h[n] : h[n];
        }
        if (!from_zero) from_gates.multiply_add(d_p.data(), d_h.data());
        own.store(d_p.data(), p_rows, time, 3 * units, t);
        own.store(d_m.data(), m_rows.data(), time, units, t);
        h_rows.store(block, h, time, t);
        read_rows.store(block, y.data(), time, t);
      }
      if (d_initial) block.store(d_h.data(), d_initial, 1, units, 0);
      int64_t first = initial ? 0 : 1;
      of_gates.add(number, p_rows, 3 * units, h_rows.row(0), block.lanes, time, first);
      of_candidate.add(number, m_rows.data(), units, read_rows.row(0), block.lanes, time, first);
      d_inputs.finish(block);
    });
    d_inputs.finish();
    of_gates.sum_to(d_gates);
    of_candidate.sum_to(d_candidate);
  }
};

}  // namespace fused
