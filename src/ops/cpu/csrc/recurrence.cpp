// The recurrence around a step: blocks of sequences, states and their gradients, what is saved for the backward pass,
// and the gradients of inputs and weights.
//
// What a backward pass needs from the forward pass is either saved at every step, or recomputed: then the states are
// saved every `segment_length` steps, and each segment is run again before its backward pass.
#include "step.h"

#include "gradients.h"

namespace fused {
namespace {

constexpr int64_t segment_length = 16;

int64_t total(const std::vector<int64_t>& sizes) {
  int64_t sum = 0;
  for (int64_t size : sizes) sum += size;
  return sum;
}

int64_t history_size(const Layout& layout) {
  int64_t size = 0;
  for (int64_t i : layout.history) size += layout.states[i];
  return size;
}

// Vectors saved for some steps: the states before and after each of them, and what else is saved at each.
int64_t saved_in(const Layout& layout, int64_t steps) {
  return (steps + 1) * history_size(layout) + steps * layout.saved;
}

// Vectors saved per block; `saved_size` in kernel.py must agree.
int64_t saved_per_block(const Layout& layout, const Call& call) {
  if (call.save_every_step) return saved_in(layout, call.time);
  return (call.time + segment_length - 1) / segment_length * total(layout.states);
}

// Several arrays in one piece of memory.
template <class S>
class Vectors {
 public:
  Vectors(const std::vector<int64_t>& sizes, int64_t copies = 1) : buffer_(copies * total(sizes)) {
    for (int64_t copy = 0, at = 0; copy < copies; ++copy)
      for (int64_t size : sizes) {
        at_.push_back(buffer_.data() + at);
        at += size;
      }
  }
  Vector<S>* operator[](int64_t i) const { return at_[i]; }

 private:
  Buffer<Vector<S>> buffer_;
  std::vector<Vector<S>*> at_;
};

template <class S>
class Recurrence {
 public:
  Recurrence(const Call& call, const Step<S>& step) : call(call), step(step), layout(step.layout()) {}

  void forward() const {
    for_each_block<S>(call.batch, int(call.threads), ascending, [&](int64_t number, Block block) {
      Runner run(*this, block);
      Vector<S>* saved = call.saved ? reinterpret_cast<Vector<S>*>(call.saved) + number * saved_per_block(layout, call)
                                    : nullptr;
      bool all = saved && call.save_every_step;
      run.start(all ? saved : nullptr, 0, call.time);
      for (int64_t t = 0; t < call.time; ++t) {
        if (saved && !all && t % segment_length == 0) run.copy_states(t, saved + t / segment_length * total(layout.states));
        run.forward(t, true);
      }
      run.store_last();
    });
  }

  void backward() const {
    int64_t blocks = num_blocks<S>(call.batch), threads = call.threads;
    bool shared = serial(int(threads));
    std::vector<BlockGradients<S>> weights;
    for (size_t k = 0; k < layout.gradients.size(); ++k) {
      const WeightGradient& of = layout.gradients[k];
      int64_t terms = std::count_if(layout.terms.begin(), layout.terms.end(),
                                    [&](const Term& term) { return term.gradient == int64_t(k); });
      weights.emplace_back(wanted(of.constant) ? blocks : 0, of.rows, of.columns, shared,
                           terms == 1 && call.time <= segment_length);
    }
    std::vector<std::vector<S>> sums;
    for (const Sum& sum : layout.sums) sums.emplace_back(blocks * sum.size);
    std::vector<InputGradients<S>> d_inputs;
    d_inputs.reserve(layout.inputs.size());
    for (size_t i = 0; i < layout.inputs.size(); ++i)
      d_inputs.emplace_back(static_cast<S*>(call.d_inputs[i]), call.ids, call.symbols, call.batch, call.time,
                            layout.inputs[i], shared);
    for_each_block<S>(call.batch, int(threads), descending, [&](int64_t number, Block block) {
      Runner run(*this, block);
      run.start_backward();
      std::vector<S*> rows;
      for (auto& gradient : d_inputs) rows.push_back(gradient.rows(block));
      Vector<S>* saved = reinterpret_cast<Vector<S>*>(call.saved) + number * saved_per_block(layout, call);
      Buffer<Vector<S>> again(call.save_every_step ? 0 : saved_in(layout, segment_length), false);
      if (call.save_every_step) run.start(saved, 0, call.time, false);
      for (int64_t first = (call.time - 1) / segment_length * segment_length; first >= 0; first -= segment_length) {
        int64_t steps = std::min(segment_length, call.time - first);
        if (!call.save_every_step) {
          run.start(again.data(), first, steps, saved + first / segment_length * total(layout.states));
          for (int64_t t = first; t < first + steps; ++t) run.forward(t, false);
        }
        for (int64_t t = first + steps - 1; t >= first; --t) run.backward(t, first, steps, rows);
        for (const Term& term : layout.terms)
          if (wanted(layout.gradients[term.gradient].constant))
            run.add(term, weights[term.gradient], number, first, steps, rows);
      }
      for (auto& gradient : weights) gradient.finish();
      run.finish_backward(number, sums);
      for (auto& gradient : d_inputs) gradient.finish(block);
    });
    for (auto& gradient : d_inputs) gradient.finish();
    for (size_t k = 0; k < layout.gradients.size(); ++k)
      if (S* to = wanted(layout.gradients[k].constant)) weights[k].sum_to(to);
    for (size_t k = 0; k < layout.sums.size(); ++k)
      if (S* to = wanted(layout.sums[k].constant)) add_blocks(sums[k], blocks, layout.sums[k].size, to);
  }

