// Products with a matrix of 4-bit or 8-bit codes on a CPU, whose inputs are rounded: y = x (codes * scales).
//
// Every row of x is cut into the matrix' own blocks, and each becomes integers and one scale: of 8 bits beside 4-bit
// codes, where it maps the largest magnitude to 127, as ONNX Runtime's MatMulNBits with accuracy level 4 has them; of
// 15 bits beside 8-bit codes, where it maps it to 127 * 256, so that what is lost is what the codes lose. A block's
// products are summed exactly, as integers; blocks are added in float.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "cells/cells.h"
#include "cells/cpu/cpu_cells.h"

namespace xlstm::cpu {

// Whether this processor has what the product is made of: AVX-512 with its instructions for sums of byte products
// (VNNI). Nothing below may be called without it.
bool has_quantized_product();

// A matrix as ONNX stores it.
struct QuantizedMatrix {
  int64_t inputs, outputs;
  int64_t block;  // inputs that share a scale: a multiple of 8; the last block may be shorter
  int bits;       // 4: signed codes, two a byte, the first in the lower half; 8: signed bytes
  DataType scale_type;
  const void* codes;   // (inputs, outputs)
  const void* scales;  // (blocks, outputs)
};

// A copy in the order in which the product reads it, whatever became of the original. Rows of any number share it, and
// threads do.
class PackedMatrix {
 public:
  explicit PackedMatrix(const QuantizedMatrix& matrix);  // throws std::bad_alloc

  // Rows of x (rows, inputs), of y (rows, outputs), both of `type`. Repeated calls give the same bits, whatever
  // `parallel_for` does, and each row what it gets alone. A row with an infinity or a NaN gives NaN. Throws
  // std::bad_alloc, for a scratch buffer where x is larger than some rows.
  void multiply(DataType type, int64_t rows, const void* x, void* y, const ParallelFor& parallel_for) const;

  int64_t inputs() const { return inputs_; }
  int64_t outputs() const { return outputs_; }

 private:
  int64_t inputs_, outputs_, block_, blocks_;
  int bits_;
  bool half_scales_;                 // float16 as they were; else float
  int64_t block_bytes_;              // of one block of one panel, scales included
  std::shared_ptr<uint8_t> panels_;  // of 16 outputs each
};

}  // namespace xlstm::cpu
