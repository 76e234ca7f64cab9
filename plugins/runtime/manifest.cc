#include "runtime/manifest.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>

#include "runtime/checksum.h"
#include "xlstm/xlstm.hpp"

namespace xlstm::internal {
namespace {

using Json = nlohmann::json;

constexpr char kFormat[] = "xlstm-bundle";
constexpr int kFormatVersion = 2;
constexpr const char* kKeys[] = {"family",       "dtype",  "mode",         "batch",     "input",
                                 "lengths",      "output", "states",       "tokenizer", "vocab_size",
                                 "architecture", "source", "weight_files", "producer"};

// Of all dimensions after the batch, at one position where their number is open.
std::size_t product_of_rest(const std::vector<std::int64_t>& shape) {
  std::size_t product = 1;
  for (std::size_t i = 1; i < shape.size(); ++i) {
    product *= static_cast<std::size_t>(std::max<std::int64_t>(shape[i], 1));
  }
  return product;
}

std::string shortened(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace).substr(0, 60);
}

class Checker {
 public:
  explicit Checker(const std::string& where) : where_(where) {}

  [[noreturn]] void fail(const std::string& what) const {
    throw Error(ErrorCode::bundle, where_ + ": " + what + ". Export the bundle again.");
  }

  const Json& object(const Json& data, const std::string& key) const {
    return entry(data, key, "", "an object", [](const Json& v) { return v.is_object(); });
  }

  const Json& list(const Json& data, const std::string& key, const std::string& at = "") const {
    return entry(data, key, at, "a list", [](const Json& v) { return v.is_array(); });
  }

  std::string text(const Json& data, const std::string& key, const std::string& at = "") const {
    return entry(data, key, at, "a string", [](const Json& v) { return v.is_string(); }).get<std::string>();
  }

  std::string optional_text(const Json& data, const std::string& key, const std::string& at = "") const {
    const auto found = data.find(key);
    return found == data.end() || found->is_null() ? std::string() : text(data, key, at);
  }

  std::int64_t optional_count(const Json& data, const std::string& key) const {
    const auto found = data.find(key);
    if (found == data.end() || found->is_null()) return 0;
    return entry(data, key, "", "a positive number", is_count).get<std::int64_t>();
  }

  // `open`: the second dimension may be "sequence".
  std::vector<std::int64_t> shape(const Json& data, const std::string& at, bool open = false) const {
    const Json& json = list(data, "shape", at);
    bool good = !json.empty();
    std::vector<std::int64_t> shape;
    std::int64_t elements = 1;
    for (std::size_t i = 0; good && i < json.size(); ++i) {
      const bool any = (i == 0 && json[i] == "batch") || (open && i == 1 && json[i] == "sequence");
      good = any || is_count(json[i]);
      if (!good) break;
      shape.push_back(any ? 0 : json[i].get<std::int64_t>());
      if (i > 0 && !any) {
        good = !__builtin_mul_overflow(elements, shape[i], &elements) && elements < (std::int64_t{1} << 40);
      }
    }
    if (!good) fail(at + "shape is " + shortened(json) + ", not a batch and positive numbers");
    return shape;
  }

  TensorSpec tensor(const Json& data, const std::string& key) const {
    const Json& value = object(data, key);
    const std::string at = key + ".";
    return {text(value, "name", at), text(value, "dtype", at), shape(value, at, true)};
  }

  // The name of the input `lengths`; empty where there is none.
  std::string lengths(const Json& data) const {
    if (data["lengths"].is_null()) return "";
    const TensorSpec spec = tensor(data, "lengths");
    if (spec.dtype != "int32" || spec.shape.size() != 1) fail("lengths is not an int32 for each row of the batch");
    return spec.name;
  }

  StateTensor state(const Json& value, std::size_t index) const {
    const std::string key = "states[" + std::to_string(index) + "]", at = key + ".";
    if (!value.is_object()) fail(key + " is " + shortened(value) + ", not an object");
    return {text(value, "input", at), text(value, "output", at), text(value, "dtype", at), shape(value, at)};
  }

  std::string choice(const Json& data, const std::string& key, std::initializer_list<const char*> allowed) const {
    const Json& value = data.at(key);
    std::string names;
    for (const char* name : allowed) {
      if (value == name) return name;
      names += std::string(names.empty() ? "" : ", ") + name;
    }
    fail(key + " is " + shortened(value) + ", not one of " + names);
  }

  std::string file_name(const Json& value) const {
    const std::string name = value.is_string() ? value.get<std::string>() : "";
    if (name.empty() || name == "." || name == ".." ||
        name.find_first_of(std::string("/\\\0", 3)) != std::string::npos) {
      fail("weight_files holds " + shortened(value) + ", not a plain file name");
    }
    return name;
  }

 private:
  static bool is_count(const Json& value) {
    if (!value.is_number_integer()) return false;
    if (value.is_number_unsigned() && value.get<std::uint64_t>() > std::numeric_limits<std::int32_t>::max()) {
      return false;
    }
    return value.get<std::int64_t>() > 0;
  }

  template <class Predicate>
  const Json& entry(const Json& data, const std::string& key, const std::string& at, const char* kind,
                    Predicate&& good) const {
    const auto found = data.find(key);
    if (found == data.end()) fail(at + key + " is missing");
    if (!good(*found)) fail(at + key + " is " + shortened(*found) + ", not " + kind);
    return *found;
  }

  const std::string& where_;
};

}  // namespace

std::size_t TensorSpec::row_elements() const { return product_of_rest(shape); }

