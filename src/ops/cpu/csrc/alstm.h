// The associative LSTM, on complex vectors, with bound(v) = v / max(1, |v|) and conj the conjugate, entrywise:
//
//     f, i, o = σ(·), r_k, q_k = bound(·) of W h_{t-1} + p_t;   u_k = bound(p_t) or bound(W h_{t-1} + p_t)
//     w_k = i u_k;   c_t^s = f c_{t-1}^s + sum_k (P_s r_k) w_k
//     v_k = (1/S) sum_s (P_s q_k) c_t^s;   b_k = bound(v_k);   h_t = o (b_1 ... b_K) concatenated
//
// Backward, with x' the gradient of the loss with respect to x (of a complex x that of its real part, plus i times that
// of its imaginary part). Then z = x y gives x' = z' conj(y) and y' = z' conj(x), and x' = Re(z' conj(y)) if x is real.
// In y = bound(v) only changes of the phase have an effect once the modulus is clipped: with d = max(1, |v|)
//
//     v' = (y' - [d > 1] Re(y' conj(y)) y) / d
//
// and the gradient of a product with P_s is multiplied by its transpose. From the last step to the first:
//
//     h_t' = y_t' + W^T p_{t+1}'                          o' = sum_k Re(h_k' conj(b_k)),  b_k' = o h_k'
//     q_k' = (1/S) sum_s P_s^T (v_k' conj(c_t^s))         c_t^s' = f_{t+1} c_{t+1}^s' + (1/S) sum_k v_k' conj(P_s q_k)
//     r_k' = sum_s P_s^T (c_t^s' conj(w_k))               w_k' = sum_s c_t^s' conj(P_s r_k)
//     f' = sum_s Re(c_t^s' conj(c_{t-1}^s))               i' = sum_k Re(w_k' conj(u_k)),  u_k' = i w_k'
//     p_t' = these through σ and bound,   W' = sum_t p_t' h_{t-1}^T over the rows of p that W feeds
#pragma once

#include "gradients.h"

namespace fused {

template <class S>
struct ALSTM {
  int64_t batch, time, entries, copies, heads, reached;  // entries N per complex vector; the sums that W feeds
  int threads;
  const S* weight;                         // [reached, 2 heads entries], rows in the order f, i, o, r, q, u
  const int64_t* permutations;             // [copies, entries]: entry n of P_s r is entry permutations[s, n] of r
  const S *initial_hidden, *initial_cell;  // [batch, 2 heads entries], [batch, copies, 2 entries], or null for zeros

  int64_t features() const { return 3 * entries + 6 * heads * entries; }
  int64_t outputs_size() const { return 2 * heads * entries; }
  int64_t cell_size() const { return 2 * copies * entries; }

  // Saved for the backward pass: per step the gates, then real part, imaginary part and 1/d of every r, q, u and b,
  // then the memory; per block the memory before the first step.
  int64_t bounded_size() const { return 3 * heads * entries; }
  int64_t saved_per_step() const { return 3 * entries + 4 * bounded_size() + cell_size(); }
  int64_t saved_per_block() const { return cell_size() + time * saved_per_step(); }

  // The parts of what is saved per step.
  template <class V>
  struct Step {
    V *gates, *r, *q, *u, *b, *c;

    Step(V* saved, const ALSTM& cell)
        : gates(saved),
          r(saved + 3 * cell.entries),
          q(r + cell.bounded_size()),
          u(q + cell.bounded_size()),
          b(u + cell.bounded_size()),
          c(b + cell.bounded_size()) {}
  };

