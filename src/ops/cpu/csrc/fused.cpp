// The C interface called from Python: one function per cell, direction and type of number.
#include "alstm.h"
#include "fastweights.h"
#include "gru.h"
#include "lstm.h"
#include "rnn.h"

using namespace fused;

// How a kernel ends; an exception would end the process.
enum Exit { done, wrong_ids, out_of_memory };
#define OUT_OF_MEMORY catch (const std::exception&) { return out_of_memory; }

#define FOR_EACH_TYPE(DEFINE) DEFINE(float, f32) DEFINE(double, f64)

extern "C" {

#define DEFINE(S, suffix)                                                                                              \
  int64_t rnn_saved_size_##suffix(int64_t batch, int64_t time, int64_t units, bool layer_norm) {                       \
    S gain{};                                                                                                          \
    RNN<S> cell{batch, time, units, 1, 0, nullptr, layer_norm ? &gain : nullptr, nullptr, nullptr};                    \
    return num_blocks<S>(batch) * time * cell.saved_per_step() * Lanes<S>::count;                                      \
  }                                                                                                                    \
  Exit rnn_forward_##suffix(int64_t batch, int64_t time, int threads, int64_t units, int nonlinearity,                 \
                            const S* weight, const S* gain, const S* bias, const S* initial, const S* table,           \
                            const int64_t* ids, int64_t symbols, bool return_sequence, S* outputs, S* saved) try {     \
    if (any_outside(ids, batch * time, symbols)) return wrong_ids;                                                     \
    RNN<S>{batch, time, units, threads, nonlinearity, weight, gain, bias, initial}.forward(                            \
        Rows<S>{table, ids, time, units}, Outputs<S>{outputs, time, units, return_sequence}, saved);                   \
    return done;                                                                                                       \
  } OUT_OF_MEMORY                                                                                                      \
  Exit rnn_backward_##suffix(int64_t batch, int64_t time, int threads, int64_t units, int nonlinearity,                \
                             const S* weight, const S* gain, const S* bias, const S* initial, const S* saved,          \
                             bool return_sequence, const S* d_outputs, const int64_t* ids, int64_t symbols,            \
                             S* d_table, S* d_weight, S* d_gain, S* d_bias, S* d_initial) try {                        \
    RNN<S>{batch, time, units, threads, nonlinearity, weight, gain, bias, initial}.backward(                           \
        saved, OutputGradients<S>{d_outputs, time, units, return_sequence},                                            \
        InputGradients<S>{d_table, ids, symbols, batch, time, units, serial(threads)}, d_initial, d_weight,            \
        d_gain, d_bias);                                                                                               \
    return done;                                                                                                       \
  } OUT_OF_MEMORY                                                                                                      \
  int64_t fastweights_saved_size_##suffix(int64_t batch, int64_t time, int64_t units, int64_t inner_steps,             \
                                          bool layer_norm, bool first_norm) {                                          \
    S gain{};                                                                                                          \
    FastWeights<S> cell{batch, time, units, 1, 0, inner_steps, true, 1, 1, nullptr, layer_norm ? &gain : nullptr,      \
        nullptr, first_norm ? &gain : nullptr, nullptr, nullptr, nullptr};                                             \
    return num_blocks<S>(batch) * cell.saved_per_block() * Lanes<S>::count;                                            \
  }                                                                                                                    \
  Exit fastweights_forward_##suffix(int64_t batch, int64_t time, int threads, int64_t units, int nonlinearity,         \
                                    int64_t inner_steps, bool sustained, double decay, double fast_lr,                 \
                                    const S* weight, const S* gain, const S* bias, const S* first_gain,                \
                                    const S* first_bias, const S* initial, const S* fast, const S* table,              \
                                    const int64_t* ids, int64_t symbols, bool return_sequence, S* outputs,             \
                                    S* saved) try {                                                                    \
    if (any_outside(ids, batch * time, symbols)) return wrong_ids;                                                     \
    FastWeights<S>{batch,  time, units, threads,    nonlinearity, inner_steps, sustained, decay,          fast_lr,     \
                   weight, gain, bias,  first_gain, first_bias,   initial,     fast}                                   \
        .forward(Rows<S>{table, ids, time, units}, Outputs<S>{outputs, time, units, return_sequence}, saved);          \
    return done;                                                                                                       \
  } OUT_OF_MEMORY                                                                                                      \
  Exit fastweights_backward_##suffix(                                                                                  \
      int64_t batch, int64_t time, int threads, int64_t units, int nonlinearity, int64_t inner_steps, bool sustained,  \
      double decay, double fast_lr, const S* weight, const S* gain, const S* bias, const S* first_gain,                \
      const S* first_bias, const S* initial, const S* fast, S* saved, bool return_sequence,                            \
      const S* d_outputs, const int64_t* ids, int64_t symbols, S* d_table, S* d_weight, S* d_gain, S* d_bias,          \
      S* d_first_gain, S* d_first_bias, S* d_initial, S* d_fast) try {                                                 \
    FastWeights<S>{batch,  time, units, threads,    nonlinearity, inner_steps, sustained, decay,          fast_lr,     \
                   weight, gain, bias,  first_gain, first_bias,   initial,     fast}                                   \
        .backward(saved, OutputGradients<S>{d_outputs, time, units, return_sequence},                                  \
                  InputGradients<S>{d_table, ids, symbols, batch, time, units, serial(threads)}, d_initial,            \
                  d_fast, d_weight, d_gain, d_bias, d_first_gain, d_first_bias);                                       \
    return done;                                                                                                       \
  } OUT_OF_MEMORY                                                                                                      \
  int64_t lstm_saved_size_##suffix(int64_t batch, int64_t time, int64_t units) {                                       \
    LSTM<S> cell{batch, time, units, 1, nullptr, nullptr, nullptr};                                                    \
    return num_blocks<S>(batch) * cell.saved_per_block() * Lanes<S>::count;                                            \
  }                                                                                                                    \
  Exit lstm_forward_##suffix(int64_t batch, int64_t time, int threads, int64_t units, const S* weight,                 \
                             const S* initial_hidden, const S* initial_cell, const S* table, const int64_t* ids,       \
                             int64_t symbols, bool return_sequence, S* outputs, S* last_cell, S* saved) try {          \
    if (any_outside(ids, batch * time, symbols)) return wrong_ids;                                                     \
    LSTM<S>{batch, time, units, threads, weight, initial_hidden, initial_cell}.forward(                                \
        Rows<S>{table, ids, time, 4 * units}, Outputs<S>{outputs, time, units, return_sequence}, last_cell, saved);    \
    return done;                                                                                                       \
  } OUT_OF_MEMORY                                                                                                      \
  Exit lstm_backward_##suffix(int64_t batch, int64_t time, int threads, int64_t units, const S* weight,                \
                              const S* initial_hidden, const S* initial_cell, const S* saved, bool return_sequence,    \
                              const S* d_outputs, const S* d_last_cell, const int64_t* ids, int64_t symbols,           \
                              S* d_table, S* d_weight, S* d_initial_hidden, S* d_initial_cell) try {                   \
    LSTM<S>{batch, time, units, threads, weight, initial_hidden, initial_cell}.backward(                               \
        saved, OutputGradients<S>{d_outputs, time, units, return_sequence}, d_last_cell,                               \
        InputGradients<S>{d_table, ids, symbols, batch, time, 4 * units, serial(threads)}, d_initial_hidden,           \
        d_initial_cell, d_weight);                                                                                     \
    return done;                                                                                                       \
  } OUT_OF_MEMORY                                                                                                      \
  int64_t gru_saved_size_##suffix(int64_t batch, int64_t time, int64_t units, bool reset_before) {                     \
    GRU<S> cell{batch, time, units, 1, reset_before, nullptr, nullptr, nullptr};                                       \
    return num_blocks<S>(batch) * time * cell.saved_per_step() * Lanes<S>::count;                                      \
  }                                                                                                                    \
  Exit gru_forward_##suffix(int64_t batch, int64_t time, int threads, int64_t units, bool reset_before,                \
                            const S* gates, const S* candidate, const S* initial, const S* table,                      \
                            const int64_t* ids, int64_t symbols, bool return_sequence, S* outputs, S* saved) try {     \
    if (any_outside(ids, batch * time, symbols)) return wrong_ids;                                                     \
    GRU<S>{batch, time, units, threads, reset_before, gates, candidate, initial}.forward(                              \
        Rows<S>{table, ids, time, 3 * units}, Outputs<S>{outputs, time, units, return_sequence}, saved);               \
    return done;                                                                                                       \
  } OUT_OF_MEMORY                                                                                                      \
  Exit gru_backward_##suffix(int64_t batch, int64_t time, int threads, int64_t units, bool reset_before,               \
                             const S* gates, const S* candidate, const S* initial, const S* saved,                     \
                             bool return_sequence, const S* d_outputs, const int64_t* ids, int64_t symbols,            \
                             S* d_table, S* d_gates, S* d_candidate, S* d_initial) try {                               \
    GRU<S>{batch, time, units, threads, reset_before, gates, candidate, initial}.backward(                             \
        saved, OutputGradients<S>{d_outputs, time, units, return_sequence},                                            \
        InputGradients<S>{d_table, ids, symbols, batch, time, 3 * units, serial(threads)}, d_initial, d_gates,         \
        d_candidate);                                                                                                  \
    return done;                                                                                                       \
  } OUT_OF_MEMORY                                                                                                      \
  int64_t alstm_saved_size_##suffix(int64_t batch, int64_t time, int64_t entries, int64_t copies, int64_t heads) {     \
    ALSTM<S> cell{batch, time, entries, copies, heads, 0, 1, nullptr, nullptr, nullptr, nullptr};                      \
    return num_blocks<S>(batch) * cell.saved_per_block() * Lanes<S>::count;                                            \
  }                                                                                                                    \
  Exit alstm_forward_##suffix(int64_t batch, int64_t time, int threads, int64_t entries, int64_t copies,               \
                              int64_t heads, int64_t reached, const int64_t* permutations, const S* weight,            \
                              const S* initial_hidden, const S* initial_cell, const S* table, const int64_t* ids,      \
                              int64_t symbols, bool return_sequence, S* outputs, S* last_cell, S* saved) try {         \
    if (any_outside(ids, batch * time, symbols)) return wrong_ids;                                                     \
    ALSTM<S> cell{batch, time, entries, copies, heads, reached, threads, weight, permutations, initial_hidden,         \
                  initial_cell};                                                                                       \
    cell.forward(Rows<S>{table, ids, time, cell.features()},                                                           \
                 Outputs<S>{outputs, time, cell.outputs_size(), return_sequence}, last_cell, saved);                   \
    return done;                                                                                                       \
  } OUT_OF_MEMORY                                                                                                      \
  Exit alstm_backward_##suffix(int64_t batch, int64_t time, int threads, int64_t entries, int64_t copies,              \
                               int64_t heads, int64_t reached, const int64_t* permutations, const S* weight,           \
                               const S* initial_hidden, const S* initial_cell, const S* saved, bool return_sequence,   \
                               const S* d_outputs, const S* d_last_cell, const int64_t* ids, int64_t symbols,          \
                               S* d_table, S* d_weight, S* d_initial_hidden, S* d_initial_cell) try {                  \
    ALSTM<S> cell{batch, time, entries, copies, heads, reached, threads, weight, permutations, initial_hidden,         \
                  initial_cell};                                                                                       \
    cell.backward(saved, OutputGradients<S>{d_outputs, time, cell.outputs_size(), return_sequence}, d_last_cell,       \
                  InputGradients<S>{d_table, ids, symbols, batch, time, cell.features(), serial(threads)},             \
                  d_initial_hidden, d_initial_cell, d_weight);                                                         \
    return done;                                                                                                       \
  } OUT_OF_MEMORY

FOR_EACH_TYPE(DEFINE)
}
