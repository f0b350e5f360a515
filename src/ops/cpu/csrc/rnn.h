// The simple recurrent network:  a_t = W h_{t-1} + p_t,  h_t = f(LN(a_t))  or  h_t = f(a_t).
//
// Backward, with x' the gradient of the loss with respect to x, from the last step to the first:
//
//     h_t'    = y_t' + W^T a_{t+1}'        from the output, and from the next step
//     LN_t'   = f'(a_t) h_t'
//     a_t'    = J_LN^T LN_t'               (or LN_t' without layer norm), and p_t' = a_t'
//     W'      = sum_t a_t' h_{t-1}^T
#pragma once

#include "gradients.h"

namespace fused {

template <class S>
struct RNN {
  int64_t batch, time, units;
  int threads, nonlinearity;
  const S *weight, *gain, *bias;  // gain is null without layer norm
  const S* initial;               // [batch, units], or null for zeros

  // Saved per step for the backward pass: h, and with layer norm the normalized sum and its scale.
  int64_t saved_per_step() const { return gain ? 2 * units + 1 : units; }

  void forward(Rows<S> inputs, Outputs<S> outputs, S* saved) const {
    Packed<S> recurrent(weight, units, units, units, 1);
    LayerNorm<S> norm{gain, bias, units};
    for_each_block<S>(batch, threads, ascending, [&](int64_t number, Block block) {
      Buffer<S> h(padded(units)), a(padded(units)), x(units + 1);
      if (initial) block.load(Rows<S>{initial, nullptr, 1, units}, 0, h.data());
      for (int64_t t = 0; t < time; ++t) {
        block.load(inputs, t, a.data());
        if (t > 0 || initial) recurrent.multiply_add(h.data(), a.data());
        if (gain) {
          norm.normalize(a.data(), x.data());
          norm.activate(nonlinearity, x.data(), h.data());
        } else {
          activate<S>(nonlinearity, a.data(), units, h.data());
        }
        if (saved) {
          auto* save = reinterpret_cast<Vector<S>*>(saved) + (number * time + t) * saved_per_step();
          std::copy(h.data(), h.data() + units, save);
          if (gain) std::copy(x.data(), x.data() + units + 1, save + units);
        }
        outputs.store(block, h.data(), t);
      }
    });
  }

  void backward(const S* saved, OutputGradients<S> d_outputs, InputGradients<S> d_inputs, S* d_initial, S* d_weight,
                S* d_gain, S* d_bias) const {
    Packed<S> transposed(weight, units, units, 1, units);
    LayerNorm<S> norm{gain, bias, units};
    int64_t blocks = num_blocks<S>(batch);
    BlockGradients<S> weights(blocks, units, units, serial(threads));
    std::vector<S> gains(blocks * units), biases(blocks * units);
    for_each_block<S>(batch, threads, descending, [&](int64_t number, Block block) {
      Buffer<S> g(padded(units)), first(units), from_next(padded(units));
      Buffer<S> sum_gain(units), sum_bias(units);
      Block own{0, block.lanes};
      S* rows = d_inputs.rows(block);
      for (int64_t t = time - 1; t >= 0; --t) {
        auto* h = reinterpret_cast<const Vector<S>*>(saved) + (number * time + t) * saved_per_step();
        d_outputs.load(block, t, g.data());
        for (int64_t i = 0; i < units; ++i) g[i] = (g[i] + from_next[i]) * derivative<S>(nonlinearity, h[i]);
        if (gain) norm.backward(g.data(), h + units, sum_gain.data(), sum_bias.data());
        own.store(g.data(), rows, time, units, t);
        if (t > 0 || d_initial) {
          std::fill(from_next.data(), from_next.data() + padded(units), Vector<S>{});
          transposed.multiply_add(g.data(), from_next.data());
        }
      }
      if (d_initial) block.store(from_next.data(), d_initial, 1, units, 0);
      for (int64_t i = 0; gain && i < units; ++i) {
        gains[number * units + i] = sum_of_lanes<S>(sum_gain[i], block.lanes);
        biases[number * units + i] = sum_of_lanes<S>(sum_bias[i], block.lanes);
      }
      if (initial) block.load(Rows<S>{initial, nullptr, 1, units}, 0, first.data());
      weights.add_recurrent(number, block, time, rows, initial ? 0 : 1, [&](int64_t t) -> const Vector<S>* {
        return t == 0 ? first.data()
                      : reinterpret_cast<const Vector<S>*>(saved) + (number * time + t - 1) * saved_per_step();
      });
      d_inputs.finish(block);
    });
    d_inputs.finish();
    weights.sum_to(d_weight);
    if (gain) {
      add_blocks(gains, blocks, units, d_gain);
      add_blocks(biases, blocks, units, d_bias);
    }
  }
};

}  // namespace fused
