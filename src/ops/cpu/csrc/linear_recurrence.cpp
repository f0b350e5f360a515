// The C interface of the linear recurrence.
#include "linear_recurrence.h"

#include "step.h"

using namespace fused;

namespace {

// A tensor and its strides between sequences, between steps and between heads, in numbers.
struct Strided {
  const void* data;
  int64_t strides[3];
};

// The arguments of both passes; absent ones are null.
struct LinearRecurrenceCall {
  int64_t batch, time, heads, writes, keys, values, decays, threads, read_first, double_precision;
  double scale;
  Strided query, key, value, log_decay, erase, removal, strength;
  const void *initial, *start, *resets;
  void *outputs, *last, *saved;
  const void *d_outputs, *d_last;
  void *d_query, *d_key, *d_value, *d_log_decay, *d_erase, *d_removal, *d_strength, *d_initial, *d_start;
};

template <class S>
LinearRecurrence<S> recurrence(const LinearRecurrenceCall& call) {
  auto given = [](const Strided& x) {
    return typename LinearRecurrence<S>::Given{as<S>(x.data), {x.strides[0], x.strides[1], x.strides[2]}};
  };
  return {call.batch, call.time, call.heads, call.writes, call.keys, call.values, call.decays, int(call.threads),
          call.read_first != 0, call.scale, given(call.query), given(call.key), given(call.value), given(call.log_decay),
          given(call.erase), given(call.removal), given(call.strength), as<S>(call.initial), as<S>(call.start),
          static_cast<const uint8_t*>(call.resets)};
}

template <class S>
void forward(const LinearRecurrenceCall& call) {
  auto to = [](void* place) { return static_cast<S*>(place); };
  recurrence<S>(call).forward(to(call.outputs), to(call.last), to(call.saved));
}

template <class S>
void backward(const LinearRecurrenceCall& call) {
  auto to = [](void* gradient) { return static_cast<S*>(gradient); };
  recurrence<S>(call).backward(
      to(call.saved), as<S>(call.d_outputs), as<S>(call.d_last),
      {to(call.d_query), to(call.d_key), to(call.d_value), to(call.d_log_decay), to(call.d_erase), to(call.d_removal),
       to(call.d_strength), to(call.d_initial), to(call.d_start)});
}

}  // namespace

extern "C" {

int64_t linear_recurrence_saved_size(const LinearRecurrenceCall* call) {
  int64_t lanes = call->batch * call->heads;
  return call->double_precision
             ? num_blocks<double>(lanes) * recurrence<double>(*call).saved_per_block() * Lanes<double>::count
             : num_blocks<float>(lanes) * recurrence<float>(*call).saved_per_block() * Lanes<float>::count;
}

Exit linear_recurrence_forward(const LinearRecurrenceCall* call) try {
  call->double_precision ? forward<double>(*call) : forward<float>(*call);
  return done;
} catch (const std::exception&) {
  return out_of_memory;
}

Exit linear_recurrence_backward(const LinearRecurrenceCall* call) try {
  call->double_precision ? backward<double>(*call) : backward<float>(*call);
  return done;
} catch (const std::exception&) {
  return out_of_memory;
}
}