std::vector<std::int64_t> TensorSpec::sized(int batch, std::size_t positions) const {
  std::vector<std::int64_t> result = shape;
  result[0] = batch;
  if (any_positions()) result[1] = static_cast<std::int64_t>(positions);
  return result;
}

std::size_t StateTensor::row_elements() const { return product_of_rest(shape); }

std::vector<std::int64_t> StateTensor::sized(int batch) const {
  std::vector<std::int64_t> result = shape;
  result[0] = batch;
  return result;
}

std::size_t Manifest::state_row_elements() const {
  std::size_t total = 0;
  for (const StateTensor& state : states) total += state.row_elements();
  return total;
}

Manifest read_manifest(const std::filesystem::path& bundle) {
  const std::filesystem::path path = bundle / kManifestFile;
  std::error_code ignored;
  std::ifstream file;
  if (std::filesystem::is_regular_file(path, ignored)) file.open(path, std::ios::binary);
  if (!file.is_open()) {
    throw Error(ErrorCode::bundle, bundle.string() + " is not a bundle: no " + kManifestFile +
                                       " there. Make one with `xlstm-export onnx CKPT -o DIR`.");
  }
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  return parse_manifest(text, path.string());
}

Manifest parse_manifest(const std::string& text, const std::string& where) {
  Json data;
  try {
    data = Json::parse(text);
  } catch (const Json::exception& error) {
    throw Error(ErrorCode::bundle, where + " is not valid JSON (" + error.what() + "). Export the bundle again.");
  }
  if (!data.is_object() || data.value("format", Json()) != kFormat) {
    throw Error(ErrorCode::bundle,
                where + " is not a manifest of xlstm-export: no \"format\": \"" + std::string(kFormat) + "\".");
  }
  const Json version = data.value("format_version", Json());
  if (version != kFormatVersion) {
    throw Error(ErrorCode::bundle, where + " has format version " + shortened(version) +
                                       "; this library reads version " + std::to_string(kFormatVersion) +
                                       ". Export the bundle again, or use the library that belongs to it.");
  }
  std::string missing;
  for (const char* key : kKeys) {
    if (!data.contains(key)) missing += std::string(missing.empty() ? "" : ", ") + key;
  }
  if (!missing.empty()) throw Error(ErrorCode::bundle, where + " lacks " + missing + ". Export the bundle again.");

  const Checker check(where);
  Manifest manifest;
  manifest.family = check.text(data, "family");
  manifest.dtype = check.choice(data, "dtype", {"float32", "float16", "bfloat16"});
  const bool steps_only = check.choice(data, "mode", {"step", "prefill", "both"}) == "step";
  manifest.batch = static_cast<int>(check.optional_count(data, "batch"));
  manifest.input = check.tensor(data, "input");
  manifest.lengths = check.lengths(data);
  manifest.output = check.tensor(data, "output");
  const Json& states = check.list(data, "states");
  for (std::size_t i = 0; i < states.size(); ++i) manifest.states.push_back(check.state(states[i], i));
  manifest.tokenizer = check.optional_text(data, "tokenizer");
  manifest.vocab_size = static_cast<std::size_t>(check.optional_count(data, "vocab_size"));
  manifest.architecture = check.object(data, "architecture").dump(-1, ' ', true, Json::error_handler_t::replace);
  manifest.source_sha256 = check.optional_text(check.object(data, "source"), "sha256", "source.");
  check.text(data["source"], "path", "source.");
  for (const Json& name : check.list(data, "weight_files")) manifest.weight_files.push_back(check.file_name(name));
  check.object(data, "producer");

  const TensorSpec &input = manifest.input, &output = manifest.output;
  if (steps_only != manifest.lengths.empty() || steps_only == input.any_positions() ||
      (steps_only && output.any_positions())) {
    check.fail("mode is " + shortened(data["mode"]) + ", which lengths and the shapes of input and output contradict");
  }
  if (input.shape.size() < 2 || input.shape[1] > 1 || output.shape.size() < 2 || output.shape[1] > 1) {
    check.fail("input and output have a second dimension that is neither 1 nor the sequence");
  }
  const std::string input_dtype = manifest.vocab_size ? "int64" : "float32";
  if (input.dtype != input_dtype) check.fail("input.dtype is " + input.dtype + ", not " + input_dtype);
  if (output.dtype != "float32") check.fail("output.dtype is " + output.dtype + ", not float32");
  for (const StateTensor& state : manifest.states) {
    if (state.dtype != "float32") check.fail("the state " + state.input + " is " + state.dtype + ", not float32");
  }
  if (manifest.vocab_size && (input.row_elements() != 1 || output.row_elements() != manifest.vocab_size)) {
    check.fail("input and output are not one token and the logits of the vocabulary");
  }
  return manifest;
}

std::string model_hash(const std::filesystem::path& bundle, const Manifest& manifest) {
  Sha256 hash;
  const auto add = [&hash](const std::string& text) { hash.update(text.data(), text.size() + 1); };  // with its NUL
  add(manifest.architecture);
  add(manifest.source_sha256);
  if (manifest.source_sha256.empty()) {
    std::vector<char> block(1 << 20);
    for (const std::string& name : manifest.weight_files) {
      std::ifstream file(bundle / name, std::ios::binary);
      if (!file) throw Error(ErrorCode::bundle, "cannot read " + (bundle / name).string() + ".");
      while (file.read(block.data(), static_cast<std::streamsize>(block.size())) || file.gcount() > 0) {
        hash.update(block.data(), static_cast<std::size_t>(file.gcount()));
      }
    }
  }
  return to_hex(hash.digest());
}

}  // namespace xlstm::internal
