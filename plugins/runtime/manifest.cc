#include "runtime/manifest.h"

#include <algorithm>
#include <limits>
#include <set>

#include "runtime/checksum.h"
#include "runtime/strict_json.h"
#include "xlstm/xlstm.hpp"

namespace xlstm::internal {
namespace {

constexpr char kFormat[] = "xlstm-bundle";
constexpr int kFormatVersion = 3;
constexpr char kRemedy[] = "Export the bundle again.";

// Of all dimensions after the batch, with 1 for those that are open.
std::size_t product_of_rest(const std::vector<std::int64_t>& shape) {
  std::size_t product = 1;
  for (std::size_t i = 1; i < shape.size(); ++i) {
    product *= static_cast<std::size_t>(std::max<std::int64_t>(shape[i], 1));
  }
  return product;
}

std::string dtype_of(const Fields& entries) {
  return entries.choice("dtype", {"float32", "float16", "bfloat16", "int64", "int32"});
}

TensorSpec tensor(const Fields& entries, int batch, bool positions, bool unknown = false) {
  return {entries.text("name"), dtype_of(entries), entries.shape("shape", batch, positions, unknown)};
}

// Of a language model's tokens and logits: FORMAT.md's second rule and part of its third.
void check_language(const Fields& entries, const Manifest& manifest) {
  const std::int64_t positions = manifest.mode == "step" ? 1 : kSequence;
  if (manifest.is_window() || manifest.inputs.size() != 1 || manifest.outputs.size() != 1) {
    entries.fail("vocab_size is there, but not one input and one output of a mode other than window");
  }
  const TensorSpec &input = manifest.input(), &output = manifest.output();
  const std::string wanted = positions ? "1" : "sequence";
  if (input.dtype != "int64" || input.shape.size() != 2 || input.shape[1] != positions) {
    entries.fail("input is not tokens, int64 (batch, " + wanted + ")");
  }
  if (output.shape.size() != 3 || (output.shape[1] != 1 && output.shape[1] != positions)) {
    entries.fail("output is not vectors, (batch, 1" + std::string(positions ? "" : " or sequence") + ", width)");
  }
  if (manifest.gives_logits() && output.row_elements() != manifest.vocab_size) {
    entries.fail("output is logits of width " + std::to_string(output.row_elements()) + ", which is not vocab_size");
  }
}

// That the graph is what `forecast` says: FORMAT.md's eighth rule.
void check_forecast(const Fields& entries, const Manifest& manifest) {
  if (!manifest.is_single() || manifest.vocab_size || manifest.input().dtype != "float32") {
    entries.fail("forecast is there, but not one float32 input and one output with positions, and no vocabulary");
  }
  if (manifest.input().row_elements() != manifest.forecast.input_width() ||
      manifest.output().row_elements() != manifest.forecast.output_width()) {
    entries.fail("input and output have the widths " + std::to_string(manifest.input().row_elements()) + " and " +
                 std::to_string(manifest.output().row_elements()) + ", but forecast needs " +
                 std::to_string(manifest.forecast.input_width()) + " and " +
                 std::to_string(manifest.forecast.output_width()));
  }
}

// FORMAT.md's eight rules, on a manifest whose entries are all well formed.
void check_rules(const Fields& entries, const Manifest& manifest) {
  const std::string& mode = manifest.mode;
  const auto has_positions = [](const TensorSpec& input) { return input.time_axis() >= 0; };
  if ((mode == "prefill" || mode == "both") &&
      std::none_of(manifest.inputs.begin(), manifest.inputs.end(), has_positions)) {
    entries.fail("no input has positions (sequence), in mode " + mode);
  }
  if (manifest.is_window() && !manifest.states.empty()) entries.fail("states are there in mode window");
  if (manifest.vocab_size) check_language(entries, manifest);
  if (manifest.forecast) check_forecast(entries, manifest);
  for (const TensorSpec& input : manifest.inputs) {
    if (input.dtype != "float32" && input.dtype != "int64" && input.dtype != "int32") {
      entries.fail("input " + input.name + " is " + input.dtype + ", not one of float32, int64, int32");
    }
  }
  for (const TensorSpec& output : manifest.outputs) {
    if (output.dtype != "float32") entries.fail("output " + output.name + " is " + output.dtype + ", not float32");
  }
  const auto check_token = [&](std::int64_t token) {
    if (token >= static_cast<std::int64_t>(manifest.vocab_size)) {
      entries.fail("token " + std::to_string(token) + " is not in the vocabulary");
    }
  };
  check_token(manifest.bos_token);
  for (const std::int64_t token : manifest.eos_tokens) check_token(token);
  std::set<std::string> inputs, outputs;
  const auto check_new = [&](std::set<std::string>& names, const std::string& name) {
    if (!names.insert(name).second) entries.fail("two tensors are called " + name);
  };
  for (const TensorSpec& input : manifest.inputs) check_new(inputs, input.name);
  for (const TensorSpec& output : manifest.outputs) check_new(outputs, output.name);
  if (!manifest.lengths.empty()) check_new(inputs, manifest.lengths);
  for (const StateTensor& state : manifest.states) {
    if (state.dtype == "int64" || state.dtype == "int32") {
      entries.fail("state " + state.input + " is " + state.dtype + ", not one of float32, float16, bfloat16");
    }
    check_new(inputs, state.input);
    check_new(outputs, state.output);
  }
}

// The tensor's name; empty where the mode has none.
std::string lengths_of(const Fields& entries, const Manifest& manifest) {
  const bool without = manifest.mode == "step" || manifest.is_window();
  if (entries.is_null("lengths") != without) {
    entries.fail(std::string("lengths is ") + (without ? "there" : "null") + " in mode " + manifest.mode);
  }
  if (without) return "";
  const TensorSpec lengths = tensor(entries.below("lengths"), manifest.batch, false);
  if (lengths.dtype != "int32" || lengths.shape.size() != 1) {
    entries.fail("lengths is not an int32 for each row of the batch");
  }
  return lengths.name;
}

}  // namespace

int TensorSpec::time_axis() const {
  const auto found = std::find(shape.begin() + 1, shape.end(), kSequence);
  return found == shape.end() ? -1 : static_cast<int>(found - shape.begin());
}

bool TensorSpec::is_known() const { return std::find(shape.begin() + 1, shape.end(), kUnknown) == shape.end(); }

std::size_t TensorSpec::row_elements() const { return product_of_rest(shape); }

std::size_t TensorSpec::bytes(std::size_t batch, std::size_t positions) const {
  std::size_t result = row_bytes();
  if (__builtin_mul_overflow(result, batch, &result) ||
      (time_axis() >= 0 && __builtin_mul_overflow(result, positions, &result)) ||
      result > std::numeric_limits<std::ptrdiff_t>::max()) {
    throw Error(ErrorCode::runtime, "There is no memory for " + name + " of " + std::to_string(batch) + " rows and " +
                                        std::to_string(positions) + " positions.");
  }
  return result;
}

std::vector<std::int64_t> TensorSpec::sized(int batch, std::size_t positions) const {
  std::vector<std::int64_t> result = shape;
  if (const int axis = time_axis(); axis >= 0) result[static_cast<std::size_t>(axis)] = positions;
  result[0] = batch;
  return result;
}

std::size_t StateTensor::row_elements() const { return product_of_rest(shape); }

std::vector<std::int64_t> StateTensor::sized(int batch) const {
  std::vector<std::int64_t> result = shape;
  result[0] = batch;
  return result;
}

bool Manifest::is_single() const {
  if (is_window() || inputs.size() != 1 || outputs.size() != 1) return false;
  const auto &in = input().shape, &out = output().shape;
  const std::int64_t positions = mode == "step" ? 1 : kSequence;
  return in.size() == (vocab_size ? 2 : 3) && in[1] == positions && (vocab_size || input().dtype == "float32") &&
         out.size() == 3 && (out[1] == 1 || out[1] == positions);
}

std::size_t Manifest::state_row_elements() const {
  std::size_t total = 0;
  for (const StateTensor& state : states) total += state.row_elements();
  return total;
}

std::size_t Manifest::state_row_bytes() const {
  std::size_t total = 0;
  for (const StateTensor& state : states) total += state.row_elements() * state.element_bytes();
  return total;
}

Manifest read_manifest(const std::filesystem::path& bundle) {
  const std::filesystem::path path = bundle / kManifestFile;
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored)) {
    throw Error(ErrorCode::bundle, bundle.string() + " is not a bundle: no " + kManifestFile +
                                       " there. Make one with `xlstm-export onnx CKPT -o DIR`.");
  }
  return parse_manifest(read_json_file(path, kRemedy), path.string());
}

