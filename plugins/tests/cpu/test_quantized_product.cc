// The product with quantised weights against its definition in double precision, for extents that fill no vector, block
// or panel, and numbers of rows that fill no group. Every buffer has exactly its size and lies on the heap, so that the
// address sanitizer sees an access beyond it.
//
// Exit code 77: this processor cannot run it.
#include "cells/cpu/quantized_product.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

namespace {

struct Case {
  int64_t inputs, outputs, block, rows;
  int bits;
};

// Runs tasks in reverse order: results may not depend on it.
xlstm::cpu::ParallelFor reversed() {
  xlstm::cpu::ParallelFor parallel_for;
  parallel_for.threads = 3;
  parallel_for.grain_bytes = 1;
  parallel_for.run = [](void*, int64_t tasks, xlstm::cpu::ParallelFor::Task task, void* context) {
    for (int64_t index = tasks; index-- > 0;) task(context, index);
  };
  return parallel_for;
}

// How many values are out of bounds.
int test(const Case& c, std::mt19937& random) {
  const int64_t blocks = (c.inputs + c.block - 1) / c.block, size = c.inputs * c.outputs;
  std::vector<int> codes(size);
  std::vector<uint8_t> bytes((size * c.bits + 7) / 8);
  for (int64_t at = 0; at < size; ++at) {
    codes[at] = c.bits == 4 ? static_cast<int>(random() % 16) - 8 : static_cast<int>(random() % 255) - 127;
    if (c.bits == 8) {
      bytes[at] = static_cast<uint8_t>(codes[at]);
    } else {
      bytes[at / 2] |= static_cast<uint8_t>((codes[at] & 15) << (at % 2 * 4));
    }
  }
  std::normal_distribution<float> normal;
  std::vector<float> scales(blocks * c.outputs), x(c.rows * c.inputs), y(c.rows * c.outputs, NAN);
  for (float& scale : scales) scale = std::fabs(normal(random));
  for (float& value : x) value = normal(random);

  const xlstm::cpu::PackedMatrix packed(
      {c.inputs, c.outputs, c.block, c.bits, xlstm::DataType::kFloat32, bytes.data(), scales.data()});
  packed.multiply(xlstm::DataType::kFloat32, c.rows, x.data(), y.data(), reversed());

  int failures = 0;
  for (int64_t row = 0; row < c.rows; ++row) {
    for (int64_t n = 0; n < c.outputs; ++n) {
      double sum = 0, bound = 0;
      for (int64_t b = 0; b < blocks; ++b) {
        const int64_t begin = b * c.block, end = std::min(begin + c.block, c.inputs);
        float largest = 0;
        for (int64_t k = begin; k < end; ++k) largest = std::max(largest, std::fabs(x[row * c.inputs + k]));
        const float step = largest / (c.bits == 8 ? 127 * 256 : 127);
        double products = 0;
        for (int64_t k = begin; k < end; ++k) {
          products += std::nearbyint(x[row * c.inputs + k] * (1 / step)) * codes[k * c.outputs + n];
        }
        const double term = products * step * scales[b * c.outputs + n];
        sum += term;
        bound += std::fabs(term) * static_cast<double>(blocks + 5) * 0x1p-24;
      }
      const double found = y[row * c.outputs + n];
      if (std::fabs(found - sum) <= bound + 1e-30) continue;
      if (++failures <= 5) {
        std::printf("K %d N %d block %d bits %d: y[%d, %d] is %.9g, expected %.9g within %.3g\n", int(c.inputs),
                    int(c.outputs), int(c.block), c.bits, int(row), int(n), found, sum, bound);
      }
    }
  }
  return failures;
}

}  // namespace

int main() {
  if (!xlstm::cpu::has_quantized_product()) {
    std::printf("this processor has no AVX-512 with VNNI\n");
    return 77;
  }
  std::mt19937 random(7);
  int cases = 0, failures = 0;
  for (const int bits : {4, 8}) {
    for (const int64_t block : {8, 24, 32, 64, 128}) {
      for (const int64_t inputs : {1, 8, 31, 64, 200}) {
        for (const int64_t outputs : {1, 15, 16, 17, 40}) {
          failures += test({inputs, outputs, block, 1 + cases % 19, bits}, random);
          ++cases;
        }
      }
    }
  }
  std::printf("%d cases, %d values out of bounds\n", cases, failures);
  return failures ? 1 : 0;
}
