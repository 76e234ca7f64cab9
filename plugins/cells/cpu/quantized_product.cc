#include "cells/cpu/quantized_product.h"

#if defined(__x86_64__)

#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12 warns of its own intrinsics (its bug 105593)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "cells/cpu/huge_pages.h"
#include "cells/cpu/prefetch.h"

// A panel has 16 outputs, one for each lane. For each block of inputs it holds vectors of 64 codes, four consecutive
// inputs of every output, then the block's 16 scales. Codes are stored as unsigned: the instruction multiplies unsigned
// by signed bytes. Two vectors of four-bit codes share one: that of quad j in the lower halves of its bytes, that of
// quad j + quads / 2 in the upper.
//
//   sum_k (code + offset) x - offset sum_k x = sum_k code x
//
// Inputs that meet eight-bit codes are numbers of two digits of eight bits, which are summed each by itself: reading
// the codes takes longer than multiplying them twice.

namespace xlstm::cpu {
namespace {

constexpr int64_t kLanes = 16, kQuad = 4, kVector = kLanes * kQuad;
constexpr int64_t kAhead = 8192;  // bytes; the hardware's prefetcher stops at every page

// Compiles a function for this instruction set alone, wherever the rest is to run.
#define VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c" EVEX512)))
#if defined(__clang__) && __clang_major__ >= 18 && __clang_major__ < 22
#define EVEX512 ",evex512"  // which these versions of clang want named where the command line rules it out
#else
#define EVEX512
#endif

constexpr int offset_of(int bits) { return 1 << (bits - 1); }
constexpr int kDigit = 256;
constexpr int digits_of(int bits) { return bits == 8 ? 2 : 1; }

// ---- Rows of x as bytes

// Rows that meet the codes together: as many as there are registers for. All there are, the largest first.
constexpr int64_t kMostRows = 8;
constexpr int64_t tile_rows(int64_t left) { return left >= kMostRows ? kMostRows : left >= 4 ? 4 : left >= 2 ? 2 : 1; }

// What the rows of x became, tile after tile, as sums read them: of each block of a tile, and of each quad in it, all
// rows one after another, and of a row all digits, the upper one first.
struct Bytes {
  int8_t* codes;     // (tiles, blocks, quads, rows, digits, 4)
  float* scales;     // (tiles, blocks, rows)
  int32_t* correct;  // (tiles, blocks, rows, digits): - offset times the sum of the codes
};

VNNI __m512 load(DataType type, const void* x, int64_t at, int64_t count) {
  const __mmask16 there = count >= kLanes ? __mmask16{0xFFFF} : static_cast<__mmask16>((1u << count) - 1);
  if (type == DataType::kFloat32) return _mm512_maskz_loadu_ps(there, static_cast<const float*>(x) + at);
  const __m256i halves = _mm256_maskz_loadu_epi16(there, static_cast<const uint16_t*>(x) + at);
  if (type == DataType::kFloat16) return _mm512_cvtph_ps(halves);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

// Where a row's block goes: the first of its quads, which are `stride` bytes apart.
struct Place {
  int8_t* codes;
  float* scale;
  int32_t* correct;
  int64_t stride;
};

// 16 integers as quads of bytes, of which so many are there.
VNNI void store_quads(__m512i values, int64_t quads, int8_t* to, int64_t stride) {
  alignas(16) int8_t bytes[kLanes];
  _mm_store_si128(reinterpret_cast<__m128i*>(bytes), _mm512_cvtsepi32_epi8(values));
  for (int64_t quad = 0; quad < quads; ++quad) std::memcpy(to + quad * stride, bytes + kQuad * quad, kQuad);
}

// A block of x, from element `from` on; `count` of its `block` inputs are there.
template <int kBits>
VNNI void quantize_block(DataType type, const void* x, int64_t from, int64_t count, int64_t block, const Place& to) {
  constexpr int kDigits = digits_of(kBits);
  __m512 largest = _mm512_setzero_ps(), spoilt = _mm512_setzero_ps();  // x - x is NaN for an infinity, too
  for (int64_t j = 0; j < count; j += kLanes) {
    const __m512 values = load(type, x, from + j, count - j);
    largest = _mm512_max_ps(largest, _mm512_abs_ps(values));
    spoilt = _mm512_add_ps(spoilt, _mm512_sub_ps(values, values));
  }
  const float magnitude = _mm512_reduce_max_ps(largest);
  const bool finite = _mm512_cmp_ps_mask(spoilt, spoilt, _CMP_UNORD_Q) == 0;
  const float step = magnitude / static_cast<float>(kDigits == 2 ? 127 * kDigit : 127);
  // A magnitude whose parts are nothing, or whose step has an infinite inverse, is nothing beside any other.
  const float inverse = finite && step > 0x1p-126f ? 1 / step : 0;
  __m512i sums[kDigits];
  for (auto& sum : sums) sum = _mm512_setzero_si512();
  int8_t* codes = to.codes;
  for (int64_t j = 0; j < block; j += kLanes, codes += kLanes / kQuad * to.stride) {
    const int64_t quads = std::min(kLanes, block - j) / kQuad;
    __m512i rest = _mm512_setzero_si512();
    if (j < count && inverse != 0) {
      rest = _mm512_cvtps_epi32(_mm512_mul_ps(load(type, x, from + j, count - j), _mm512_set1_ps(inverse)));
    }
    if constexpr (kDigits == 2) {  // the upper digit to nearest, so that the lower one is of eight bits with its sign
      const __m512i upper = _mm512_srai_epi32(_mm512_add_epi32(rest, _mm512_set1_epi32(kDigit / 2)), 8);
      rest = _mm512_sub_epi32(rest, _mm512_slli_epi32(upper, 8));
      sums[0] = _mm512_add_epi32(sums[0], upper);
      store_quads(upper, quads, codes, to.stride);
    }
    sums[kDigits - 1] = _mm512_add_epi32(sums[kDigits - 1], rest);
    store_quads(rest, quads, codes + (kDigits - 1) * kQuad, to.stride);
  }
  *to.scale = finite ? (inverse != 0 ? step : 0) : __builtin_nanf("");
  for (int digit = 0; digit < kDigits; ++digit) {
    to.correct[digit] = -offset_of(kBits) * _mm512_reduce_add_epi32(sums[digit]);
  }
}

// Rows [row, row + count) of x, which are one tile.
template <int kBits>
void quantize_tile(DataType type, const void* x, int64_t row, int64_t count, int64_t inputs, int64_t block,
                   const Bytes& bytes) {
  constexpr int kDigits = digits_of(kBits);
  const int64_t blocks = (inputs + block - 1) / block;
  for (int64_t r = 0; r < count; ++r) {
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t first = row * blocks + b * count, at = first + r, begin = b * block;
      const Place place{bytes.codes + first * block * kDigits + r * kDigits * kQuad, bytes.scales + at,
                        bytes.correct + at * kDigits, count * kDigits * kQuad};
      quantize_block<kBits>(type, x, (row + r) * inputs + begin, std::min(block, inputs - begin), block, place);
    }
  }
}

// Room for what rows of x become: on the stack for a row of the usual width.
struct Scratch {
  Scratch(int64_t rows, int64_t blocks, int64_t block, int bits) {
    const auto size = static_cast<size_t>(rows * blocks), digits = static_cast<size_t>(digits_of(bits));
    const size_t code_bytes = digits * size * static_cast<size_t>(block), all = code_bytes + size * 4 * (1 + digits);
    uint8_t* memory = here;
    if (all > sizeof here) {
      heap.reset(new uint8_t[all]);
      memory = heap.get();
    }
    // A block is a multiple of 8 bytes.
    bytes.codes = reinterpret_cast<int8_t*>(memory);
    bytes.scales = reinterpret_cast<float*>(memory + code_bytes);
    bytes.correct = reinterpret_cast<int32_t*>(memory + code_bytes + size * 4);
  }

