// Fast weights in the attention form, over one chunk of steps. k counts the states h(0) ... h(T) of the chunk, where
// h(0) is the state before the chunk, and A_0 are the fast weights before it. For the step to h(k + 1):
//
//     z        = W h(k) + p                               the boundary condition
//     q_0      = f(z)                                     or f(LN_0(z))
//     r_s      = sum_{j <= k} c_j h(j) + λ^{k+1} A_0 q_s,                  c_j = η λ^{k-j} h(j)·q_s
//     a_s      = (z or q_s) + w_s r_s                     w_s = 1, or learned for s < S-1
//     q_{s+1}  = f(LN(a_s)),   s = 0 ... S-1              h(k + 1) = q_S;  LN in all of these, or only in the last
//
// Backward, with x' the gradient of the loss with respect to x, from the last step to the first. A state is read by
// every later step, so h(j)' accumulates their contributions before its own step is reached:
//
//     h(k+1)' += y(k+1)'                                  = q_S'
//     a_s'     = J_LN^T (f'(LN(a_s)) q_{s+1}')
//     z'      += a_s'   (or q_s' += a_s' if q_s replaces z)
//     e_j      = η λ^{k-j} h(j)·a_s',      r_s° = sum_j e_j h(j) + λ^{k+1} A_0^T a_s'
//     q_s'    += w_s r_s°,                               w_s' += q_s·r_s°
//     h(j)'   += w_s (c_j a_s' + e_j q_s)
//     A_0'    += w_s λ^{k+1} a_s' q_s^T
//     z'      += f'(z) q_0'   (through LN_0),             p' = z',   h(k)' += W^T z',   W' += z' h(k)^T
#pragma once

#include "gradients.h"

namespace fused {

template <class S>
struct FastWeights {
  int64_t batch, time, units;
  int threads, nonlinearity;
  int64_t inner_steps;
  bool sustained, only_last_normalized;
  double decay, fast_lr;
  const S *weight, *gain, *bias;     // gain is null without layer norm
  const S *first_gain, *first_bias;  // of the layer norm on the preliminary state, or null
  const S* read_weights;             // w_0 ... w_{S-2}, or null for ones
  const S* initial;                  // [batch, units], or null for zeros
  const S* fast;                     // A_0 [batch, units, units], or null for zeros

  // Saved per block: h(0) ... h(T), then for every step q_0 ... q_{S-1}; with layer norm, x_s and its scale for every s
  // and for LN_0; and c_j for every s.
  int64_t first_norm() const { return only_last_normalized ? std::max<int64_t>(inner_steps - 1, 0) : 0; }
  int64_t norms() const { return (gain ? inner_steps - first_norm() : 0) + (first_gain ? 1 : 0); }
  int64_t queries() const { return std::max<int64_t>(inner_steps, 1); }
  int64_t saved_per_step() const { return queries() * units + norms() * (units + 1) + inner_steps * time; }
  int64_t saved_per_block() const { return (time + 1) * units + time * saved_per_step(); }

  struct Saved {
    const FastWeights& cell;
    Vector<S>* data;
    Vector<S>* h(int64_t k) const { return data + k * cell.units; }
    Vector<S>* q(int64_t k, int64_t s) const { return h(cell.time + 1) + k * cell.saved_per_step() + s * cell.units; }
    Vector<S>* x(int64_t k, int64_t n) const { return q(k, cell.queries()) + n * (cell.units + 1); }
    Vector<S>* c(int64_t k, int64_t s) const { return x(k, cell.norms()) + s * cell.time; }
  };

