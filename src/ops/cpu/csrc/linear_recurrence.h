// The recurrence of linear attention and its descendants. A lane is one head of one sequence, with its own S [K, V]:
//
//     c = S_{i-1}^T b,    S_i = diag(w) S_{i-1} + a c^T + k v^T,    o = S^T q after every n writes, or before them
//
// or, by the delta rule (a = -k), S_i = diag(w) S_{i-1} + k u^T with u = v - c. Columns of S do not interact, so a
// chunk of steps is computed for four columns at a time, which stay in the first-level cache: four vectors for each of
// the K key features. The forward pass saves S before every chunk, and u (or c) of every write; the backward pass
// recomputes the states within a chunk.
//
// With a `strength` beta, it is the delta rule with keys of unit length, x^ = x / sqrt(|x|^2 + 1e-6): the given queries
// and keys are scaled, q = scale q^, k = beta k^ and b = w k^. Here that takes hardly any time; in plain PyTorch, it
// takes several passes over all keys.
//
// Backward, with D = S_i' the gradient of the loss with respect to S_i, from the last write to the first:
//
//     D += q o'^T,    q' = S o'                                    where S is read
//     v' = D^T k,     k' = D v,     c' = D^T a,     a' = D c,      w' = rows of D . S_{i-1}
//     b' = S_{i-1} c',     D <- diag(w) D + b c'^T                 the delta rule: u' = D^T k = v' = -c', k' = D u
#pragma once

#include "blocks.h"

namespace fused {

enum Erase { nothing = 0, by_delta_rule = 1, in_general = 2 };

// Rows [batch, time, heads, units] with strides, as seen by the lanes of one block; `Number` is S or const S.
template <class S, class Number = S>
struct LaneRows {
  Number* starts[Lanes<S>::count];
  int64_t step, units;

  LaneRows(Number* data, const int64_t* strides, Block block, int64_t heads, int64_t size) : step(strides[1]), units(size) {
    for (int64_t lane = 0; lane < block.lanes; ++lane) {
      int64_t pair = block.first + lane;
      starts[lane] = data + pair / heads * strides[0] + pair % heads * strides[2];
    }
  }

  void load(Block block, int64_t t, Vector<S>* to) const {
    block.load_each<S>([&](int64_t lane) { return starts[lane] + t * step; }, units, to);
  }
  void store(Block block, const Vector<S>* from, int64_t t) const {
    block.store_each<S>(from, units, [&](int64_t lane) { return starts[lane] + t * step; });
  }
};

template <class S>
struct LinearRecurrence {
  static constexpr int wide = 4;  // columns at a time

  // A tensor and its strides between sequences, between steps and between heads; null if absent.
  struct Given {
    const S* data;
    int64_t strides[3];
  };

  int64_t batch, time, heads, writes, keys, values, decays;  // `writes` per step; `decays` is 0, 1 or K
  int threads;
  bool read_first;
  double scale;  // of the query, with `strength`
  Given query, key, value, log_decay, erase, removal, strength;
  const S *initial, *start;  // S_0, and S after a reset, [batch, heads, K, V]; null for zeros
  const uint8_t* resets;     // [batch, time], or null

  struct Gradients {
    // contiguous; those of the decays and of the states may be null
    S *query, *key, *value, *log_decay, *erase, *removal, *strength, *initial, *start;
  };

  int64_t columns() const { return (values + wide - 1) / wide * wide; }
  int64_t steps_of_chunk() const { return std::max<int64_t>(1, 16 / writes); }
  int64_t chunks() const { return (time + steps_of_chunk() - 1) / steps_of_chunk(); }
  int64_t state_size() const { return keys * columns(); }
  int64_t saved_per_block() const { return chunks() * state_size() + time * writes * columns(); }

  void forward(S* outputs, S* last, S* all_saved) const {
    with_mode([&](auto erasing) { forward<erasing>(outputs, last, all_saved); });
  }

  void backward(const S* all_saved, const S* d_outputs, const S* d_last, Gradients to) const {
    with_mode([&](auto erasing) { backward<erasing>(all_saved, d_outputs, d_last, to); });
  }

 private:
  // Calls run(erase) with the kind of erasing as a compile-time constant.
  template <class Run>
  void with_mode(Run run) const {
    if (!erases()) return run(std::integral_constant<int, nothing>());
    if (!removal.data) return run(std::integral_constant<int, by_delta_rule>());
    run(std::integral_constant<int, in_general>());
  }

