// manifest.json of a bundle: the reader of FORMAT.md (xlstm_export/bundle/FORMAT.md), which says what is refused.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace xlstm::internal {

struct TensorSpec {
  std::string name;
  std::string dtype;
  std::vector<std::int64_t> shape;  // first the batch, 0 when it is dynamic; then the positions, 0 for any number

  bool any_positions() const { return shape.size() > 1 && shape[1] == 0; }
  std::size_t row_elements() const;  // of one position of one sequence
  std::size_t row_bytes() const { return row_elements() * (dtype == "int64" ? 8 : 4); }
  std::vector<std::int64_t> sized(int batch, std::size_t positions) const;  // the shape, with nothing left open
};

struct StateTensor {
  std::string input, output;
  std::string dtype;
  std::vector<std::int64_t> shape;  // first the batch, 0 when it is dynamic

  std::size_t row_elements() const;  // of one sequence
  std::vector<std::int64_t> sized(int batch) const;
};

struct Manifest {
  std::string family, dtype;
  int batch = 0;  // 0: dynamic
  TensorSpec input, output;
  std::string lengths;  // int32 (batch), the valid positions of each row; empty: a pass is one position of every row
  std::vector<StateTensor> states;
  std::string tokenizer;                 // empty: none
  std::size_t vocab_size = 0;            // 0: it is fed vectors
  std::int64_t bos_token = -1;           // every text begins with it; -1: with none
  std::vector<std::int64_t> eos_tokens;  // they end a text
  std::string architecture;              // canonical JSON
  std::string source_sha256;             // empty: random weights
  std::vector<std::string> weight_files;

  bool gives_logits() const { return output.name == "logits"; }  // from which tokens can be drawn
  std::size_t state_row_elements() const;                        // float32 values of all states of one sequence
};

inline constexpr char kModelFile[] = "model.onnx";
inline constexpr char kManifestFile[] = "manifest.json";

// Throws Error(bundle): not a bundle, not readable, of another version, or with missing or wrong entries.
Manifest read_manifest(const std::filesystem::path& bundle);
// `where` names the file in messages.
Manifest parse_manifest(const std::string& text, const std::string& where);

// The model's hash (FORMAT.md, saved state), hexadecimal. Where the weights came from no file it reads them all.
std::string model_hash(const std::filesystem::path& bundle, const Manifest&);

}  // namespace xlstm::internal