  void forward(Rows<S> inputs, Outputs<S> outputs, S* all_saved) const {
    Matrix<S> recurrent(weight, units, units, units, 1);
    LayerNorm<S> norm{gain, bias, units}, norm_0{first_gain, first_bias, units}, none{nullptr, nullptr, units};
    std::vector<S> ages = powers(fast_lr), left = powers(decay);
    for_each_block<S>(batch, threads, ascending, [&](int64_t number, Block block) {
      Buffer<Vector<S>> own(all_saved ? 0 : saved_per_block()), z(units), a(units), r(read_weights ? units : 0);
      Saved saved{*this,
                  all_saved ? reinterpret_cast<Vector<S>*>(all_saved) + number * saved_per_block() : own.data()};
      Scratch scratch(fast ? units : 0);
      std::vector<S> transposed = fast ? fast_transposed(block) : std::vector<S>();
      std::fill(saved.h(0), saved.h(0) + units, Vector<S>{});
      if (initial) block.load(Rows<S>{initial, nullptr, 1, units}, 0, saved.h(0));
      for (int64_t k = 0; k < time; ++k) {
        block.load(inputs, k, z.data());
        if (k >= first_state()) recurrent.multiply(saved.h(k), z.data(), z.data());
        Vector<S>* q = saved.q(k, 0);
        std::copy(z.data(), z.data() + units, a.data());
        activate_normalized(norm_0, a.data(), saved.x(k, norms() - 1), q);
        for (int64_t s = 0; s < inner_steps; ++s) {
          q = saved.q(k, s);
          std::copy(sustained ? z.data() : q, (sustained ? z.data() : q) + units, a.data());
          Vector<S>* sum = weighted(s) ? r.data() : a.data();
          if (weighted(s)) std::fill(sum, sum + units, Vector<S>{});
          read_states(saved, k, q, ages.data(), saved.c(k, s), sum);
          if (fast) add_product(block, transposed.data(), left[k], q, sum, scratch);
          if (weighted(s))
            for (int64_t i = 0; i < units; ++i) a[i] += read_weights[s] * r[i];
          activate_normalized(s < first_norm() ? none : norm, a.data(), saved.x(k, s - first_norm()),
                              s + 1 < inner_steps ? saved.q(k, s + 1) : saved.h(k + 1));
        }
        if (inner_steps == 0) std::copy(q, q + units, saved.h(k + 1));
        outputs.store(block, saved.h(k + 1), k);
      }
    });
  }

