// Test only: the functions of cells/cuda/tensor_core.cuh, by the lanes of a simulated warp. Lanes hold what the PTX
// manual says that they hold. Beyond a wrong result, these end the process: rows of a matrix that are not aligned or
// share a bank, and copies that are not aligned.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <type_traits>

#include "cuda_bf16.h"
#include "cuda_fp16.h"
#include "simulator.h"

namespace xlstm::cuda {

using SharedAddress = uintptr_t;
inline SharedAddress shared_address(const void* memory) { return reinterpret_cast<SharedAddress>(memory); }

inline int reread_thread() { return static_cast<int>(simulator::thread_index.x); }
inline int reread_block() { return static_cast<int>(simulator::block_index.x); }

namespace on_cpu {

inline void require(bool condition, const char* what, const char* file, int line) {
  if (condition) return;
  std::fprintf(stderr, "mma_sync.h: %s, %s:%d\n", what, file, line);
  std::abort();
}

inline float element(uint32_t pair, int index, __nv_bfloat16) {
  return __bfloat162float({static_cast<uint16_t>(pair >> 16 * index)});
}
inline float element(uint32_t pair, int index, __half) {
  return __half2float({static_cast<uint16_t>(pair >> 16 * index)});
}

struct Rows {
  uint32_t* parts;
  SharedAddress row;
};

// Whether the rows of each of four matrices lie in different groups of four banks; the same row twice is read once.
inline bool in_different_banks(void* const* lanes) {
  for (int lane = 0; lane < 32; ++lane) {
    for (int other = lane / 8 * 8; other < lane; ++other) {
      const auto of = [&](int l) { return static_cast<const Rows*>(lanes[l])->row; };
      if (of(lane) != of(other) && of(lane) / 16 % 8 == of(other) / 16 % 8) return false;
    }
  }
  return true;
}

}  // namespace on_cpu

template <bool kTransposed>
void load_matrices(uint32_t (&parts)[4], SharedAddress row, const char* file = __builtin_FILE(),
                   int line = __builtin_LINE()) {
  using on_cpu::Rows;
  on_cpu::require(row % 16 == 0, "a row is not aligned to 16 bytes", file, line);
  static bool conflict;
  Rows mine{parts, row};
  const auto combine = [](void* const* lanes) {
    conflict = !on_cpu::in_different_banks(lanes);
    for (int lane = 0; lane < 32; ++lane) {
      for (int matrix = 0; matrix < 4; ++matrix) {
        uint32_t pair = 0;
        for (int e = 0; e < 2; ++e) {
          const int row = kTransposed ? lane % 4 * 2 + e : lane / 4, column = kTransposed ? lane / 4 : lane % 4 * 2 + e;
          const SharedAddress from = static_cast<const Rows*>(lanes[matrix * 8 + row])->row;
          pair |= uint32_t{reinterpret_cast<const uint16_t*>(from)[column]} << 16 * e;
        }
        static_cast<const Rows*>(lanes[lane])->parts[matrix] = pair;
      }
    }
  };
  simulator::collective(&mine, combine, file, line);
  on_cpu::require(!conflict, "rows of a matrix share a bank", file, line);
}

template <bool kTransposed>
void load_matrices(uint32_t (&parts)[4], const void* row, const char* file = __builtin_FILE(),
                   int line = __builtin_LINE()) {
  load_matrices<kTransposed>(parts, shared_address(row), file, line);
}

inline void store_shared(SharedAddress to, uint32_t pair) { *reinterpret_cast<uint32_t*>(to) = pair; }

template <typename T, int kTiles>
void multiply_add(float (&sums)[kTiles][4], const uint32_t (&a)[4], const uint32_t (&b)[kTiles][2],
                  const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  static_assert(std::is_same_v<T, __half> || std::is_same_v<T, __nv_bfloat16>);
  struct Lane {
    float (*sums)[4];
    const uint32_t* a;
    const uint32_t (*b)[2];
  } mine{sums, a, b};
  const auto combine = [](void* const* lanes) {
    const auto of = [&](int lane) { return static_cast<const Lane*>(lanes[lane]); };
    float left[16][16], right[16][8];
    for (int row = 0; row < 16; ++row) {
      for (int k = 0; k < 16; ++k) {
        left[row][k] = on_cpu::element(of(row % 8 * 4 + k % 8 / 2)->a[row / 8 + k / 8 * 2], k % 2, T{});
      }
    }
    for (int tile = 0; tile < kTiles; ++tile) {
      for (int k = 0; k < 16; ++k) {
        for (int column = 0; column < 8; ++column) {
          right[k][column] = on_cpu::element(of(column * 4 + k % 8 / 2)->b[tile][k / 8], k % 2, T{});
        }
      }
      for (int row = 0; row < 16; ++row) {
        for (int column = 0; column < 8; ++column) {
          float& sum = of(row % 8 * 4 + column / 2)->sums[tile][row / 8 * 2 + column % 2];
          for (int k = 0; k < 16; ++k) sum += left[row][k] * right[k][column];
        }
      }
    }
  };
  simulator::collective(&mine, combine, file, line);
}

inline void copy_async(void* to, const void* from, bool present, const char* file = __builtin_FILE(),
                       int line = __builtin_LINE()) {
  on_cpu::require(reinterpret_cast<uintptr_t>(to) % 16 == 0 && reinterpret_cast<uintptr_t>(from) % 16 == 0,
                  "a copy is not aligned to 16 bytes", file, line);
  simulator::copy_async(to, present ? from : nullptr, 16);
}

inline void commit_copies() { simulator::commit_copies(); }

template <int kPending>
void wait_copies(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  simulator::wait_copies(kPending, file, line);
}

}  // namespace xlstm::cuda