  Bytes bytes{};
  std::unique_ptr<uint8_t[]> heap;
  alignas(64) uint8_t here[16 << 10];
};

// ---- Panels

template <bool kHalfScales>
VNNI __m512 load_scales(const uint8_t* from) {
  if constexpr (kHalfScales) return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  return _mm512_loadu_ps(from);
}

VNNI __m512i four(const int8_t* codes) {
  int32_t bytes;
  std::memcpy(&bytes, codes, sizeof bytes);
  return _mm512_set1_epi32(bytes);
}

struct Shape {
  int64_t blocks, block;
};

// Adds the products of a vector of codes with four inputs of each row. x: of all of them, as they stand.
template <int kRows, int kDigits, int kChains>
VNNI inline void add_codes(__m512i (&totals)[kRows][kDigits][kChains], int chain, __m512i codes, const int8_t* x) {
  for (int r = 0; r < kRows; ++r) {
    for (int digit = 0; digit < kDigits; ++digit) {
      __m512i& total = totals[r][digit][chain % kChains];
      total = _mm512_dpbusd_epi32(total, codes, four(x + (r * kDigits + digit) * kQuad));
    }
  }
}

// The sums of one panel for some rows of x. `kVectors`: of a block; 0: as many as the shape says.
template <int kBits, bool kHalfScales, int kRows, int kVectors>
VNNI void sum_panel(const uint8_t* panel, const Shape& shape, const Bytes& x, int64_t row, __m512* sums) {
  constexpr int kDigits = digits_of(kBits);
  // Chains of additions that do not wait for each other, as long as there are registers for them.
  constexpr int kChains = kDigits == 1 || kRows == 1 ? 2 : 1;
  const int64_t vectors = kVectors ? kVectors : shape.block * kBits / 32;
  constexpr int64_t kQuadBytes = kQuad * kRows * kDigits;
  const int64_t half = shape.block / 2 / kQuad;  // quads
  const __m512i lower = _mm512_set1_epi8(15);
  __m512 result[kRows];
  for (auto& sum : result) sum = _mm512_setzero_ps();
  for (int64_t b = 0; b < shape.blocks; ++b) {
    const int64_t first = row * shape.blocks + b * kRows;
    __m512i totals[kRows][kDigits][kChains];
    for (int r = 0; r < kRows; ++r) {
      for (int digit = 0; digit < kDigits; ++digit) {
        for (auto& total : totals[r][digit]) total = _mm512_setzero_si512();
        totals[r][digit][0] = _mm512_set1_epi32(x.correct[(first + r) * kDigits + digit]);
      }
    }
    const int8_t* const codes = x.codes + first * shape.block * kDigits;
    // A vector of four-bit codes is of two quads, and of eight-bit codes there is an even number of vectors.
    constexpr int64_t kStep = kBits == 4 ? 1 : 2;
#pragma GCC unroll 4
    for (int64_t j = 0; j < vectors; j += kStep, panel += kStep * kVector) {
      const __m512i codes_here = _mm512_loadu_si512(panel);
      prefetch_once(panel + kAhead);
      if constexpr (kBits == 4) {
        const __m512i upper = _mm512_and_si512(_mm512_srli_epi16(codes_here, 4), lower);
        add_codes(totals, 0, _mm512_and_si512(codes_here, lower), codes + kQuadBytes * j);
        add_codes(totals, 1, upper, codes + kQuadBytes * (j + half));
      } else {
        prefetch_once(panel + kVector + kAhead);
        const __m512i next = _mm512_loadu_si512(panel + kVector);
        add_codes(totals, 0, codes_here, codes + kQuadBytes * j);
        add_codes(totals, 1, next, codes + kQuadBytes * (j + 1));
      }
    }
    const __m512 scales = load_scales<kHalfScales>(panel);
    panel += kLanes * (kHalfScales ? 2 : 4);
    for (int r = 0; r < kRows; ++r) {
      const __m512 scale = _mm512_mul_ps(scales, _mm512_set1_ps(x.scales[first + r]));
      __m512 sum;
      for (int digit = 0; digit < kDigits; ++digit) {
        __m512i total = totals[r][digit][0];
        for (int chain = 1; chain < kChains; ++chain) total = _mm512_add_epi32(total, totals[r][digit][chain]);
        const __m512 value = _mm512_cvtepi32_ps(total);
        sum = digit ? _mm512_fmadd_ps(sum, _mm512_set1_ps(kDigit), value) : value;
      }
      result[r] = _mm512_fmadd_ps(sum, scale, result[r]);
    }
  }
  for (int r = 0; r < kRows; ++r) sums[r] = result[r];
}

VNNI void store(DataType type, void* y, int64_t at, int64_t count, __m512 value) {
  const auto there = static_cast<__mmask16>(count >= kLanes ? 0xFFFF : (1u << count) - 1);
  if (type == DataType::kFloat32) return _mm512_mask_storeu_ps(static_cast<float*>(y) + at, there, value);
  __m256i halves;
  if (type == DataType::kFloat16) {
    halves = _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  } else {  // to nearest, ties to even; a NaN stays one
    const __m512i bits = _mm512_castps_si512(value);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(_mm512_set1_epi32(0x7FFF), odd));
    const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
    const __mmask16 is_nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
    halves = _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_mask_mov_epi32(rounded, is_nan, quiet), 16));
  }
  _mm256_mask_storeu_epi16(static_cast<uint16_t*>(y) + at, there, halves);
}