  bool erases() const { return erase.data || strength.data; }

  // The data of one chunk of a block: the rows of each step or write, [step, unit, lane]. With `strength`, also beta,
  // the factors that scale queries and keys to unit length, and the keys of unit length, if b differs from them.
  struct Chunk {
    Buffer<Vector<S>> q, k, v, w, b, a, o, u, beta, q_factor, k_factor, unit;
    bool has_w;  // in a chunk of gradients: whether that of w is wanted

    Chunk(const LinearRecurrence& r, int64_t steps)
        : q(steps * r.keys), k(steps * r.writes * r.keys), v(steps * r.writes * r.columns()),
          w(r.decays ? steps * r.writes * r.decays : 1), b(r.erases() ? steps * r.writes * r.keys : 0),
          a(r.removal.data ? steps * r.writes * r.keys : 0), o(steps * r.columns()),
          u(steps * r.writes * r.columns()), beta(r.strength.data ? steps * r.writes : 0),
          q_factor(r.strength.data ? steps : 0), k_factor(r.strength.data ? steps * r.writes : 0),
          unit(r.strength.data && r.decays ? steps * r.writes * r.keys : 0), has_w(r.decays) {
      if (!r.decays) w[0] = all<S>(1);
    }
  };

  struct Sources {
    LaneRows<S, const S> query, key, value, log_decay, erase, removal, strength;
  };

  Sources sources(Block block) const {
    auto rows = [&](const Given& given, int64_t units) {
      return LaneRows<S, const S>(given.data, given.strides, block, heads, units);
    };
    return {rows(query, keys), rows(key, keys), rows(value, values), rows(log_decay, decays), rows(erase, keys),
            rows(removal, keys), rows(strength, 1)};
  }

  // Scales a row to unit length, times `factor`; returns the factor for unit length alone.
  Vector<S> to_unit_length(Vector<S>* x, S factor) const {
    Vector<S> square = all<S>(S(1e-6));
    for (int64_t r = 0; r < keys; ++r) square += x[r] * x[r];
    Vector<S> unit = S(1) / root<S>(square);
    for (int64_t r = 0; r < keys; ++r) x[r] *= unit * factor;
    return unit;
  }

  // Turns the gradient of a row of unit length into that of the row that was scaled by `unit`.
  void unit_length_backward(const Vector<S>* scaled, Vector<S> unit, Vector<S>* d) const {
    Vector<S> along{};
    for (int64_t r = 0; r < keys; ++r) along += scaled[r] * d[r];
    for (int64_t r = 0; r < keys; ++r) d[r] = unit * (d[r] - along * scaled[r]);
  }

  // With `strength`: turns the gradients of q, k, b and w of a chunk into those of what was given; overwrites q and b.
  void strength_backward(Chunk& chunk, Chunk& gradient, int64_t steps, int64_t count) const {
    for (int64_t t = 0; t < steps; ++t) {
      Vector<S>*q = &chunk.q[t * keys], *d_q = &gradient.q[t * keys];
      for (int64_t r = 0; r < keys; ++r) {
        q[r] *= S(1 / scale);
        d_q[r] *= S(scale);
      }
      unit_length_backward(q, chunk.q_factor[t], d_q);
    }
    for (int64_t i = 0; i < count; ++i) {
      const Vector<S>*w = &chunk.w[i * decays], *d_b = &gradient.b[i * keys];
      Vector<S>*unit = &chunk.b[i * keys], *d_k = &gradient.k[i * keys], *d_w = gradient.w.data() + i * decays;
      int64_t next = decays > 1;
      gradient.beta[i] = Vector<S>{};
      for (int64_t r = 0; r < keys; ++r) {
        if (decays) unit[r] = chunk.unit[i * keys + r];
        gradient.beta[i] += d_k[r] * unit[r];
        if (gradient.has_w) d_w[r * next] += d_b[r] * unit[r];
        d_k[r] = chunk.beta[i] * d_k[r] + w[r * next] * d_b[r];
      }
      unit_length_backward(unit, chunk.k_factor[i], d_k);
    }
  }

