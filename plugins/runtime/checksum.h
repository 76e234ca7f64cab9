// SHA-256 (FIPS 180-4), which names models, and CRC-32C (Castagnoli, RFC 3720), which guards state files.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>

namespace xlstm::internal {

class Sha256 {
 public:
  void update(const void* data, std::size_t size);
  void update(const std::filesystem::path& path);  // a file's bytes; throws Error(bundle) where it cannot be read
  std::array<std::uint8_t, 32> digest();           // once, at the end

 private:
  void compress(const std::uint8_t* block);

  std::uint32_t h_[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                         0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::uint8_t block_[64];
  std::uint64_t size_ = 0;
};

std::string to_hex(const std::array<std::uint8_t, 32>& digest);

std::uint32_t crc32c(const void* data, std::size_t size);

}  // namespace xlstm::internal
