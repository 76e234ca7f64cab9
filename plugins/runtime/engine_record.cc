#include "runtime/engine_record.h"

#include <algorithm>
#include <limits>

#include "runtime/strict_json.h"
#include "xlstm/xlstm.hpp"

namespace xlstm::internal {
namespace {

constexpr char kFormat[] = "xlstm-engine";
constexpr int kFormatVersion = 2;
constexpr char kRemedy[] = "Build the engine again.";

FileHash file(const Fields& entries) { return {entries.file_name("name"), entries.sha256("sha256")}; }

void check_tensor(const Fields& entries) {
  entries.text("name");
  entries.choice("mode", {"input", "output"});
  entries.text("dtype");
  const std::size_t rank = entries.integers("shape", -1).size();
  for (const Fields& profile : entries.each("profiles")) {
    profile.text("name");
    for (const char* bound : {"min", "opt", "max"}) profile.counts(bound, rank);
  }
}

void read_profiles(const Fields& entries, EngineRecord& record) {
  using Names = std::vector<std::string>;
  const Names names = entries.texts("profiles");
  record.window = names == Names{"window"};
  if (!record.window && names != Names{"decode"} && names != Names{"prefill"} && names != Names{"decode", "prefill"}) {
    entries.fail(R"(profiles is not ["decode"], ["prefill"], ["decode", "prefill"] or ["window"])");
  }
  const bool prefill = names.back() == "prefill", bounded = !entries.is_null("max_chunk");
  if (bounded != prefill && !record.window) entries.fail("max_chunk and the profile prefill go together");
  if (prefill || record.window) record.prefill_profile = static_cast<int>(names.size()) - 1;
  if (bounded) record.max_chunk = entries.count("max_chunk");
}

}  // namespace

int EngineRecord::major_version() const { return std::stoi(runtime_version); }

EngineRecord parse_engine_record(const std::string& text, const std::string& where) {
  const Json data = parse_json(text, where, kRemedy);
  if (!data.is_object() || data.value("format", Json()) != kFormat) {
    throw Error(ErrorCode::bundle,
                where + " is no sidecar of an engine: no \"format\": \"" + kFormat + "\". " + kRemedy);
  }
  const Json version = data.value("format_version", Json());
  if (!version.is_number_integer() || version != kFormatVersion) {
    throw Error(ErrorCode::bundle, where + " has format version " + version.dump() + "; this library reads version " +
                                       std::to_string(kFormatVersion) + ". " + kRemedy);
  }
  const Fields entries(data, where, kRemedy);
  entries.require({"engine", "engine_bytes", "runtime", "runtime_version", "targets", "gpu", "dtype", "batch",
                   "profiles", "max_chunk", "tensors", "model", "manifest", "plugins", "options", "seconds",
                   "producer"});
  EngineRecord record;
  file(entries.below("engine"));
  record.engine_bytes = entries.integer("engine_bytes", 1, std::numeric_limits<std::int64_t>::max());
  record.runtime = entries.choice("runtime", {"tensorrt-rtx", "tensorrt"});
  record.runtime_version = entries.text("runtime_version");
  const std::string major = record.runtime_version.substr(0, record.runtime_version.find('.'));
  if (major.empty() || major.size() > 9 || major.find_first_not_of("0123456789") != std::string::npos) {
    entries.fail("runtime_version is " + record.runtime_version + ", which does not begin with a number");
  }
  entries.texts("targets");
  if (!entries.is_null("gpu")) entries.text("gpu");
  entries.choice("dtype", {"float32", "float16", "bfloat16"});
  const std::vector<int> batch = entries.counts("batch", 3);
  if (!std::is_sorted(batch.begin(), batch.end())) entries.fail("batch falls");
  record.least_batch = batch.front();
  record.most_batch = batch.back();
  read_profiles(entries, record);
  for (const Fields& tensor : entries.each("tensors")) check_tensor(tensor);
  record.model = file(entries.below("model"));
  record.manifest = file(entries.below("manifest"));
  if (!entries.is_null("plugins")) record.plugins = file(entries.below("plugins")).name;
  const Fields options = entries.below("options");
  for (const char* name : {"hardware_compatible", "tf32", "stripped_functions", "products_as_sums"}) {
    options.boolean(name);
  }
  record.version_compatible = options.boolean("version_compatible");
  entries.number("seconds");
  entries.mapping("producer");
  return record;
}

EngineRecord read_engine_record(const std::filesystem::path& engine) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  if (!fs::is_regular_file(engine, ignored)) {
    throw Error(ErrorCode::unavailable,
                "There is no engine at " + engine.string() + ". Build one with `xlstm-export build`.");
  }
  const fs::path sidecar = engine.string() + ".json";
  if (!fs::is_regular_file(sidecar, ignored)) {
    throw Error(ErrorCode::bundle, engine.string() + " has no " + sidecar.filename().string() +
                                       " beside it. Copy that file too, or build the engine again.");
  }
  EngineRecord record = parse_engine_record(read_json_file(sidecar, kRemedy), sidecar.string());
  if (const auto size = fs::file_size(engine, ignored); size != static_cast<std::uintmax_t>(record.engine_bytes)) {
    throw Error(ErrorCode::bundle, engine.string() + " has " + std::to_string(size) + " bytes, not " +
                                       std::to_string(record.engine_bytes) +
                                       ". It was not copied whole: copy it again, or build it again.");
  }
  return record;
}

}  // namespace xlstm::internal