  void backward(S* all_saved, OutputGradients<S> d_outputs, InputGradients<S> d_inputs, S* d_initial, S* d_fast,
                S* d_weight, S* d_gain, S* d_bias, S* d_first_gain, S* d_first_bias, S* d_read_weights) const {
    Matrix<S> transposed(weight, units, units, 1, units);
    LayerNorm<S> norm{gain, bias, units}, norm_0{first_gain, first_bias, units};
    std::vector<S> ages = powers(fast_lr), left = powers(decay);
    int64_t blocks = num_blocks<S>(batch);
    BlockGradients<S> weights(blocks, units, units, serial(threads));
    BlockGradients<S> states(d_fast ? batch : 0, units, units, false);
    int64_t num_sums = 4 * units + inner_steps;
    std::vector<S> small_gradients(blocks * num_sums);
    for_each_block<S>(batch, threads, descending, [&](int64_t number, Block block) {
      Saved saved{*this, reinterpret_cast<Vector<S>*>(all_saved) + number * saved_per_block()};
      Buffer<Vector<S>> d_h((time + 1) * units), g(units), d_z(units), d_q(units), e(time);
      Buffer<Vector<S>> sums(num_sums);
      Scratch scratch(fast ? units : 0);
      Block own{0, block.lanes};
      S* rows = d_inputs.rows(block);
      int64_t readings = time * inner_steps;
      std::vector<S> d_a_rows(d_fast ? block.lanes * readings * units : 0);
      WideRows<S> q_rows(d_fast ? block.lanes * readings : 0, units);
      for (int64_t k = time - 1; k >= 0; --k) {
        d_outputs.load(block, k, g.data());
        Vector<S>* later = d_h.data() + (k + 1) * units;
        for (int64_t i = 0; i < units; ++i) g[i] += later[i];
        std::fill(d_z.data(), d_z.data() + units, Vector<S>{});
        for (int64_t s = inner_steps - 1; s >= 0; --s) {
          const Vector<S>* q = saved.q(k, s);
          const Vector<S>* next = s + 1 < inner_steps ? saved.q(k, s + 1) : saved.h(k + 1);
          for (int64_t i = 0; i < units; ++i) g[i] *= derivative<S>(nonlinearity, next[i]);
          if (gain && s >= first_norm()) norm.backward(g.data(), saved.x(k, s - first_norm()), &sums[0], &sums[units]);
          // g is the gradient of a_s
          for (int64_t i = 0; i < units; ++i) {
            d_q[i] = sustained || weighted(s) ? Vector<S>{} : g[i];
            if (sustained) d_z[i] += g[i];
          }
          read_states(saved, k, g.data(), ages.data(), e.data(), d_q.data());
          if (fast) add_product(block, fast + block.first * units * units, left[k], g.data(), d_q.data(), scratch);
          if (weighted(s)) {
            S weight_s = read_weights[s];
            for (int64_t i = 0; i < units; ++i) {
              sums[4 * units + s] += q[i] * d_q[i];
              d_q[i] = sustained ? weight_s * d_q[i] : g[i] + weight_s * d_q[i];
              g[i] *= weight_s;
            }
            for (int64_t j = first_state(); j <= k; ++j) e[j] *= weight_s;
          }
          add_to_states(k, saved.c(k, s), g.data(), e.data(), q, d_h.data());
          if (d_fast) {
            for (int64_t i = 0; i < units; ++i) g[i] *= left[k];
            own.store(g.data(), d_a_rows.data(), readings, units, k * inner_steps + s);
            q_rows.store(block, q, readings, k * inner_steps + s);
          }
          std::swap(g, d_q);
        }
        const Vector<S>* q = saved.q(k, 0);
        for (int64_t i = 0; i < units; ++i) g[i] *= derivative<S>(nonlinearity, q[i]);
        if (first_gain) norm_0.backward(g.data(), saved.x(k, norms() - 1), &sums[2 * units], &sums[3 * units]);
        for (int64_t i = 0; i < units; ++i) d_z[i] += g[i];
        own.store(d_z.data(), rows, time, units, k);
        if (Vector<S>* d_before = d_h.data() + k * units; k > 0 || d_initial)
          transposed.multiply(d_z.data(), d_before, d_before);
      }
      if (d_initial) block.store(d_h.data(), d_initial, 1, units, 0);
      for (int64_t lane = 0; d_fast && lane < block.lanes; ++lane)
        states.add(block.first + lane, d_a_rows.data() + lane * readings * units, units, 0, q_rows.row(lane * readings),
                   1, readings, 0);
      for (int64_t i = 0; i < num_sums; ++i)
        small_gradients[number * num_sums + i] = sum_of_lanes<S>(sums[i], block.lanes);
      WideRows<S> h_rows(block.lanes * time, units);
      for (int64_t k = first_state(); k < time; ++k) h_rows.store(block, saved.h(k), time, k);
      weights.add(number, rows, units, time * units, h_rows.row(0), block.lanes, time, first_state());
      weights.finish();
      d_inputs.finish(block);
    });
    d_inputs.finish();
    weights.sum_to(d_weight);
    if (d_fast) states.copy_to(d_fast);
    std::vector<S> total(num_sums);
    add_blocks(small_gradients, blocks, num_sums, total.data());
    if (gain) {
      std::copy(total.data(), total.data() + units, d_gain);
      std::copy(total.data() + units, total.data() + 2 * units, d_bias);
    }
    if (first_gain) {
      std::copy(total.data() + 2 * units, total.data() + 3 * units, d_first_gain);
      std::copy(total.data() + 3 * units, total.data() + 4 * units, d_first_bias);
    }
    if (read_weights) std::copy(total.data() + 4 * units, total.data() + num_sums - 1, d_read_weights);
  }

 private:
  // The first state to read: h(0) is skipped if it is zero.
  int64_t first_state() const { return initial ? 0 : 1; }

  // Whether r_s is multiplied by w_s.
  bool weighted(int64_t s) const { return read_weights && s + 1 < inner_steps; }

  // factor * decay^n for n = 0 ... T-1.
  std::vector<S> powers(double factor) const {
    std::vector<S> all(time);
    for (auto& value : all) {
      value = S(factor);
      factor *= decay;
    }
    return all;
  }

  // f(LN(a)), or f(a) without layer norm; writes x and its scale, and overwrites a.
  void activate_normalized(const LayerNorm<S>& norm, Vector<S>* a, Vector<S>* x, Vector<S>* to) const {
    if (!norm.gain) return activate<S>(nonlinearity, a, units, to);
    norm.normalize(a, x);
    norm.activate(nonlinearity, x, to);
  }

