// A TensorRT engine in a bundle, and the record beside it (xlstm_export/engines/record.py) that says what it fits.
#pragma once

#include <filesystem>
#include <string>

#include "xlstm/xlstm.hpp"

namespace xlstm::internal {

struct EngineFile {
  std::filesystem::path engine;
  std::filesystem::path plugin_library;  // empty: it needs none
  // Optimisation profiles, by their index. An engine with a prefill profile alone decodes through that one.
  int decode_profile = 0;
  int prefill_profile = -1;  // -1: it has none
  int max_chunk = 0;         // most positions of a pass on the prefill profile
};

// The engine that `options` names, or else the only one for TensorRT in the bundle's folder `engines`, checked: it was
// copied whole, it is for TensorRT `major` and it was built from this bundle. Throws Error(unavailable) or
// Error(bundle).
EngineFile find_engine(const std::filesystem::path& bundle, const Options& options, int major);

}  // namespace xlstm::internal