struct Result {
  DataType type;
  void* y;  // (rows, outputs)
  int64_t outputs;
};

template <int kBits, bool kHalfScales, int kRows, int kVectors>
VNNI void multiply_rows(const uint8_t* panel, int64_t first, const Shape& shape, const Bytes& x, int64_t row,
                        const Result& result) {
  __m512 sums[kRows];
  sum_panel<kBits, kHalfScales, kRows, kVectors>(panel, shape, x, row, sums);
  for (int r = 0; r < kRows; ++r) {
    store(result.type, result.y, (row + r) * result.outputs + first, result.outputs - first, sums[r]);
  }
}

// All rows by the outputs from `first` on.
template <int kBits, bool kHalfScales, int kVectors>
void multiply_panel(const uint8_t* panel, int64_t first, const Shape& shape, const Bytes& x, int64_t rows,
                    const Result& result) {
  for (int64_t row = 0; row < rows; row += tile_rows(rows - row)) {
    switch (tile_rows(rows - row)) {
      case 1:
        multiply_rows<kBits, kHalfScales, 1, kVectors>(panel, first, shape, x, row, result);
        break;
      case 2:
        multiply_rows<kBits, kHalfScales, 2, kVectors>(panel, first, shape, x, row, result);
        break;
      case 4:
        multiply_rows<kBits, kHalfScales, 4, kVectors>(panel, first, shape, x, row, result);
        break;
      default:
        multiply_rows<kBits, kHalfScales, kMostRows, kVectors>(panel, first, shape, x, row, result);
    }
  }
}

