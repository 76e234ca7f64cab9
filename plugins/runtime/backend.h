// What a back end is to the rest of the runtime. One file implements it for each: onnxruntime_backend.cc,
// tensorrt_backend.cc.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "runtime/batch.h"
#include "runtime/manifest.h"
#include "xlstm/xlstm.hpp"

namespace xlstm::internal {

// The most positions of a prompt that a pass takes in, where nothing says otherwise.
inline constexpr int kDefaultChunk = 256;

// A bundle on a back end: its weights. Immutable; its batches may run on different threads.
class LoadedBundle {
 public:
  virtual ~LoadedBundle() = default;
  virtual std::unique_ptr<Batch> batch(int size) const = 0;
  virtual std::string device() const = 0;  // `cpu`, `cuda:0`
  virtual bool cuda_graph() const = 0;
  virtual int max_chunk() const = 0;  // most positions of a pass; 0: it runs steps alone
};

std::unique_ptr<LoadedBundle> load_onnxruntime(const std::filesystem::path& bundle, const Manifest&, const Options&);
std::unique_ptr<LoadedBundle> load_tensorrt(const std::filesystem::path& bundle, const Manifest&, const Options&);

}  // namespace xlstm::internal