  void forward(Rows<S> inputs, Outputs<S> outputs, S* last_cell, S* saved) const {
    Packed<S> recurrent(weight, reached, outputs_size(), outputs_size(), 1);
    for_each_block<S>(batch, threads, ascending, [&](int64_t number, Block block) {
      Buffer<S> h(outputs_size()), first(cell_size()), scratch(saved ? 0 : saved_per_step());
      // the product writes whole tiles: if it ends before the contents do, it adds zeros to some of them
      Buffer<S> a(std::max(features(), padded(reached))), w(2 * heads * entries);
      if (initial_hidden) block.load(Rows<S>{initial_hidden, nullptr, 1, outputs_size()}, 0, h.data());
      if (initial_cell) block.load(Rows<S>{initial_cell, nullptr, 1, cell_size()}, 0, first.data());
      auto* save = saved ? reinterpret_cast<Vector<S>*>(saved) + number * saved_per_block() : nullptr;
      if (save) save = std::copy(first.data(), first.data() + cell_size(), save);
      const Vector<S>* c = first.data();
      for (int64_t t = 0; t < time; ++t) {
        block.load(inputs, t, a.data());
        if (t > 0 || initial_hidden) recurrent.multiply_add(h.data(), a.data());
        Step<Vector<S>> step(save ? save + t * saved_per_step() : scratch.data(), *this);
        for (int64_t n = 0; n < 3 * entries; ++n) step.gates[n] = sigmoid<S>(a[n]);
        bound(a.data() + 3 * entries, 3 * heads, step.r);
        const Vector<S>*f = step.gates, *i = f + entries, *o = i + entries;
        write_and_read(f, i, c, step, w.data());
        bound(w.data(), heads, step.b);
        for (int64_t k = 0; k < heads; ++k)
          for (int64_t n = 0; n < entries; ++n) {
            h[2 * k * entries + n] = o[n] * step.b[3 * k * entries + n];
            h[(2 * k + 1) * entries + n] = o[n] * step.b[(3 * k + 1) * entries + n];
          }
        outputs.store(block, h.data(), t);
        c = step.c;
      }
      block.store(c, last_cell, 1, cell_size(), 0);
    });
  }

  void backward(const S* saved, OutputGradients<S> d_outputs, const S* d_last_cell, InputGradients<S> d_inputs,
                S* d_initial_hidden, S* d_initial_cell, S* d_weight) const {
    Packed<S> transposed(weight, outputs_size(), reached, 1, outputs_size());
    BlockGradients<S> weights(num_blocks<S>(batch), reached, outputs_size(), serial(threads));
    for_each_block<S>(batch, threads, descending, [&](int64_t number, Block block) {
      Buffer<S> d_h(outputs_size()), d_c(cell_size()), from_next(padded(outputs_size()));
      Buffer<S> d_a(features()), d_v(outputs_size()), w(outputs_size());
      Block own{0, block.lanes};
      WideRows<S> h_rows(block.lanes * time, outputs_size());
      S* rows = d_inputs.rows(block);
      if (d_last_cell) block.load(Rows<S>{d_last_cell, nullptr, 1, cell_size()}, 0, d_c.data());
      auto* start = reinterpret_cast<const Vector<S>*>(saved) + number * saved_per_block();
      for (int64_t t = time - 1; t >= 0; --t) {
        auto* before = start + cell_size() + (t - 1) * saved_per_step();
        const Vector<S>* c_before = t > 0 ? before + saved_per_step() - cell_size() : start;
        Step<const Vector<S>> step(before + saved_per_step(), *this);
        d_outputs.load(block, t, d_h.data());
        for (int64_t n = 0; n < outputs_size(); ++n) d_h[n] += from_next[n];
        backward_step(step, c_before, d_h.data(), d_c.data(), d_v.data(), w.data(), d_a.data());
        own.store(d_a.data(), rows, time, features(), t);
        std::fill(from_next.data(), from_next.data() + padded(outputs_size()), Vector<S>{});
        if (t > 0 || d_initial_hidden) transposed.multiply_add(d_a.data(), from_next.data());
        if (t > 0) {
          Step<const Vector<S>> previous(before, *this);
          const Vector<S>* o = previous.gates + 2 * entries;
          for (int64_t k = 0; k < heads; ++k)
            for (int64_t n = 0; n < entries; ++n) {
              d_h[2 * k * entries + n] = o[n] * previous.b[3 * k * entries + n];
              d_h[(2 * k + 1) * entries + n] = o[n] * previous.b[(3 * k + 1) * entries + n];
            }
        } else if (initial_hidden) {
          block.load(Rows<S>{initial_hidden, nullptr, 1, outputs_size()}, 0, d_h.data());
        }
        if (t > 0 || initial_hidden) h_rows.store(block, d_h.data(), time, t);
      }
      if (d_initial_hidden) block.store(from_next.data(), d_initial_hidden, 1, outputs_size(), 0);
      if (d_initial_cell) block.store(d_c.data(), d_initial_cell, 1, cell_size(), 0);
      weights.add(number, rows, features(), h_rows.row(0), block.lanes, time, initial_hidden ? 0 : 1);
      d_inputs.finish(block);
    });
    d_inputs.finish();
    weights.sum_to(d_weight);
  }