  void load(const Sources& from, Block block, int64_t first, int64_t steps, Chunk& chunk) const {
    for (int64_t t = 0; t < steps; ++t) {
      from.query.load(block, first + t, &chunk.q[t * keys]);
      if (strength.data) chunk.q_factor[t] = to_unit_length(&chunk.q[t * keys], S(scale));
    }
    for (int64_t i = 0; i < steps * writes; ++i) {
      int64_t position = first * writes + i;
      from.key.load(block, position, &chunk.k[i * keys]);
      from.value.load(block, position, &chunk.v[i * columns()]);
      if (erase.data) from.erase.load(block, position, &chunk.b[i * keys]);
      if (removal.data) from.removal.load(block, position, &chunk.a[i * keys]);
      if (decays) {
        Vector<S>* w = &chunk.w[i * decays];
        from.log_decay.load(block, position, w);
        for (int64_t r = 0; r < decays; ++r) w[r] = exponential<S>(w[r]);
      }
      if (strength.data) {
        Vector<S>*k = &chunk.k[i * keys], *b = &chunk.b[i * keys];
        const Vector<S>* w = &chunk.w[i * decays];
        from.strength.load(block, position, &chunk.beta[i]);
        chunk.k_factor[i] = to_unit_length(k, S(1));
        for (int64_t r = 0; r < keys; ++r) {
          if (decays) chunk.unit[i * keys + r] = k[r];
          b[r] = w[r * (decays > 1)] * k[r];
          k[r] *= chunk.beta[i];
        }
      }
    }
  }

  // Contiguous gradients or outputs of a block.
  LaneRows<S> contiguous(S* data, Block block, int64_t positions, int64_t units) const {
    int64_t strides[3] = {positions * heads * units, heads * units, units};
    return LaneRows<S>(data, strides, block, heads, units);
  }

  // Loads and stores S of every lane: in slabs of four columns, [slab, row, column], from and to [batch, heads, K, V].
  void load_state(Block block, const S* from, Vector<S>* state) const {
    std::fill(state, state + state_size(), Vector<S>{});
    if (!from) return;
    Buffer<Vector<S>> rows(keys * values, false);
    block.load(Rows<S>{from, nullptr, 1, keys * values}, 0, rows.data());
    for (int64_t r = 0; r < keys; ++r)
      for (int64_t c = 0; c < values; ++c) state[place(r, c)] = rows[r * values + c];
  }

  void store_state(Block block, const Vector<S>* state, S* to) const {
    Buffer<Vector<S>> rows(keys * values, false);
    for (int64_t r = 0; r < keys; ++r)
      for (int64_t c = 0; c < values; ++c) rows[r * values + c] = state[place(r, c)];
    block.store(rows.data(), to, 1, keys * values, 0);
  }

  int64_t place(int64_t r, int64_t c) const { return c / wide * keys * wide + r * wide + c % wide; }

  // Whether any lanes are reset before step t; if so, `mask` is 1 on these lanes.
  bool reset_at(Block block, int64_t t, Vector<S>& mask) const {
    if (!resets) return false;
    bool any = false;
    mask = Vector<S>{};
    for (int64_t lane = 0; lane < block.lanes; ++lane)
      if (resets[(block.first + lane) / heads * time + t]) {
        mask[lane] = S(1);
        any = true;
      }
    return any;
  }

  static void select(Vector<S> mask, const Vector<S>* replacement, Vector<S>* to, int64_t size) {
    for (int64_t i = 0; i < size; ++i) to[i] = mask > S(0) ? replacement[i] : to[i];
  }

  struct Four {
    Vector<S> part[wide] = {};
    static Four from(const Vector<S>* x) {
      Four four;
      for (int c = 0; c < wide; ++c) four.part[c] = x[c];
      return four;
    }
    void to(Vector<S>* x) const {
      for (int c = 0; c < wide; ++c) x[c] = part[c];
    }
    void add(Vector<S> factor, const Vector<S>* x) {
      for (int c = 0; c < wide; ++c) part[c] += factor * x[c];
    }
    Vector<S> dot(const Vector<S>* x) const {
      return (part[0] * x[0] + part[1] * x[1]) + (part[2] * x[2] + part[3] * x[3]);
    }
  };

