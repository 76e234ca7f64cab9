// Both cells and linear layers against their plain definitions in double precision, on one instruction set: every type,
// extents that fill no vector, states in place and out of place, lengths, and tasks split in every way. Every buffer
// has exactly its size and lies on the heap, so that the address sanitizer sees an access beyond it.
//
//   test_cpu_cells INSTRUCTION_SET      exit code 77: this processor has no such instruction set
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "cells/cell_math.h"
#include "cells/cpu/cpu_cells.h"
#include "cells/cpu/linear.h"

namespace {

using xlstm::DataType;

constexpr double kEpsilon = 0x1p-24;  // half a unit in the last place of a float near 1
constexpr double kUnderflow = 1e-36;  // what a float's exponent range (and its exp, infinite from 88.73 on) may lose
int failures = 0;

// ---- The activation types, one element at a time.

float from_half(uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const float magnitude = exponent == 31 ? (fraction ? NAN : INFINITY)
                                         : std::ldexp(static_cast<float>(exponent ? fraction + 1024 : fraction),
                                                      (exponent ? exponent : 1) - 25);
  return bits & 0x8000 ? -magnitude : magnitude;
}

// The nearest of a type's values, found by rounding to its number of significant bits (ties to even).
float round_to(float value, DataType type) {
  if (type == DataType::kFloat32 || value == 0 || !std::isfinite(value)) return value;
  const int bits = type == DataType::kFloat16 ? 11 : 8, lowest = type == DataType::kFloat16 ? -24 : -133;
  int exponent;
  std::frexp(value, &exponent);
  const int unit = std::max(exponent - bits, lowest);
  return std::ldexp(std::nearbyint(std::ldexp(value, -unit)), unit);
}

uint16_t to_bits(float value, DataType type) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if (type == DataType::kBFloat16) return static_cast<uint16_t>(bits >> 16);
  const uint16_t sign = bits >> 16 & 0x8000;
  const float magnitude = std::fabs(value);
  if (magnitude < 0x1p-14f) return sign | static_cast<uint16_t>(std::ldexp(magnitude, 24));
  std::memcpy(&bits, &magnitude, sizeof bits);
  return sign | static_cast<uint16_t>((bits >> 13) - (112 << 10));
}

// A tensor as the kernels see it (`bytes`) and its exact values.
struct Tensor {
  DataType type = DataType::kFloat32;
  std::vector<double> values;
  std::vector<float> floats;
  std::vector<uint16_t> halves;

  Tensor() = default;
  Tensor(DataType type, size_t size) : type(type), values(size) {
    if (type == DataType::kFloat32)
      floats.assign(size, NAN);
    else
      halves.assign(size, 0x7FFF);
  }
  void set(size_t index, float value) {
    value = round_to(value, type);
    values[index] = value;
    if (type == DataType::kFloat32)
      floats[index] = value;
    else
      halves[index] = to_bits(value, type);
  }
  float get(size_t index) const {
    if (type == DataType::kFloat32) return floats[index];
    if (type == DataType::kFloat16) return from_half(halves[index]);
    const uint32_t bits = static_cast<uint32_t>(halves[index]) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }
  void* data() { return type == DataType::kFloat32 ? static_cast<void*>(floats.data()) : halves.data(); }
  float* states() { return floats.data(); }
};

// ---- Inputs

struct Random {
  std::mt19937 generator;
  Tensor normal(DataType type, int64_t size, double deviation) {
    std::normal_distribution<double> distribution(0, deviation);
    Tensor tensor(type, static_cast<size_t>(size));
    for (int64_t j = 0; j < size; ++j) tensor.set(j, static_cast<float>(distribution(generator)));
    return tensor;
  }
  // Each value one of the few that break a careless stabiliser.
  Tensor extreme(DataType type, int64_t size) {
    const float values[] = {-1e4f, -88.8f, -20, 0, 20, 88.8f, 1e4f};
    Tensor tensor(type, static_cast<size_t>(size));
    for (int64_t j = 0; j < size; ++j) tensor.set(j, values[generator() % 7]);
    return tensor;
  }
};

// Runs tasks in reverse order: right results may not depend on the order, on `threads`, nor on how tasks are grouped.
xlstm::cpu::ParallelFor reversed(int64_t threads) {
  xlstm::cpu::ParallelFor parallel_for;
  parallel_for.threads = threads;
  parallel_for.grain_bytes = threads == 4 ? 1000 : 1;
  parallel_for.run = [](void*, int64_t tasks, xlstm::cpu::ParallelFor::Task task, void* context) {
    for (int64_t index = tasks; index-- > 0;) task(context, index);
  };
  return parallel_for;
}

