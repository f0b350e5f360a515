// The C interface of fast weights.
#include "fastweights.h"

#include "step.h"

using namespace fused;

namespace {

// The arguments of both passes; absent ones are null.
struct FastWeightsCall {
  int64_t batch, time, symbols, threads, return_sequence, double_precision;
  int64_t units, nonlinearity, inner_steps, sustained, only_last_normalized;
  double decay, fast_lr;
  const int64_t* ids;
  const void *table, *weight, *gain, *bias, *first_gain, *first_bias, *read_weights, *initial, *fast;
  void *outputs, *saved;
  const void* d_outputs;
  void *d_table, *d_weight, *d_gain, *d_bias, *d_first_gain, *d_first_bias, *d_read_weights, *d_initial, *d_fast;
};

template <class S>
FastWeights<S> cell(const FastWeightsCall& call) {
  return {call.batch, call.time, call.units, int(call.threads), int(call.nonlinearity), call.inner_steps,
          call.sustained != 0, call.only_last_normalized != 0, call.decay, call.fast_lr, as<S>(call.weight), as<S>(call.gain), as<S>(call.bias),
          as<S>(call.first_gain), as<S>(call.first_bias), as<S>(call.read_weights), as<S>(call.initial), as<S>(call.fast)};
}

template <class S>
void forward(const FastWeightsCall& call) {
  bool all = call.return_sequence != 0;
  cell<S>(call).forward(Rows<S>{as<S>(call.table), call.ids, call.time, call.units},
                        Outputs<S>{static_cast<S*>(call.outputs), call.time, call.units, all},
                        static_cast<S*>(call.saved));
}

template <class S>
void backward(const FastWeightsCall& call) {
  auto to = [](void* gradient) { return static_cast<S*>(gradient); };
  cell<S>(call).backward(
      to(call.saved), OutputGradients<S>{as<S>(call.d_outputs), call.time, call.units, call.return_sequence != 0},
      InputGradients<S>{to(call.d_table), call.ids, call.symbols, call.batch, call.time, call.units,
                        serial(int(call.threads))},
      to(call.d_initial), to(call.d_fast), to(call.d_weight), to(call.d_gain), to(call.d_bias), to(call.d_first_gain),
      to(call.d_first_bias), to(call.d_read_weights));
}

}  // namespace

extern "C" {

int vector_bytes() { return VECTOR_BYTES; }

int64_t fastweights_saved_size(const FastWeightsCall* call) {
  return call->double_precision
             ? num_blocks<double>(call->batch) * cell<double>(*call).saved_per_block() * Lanes<double>::count
             : num_blocks<float>(call->batch) * cell<float>(*call).saved_per_block() * Lanes<float>::count;
}

Exit fastweights_forward(const FastWeightsCall* call) try {
  if (any_outside(call->ids, call->batch * call->time, call->symbols)) return wrong_ids;
  call->double_precision ? forward<double>(*call) : forward<float>(*call);
  return done;
} catch (const std::exception&) {
  return out_of_memory;
}

Exit fastweights_backward(const FastWeightsCall* call) try {
  call->double_precision ? backward<double>(*call) : backward<float>(*call);
  return done;
} catch (const std::exception&) {
  return out_of_memory;
}
}