  // S^T x, for four columns.
  Four read(const Vector<S>* state, const Vector<S>* x) const {
    Four sums[2];
    int64_t r = 0;
    for (; r + 2 <= keys; r += 2) {
      sums[0].add(x[r], state + r * wide);
      sums[1].add(x[r + 1], state + (r + 1) * wide);
    }
    if (r < keys) sums[0].add(x[r], state + r * wide);
    for (int c = 0; c < wide; ++c) sums[0].part[c] += sums[1].part[c];
    return sums[0];
  }

  // One write into four columns, from one place to another or in place. `u` is what is written with k: v, or v - c by
  // the delta rule; `c` is what is written with a. Calls seen(r, row) for each row that was written.
  template <int erasing, class Seen>
  void write(const Chunk& chunk, int64_t i, const Four& u, const Four& c, const Vector<S>* from, Vector<S>* to,
             Seen seen) const {
    const Vector<S>*k = chunk.k.data() + i * keys, *a = chunk.a.data() + i * keys, *w = chunk.w.data() + i * decays;
    int64_t next = decays > 1;
    for (int64_t r = 0; r < keys; ++r) {
      Four row;
      for (int column = 0; column < wide; ++column) {
        Vector<S> value = w[r * next] * from[r * wide + column];
        if constexpr (erasing == in_general) value += a[r] * c.part[column];
        row.part[column] = value + k[r] * u.part[column];
      }
      row.to(to + r * wide);
      seen(r, row);
    }
  }

  template <int erasing>
  void forward(S* outputs, S* last, S* all_saved) const {
    int64_t slabs = columns() / wide, slab_size = keys * wide, most = steps_of_chunk();
    for_each_block<S>(batch * heads, threads, ascending, [&](int64_t number, Block block) {
      Chunk chunk(*this, most);
      Sources from = sources(block);
      LaneRows<S> to = contiguous(outputs, block, time, values);
      Buffer<Vector<S>> state(state_size(), false), fresh(resets ? state_size() : 0);
      Vector<S>* saved = all_saved ? reinterpret_cast<Vector<S>*>(all_saved) + number * saved_per_block() : nullptr;
      load_state(block, initial, state.data());
      if (resets) load_state(block, start, fresh.data());
      for (int64_t first = 0, n = 0; first < time; first += most, ++n) {
        int64_t steps = std::min(most, time - first);
        load(from, block, first, steps, chunk);
        if (saved) std::memcpy(saved + n * state_size(), state.data(), state_size() * sizeof(Vector<S>));
        for (int64_t slab = 0; slab < slabs; ++slab) {
          Vector<S>* own = state.data() + slab * slab_size;
          for (int64_t t = 0; t < steps; ++t) {
            Vector<S> mask, *o = &chunk.o[t * columns() + slab * wide];
            const Vector<S>* q = &chunk.q[t * keys];
            if (reset_at(block, first + t, mask)) select(mask, fresh.data() + slab * slab_size, own, slab_size);
            if (read_first) read(own, q).to(o);
            for (int64_t i = t * writes; i < (t + 1) * writes; ++i) {
              int64_t place = i * columns() + slab * wide;
              Four u = Four::from(&chunk.v[place]), c;
              if constexpr (erasing != nothing) c = read(own, &chunk.b[i * keys]);
              if constexpr (erasing == by_delta_rule)
                for (int column = 0; column < wide; ++column) u.part[column] -= c.part[column];
              if (!read_first && i == (t + 1) * writes - 1) {
                Four sum;
                write<erasing>(chunk, i, u, c, own, own, [&](int64_t r, const Four& row) { sum.add(q[r], row.part); });
                sum.to(o);
              } else {
                write<erasing>(chunk, i, u, c, own, own, [](int64_t, const Four&) {});
              }
              if constexpr (erasing == in_general)
                c.to(&chunk.u[place]);
              else
                u.to(&chunk.u[place]);
            }
          }
        }
        for (int64_t t = 0; t < steps; ++t) to.store(block, &chunk.o[t * columns()], first + t);
        if (saved)
          std::memcpy(saved + chunks() * state_size() + first * writes * columns(), chunk.u.data(),
                      steps * writes * columns() * sizeof(Vector<S>));
      }
      store_state(block, state.data(), last);
    });
  }

