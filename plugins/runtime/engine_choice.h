// Which engine runs a bundle: the one rule of FORMAT.md (xlstm_export/bundle/FORMAT.md), as the Python package has it
// too.
#pragma once

#include <filesystem>

#include "runtime/engine_record.h"

namespace xlstm::internal {

// What an engine has to fit.
struct Wanted {
  std::filesystem::path bundle;
  int batch = 0;  // 0: not known yet
  int major = 0;  // version of TensorRT
};

struct Engine {
  std::filesystem::path path;
  EngineRecord record;
};

// The engine `named`, or, where that is empty, the newest in the bundle's folder `engines` that fits. Throws
// Error(unavailable), Error(bundle) or Error(argument) where there is none.
Engine choose_engine(const Wanted& wanted, const std::filesystem::path& named);

}  // namespace xlstm::internal
