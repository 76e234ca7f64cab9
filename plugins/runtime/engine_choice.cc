#include "runtime/engine_choice.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "runtime/checksum.h"
#include "runtime/manifest.h"
#include "xlstm/xlstm.hpp"

namespace xlstm::internal {
namespace {

namespace fs = std::filesystem;

constexpr char kRuntime[] = "tensorrt";
constexpr char kFolder[] = "engines";
constexpr char kSuffix[] = ".engine";

Error misfit_error(ErrorCode code, const Wanted& wanted, const std::string& what) {
  return Error(code, what + ". Build one with `xlstm-export build " + wanted.bundle.string() + " --runtime " +
                         kRuntime + "` on this machine.");
}

// The file as it is now; without a checksum where it is not there.
FileHash hash_of(const fs::path& bundle, const char* name) {
  std::error_code ignored;
  if (!fs::is_regular_file(bundle / name, ignored)) return {name, ""};
  Sha256 hash;
  hash.update(bundle / name);
  return {name, to_hex(hash.digest())};
}

// Why an engine with a good sidecar does not fit.
std::optional<Error> misfit(const Wanted& wanted, const Engine& engine) {
  const EngineRecord& record = engine.record;
  const std::string name = engine.path.string();
  const auto because = [&](ErrorCode code, const std::string& reason) {
    return misfit_error(code, wanted, name + " " + reason);
  };
  if (record.runtime != kRuntime) {
    return because(ErrorCode::unavailable, "is an engine for " + record.runtime + ", not for " + kRuntime);
  }
  if (record.major_version() != wanted.major && !record.version_compatible) {
    return because(ErrorCode::unavailable, "was built by TensorRT " + record.runtime_version + ", and version " +
                                               std::to_string(wanted.major) + " is here");
  }
  if (wanted.batch && (wanted.batch < record.least_batch || wanted.batch > record.most_batch)) {
    return because(ErrorCode::argument, "takes batches " + std::to_string(record.least_batch) + " to " +
                                            std::to_string(record.most_batch) + ", not " +
                                            std::to_string(wanted.batch));
  }
  if (!(record.model == hash_of(wanted.bundle, kModelFile) &&
        record.manifest == hash_of(wanted.bundle, kManifestFile))) {
    return because(ErrorCode::bundle, "was built from another export than the one in " + wanted.bundle.string());
  }
  return std::nullopt;
}

// The engines of a bundle, newest first.
std::vector<fs::path> engine_files(const fs::path& bundle) {
  struct File {
    fs::file_time_type written;
    fs::path path;
    bool operator<(const File& other) const {
      return written != other.written ? written < other.written : path.filename() < other.path.filename();
    }
  };
  std::vector<File> files;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(bundle / kFolder, ignored)) {
    const std::string name = entry.path().filename().string(), suffix = kSuffix;
    const bool is_engine =
        name.size() >= suffix.size() && !name.compare(name.size() - suffix.size(), name.npos, suffix);
    if (is_engine && entry.is_regular_file(ignored)) files.push_back({entry.last_write_time(ignored), entry.path()});
  }
  std::sort(files.rbegin(), files.rend());
  std::vector<fs::path> paths;
  paths.reserve(files.size());
  for (const File& file : files) paths.push_back(file.path);
  return paths;
}

}  // namespace

Engine choose_engine(const Wanted& wanted, const fs::path& named) {
  if (!named.empty()) {
    Engine engine{named, read_engine_record(named)};
    if (const auto problem = misfit(wanted, engine)) throw Error(*problem);
    return engine;
  }
  std::optional<Error> of_this_runtime, unreadable;  // of the newest
  for (const fs::path& path : engine_files(wanted.bundle)) {
    try {
      Engine engine{path, read_engine_record(path)};
      const auto problem = misfit(wanted, engine);
      if (!problem) return engine;
      if (!of_this_runtime && engine.record.runtime == kRuntime) of_this_runtime = problem;
    } catch (const Error& error) {
      if (!unreadable) unreadable = error;
    }
  }
  if (of_this_runtime) throw Error(*of_this_runtime);
  if (unreadable) throw Error(*unreadable);
  throw misfit_error(ErrorCode::unavailable, wanted,
                     (wanted.bundle / kFolder).string() + " holds no engine for " + kRuntime);
}

}  // namespace xlstm::internal