  template <int erasing>
  void backward(const S* all_saved, const S* d_outputs, const S* d_last, Gradients to) const {
    int64_t slabs = columns() / wide, slab_size = keys * wide, most = steps_of_chunk();
    for_each_block<S>(batch * heads, threads, descending, [&](int64_t number, Block block) {
      Chunk chunk(*this, most), gradient(*this, most);
      gradient.has_w = to.log_decay != nullptr;
      // only erasing and decays have gradients that need the states within a chunk
      const int64_t kept = erasing != nothing || gradient.has_w ? slab_size : 0;
      Sources from = sources(block);
      int64_t all = time * writes;
      int64_t strides[3] = {time * heads * values, heads * values, values};
      LaneRows<S, const S> d_o(d_outputs, strides, block, heads, values);
      LaneRows<S> d_q = contiguous(to.query, block, time, keys), d_k = contiguous(to.key, block, all, keys),
                  d_v = contiguous(to.value, block, all, values),
                  d_w = contiguous(to.log_decay, block, all, decays), d_b = contiguous(to.erase, block, all, keys),
                  d_a = contiguous(to.removal, block, all, keys), d_beta = contiguous(to.strength, block, all, 1);
      Buffer<Vector<S>> D(state_size(), false), fresh(resets ? state_size() : 0), d_fresh(resets ? state_size() : 0);
      Buffer<Vector<S>> states(most * writes * kept + slab_size, false);
      const Vector<S>* saved = reinterpret_cast<const Vector<S>*>(all_saved) + number * saved_per_block();
      load_state(block, d_last, D.data());
      if (resets) load_state(block, start, fresh.data());
      for (int64_t n = chunks() - 1; n >= 0; --n) {
        int64_t first = n * most, steps = std::min(most, time - first), count = steps * writes;
        load(from, block, first, steps, chunk);
        for (int64_t t = 0; t < steps; ++t) d_o.load(block, first + t, &chunk.o[t * columns()]);
        const Vector<S>* us = saved + chunks() * state_size() + first * writes * columns();
        auto clear = [](Buffer<Vector<S>>& buffer, int64_t size) { std::fill(buffer.data(), buffer.data() + size, Vector<S>{}); };
        clear(gradient.q, steps * keys);
        clear(gradient.k, count * keys);
        clear(gradient.w, count * decays);
        if (erases()) clear(gradient.b, count * keys);
        if (removal.data) clear(gradient.a, count * keys);
        for (int64_t slab = 0; slab < slabs; ++slab) {
          Vector<S>* d = D.data() + slab * slab_size;
          std::memcpy(states.data(), saved + n * state_size() + slab * slab_size, slab_size * sizeof(Vector<S>));
          for (int64_t t = 0; t < steps; ++t) {  // recompute the states; q' = S o'
            Vector<S> mask, *state = &states[t * writes * kept];
            if (reset_at(block, first + t, mask)) select(mask, fresh.data() + slab * slab_size, state, slab_size);
            if (read_first) read_backward(chunk, gradient, t, slab, state);
            for (int64_t i = t * writes; i < (t + 1) * writes; ++i, state += kept) {
              int64_t place = i * columns() + slab * wide;
              Four u = Four::from(erasing == in_general ? &chunk.v[place] : us + place), c;
              if constexpr (erasing == in_general) c = Four::from(us + place);
              if (!read_first && i == (t + 1) * writes - 1) {
                Four d_o = Four::from(&chunk.o[t * columns() + slab * wide]);
                Vector<S>* d_q = &gradient.q[t * keys];
                write<erasing>(chunk, i, u, c, state, state + kept,
                               [&](int64_t r, const Four& row) { d_q[r] += d_o.dot(row.part); });
              } else {
                write<erasing>(chunk, i, u, c, state, state + kept, [](int64_t, const Four&) {});
              }
            }
          }
          for (int64_t t = steps - 1; t >= 0; --t) {
            for (int64_t i = (t + 1) * writes - 1; i >= t * writes; --i) {
              bool is_read = !read_first && i == (t + 1) * writes - 1;
              write_backward<erasing>(chunk, gradient, i, slab, us, &states[i * kept], d, is_read ? t : -1);
            }
            if (read_first) add_read(chunk, t, slab, d);
            Vector<S> mask;
            if (reset_at(block, first + t, mask))
              for (int64_t j = 0; j < slab_size; ++j) {
                d_fresh[slab * slab_size + j] += mask * d[j];
                d[j] -= mask * d[j];
              }
          }
        }
        if (strength.data) strength_backward(chunk, gradient, steps, count);
        for (int64_t t = 0; t < steps; ++t) d_q.store(block, &gradient.q[t * keys], first + t);
        for (int64_t i = 0; i < count; ++i) {
          int64_t position = first * writes + i;
          d_k.store(block, &gradient.k[i * keys], position);
          d_v.store(block, &gradient.v[i * columns()], position);
          if (erase.data) d_b.store(block, &gradient.b[i * keys], position);
          if (removal.data) d_a.store(block, &gradient.a[i * keys], position);
          if (strength.data) d_beta.store(block, &gradient.beta[i], position);
          if (!gradient.has_w) continue;
          for (int64_t r = 0; r < decays; ++r) gradient.w[i * decays + r] *= chunk.w[i * decays + r];
          d_w.store(block, &gradient.w[i * decays], position);
        }
      }
      if (to.initial) store_state(block, D.data(), to.initial);
      if (to.start) store_state(block, d_fresh.data(), to.start);
    });
  }

