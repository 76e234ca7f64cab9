// The inputs of an sLSTM cell on a CPU: a linear layer with a group for each gate and head.
#include <cstring>
#include <memory>
#include <vector>

#include "cells/cpu/cpu_layers.h"

namespace xlstm::cpu {
namespace {

constexpr int64_t kGates = 4;

}  // namespace

PackedLinear pack_slstm_projections(const SlstmProjectionsArgs& args) {
  const auto bytes = static_cast<size_t>(args.heads * args.dim * args.dim * element_size(args.type));
  const std::unique_ptr<uint8_t[]> weights(new uint8_t[kGates * bytes]);
  uint8_t* to = weights.get();
  for (const void* gate : {args.i_weight, args.f_weight, args.z_weight, args.o_weight}) {
    std::memcpy(to, gate, bytes);
    to += bytes;
  }
  return PackedLinear({args.type, args.dim, args.dim, weights.get(), nullptr, kGates * args.heads});
}

void slstm_projections(const SlstmProjectionsArgs& args, const PackedLinear& packed, const ParallelFor& parallel_for) {
  const int64_t width = args.heads * args.dim, groups = kGates * args.heads;
  std::vector<const void*> x(static_cast<size_t>(groups));
  std::vector<void*> gates(static_cast<size_t>(groups));
  for (int64_t group = 0; group < groups; ++group) {
    const auto at = static_cast<size_t>(group);
    x[at] = (group < 2 * args.heads ? args.x_conv : args.x) + group % args.heads * args.dim;
    gates[at] = static_cast<uint8_t*>(args.gates) + group * args.dim * element_size(args.type);
  }
  packed.multiply({args.positions, DataType::kFloat32, args.type, x.data(), gates.data(), width, kGates * width},
                  parallel_for);
}

}  // namespace xlstm::cpu
