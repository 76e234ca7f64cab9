// The sidecar of an engine, which says what it is and what it fits: the reader of FORMAT.md
// (xlstm_export/bundle/FORMAT.md), which says what is refused.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace xlstm::internal {

// A file by name, and its SHA-256, hexadecimal.
struct FileHash {
  std::string name, sha256;

  bool operator==(const FileHash& other) const { return name == other.name && sha256 == other.sha256; }
};

// What this library needs of it.
struct EngineRecord {
  std::int64_t engine_bytes = 0;
  std::string runtime;  // `tensorrt`, `tensorrt-rtx`
  std::string runtime_version;
  bool version_compatible = false;  // runs on other major versions too
  int least_batch = 0, most_batch = 0;
  // Optimisation profiles, by their index. An engine with a prefill profile alone decodes through that one.
  int decode_profile = 0;
  int prefill_profile = -1;  // -1: it has none
  bool window = false;       // that is the profile of whole sequences, and there is no other
  int max_chunk = 0;         // most positions of a pass on it; 0: without it, and for windows of one length
  FileHash model, manifest;  // what it was built from
  std::string plugins;       // name of the plugin library that it needs, beside the engine; empty: none

  int major_version() const;  // of the runtime that built it
};

// `where` names the file in messages. Throws Error(bundle).
EngineRecord parse_engine_record(const std::string& text, const std::string& where);

// The sidecar of the engine. Throws Error(unavailable) where there is no engine; Error(bundle) where its sidecar is not
// there or is refused, or where the engine has another size.
EngineRecord read_engine_record(const std::filesystem::path& engine);

}  // namespace xlstm::internal