 private:
  // Computes the real and imaginary parts of bound(v), and 1/d, from those of complex vectors v.
  void bound(const Vector<S>* from, int64_t vectors, Vector<S>* to) const {
    for (int64_t k = 0; k < vectors; ++k, from += 2 * entries, to += 3 * entries) {
      const Vector<S>*re = from, *im = re + entries;
      Vector<S>* scale = to + 2 * entries;
      for (int64_t n = 0; n < entries; ++n) {
        Vector<S> square = re[n] * re[n] + im[n] * im[n];
        scale[n] = square < S(1) ? all<S>(1) : square;
      }
      S* numbers = reinterpret_cast<S*>(scale);  // vector types have no square root
      for (int64_t n = 0; n < entries * Lanes<S>::count; ++n) numbers[n] = S(1) / std::sqrt(numbers[n]);
      for (int64_t n = 0; n < entries; ++n) {
        to[n] = re[n] * scale[n];
        to[entries + n] = im[n] * scale[n];
      }
    }
  }

  // Computes the gradient of v from that of bound(v).
  void bound_backward(const Vector<S>* y, const Vector<S>* d_y, int64_t vectors, Vector<S>* d_v) const {
    for (int64_t k = 0; k < vectors; ++k, y += 3 * entries, d_y += 2 * entries, d_v += 2 * entries)
      for (int64_t n = 0; n < entries; ++n) {
        Vector<S> re = y[n], im = y[entries + n], scale = y[2 * entries + n];
        Vector<S> d_re = d_y[n], d_im = d_y[entries + n];
        Vector<S> along = scale < S(1) ? re * d_re + im * d_im : Vector<S>{};
        d_v[n] = scale * (d_re - along * re);
        d_v[entries + n] = scale * (d_im - along * im);
      }
  }

  // Computes c_t^s from c_{t-1}^s; v_k replaces w_k.
  void write_and_read(const Vector<S>* f, const Vector<S>* i, const Vector<S>* c_before, Step<Vector<S>> step,
                      Vector<S>* w) const {
    for (int64_t n = 0; n < entries; ++n) {
      for (int64_t k = 0; k < heads; ++k) {
        w[2 * k * entries + n] = i[n] * step.u[3 * k * entries + n];
        w[(2 * k + 1) * entries + n] = i[n] * step.u[(3 * k + 1) * entries + n];
      }
      for (int64_t s = 0; s < copies; ++s) {
        int64_t m = permutations[s * entries + n], at = 2 * s * entries + n;
        Vector<S> re = f[n] * c_before[at], im = f[n] * c_before[at + entries];
        for (int64_t k = 0; k < heads; ++k) {
          Vector<S> r_re = step.r[3 * k * entries + m], r_im = step.r[(3 * k + 1) * entries + m];
          Vector<S> w_re = w[2 * k * entries + n], w_im = w[(2 * k + 1) * entries + n];
          re += r_re * w_re - r_im * w_im;
          im += r_re * w_im + r_im * w_re;
        }
        step.c[at] = re;
        step.c[at + entries] = im;
      }
      for (int64_t k = 0; k < heads; ++k) {
        Vector<S> v_re{}, v_im{};
        for (int64_t s = 0; s < copies; ++s) {
          int64_t m = permutations[s * entries + n], at = 2 * s * entries + n;
          Vector<S> q_re = step.q[3 * k * entries + m], q_im = step.q[(3 * k + 1) * entries + m];
          v_re += q_re * step.c[at] - q_im * step.c[at + entries];
          v_im += q_re * step.c[at + entries] + q_im * step.c[at];
        }
        w[2 * k * entries + n] = v_re / S(copies);
        w[(2 * k + 1) * entries + n] = v_im / S(copies);
      }
    }
  }