using MultiplyPanel = void (*)(const uint8_t*, int64_t, const Shape&, const Bytes&, int64_t, const Result&);

MultiplyPanel choose_panel(int bits, bool half_scales, int64_t block) {
  if (bits == 4) {
    if (block == 32) return half_scales ? multiply_panel<4, true, 4> : multiply_panel<4, false, 4>;
    return half_scales ? multiply_panel<4, true, 0> : multiply_panel<4, false, 0>;
  }
  if (block == 32) return half_scales ? multiply_panel<8, true, 8> : multiply_panel<8, false, 8>;
  return half_scales ? multiply_panel<8, true, 0> : multiply_panel<8, false, 0>;
}

// ---- Packing

// The codes of input k and of outputs from `first` on, as unsigned numbers.
void read_codes(const QuantizedMatrix& matrix, int64_t k, int64_t first, int64_t lanes, uint8_t* out) {
  const int64_t at = k * matrix.outputs + first;
  const auto* const bytes = static_cast<const uint8_t*>(matrix.codes);
  // Two's complement and an excess of half the range differ in the sign's bit.
  if (matrix.bits == 8) {
    for (int64_t lane = 0; lane < lanes; ++lane) out[lane] = bytes[at + lane] ^ 128;
  } else if (lanes == kLanes && at % 2 == 0) {
    for (int64_t pair = 0; pair < kLanes / 2; ++pair) {
      const uint8_t byte = bytes[at / 2 + pair];
      out[2 * pair] = (byte & 15) ^ 8;
      out[2 * pair + 1] = (byte >> 4) ^ 8;
    }
  } else {
    for (int64_t lane = 0; lane < lanes; ++lane) {
      out[lane] = (bytes[(at + lane) / 2] >> ((at + lane) % 2 * 4) & 15) ^ 8;
    }
  }
}