struct Case {
  int64_t batch, sequence, heads, dim, dim_v;
  DataType type;
  bool in_place, lengths, extreme;
  int64_t threads;
  DataType memory = DataType::kFloat32;  // what the mLSTM's C is stored as
};

std::string describe(const Case& c) {
  char text[160];
  std::snprintf(text, sizeof text, "B %d S %d H %d D %d DV %d type %d memory %d%s%s%s threads %d", int(c.batch),
                int(c.sequence), int(c.heads), int(c.dim), int(c.dim_v), int(c.type), int(c.memory),
                c.in_place ? " in place" : "", c.lengths ? " lengths" : "", c.extreme ? " extreme" : "",
                int(c.threads));
  return text;
}

void expect_near(const Case& c, const char* name, size_t index, double expected, double actual, double bound) {
  // Where the reference overflows the result's own type, any result that is no NaN will do.
  if (std::fabs(expected - actual) <= bound + kUnderflow || (std::isinf(expected) && !std::isnan(actual))) return;
  if (++failures <= 20) {
    std::printf("%s: %s[%zu] is %.9g, expected %.9g within %.3g\n", describe(c).c_str(), name, index, actual, expected,
                bound);
  }
}

std::vector<int32_t> row_lengths(const Case& c) {
  std::vector<int32_t> lengths;
  for (int64_t b = 0; c.lengths && b < c.batch; ++b) lengths.push_back(static_cast<int32_t>(37 * b % (c.sequence + 1)));
  return lengths;
}

// What rounding to nearest in the output's type may add: half a unit in the last place, also of float16's subnormals.
double output_rounding(DataType type, double value) {
  const double unit = type == DataType::kFloat32 ? 0x1p-24 : type == DataType::kFloat16 ? 0x1p-11 : 0x1p-8;
  return std::fabs(value) * unit + (type == DataType::kFloat16 ? 0x1p-25 : 0);
}

// ---- mLSTM