  // c_j = η λ^{k-j} h(j)·v, and to += sum_j c_j h(j), over all states j <= k. Four states at a time, so that they are
  // still in the cache when they are added.
  void read_states(const Saved& saved, int64_t k, const Vector<S>* v, const S* ages, Vector<S>* c,
                   Vector<S>* to) const {
    in_fours(first_state(), k + 1, [&](auto count, int64_t j) {
      const Vector<S>* h = saved.h(j);
      int64_t next = units;
      Vector<S> factors[count];
      dot_products<S, count>(h, next, v, units, factors);
      for (int n = 0; n < count; ++n) c[j + n] = factors[n] *= ages[k - j - n];
      for (int64_t i = 0; i < units; ++i) {
        Vector<S> sum = factors[0] * h[i];
        for (int n = 1; n < count; ++n) sum += factors[n] * h[n * next + i];
        to[i] += sum;
      }
    });
  }

  // h(j)' += c_j a_s' + e_j q_s for all states j <= k, where h' is [state, unit].
  void add_to_states(int64_t k, const Vector<S>* c, const Vector<S>* d_a, const Vector<S>* e, const Vector<S>* q,
                     Vector<S>* d_h) const {
    in_fours(first_state(), k + 1, [&](auto count, int64_t j) {
      int64_t next = units;
      Vector<S>* d = d_h + j * next;
      Vector<S> of_a[count], of_q[count];
      for (int n = 0; n < count; ++n) {
        of_a[n] = c[j + n];
        of_q[n] = e[j + n];
      }
      for (int64_t i = 0; i < units; ++i) {
        Vector<S> d_a_i = d_a[i], q_i = q[i];
        for (int n = 0; n < count; ++n) d[n * next + i] += of_a[n] * d_a_i + of_q[n] * q_i;
      }
    });
  }

  // Memory for the products below: two rows of units for every lane, and a vector for every unit.
  struct Scratch {
    explicit Scratch(int64_t units) : left(Lanes<S>::count * units), products(left.size()), sums(units) {}
    std::vector<S> left, products;
    Buffer<Vector<S>> sums;
  };

  // A_0^T of every sequence of a block.
  std::vector<S> fast_transposed(Block block) const {
    std::vector<S> matrices(block.lanes * units * units);
    Buffer<Vector<S>> columns(units, false);
    for (int64_t lane = 0; lane < block.lanes; ++lane) {
      const S* from = fast + (block.first + lane) * units * units;
      S* to = &matrices[lane * units * units];
      for (int64_t first = 0; first < units; first += Lanes<S>::count) {  // as many rows as a vector has lanes
        Block rows{first, std::min<int64_t>(Lanes<S>::count, units - first)};
        rows.load(Rows<S>{from, nullptr, 1, units}, 0, columns.data());
        for (int64_t i = 0; i < units; ++i)
          std::memcpy(to + i * units + first, &columns[i], rows.lanes * sizeof(S));
      }
    }
    return matrices;
  }

  // to += factor M^T v, with a different matrix M for every sequence of the block.
  void add_product(Block block, const S* matrices, S factor, const Vector<S>* v, Vector<S>* to,
                   Scratch& scratch) const {
    Block own{0, block.lanes};
    own.store(v, scratch.left.data(), 1, units, 0);
    std::fill(scratch.products.begin(), scratch.products.end(), S(0));
    for (int64_t lane = 0; lane < block.lanes; ++lane) {
      const S *matrix = matrices + lane * units * units, *values = &scratch.left[lane * units];
      S* __restrict product = &scratch.products[lane * units];
      int64_t row = 0;
      for (; row + 4 <= units; row += 4) {
        const S *m0 = matrix + row * units, *m1 = m0 + units, *m2 = m1 + units, *m3 = m2 + units;
        S v0 = values[row], v1 = values[row + 1], v2 = values[row + 2], v3 = values[row + 3];
        for (int64_t i = 0; i < units; ++i) product[i] += (v0 * m0[i] + v1 * m1[i]) + (v2 * m2[i] + v3 * m3[i]);
      }
      for (; row < units; ++row)
        for (int64_t i = 0; i < units; ++i) product[i] += values[row] * matrix[row * units + i];
    }
    own.load(Rows<S>{scratch.products.data(), nullptr, 1, units}, 0, scratch.sums.data());
    for (int64_t i = 0; i < units; ++i) to[i] += factor * scratch.sums[i];
  }
};

}  // namespace fused