 private:
  S* wanted(int64_t constant) const { return static_cast<S*>(call.d_constants[constant]); }

  // The work on one block.
  class Runner {
   public:
    Runner(const Recurrence& all, Block block)
        : all_(all), call_(all.call), layout_(all.layout), block_(block), inputs_(layout_.inputs),
          states_(layout_.states, 2), entered_(layout_.states),
          own_(layout_.saved + layout_.output + layout_.forward_scratch, false) {
      for (size_t i = 0; i < layout_.inputs.size(); ++i) at_.inputs.push_back(inputs_[i]);
      at_.before.resize(layout_.states.size());
      at_.after.resize(layout_.states.size());
    }

    // Sets where the steps from `first` on read and save their states: one place for every step, or two alternating
    // places if `saved` is null. The first states are copied from those given, or loaded from the initial ones.
    void start(Vector<S>* saved, int64_t first, int64_t steps, const Vector<S>* given) {
      place(saved, first, steps);
      for (size_t i = 0; i < layout_.states.size(); ++i) {
        std::copy(given, given + layout_.states[i], state(i, first));
        given += layout_.states[i];
      }
    }
    void start(Vector<S>* saved, int64_t first, int64_t steps, bool load = true) {
      place(saved, first, steps);
      for (size_t i = 0; load && i < layout_.states.size(); ++i) load_or_clear(call_.initial[i], layout_.states[i], state(i, first));
    }

    void copy_states(int64_t t, Vector<S>* to) const {
      for (size_t i = 0; i < layout_.states.size(); ++i)
        to = std::copy(state(i, t), state(i, t) + layout_.states[i], to);
    }

    void forward(int64_t t, bool store) {
      load_inputs(t);
      enter(t);
      for (size_t i = 0; i < layout_.states.size(); ++i) at_.after[i] = state(i, t + 1);
      at_.saved = saved_ ? record(t) : own_.data();
      at_.output = own_.data() + layout_.saved;
      at_.scratch = at_.output + layout_.output;
      const Vector<S>* output = all_.step.forward(at_);
      if (store) Outputs<S>{static_cast<S*>(call_.outputs), call_.time, layout_.output, call_.return_sequence}.store(block_, output, t);
    }

    void store_last() const {
      for (size_t i = 0; i < layout_.states.size(); ++i)
        if (call_.last[i]) block_.store(state(i, call_.time), static_cast<S*>(call_.last[i]), 1, layout_.states[i], 0);
    }

    void start_backward() {
      d_inputs_.reset(new Vectors<S>(layout_.inputs));
      d_states_.reset(new Vectors<S>(layout_.states, 3));
      d_output_.reset(new Buffer<Vector<S>>(layout_.output + layout_.backward_scratch, false));
      std::vector<int64_t> sizes;
      for (const Sum& sum : layout_.sums) sizes.push_back(sum.size);
      sums_.reset(new Vectors<S>(sizes));
      for (size_t i = 0; i < layout_.inputs.size(); ++i) at_.d_inputs.push_back((*d_inputs_)[i]);
      for (size_t i = 0; i < sizes.size(); ++i) at_.sums.push_back((*sums_)[i]);
      for (size_t i = 0; i < layout_.states.size(); ++i) {
        at_.d_before.push_back((*d_states_)[i]);
        at_.d_after.push_back((*d_states_)[layout_.states.size() + i]);
        load_or_clear(call_.d_last[i], layout_.states[i], at_.d_before[i]);
      }
      at_.lefts.resize(layout_.lefts.size());
      at_.rights.resize(layout_.rights.size());
      int64_t most = block_.lanes * std::min(call_.time, segment_length);
      for (const RowsOfStep& rows : layout_.lefts) lefts_.emplace_back(new S[rows.input < 0 ? most * rows.count * rows.width : 0]);
      for (const RowsOfStep& rows : layout_.rights) rights_.emplace_back(most * rows.count, rows.width, false);
    }