void test_mlstm(const Case& c, Random& random) {
  const int64_t B = c.batch, S = c.sequence, H = c.heads, K = c.dim, V = c.dim_v;
  Tensor q = random.normal(c.type, B * S * H * K, 1), k = random.normal(c.type, B * S * H * K, 1);
  Tensor v = random.normal(c.type, B * S * H * V, 1);
  const auto gates = [&] {
    return c.extreme ? random.extreme(c.type, B * S * H) : random.normal(c.type, B * S * H, 3);
  };
  Tensor i = gates(), f = gates();
  const bool zero = c.extreme && random.generator() % 2;
  Tensor C = random.normal(c.memory, B * H * K * V, zero ? 0 : 1);
  Tensor n = random.normal(DataType::kFloat32, B * H * K, zero ? 0 : 1);
  Tensor m = zero || !c.extreme ? random.normal(DataType::kFloat32, B * H, zero ? 0 : 1)
                                : random.extreme(DataType::kFloat32, B * H);
  Tensor C_new(c.memory, C.values.size()), n_new(DataType::kFloat32, n.values.size());
  Tensor m_new(DataType::kFloat32, m.values.size()), h(c.type, v.values.size());
  const std::vector<int32_t> lengths = row_lengths(c);
  const float q_scale = 0.5f, k_scale = 0.25f, cap = c.extreme ? 0.0f : 15.0f, eps = 1e-6f;

  if (c.in_place) C_new = C, n_new = n, m_new = m;
  xlstm::MlstmArgs args{B,
                        S,
                        H,
                        K,
                        V,
                        c.type,
                        c.memory,
                        q.data(),
                        k.data(),
                        v.data(),
                        i.data(),
                        f.data(),
                        c.in_place ? C_new.data() : C.data(),
                        c.in_place ? n_new.states() : n.states(),
                        c.in_place ? m_new.states() : m.states(),
                        c.lengths ? lengths.data() : nullptr,
                        h.data(),
                        C_new.data(),
                        n_new.states(),
                        m_new.states(),
                        q_scale,
                        k_scale,
                        cap,
                        eps};
  xlstm::cpu::mlstm(args, reversed(c.threads));

  for (int64_t head = 0; head < B * H; ++head) {
    const int64_t b = head / H, length = c.lengths ? lengths[b] : S;
    double* Ch = &C.values[head * K * V];
    double* nh = &n.values[head * K];
    double& mh = m.values[head];
    std::vector<double> C_error(K * V), n_error(K);  // bounds on what rounding may have done so far
    double m_error = 0;
    for (int64_t t = 0; t < S; ++t) {
      const int64_t gate = (b * S + t) * H + head % H;
      if (t >= length) {
        for (int64_t c_ = 0; c_ < V; ++c_) expect_near(c, "h", gate * V + c_, 0, h.get(gate * V + c_), 0);
        continue;
      }
      const double m_old = mh;
      const auto g = xlstm::mlstm_gates<double>(i.values[gate], f.values[gate], mh, cap);
      mh = g.m;
      // A gate is exp of a difference: the rounding of its terms is its relative error (terms of size 1e4 lose 1e-3).
      const double terms = std::fabs(i.values[gate]) + std::fabs(f.values[gate]) + std::fabs(m_old) + std::fabs(mh);
      const double gate_error = 2 * m_error + (8 + 4 * terms) * kEpsilon;
      m_error += (2 + 2 * terms) * kEpsilon;
      double overlap = 0, overlap_error = 0;
      for (int64_t r = 0; r < K; ++r) {
        const double added = g.input * k_scale * k.values[gate * K + r], kept = g.forget * nh[r];
        n_error[r] = g.forget * n_error[r] + (std::fabs(added) + std::fabs(kept)) * (gate_error + 4 * kEpsilon);
        nh[r] = kept + added;
        const double query = q_scale * q.values[gate * K + r];
        overlap += nh[r] * query;
        overlap_error += std::fabs(query) * (n_error[r] + std::fabs(nh[r]) * (K + 2) * kEpsilon);
      }
      const double divisor = xlstm::mlstm_normaliser<double>(overlap, mh, eps);
      const double divisor_error = overlap_error + (std::isinf(divisor) ? 0 : std::exp(-mh) * (m_error + 4 * kEpsilon));
      for (int64_t c_ = 0; c_ < V; ++c_) {
        double numerator = 0, numerator_error = 0;
        for (int64_t r = 0; r < K; ++r) {
          double& memory = Ch[r * V + c_];
          double& error = C_error[r * V + c_];
          const double added = g.input * k_scale * k.values[gate * K + r] * v.values[gate * V + c_];
          const double kept = g.forget * memory;
          error = g.forget * error + (std::fabs(added) + std::fabs(kept)) * (gate_error + 4 * kEpsilon);
          memory = kept + added;
          const double query = q_scale * q.values[gate * K + r];
          numerator += memory * query;
          numerator_error += std::fabs(query) * (error + std::fabs(memory) * (K + 2) * kEpsilon);
          // Rounded between two spans of positions, and at the end; allowed after each of them.
          if (c.memory != DataType::kFloat32) error += output_rounding(c.memory, memory);
        }
        const double expected = numerator / divisor;
        const double error = numerator_error / divisor + std::fabs(expected) * divisor_error / divisor;
        const double rounding = output_rounding(c.type, expected);
        // Where the divisor's error is not small against it, the quotient's bound is no longer linear.
        const double bound = divisor_error < 0.1 * divisor || std::isinf(divisor) ? 1.2 * error + rounding : INFINITY;
        const double actual = h.get(gate * V + c_);
        expect_near(c, "h", gate * V + c_, expected, actual, std::isnan(bound) ? 0x1p-24 : bound);
      }
    }
    expect_near(c, "m", head, mh, m_new.floats[head], m_error);
    for (int64_t r = 0; r < K; ++r) expect_near(c, "n", head * K + r, nh[r], n_new.floats[head * K + r], n_error[r]);
    for (int64_t j = 0; j < K * V; ++j) {
      expect_near(c, "C", head * K * V + j, Ch[j], C_new.get(head * K * V + j), C_error[j]);
    }
  }
}

// ---- sLSTM

