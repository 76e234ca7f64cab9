#include "runtime/manifest.h"

#include <algorithm>
#include <set>

#include "runtime/checksum.h"
#include "runtime/strict_json.h"
#include "xlstm/xlstm.hpp"

namespace xlstm::internal {
namespace {

constexpr char kFormat[] = "xlstm-bundle";
constexpr int kFormatVersion = 2;
constexpr char kRemedy[] = "Export the bundle again.";

// Of all dimensions after the batch, at one position where their number is open.
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

TensorSpec tensor(const Fields& entries, int batch, bool positions) {
  return {entries.text("name"), dtype_of(entries), entries.shape("shape", batch, positions)};
}

// FORMAT.md's six rules, on a manifest whose entries are all well formed.
void check_rules(const Fields& entries, const Manifest& manifest, bool steps) {
  const TensorSpec &input = manifest.input, &output = manifest.output;
  const std::int64_t positions = steps ? 1 : 0;
  const bool tokens = manifest.vocab_size > 0;
  if (input.dtype != (tokens ? "int64" : "float32") || input.shape.size() != (tokens ? 2 : 3) ||
      input.shape[1] != positions) {
    entries.fail(std::string("input is not ") + (tokens ? "tokens, int64 (batch, " : "vectors, float32 (batch, ") +
                 (steps ? "1" : "sequence") + (tokens ? ")" : ", width)"));
  }
  if (output.dtype != "float32" || output.shape.size() != 3 || (output.shape[1] != 1 && output.shape[1] != positions)) {
    entries.fail(std::string("output is not float32 (batch, 1") + (steps ? "" : " or sequence") + ", width)");
  }
  if (manifest.gives_logits() && output.row_elements() != manifest.vocab_size) {
    entries.fail("output is logits of width " + std::to_string(output.row_elements()) + ", which is not vocab_size");
  }
  const auto check_token = [&](std::int64_t token) {
    if (token >= static_cast<std::int64_t>(manifest.vocab_size)) {
      entries.fail("token " + std::to_string(token) + " is not in the vocabulary");
    }
  };
  check_token(manifest.bos_token);
  for (const std::int64_t token : manifest.eos_tokens) check_token(token);
  std::set<std::string> inputs{input.name}, outputs{output.name};
  const auto check_new = [&](std::set<std::string>& names, const std::string& name) {
    if (!names.insert(name).second) entries.fail("two tensors are called " + name);
  };
  if (!manifest.lengths.empty()) check_new(inputs, manifest.lengths);
  for (const StateTensor& state : manifest.states) {
    if (state.dtype != "float32") entries.fail("state " + state.input + " is " + state.dtype + ", not float32");
    check_new(inputs, state.input);
    check_new(outputs, state.output);
  }
}

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
  entries.require({"family", "dtype", "mode", "batch", "input", "lengths", "output", "states", "tokenizer",
                   "vocab_size", "architecture", "source", "weight_files", "producer"});
  const bool steps = entries.choice("mode", {"step", "prefill", "both"}) == "step";
  const Fields source = entries.below("source");
  Manifest manifest;
  manifest.family = entries.text("family");
  manifest.dtype = entries.choice("dtype", {"float32", "float16", "bfloat16"});
  manifest.batch = entries.is_null("batch") ? 0 : entries.count("batch");
  manifest.input = tensor(entries.below("input"), manifest.batch, !steps);
  if (entries.is_null("lengths") != steps) {
    entries.fail(std::string("lengths is ") + (steps ? "there in mode step" : "null, but the mode is not step"));
  }
  if (!steps) {
    const TensorSpec lengths = tensor(entries.below("lengths"), manifest.batch, false);
    if (lengths.dtype != "int32" || lengths.shape.size() != 1) {
      entries.fail("lengths is not an int32 for each row of the batch");
    }
    manifest.lengths = lengths.name;
  }
  manifest.output = tensor(entries.below("output"), manifest.batch, !steps);
  for (const Fields& state : entries.each("states")) {
    manifest.states.push_back(
        {state.text("input"), state.text("output"), dtype_of(state), state.shape("shape", manifest.batch, false)});
  }
  manifest.tokenizer = entries.is_null("tokenizer") ? "" : entries.file_name("tokenizer");
  manifest.vocab_size = entries.is_null("vocab_size") ? 0 : static_cast<std::size_t>(entries.count("vocab_size"));
  if (!entries.is_absent("bos_token_id")) manifest.bos_token = entries.integer("bos_token_id", 0, kMaxCount);
  if (!entries.is_absent("eos_token_ids")) {
    const std::vector<int> tokens = entries.integers("eos_token_ids", 0);
    manifest.eos_tokens.assign(tokens.begin(), tokens.end());
  }
  manifest.architecture = canonical_text(entries.mapping("architecture"));
  source.text("path");
  manifest.source_sha256 = source.is_null("sha256") ? "" : source.sha256("sha256");
  manifest.weight_files = entries.file_names("weight_files");
  entries.mapping("producer");
  check_rules(entries, manifest, steps);
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