    void backward(int64_t t, int64_t first, int64_t steps, const std::vector<S*>& d_inputs) {
      if (layout_.reads_inputs) load_inputs(t);
      enter(t);
      for (size_t i = 0; i < layout_.states.size(); ++i) {
        at_.after[i] = state(i, t + 1);
        std::swap(at_.d_before[i], at_.d_after[i]);
      }
      at_.saved = record(t);
      at_.d_output = d_output_->data();
      at_.scratch = at_.d_output + layout_.output;
      at_.d_before_wanted = t > 0 || any_initial_wanted();
      load_d_output(t);
      all_.step.backward(at_);
      Block own{0, block_.lanes};
      for (size_t i = 0; i < layout_.inputs.size(); ++i)
        own.store(at_.d_inputs[i], d_inputs[i], call_.time, layout_.inputs[i], t);
      for (size_t k = 0; k < layout_.lefts.size(); ++k) {
        const RowsOfStep& rows = layout_.lefts[k];
        for (int64_t r = 0; rows.input < 0 && r < rows.count; ++r)
          own.store(at_.lefts[k] + r * rows.stride, lefts_[k].get(), steps * rows.count, rows.width,
                    (t - first) * rows.count + r);
      }
      for (size_t k = 0; k < layout_.rights.size(); ++k) {
        const RowsOfStep& rows = layout_.rights[k];
        for (int64_t r = 0; r < rows.count; ++r)
          rights_[k].store(block_, at_.rights[k] + r * rows.stride, steps * rows.count, (t - first) * rows.count + r);
      }
      leave(t);  // the gradients of states may be among the rows that were stored
    }

    void add(const Term& term, BlockGradients<S>& to, int64_t number, int64_t first, int64_t steps,
             const std::vector<S*>& d_inputs) {
      const RowsOfStep &left = layout_.lefts[term.left], &right = layout_.rights[term.right];
      bool zero = first == 0 && !any_initial() && (left.of_state || right.of_state);
      const S* from = lefts_[term.left].get();
      int64_t width = left.width, group = steps * left.count * width;
      if (left.input >= 0) {
        width = layout_.inputs[left.input];
        from = d_inputs[left.input] + first * width + left.offset;
        group = call_.time * width;
      }
      to.add(number, from, width, group, rights_[term.right].row(0), block_.lanes, steps * left.count,
             zero ? left.count : 0);
    }

    void finish_backward(int64_t number, std::vector<std::vector<S>>& sums) const {
      for (size_t i = 0; i < layout_.states.size(); ++i) {
        int64_t size = layout_.states[i];
        if (call_.d_initial[i]) block_.store(at_.d_before[i], static_cast<S*>(call_.d_initial[i]), 1, size, 0);
        if (call_.d_restart[i])
          block_.store((*d_states_)[2 * layout_.states.size() + i], static_cast<S*>(call_.d_restart[i]), 1, size, 0);
      }
      for (size_t k = 0; k < sums.size(); ++k)
        for (int64_t i = 0; i < layout_.sums[k].size; ++i)
          sums[k][number * layout_.sums[k].size + i] = sum_of_lanes<S>(at_.sums[k][i], block_.lanes);
    }

   private:
    void place(Vector<S>* saved, int64_t first, int64_t steps) {
      saved_ = saved;
      first_ = first;
      records_ = saved ? saved + (steps + 1) * history_size(layout_) : nullptr;
      history_.assign(layout_.states.size(), nullptr);
      for (int64_t i : layout_.history) {
        if (saved) history_[i] = saved;
        if (saved) saved += layout_.states[i];
      }
    }

    Vector<S>* state(int64_t i, int64_t t) const {
      if (history_[i]) return history_[i] + (t - first_) * history_size(layout_);
      return states_[t % 2 * layout_.states.size() + i];
    }
    Vector<S>* record(int64_t t) const { return records_ + (t - first_) * layout_.saved; }