void test_slstm(const Case& c, bool float_recurrent, Random& random) {
  const int64_t B = c.batch, S = c.sequence, H = c.heads, D = c.dim, size = B * H * D;
  const float clamp = c.threads % 2 ? 2.0f : 0.0f;
  Tensor x = c.extreme ? random.extreme(c.type, B * S * 4 * H * D) : random.normal(c.type, B * S * 4 * H * D, 2);
  Tensor R = random.normal(float_recurrent ? DataType::kFloat32 : c.type, H * 4 * D * D, 1 / std::sqrt(double(D)));
  Tensor b = random.normal(DataType::kFloat32, 4 * H * D, 1);
  Tensor old[4], updated[4];  // y, c, n, m
  for (int s = 0; s < 4; ++s) {
    old[s] = random.normal(DataType::kFloat32, size, 1);
    for (int64_t j = 0; j < size; ++j) {
      // A fresh element here and there, every other one with what is left of an earlier sequence; n is never negative.
      const bool fresh = j % 5 == 0, cleared = fresh && (s == 2 || j % 10 == 0);
      old[s].set(j, cleared ? 0.0f : s == 2 ? std::fabs(old[s].floats[j]) + 0.1f : old[s].floats[j]);
      if (c.extreme && s == 3 && !fresh) old[s].set(j, j % 2 ? 1e4f : -1e4f);
    }
    updated[s] = c.in_place ? old[s] : Tensor(DataType::kFloat32, size);
  }
  Tensor hidden(c.type, B * S * H * D);
  const std::vector<int32_t> lengths = row_lengths(c);
  const auto in = [&](int s) { return c.in_place ? updated[s].states() : old[s].states(); };
  xlstm::SlstmArgs args{B,
                        S,
                        H,
                        D,
                        c.type,
                        R.type,
                        x.data(),
                        R.data(),
                        b.states(),
                        in(0),
                        in(1),
                        in(2),
                        in(3),
                        c.lengths ? lengths.data() : nullptr,
                        hidden.data(),
                        updated[0].states(),
                        updated[1].states(),
                        updated[2].states(),
                        updated[3].states(),
                        clamp};
  xlstm::cpu::slstm(args, reversed(c.threads));

  std::vector<double> errors(size);  // of y, carried from step to step
  for (int64_t t = 0; t < S; ++t) {
    const std::vector<double> y = old[0].values, y_errors = errors;
    for (int64_t j = 0; j < size; ++j) {
      const int64_t row = j / (H * D), at = j % (H * D), h = at / D, unit = at % D;
      const size_t out = (row * S + t) * H * D + at;
      if (c.lengths && t >= lengths[row]) {
        expect_near(c, "hidden", out, 0, hidden.get(out), 0);
        continue;
      }
      double raw[4], raw_error = 0;
      for (int64_t g = 0; g < 4; ++g) {
        const double input = x.values[((row * S + t) * 4 + g) * H * D + at], bias = b.values[g * H * D + at];
        raw[g] = input + bias;
        double sizes = std::fabs(input) + std::fabs(bias), error = 0;
        for (int64_t r = 0; r < D; ++r) {
          const double weight = R.values[((h * 4 + g) * D + unit) * D + r];
          raw[g] += weight * y[row * H * D + h * D + r];
          sizes += std::fabs(weight * y[row * H * D + h * D + r]);
          error += std::fabs(weight) * y_errors[row * H * D + h * D + r];
        }
        raw_error = std::max(raw_error, error + sizes * (D + 4) * kEpsilon);
      }
      const xlstm::SlstmState<double> state{0, old[1].values[j], old[2].values[j], old[3].values[j]};
      const auto next = xlstm::slstm_pointwise<double>(raw[0], raw[1], raw[2], raw[3], state, clamp);
      old[0].values[j] = next.y, old[1].values[j] = next.c, old[2].values[j] = next.n, old[3].values[j] = next.m;
      // d y / d raw is below (|c| + 1) / n in each of the gates; the terms of the exponents round too.
      const double terms = std::fabs(state.m) + std::fabs(next.m) + std::fabs(raw[0]) + std::fabs(raw[1]);
      const double exponent_error = raw_error + (8 + 4 * terms) * kEpsilon;
      errors[j] += 16 * (1 + std::fabs(next.c / next.n)) * exponent_error;
      const double rounding = output_rounding(c.type, next.y);
      expect_near(c, "hidden", out, next.y, hidden.get(out), errors[j] + rounding);
      // Over several positions a chaotic network would need bounds of its own for c, n and m: y is their test there.
      if (S > 1) continue;
      const double bound = 16 * (1 + std::fabs(next.c) + next.n) * exponent_error;
      expect_near(c, "c", j, next.c, updated[1].floats[j], bound);
      expect_near(c, "n", j, next.n, updated[2].floats[j], bound);
      expect_near(c, "m", j, next.m, updated[3].floats[j], exponent_error);
    }
  }
  for (int64_t j = 0; j < size; ++j) expect_near(c, "y", j, old[0].values[j], updated[0].floats[j], errors[j]);
}

// ---- Linear layers

