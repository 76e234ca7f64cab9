// manifest.json of a bundle: the reader of FORMAT.md (xlstm_export/bundle/FORMAT.md), which says what is refused.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "runtime/forecast_format.h"

namespace xlstm::internal {

// Dimensions of a shape that are no counts.
inline constexpr std::int64_t kAnyBatch = 0;  // only the first
inline constexpr std::int64_t kSequence = 0;  // after it: the number of positions of a pass
inline constexpr std::int64_t kUnknown = -1;  // the run tells

struct TensorSpec {
  std::string name;
  std::string dtype;
  std::vector<std::int64_t> shape;

  int time_axis() const;             // of the positions; -1: there is none
  bool is_known() const;             // before the run, its shape is
  std::size_t row_elements() const;  // of one position of one sequence
  std::size_t element_bytes() const { return dtype == "int64" ? 8 : 4; }
  std::size_t row_bytes() const { return row_elements() * element_bytes(); }
  // Of a pass. Throws Error(runtime) where no memory could hold them.
  std::size_t bytes(std::size_t batch, std::size_t positions) const;
  std::vector<std::int64_t> sized(int batch, std::size_t positions) const;  // the shape, with nothing left open
};

struct StateTensor {
  std::string input, output;
  std::string dtype;
  std::vector<std::int64_t> shape;
  bool in_place = false;  // one cell alone reads and writes it: a kernel that reads before it writes needs one buffer

  std::size_t row_elements() const;  // of one sequence
  std::size_t element_bytes() const { return dtype == "float32" ? 4 : 2; }
  std::vector<std::int64_t> sized(int batch) const;
};

struct Manifest {
  std::string family, dtype, mode;
  int batch = kAnyBatch;
  std::vector<TensorSpec> inputs, outputs;
  std::string lengths;  // int32 (batch), the valid positions of each row; empty: a pass has no padding
  std::vector<StateTensor> states;
  std::string tokenizer;                 // empty: none
  std::size_t vocab_size = 0;            // 0: it is no language model
  std::int64_t bos_token = -1;           // every text begins with it; -1: with none
  std::vector<std::int64_t> eos_tokens;  // they end a text
  ForecastSpec forecast;                 // of a forecaster
  std::string architecture;              // canonical JSON
  std::string source_sha256;             // empty: random weights
  std::vector<std::string> weight_files;

  bool is_window() const { return mode == "window"; }  // a pass is a whole sequence, and nothing is kept
  // Whether it is fed a language model's tokens or one tensor of vectors, (batch, positions, width), and gives one of
  // vectors. `input` and `output` are of these alone.
  bool is_single() const;
  const TensorSpec& input() const { return inputs.front(); }
  const TensorSpec& output() const { return outputs.front(); }
  bool gives_logits() const { return vocab_size && output().name == "logits"; }  // from which tokens can be drawn
  std::size_t state_row_elements() const;                                        // of all states of one sequence
  std::size_t state_row_bytes() const;                                           // the same, as a session holds them
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