    // Whether a lane is reset at step t.
    bool starts(int64_t lane, int64_t t) const {
      return call_.resets && call_.resets[(block_.first + lane) * call_.time + t];
    }
    bool any_starts(int64_t t) const {
      for (int64_t lane = 0; call_.resets && lane < block_.lanes; ++lane)
        if (starts(lane, t)) return true;
      return false;
    }
    bool any_initial() const {
      for (size_t i = 0; i < layout_.states.size(); ++i)
        if (call_.initial[i] || (call_.resets && call_.restart[i])) return true;
      return false;
    }
    bool any_initial_wanted() const {
      for (size_t i = 0; i < layout_.states.size(); ++i)
        if (call_.d_initial[i] || (call_.resets && call_.d_restart[i])) return true;
      return false;
    }

    // The states with which step t begins: those after the step before or, in lanes that are reset, the restart states.
    void enter(int64_t t) {
      at_.started = t > 0 || any_initial();
      bool anew = any_starts(t);
      for (size_t i = 0; i < layout_.states.size(); ++i) {
        at_.before[i] = state(i, t);
        if (!anew) continue;
        int64_t size = layout_.states[i];
        load_or_clear(call_.restart[i], size, entered_[i]);
        copy_lanes(size, at_.before[i], entered_[i], [&](int64_t lane) { return !starts(lane, t); });
        at_.before[i] = entered_[i];
      }
    }

    // Adds the gradient of these states to that of the restart states, in lanes that are reset.
    void leave(int64_t t) {
      if (!any_starts(t)) return;
      for (size_t i = 0; i < layout_.states.size(); ++i) {
        Vector<S>* to = (*d_states_)[2 * layout_.states.size() + i];
        S *from = reinterpret_cast<S*>(at_.d_before[i]), *sum = reinterpret_cast<S*>(to);
        for (int64_t lane = 0; lane < block_.lanes; ++lane)
          for (int64_t n = 0; starts(lane, t) && n < layout_.states[i]; ++n) {
            S& gradient = from[n * Lanes<S>::count + lane];
            sum[n * Lanes<S>::count + lane] += gradient;
            gradient = S(0);
          }
      }
    }

    template <class Which>
    void copy_lanes(int64_t size, const Vector<S>* from, Vector<S>* to, Which which) const {
      for (int64_t lane = 0; lane < block_.lanes; ++lane)
        for (int64_t n = 0; which(lane) && n < size; ++n)
          reinterpret_cast<S*>(&to[n])[lane] = on_lane<S>(from[n], lane);
    }

    void load_or_clear(const void* from, int64_t size, Vector<S>* to) const {
      if (from)
        block_.load(Rows<S>{as<S>(from), nullptr, 1, size}, 0, to);
      else
        std::fill(to, to + size, Vector<S>{});
    }
    void load_inputs(int64_t t) {
      for (size_t i = 0; i < layout_.inputs.size(); ++i)
        block_.load(Rows<S>{as<S>(call_.inputs[i]), call_.ids, call_.time, layout_.inputs[i]}, t, at_.inputs[i]);
    }
    void load_d_output(int64_t t) {
      if (call_.d_outputs)
        OutputGradients<S>{as<S>(call_.d_outputs), call_.time, layout_.output, call_.return_sequence}.load(block_, t, at_.d_output);
      else
        std::fill(at_.d_output, at_.d_output + layout_.output, Vector<S>{});
    }

    const Recurrence& all_;
    const Call& call_;
    const Layout& layout_;
    Block block_;
    Vectors<S> inputs_, states_, entered_;
    Buffer<Vector<S>> own_;  // what a step would save if nothing is saved, the output, and scratch memory
    Places<S> at_;
    Vector<S>*saved_ = nullptr, *records_ = nullptr;
    int64_t first_ = 0;
    std::vector<Vector<S>*> history_;
    std::unique_ptr<Vectors<S>> d_inputs_, d_states_, sums_;
    std::unique_ptr<Buffer<Vector<S>>> d_output_;
    std::vector<std::unique_ptr<S[]>> lefts_;
    std::vector<WideRows<S>> rights_;
  };

  const Call& call;
  const Step<S>& step;
  const Layout layout;
};

}  // namespace

bool any_outside(const Call& call) { return any_outside(call.ids, call.batch * call.time, call.symbols); }

template <class S>
void run_forward(const Call& call, const Step<S>& step) {
  Recurrence<S>(call, step).forward();
}

template <class S>
void run_backward(const Call& call, const Step<S>& step) {
  Recurrence<S>(call, step).backward();
}

template void run_forward<float>(const Call&, const Step<float>&);
template void run_forward<double>(const Call&, const Step<double>&);
template void run_backward<float>(const Call&, const Step<float>&);
template void run_backward<double>(const Call&, const Step<double>&);

}  // namespace fused