  // From h_t' in d_h and the later steps' part of c_t' in d_c, computes p_t' in d_a and the same part of c_{t-1}' in
  // d_c; d_v and w are scratch memory.
  void backward_step(Step<const Vector<S>> step, const Vector<S>* c_before, Vector<S>* d_h, Vector<S>* d_c,
                     Vector<S>* d_v, Vector<S>* w, Vector<S>* d_a) const {
    const Vector<S>*f = step.gates, *i = f + entries, *o = i + entries;
    Vector<S>*d_f = d_a, *d_i = d_f + entries, *d_o = d_i + entries;
    Vector<S>*d_r = d_o + entries, *d_q = d_r + outputs_size(), *d_u = d_q + outputs_size();
    std::fill(d_r, d_u, Vector<S>{});
    for (int64_t n = 0; n < entries; ++n) {
      Vector<S> of_o{};
      for (int64_t k = 0; k < heads; ++k) {
        Vector<S>&re = d_h[2 * k * entries + n], &im = d_h[(2 * k + 1) * entries + n];
        of_o += re * step.b[3 * k * entries + n] + im * step.b[(3 * k + 1) * entries + n];
        re *= o[n] / S(copies);
        im *= o[n] / S(copies);
      }
      d_o[n] = o[n] * (S(1) - o[n]) * of_o;
    }
    bound_backward(step.b, d_h, heads, d_v);
    for (int64_t n = 0; n < entries; ++n) {
      for (int64_t k = 0; k < heads; ++k) {
        w[2 * k * entries + n] = i[n] * step.u[3 * k * entries + n];
        w[(2 * k + 1) * entries + n] = i[n] * step.u[(3 * k + 1) * entries + n];
        d_u[2 * k * entries + n] = d_u[(2 * k + 1) * entries + n] = Vector<S>{};
      }
      Vector<S> of_f{}, of_i{};
      for (int64_t s = 0; s < copies; ++s) {
        int64_t m = permutations[s * entries + n], at = 2 * s * entries + n;
        Vector<S> c_re = step.c[at], c_im = step.c[at + entries], d_re = d_c[at], d_im = d_c[at + entries];
        for (int64_t k = 0; k < heads; ++k) {
          Vector<S> q_re = step.q[3 * k * entries + m], q_im = step.q[(3 * k + 1) * entries + m];
          Vector<S> v_re = d_v[2 * k * entries + n], v_im = d_v[(2 * k + 1) * entries + n];
          d_q[2 * k * entries + m] += v_re * c_re + v_im * c_im;
          d_q[(2 * k + 1) * entries + m] += v_im * c_re - v_re * c_im;
          d_re += v_re * q_re + v_im * q_im;
          d_im += v_im * q_re - v_re * q_im;
        }
        for (int64_t k = 0; k < heads; ++k) {
          Vector<S> r_re = step.r[3 * k * entries + m], r_im = step.r[(3 * k + 1) * entries + m];
          Vector<S> w_re = w[2 * k * entries + n], w_im = w[(2 * k + 1) * entries + n];
          d_r[2 * k * entries + m] += d_re * w_re + d_im * w_im;
          d_r[(2 * k + 1) * entries + m] += d_im * w_re - d_re * w_im;
          d_u[2 * k * entries + n] += d_re * r_re + d_im * r_im;
          d_u[(2 * k + 1) * entries + n] += d_im * r_re - d_re * r_im;
        }
        of_f += d_re * c_before[at] + d_im * c_before[at + entries];
        d_c[at] = f[n] * d_re;
        d_c[at + entries] = f[n] * d_im;
      }
      for (int64_t k = 0; k < heads; ++k) {
        Vector<S>&re = d_u[2 * k * entries + n], &im = d_u[(2 * k + 1) * entries + n];
        of_i += re * step.u[3 * k * entries + n] + im * step.u[(3 * k + 1) * entries + n];
        re *= i[n];
        im *= i[n];
      }
      d_f[n] = f[n] * (S(1) - f[n]) * of_f;
      d_i[n] = i[n] * (S(1) - i[n]) * of_i;
    }
    bound_backward(step.r, d_r, 3 * heads, d_r);
  }
};

}  // namespace fused