float scale_at(const QuantizedMatrix& matrix, int64_t at) {
  if (matrix.scale_type == DataType::kFloat32) return static_cast<const float*>(matrix.scales)[at];
  const uint32_t bits = static_cast<uint32_t>(static_cast<const uint16_t*>(matrix.scales)[at]) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// One block of one panel. `lanes`: outputs that are there. Inputs that are not stay zero, as x is there.
void pack_block(const QuantizedMatrix& matrix, int64_t b, int64_t first, int64_t lanes, uint8_t* out) {
  const int64_t begin = b * matrix.block, count = std::min(matrix.block, matrix.inputs - begin);
  const int64_t split = matrix.bits == 4 ? matrix.block / 2 : matrix.block;
  for (int64_t k = 0; k < split; k += kQuad, out += kVector) {
    uint8_t lower[kQuad][kLanes] = {}, upper[kQuad][kLanes] = {};
    for (int64_t t = 0; t < kQuad; ++t) {
      if (k + t < count) read_codes(matrix, begin + k + t, first, lanes, lower[t]);
      if (split + k + t < count) read_codes(matrix, begin + split + k + t, first, lanes, upper[t]);
    }
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      for (int64_t t = 0; t < kQuad; ++t) {
        out[kQuad * lane + t] = static_cast<uint8_t>(lower[t][lane] | upper[t][lane] << 4);
      }
    }
  }
}

void pack_scales(const QuantizedMatrix& matrix, int64_t b, int64_t first, int64_t lanes, uint8_t* out) {
  for (int64_t lane = 0; lane < lanes; ++lane) {
    const int64_t at = b * matrix.outputs + first + lane;
    if (matrix.scale_type == DataType::kFloat16) {
      std::memcpy(out + 2 * lane, static_cast<const uint16_t*>(matrix.scales) + at, 2);
    } else {
      const float scale = scale_at(matrix, at);
      std::memcpy(out + 4 * lane, &scale, 4);
    }
  }
}

}  // namespace

bool has_quantized_product() {
  static const bool has = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                          __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx2") &&
                          __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  return has;
}

PackedMatrix::PackedMatrix(const QuantizedMatrix& matrix)
    : inputs_(matrix.inputs),
      outputs_(matrix.outputs),
      block_(matrix.block),
      blocks_((matrix.inputs + matrix.block - 1) / matrix.block),
      bits_(matrix.bits),
      half_scales_(matrix.scale_type == DataType::kFloat16),
      block_bytes_(kLanes * (block_ * bits_ / 8 + (half_scales_ ? 2 : 4))) {
  const int64_t panels = (outputs_ + kLanes - 1) / kLanes, code_bytes = kLanes * block_ * bits_ / 8;
  panels_ = allocate_zeros(static_cast<size_t>(panels * blocks_ * block_bytes_));
  uint8_t* out = panels_.get();
  for (int64_t first = 0; first < outputs_; first += kLanes) {
    const int64_t lanes = std::min(kLanes, outputs_ - first);
    for (int64_t b = 0; b < blocks_; ++b, out += block_bytes_) {
      pack_block(matrix, b, first, lanes, out);
      pack_scales(matrix, b, first, lanes, out + code_bytes);
    }
  }
}

void PackedMatrix::multiply(DataType type, int64_t rows, const void* x, void* y,
                            const ParallelFor& parallel_for) const {
  Scratch scratch(rows, blocks_, block_, bits_);
  const Bytes& bytes = scratch.bytes;
  const auto quantize = bits_ == 8 ? quantize_tile<8> : quantize_tile<4>;
  parallel_for((rows + kMostRows - 1) / kMostRows, 8 * kMostRows * inputs_, [&](int64_t task) {
    for (int64_t row = task * kMostRows, end = std::min(rows, row + kMostRows); row < end;) {
      const int64_t count = tile_rows(end - row);
      quantize(type, x, row, count, inputs_, block_, bytes);
      row += count;
    }
  });
  const int64_t panels = (outputs_ + kLanes - 1) / kLanes, panel_bytes = blocks_ * block_bytes_;
  const MultiplyPanel multiply_panel = choose_panel(bits_, half_scales_, block_);
  const Shape shape{blocks_, block_};
  const Result result{type, y, outputs_};
  constexpr int64_t kRowsPerRead = 4;  // so many take as long as reading the panel from memory
  parallel_for(panels, panel_bytes * (1 + rows / kRowsPerRead), [&](int64_t panel) {
    multiply_panel(panels_.get() + panel * panel_bytes, panel * kLanes, shape, bytes, rows, result);
  });
}

}  // namespace xlstm::cpu

#else  // other processors

#include <stdexcept>

namespace xlstm::cpu {

bool has_quantized_product() { return false; }

PackedMatrix::PackedMatrix(const QuantizedMatrix&) {
  throw std::logic_error("this processor has no quantised product");
}

void PackedMatrix::multiply(DataType, int64_t, const void*, void*, const ParallelFor&) const {}

}  // namespace xlstm::cpu

#endif