  // q' += S o', for four columns.
  void read_backward(const Chunk& chunk, Chunk& gradient, int64_t t, int64_t slab, const Vector<S>* state) const {
    Four d_o = Four::from(chunk.o.data() + t * columns() + slab * wide);
    Vector<S>* d_q = &gradient.q[t * keys];
    for (int64_t r = 0; r < keys; ++r) d_q[r] += d_o.dot(state + r * wide);
  }

  // D += q o'^T, for four columns.
  void add_read(const Chunk& chunk, int64_t t, int64_t slab, Vector<S>* d) const {
    Four d_o = Four::from(chunk.o.data() + t * columns() + slab * wide);
    const Vector<S>* q = chunk.q.data() + t * keys;
    for (int64_t r = 0; r < keys; ++r)
      for (int column = 0; column < wide; ++column) d[r * wide + column] += q[r] * d_o.part[column];
  }

  // One write into four columns, from D after it to D before it. If the write is followed by the read of step t, D += q
  // o'^T comes first; otherwise t < 0.
  template <int erasing>
  void write_backward(const Chunk& chunk, Chunk& gradient, int64_t i, int64_t slab, const Vector<S>* us,
                      const Vector<S>* state, Vector<S>* d, int64_t t) const {
    const Vector<S>*k = chunk.k.data() + i * keys, *a = chunk.a.data() + i * keys, *b = chunk.b.data() + i * keys,
                   *w = chunk.w.data() + i * decays;
    Vector<S>*d_k = &gradient.k[i * keys], *d_a = gradient.a.data() + i * keys, *d_b = gradient.b.data() + i * keys,
             *d_w = gradient.w.data() + i * decays;
    int64_t next = decays > 1, place = i * columns() + slab * wide;
    Four u = Four::from(erasing == in_general ? chunk.v.data() + place : us + place), c, d_u, d_c;
    if constexpr (erasing == in_general) c = Four::from(us + place);
    Vector<S> none{};
    const Vector<S>* q = t < 0 ? &none : chunk.q.data() + t * keys;
    int64_t next_q = t >= 0;
    Four d_o = Four::from(chunk.o.data() + std::max<int64_t>(t, 0) * columns() + slab * wide);
    for (int64_t r = 0; r < keys; ++r) {
      Vector<S>* row = d + r * wide;
      for (int column = 0; column < wide; ++column) row[column] += q[r * next_q] * d_o.part[column];
      d_u.add(k[r], row);
      d_k[r] += u.dot(row);
      if constexpr (erasing == in_general) {
        d_c.add(a[r], row);
        d_a[r] += c.dot(row);
      }
      if (gradient.has_w) d_w[r * next] += Four::from(state + r * wide).dot(row);
      if constexpr (erasing == nothing)
        for (int column = 0; column < wide; ++column) d[r * wide + column] *= w[r * next];
    }
    d_u.to(&gradient.v[place]);
    if constexpr (erasing == nothing) return;
    if constexpr (erasing == by_delta_rule)
      for (int column = 0; column < wide; ++column) d_c.part[column] = -d_u.part[column];
    for (int64_t r = 0; r < keys; ++r) {
      d_b[r] += d_c.dot(state + r * wide);
      for (int column = 0; column < wide; ++column) {
        Vector<S> value = w[r * next] * d[r * wide + column];
        d[r * wide + column] = value + b[r] * d_c.part[column];
      }
    }
  }
};

}  // namespace fused