Manifest parse_manifest(const std::string& text, const std::string& where) {
  const Json data = parse_json(text, where, kRemedy);
  if (!data.is_object() || data.value("format", Json()) != kFormat) {
    throw Error(ErrorCode::bundle,
                where + " is not a manifest of xlstm-export: no \"format\": \"" + kFormat + "\". " + kRemedy);
  }
  const Json version = data.value("format_version", Json());
  if (!version.is_number_integer() || version != kFormatVersion) {
    throw Error(ErrorCode::bundle, where + " has format version " + version.dump() + "; this library reads version " +
                                       std::to_string(kFormatVersion) +
                                       ". Export the bundle again, or use the library that belongs to it.");
  }
  const Fields entries(data, where, kRemedy);
  entries.require({"family", "dtype", "mode", "batch", "inputs", "lengths", "outputs", "states", "tokenizer",
                   "vocab_size", "architecture", "source", "weight_files", "producer"});
  const Fields source = entries.below("source");
  Manifest manifest;
  manifest.family = entries.text("family");
  manifest.dtype = entries.choice("dtype", {"float32", "float16", "bfloat16"});
  manifest.batch = entries.is_null("batch") ? 0 : entries.count("batch");
  manifest.mode = entries.choice("mode", {"step", "prefill", "both", "window"});
  for (const char* key : {"inputs", "outputs"}) {
    const bool output = key == std::string("outputs");
    std::vector<TensorSpec>& tensors = output ? manifest.outputs : manifest.inputs;
    for (const Fields& entry : entries.each(key)) {
      tensors.push_back(tensor(entry, manifest.batch, manifest.mode != "step", output && manifest.is_window()));
    }
    if (tensors.empty()) entries.fail(std::string(key) + " is empty");
  }
  manifest.lengths = lengths_of(entries, manifest);
  for (const Fields& state : entries.each("states")) {
    manifest.states.push_back({state.text("input"), state.text("output"), dtype_of(state),
                               state.shape("shape", manifest.batch, false, false),
                               !state.is_absent("in_place") && state.boolean("in_place")});
  }
  manifest.tokenizer = entries.is_null("tokenizer") ? "" : entries.file_name("tokenizer");
  manifest.vocab_size = entries.is_null("vocab_size") ? 0 : static_cast<std::size_t>(entries.count("vocab_size"));
  if (!entries.is_absent("bos_token_id")) manifest.bos_token = entries.integer("bos_token_id", 0, kMaxCount);
  if (!entries.is_absent("eos_token_ids")) {
    const std::vector<int> tokens = entries.integers("eos_token_ids", 0);
    manifest.eos_tokens.assign(tokens.begin(), tokens.end());
  }
  if (!entries.is_absent("forecast")) manifest.forecast = parse_forecast(entries.below("forecast"));
  manifest.architecture = canonical_text(entries.mapping("architecture"));
  source.text("path");
  manifest.source_sha256 = source.is_null("sha256") ? "" : source.sha256("sha256");
  manifest.weight_files = entries.file_names("weight_files");
  entries.mapping("producer");
  check_rules(entries, manifest);
  return manifest;
}

std::string model_hash(const std::filesystem::path& bundle, const Manifest& manifest) {
  Sha256 hash;
  const auto add = [&hash](const std::string& text) { hash.update(text.data(), text.size() + 1); };  // with its NUL
  add(manifest.architecture);
  add(manifest.source_sha256);
  if (manifest.source_sha256.empty()) {
    for (const std::string& name : manifest.weight_files) hash.update(bundle / name);
  }
  return to_hex(hash.digest());
}

}  // namespace xlstm::internal
