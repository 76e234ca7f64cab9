#include "runtime/engine_file.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "runtime/checksum.h"

namespace xlstm::internal {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr int kFormatVersion = 2;

std::string file_text(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

fs::path record_of(const fs::path& engine) { return engine.string() + ".json"; }

Json read_record(const fs::path& engine) {
  std::error_code ignored;
  const fs::path path = record_of(engine);
  if (!fs::is_regular_file(engine, ignored)) {
    throw Error(ErrorCode::unavailable, "no engine at " + engine.string() + ". Build one with `xlstm-export build`.");
  }
  if (!fs::is_regular_file(path, ignored)) {
    throw Error(ErrorCode::bundle, engine.string() + " has no " + path.filename().string() +
                                       " beside it. Copy that file too, or build the engine again.");
  }
  const Json record = Json::parse(file_text(path), nullptr, false);
  if (!record.is_object() || record.value("format", Json()) != "xlstm-engine" ||
      record.value("format_version", Json()) != kFormatVersion) {
    throw Error(ErrorCode::bundle, path.string() + " is not a version " + std::to_string(kFormatVersion) +
                                       " xlstm-engine file. Build the engine again.");
  }
  return record;
}

void read_profiles(const Json& record, EngineFile& file) {
  const auto profiles = record.at("profiles").get<std::vector<std::string>>();
  const auto index = [&](const char* name) {
    const auto found = std::find(profiles.begin(), profiles.end(), name);
    return found == profiles.end() ? -1 : static_cast<int>(found - profiles.begin());
  };
  const int decode = index("decode"), prefill = index("prefill");
  if (profiles.size() != static_cast<std::size_t>((decode >= 0) + (prefill >= 0)) || profiles.empty()) {
    throw Error(ErrorCode::bundle, record_of(file.engine).string() + " has the profiles " + record["profiles"].dump() +
                                       ", which this library does not know. Build the engine again.");
  }
  file.decode_profile = decode >= 0 ? decode : prefill;
  file.prefill_profile = prefill;
  if (prefill < 0) return;
  file.max_chunk = record.at("max_chunk").get<int>();
  if (file.max_chunk < 1) {
    throw Error(ErrorCode::bundle, record_of(file.engine).string() + " has a max_chunk of " +
                                       std::to_string(file.max_chunk) + ". Build the engine again.");
  }
}

std::string sha256_of(const fs::path& path) {
  const std::string text = file_text(path);
  Sha256 hash;
  hash.update(text.data(), text.size());
  return to_hex(hash.digest());
}

fs::path only_engine(const fs::path& bundle) {
  std::vector<fs::path> found;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(bundle / "engines", ignored)) {
    if (entry.path().extension() == ".engine" && read_record(entry.path()).value("runtime", Json()) == "tensorrt") {
      found.push_back(entry.path());
    }
  }
  std::sort(found.begin(), found.end());
  if (found.empty()) {
    throw Error(ErrorCode::unavailable, (bundle / "engines").string() +
                                            " holds no engine for TensorRT. Build one on this "
                                            "machine with `xlstm-export build --runtime tensorrt`, or name one in "
                                            "Options::engine.");
  }
  if (found.size() > 1) {
    std::string names;
    for (const fs::path& path : found) names += (names.empty() ? "" : ", ") + path.filename().string();
    throw Error(ErrorCode::argument,
                (bundle / "engines").string() + " holds several engines: " + names + ". Name one in Options::engine.");
  }
  return found[0];
}

}  // namespace

EngineFile find_engine(const fs::path& bundle, const Options& options, int major) {
  EngineFile file;
  file.engine = options.engine.empty() ? only_engine(bundle) : options.engine;
  const Json record = read_record(file.engine);
  const std::string name = file.engine.string();
  try {
    if (const auto runtime = record.at("runtime").get<std::string>(); runtime != "tensorrt") {
      throw Error(ErrorCode::unavailable, name + " is an engine for " + runtime +
                                              ", which this library does not run. Build "
                                              "one with `xlstm-export build --runtime tensorrt`.");
    }
    const auto version = record.at("runtime_version").get<std::string>();
    if (version.substr(0, version.find('.')) != std::to_string(major) &&
        !record.at("options").at("version_compatible").get<bool>()) {
      throw Error(ErrorCode::unavailable, name + " was built by TensorRT " + version + "; this library runs TensorRT " +
                                              std::to_string(major) + ". Build the engine again with that.");
    }
    const auto bytes = record.at("engine_bytes").get<std::uint64_t>();
    if (const std::uint64_t size = fs::file_size(file.engine); size != bytes) {
      throw Error(ErrorCode::bundle, name + " has " + std::to_string(size) + " bytes, not " + std::to_string(bytes) +
                                         ": it was not copied whole. Copy it again.");
    }
    for (const char* key : {"model", "manifest"}) {
      const fs::path part = bundle / record.at(key).at("name").get<std::string>();
      if (sha256_of(part) != record.at(key).at("sha256").get<std::string>()) {
        throw Error(ErrorCode::bundle, name + " was built from another " + part.filename().string() + " than that in " +
                                           bundle.string() + ". Build the engine again.");
      }
    }
    read_profiles(record, file);
    if (const Json& plugins = record.at("plugins"); !plugins.is_null()) {
      file.plugin_library = file.engine.parent_path() / plugins.at("name").get<std::string>();
    }
  } catch (const Json::exception& error) {
    throw Error(ErrorCode::bundle,
                record_of(file.engine).string() + " is damaged (" + error.what() + "). Build the engine again.");
  }
  if (!options.plugin_library.empty()) file.plugin_library = options.plugin_library;
  return file;
}

}  // namespace xlstm::internal