void test_linear(int64_t rows, int64_t inputs, int64_t outputs, DataType type, bool bias, int64_t threads,
                 Random& random) {
  Tensor x = random.normal(type, rows * inputs, 1), weight = random.normal(type, outputs * inputs, 1);
  Tensor b = random.normal(type, outputs, 1), y(type, static_cast<size_t>(rows * outputs));
  const xlstm::cpu::PackedLinear layer({type, inputs, outputs, weight.data(), bias ? b.data() : nullptr});
  layer.multiply(rows, x.data(), y.data(), reversed(threads));
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t n = 0; n < outputs; ++n) {
      double sum = bias ? b.values[n] : 0, size = std::fabs(sum);
      for (int64_t k = 0; k < inputs; ++k) {
        const double term = x.values[row * inputs + k] * weight.values[n * inputs + k];
        sum += term;
        size += std::fabs(term);
      }
      // Each addition rounds, within a block and of blocks, and without a fused one each product; then the result does.
      const int64_t additions = std::min<int64_t>(inputs, 96) + (inputs + 95) / 96 + 1;
      const double bound = size * static_cast<double>(additions) * kEpsilon + output_rounding(type, sum);
      const double found = y.get(static_cast<size_t>(row * outputs + n));
      if (std::fabs(found - sum) <= bound + kUnderflow || ++failures > 20) continue;
      std::printf("linear %d x %d, %d rows, type %d: y[%d, %d] is %.9g, expected %.9g within %.3g\n", int(inputs),
                  int(outputs), int(rows), int(type), int(row), int(n), found, sum, bound);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2 || !xlstm::cpu::force_instruction_set(argv[1])) {
    std::printf("this processor has no instruction set '%s'; it has:", argc == 2 ? argv[1] : "");
    for (const std::string& name : xlstm::cpu::instruction_sets()) std::printf(" %s", name.c_str());
    std::printf("\n");
    return 77;
  }
  Random random{std::mt19937(7)};
  int cases = 0;
  const DataType types[] = {DataType::kFloat32, DataType::kFloat16, DataType::kBFloat16};
  const int64_t extents[][4] = {{1, 1, 1, 1},   {2, 3, 5, 7},    {3, 2, 16, 32},
                                {1, 4, 33, 65}, {5, 1, 48, 130}, {35, 1, 4, 8}};
  for (const auto& [batch, heads, dim, dim_v] : extents) {
    for (const DataType type : types) {
      for (int variant = 0; variant < 12; ++variant) {
        const bool in_place = variant & 1, lengths = variant & 2, extreme = variant >= 8;
        const int64_t sequence = variant & 4 ? (batch > 4 ? 3 : 20) : 1, threads = int64_t{1} << (variant % 5);
        const DataType memory = types[(variant + static_cast<int>(type)) % 3];
        const Case c{batch, sequence, heads, dim, dim_v, type, in_place, lengths, extreme, threads, memory};
        test_mlstm(c, random);
        test_slstm(c, variant & 4 || type == DataType::kFloat32, random);
        ++cases;
      }
    }
  }
  // Large enough for stores past the caches, and wider than one task's columns.
  test_mlstm({1, 1, 4, 256, 256, DataType::kFloat32, false, false, false, 1}, random);
  test_mlstm({1, 1, 1, 300, 1100, DataType::kFloat32, false, false, false, 3}, random);
  // Several chunks of the mLSTM, passes over its C and groups of heads; one row of the sLSTM for many threads.
  for (const DataType type : types) {
    test_mlstm({1, 330, 1, 20, 70, type, false, false, false, 2}, random);
    test_mlstm({5, 65, 1, 33, 17, type, true, true, false, 1}, random);
    test_mlstm({3, 130, 2, 5, 3, type, true, true, true, 2, DataType::kFloat16}, random);
    test_mlstm({1, 300, 1, 20, 70, type, false, false, false, 2, DataType::kBFloat16}, random);
    test_slstm({9, 7, 1, 40, 0, type, true, true, false, 16}, false, random);
  }
  // Empty extents touch nothing.
  test_mlstm({0, 1, 2, 3, 4, DataType::kFloat32, false, false, false, 2}, random);
  test_mlstm({2, 0, 2, 3, 4, DataType::kFloat32, false, false, false, 2}, random);
  test_slstm({0, 1, 2, 3, 0, DataType::kFloat32, false, false, false, 2}, true, random);
  test_slstm({2, 0, 2, 3, 0, DataType::kFloat32, false, false, false, 2}, true, random);
  // Panels, tiles, groups of rows and blocks of inputs, none of them full.
  int64_t rows = 0;
  for (const DataType type : types) {
    for (const int64_t inputs : {1, 3, 67, 200, 401}) {
      for (const int64_t outputs : {1, 5, 16, 47, 49, 100}) {
        test_linear(++rows % 22, inputs, outputs, type, rows % 2, 1 + rows % 4, random);
      }
    }
    test_linear(133, 60, 50, type, true, 2, random);
  }
  std::printf("%s: %d cases of each cell, %d values out of bounds\n", argv[1], cases, failures);
  return failures ? 1 : 0;
}
