// Run an xLSTM bundle from C++17.
//
//   auto model = xlstm::Model::load("bundles/kjv");      // immutable, shared
//   auto session = model.session();                      // its own state on the shared weights
//   xlstm::Sampler sampler({.8f, 40, .95f, 1});
//   auto logits = session.prefill(xlstm::ByteTokenizer().encode("In the beginning "));
//   for (int i = 0; i < 200; ++i) {
//     auto token = sampler(logits[0]);
//     std::putchar(int(token));
//     logits = session.step(token);
//   }
//
// Thread safety: a Model may be used from any number of threads at once, and so may different Sessions of one Model.
// One Session, or one Sampler, belongs to one thread at a time. On CUDA the Sessions of one Model take turns on the
// device.
//
// A bundle of a user's own network is fed by name, with Session::run:
//
//   auto outputs = session.run({{"x", x}, {"speaker", speaker}});      // vectors or spans of float, int64 or int32
//   const float* y = outputs["y"].data;
//
// Every error is an xlstm::Error. A call that throws leaves the session as it was, unless its description says
// otherwise; with one exception. Where custom operators run the cells on the CPU, they update states in place, and a
// pass that fails midway (ErrorCode::runtime) spoils them: the session then refuses to go on until a reset or a load.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <memory>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__GNUC__)
#define XLSTM_API __attribute__((visibility("default")))
#else
#define XLSTM_API
#endif

namespace xlstm {

enum class ErrorCode {
  bundle = 1,       ///< not a bundle, damaged, incomplete, or of another version
  unavailable = 2,  ///< a library, device or back end is not here
  argument = 3,     ///< a value the caller gave is out of range
  state = 4,        ///< a state file is damaged, of another version, or of another model
  runtime = 5,      ///< the back end failed while running
};

/// The one exception type: what is wrong, where, and what to do.
class XLSTM_API Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const noexcept { return code_; }

 private:
  ErrorCode code_;
};

/// A pointer and a length (std::span is C++20). Made from a vector, an array or a string.
template <class T>
class Span {
 public:
  constexpr Span() = default;
  constexpr Span(T* data, std::size_t size) : data_(data), size_(size) {}
  template <std::size_t N>
  constexpr Span(T (&array)[N]) : data_(array), size_(N) {}
  template <class Container,
            class = std::enable_if_t<std::is_convertible_v<decltype(std::declval<Container&>().data()), T*>>>
  constexpr Span(Container&& container) : data_(container.data()), size_(container.size()) {}

  constexpr T* data() const { return data_; }
  constexpr std::size_t size() const { return size_; }
  constexpr bool empty() const { return size_ == 0; }
  constexpr T& operator[](std::size_t i) const { return data_[i]; }
  constexpr T* begin() const { return data_; }
  constexpr T* end() const { return data_ + size_; }

 private:
  T* data_ = nullptr;
  std::size_t size_ = 0;
};

enum class Backend {
  automatic,  ///< TensorRT where Options::engine names an engine, else ONNX Runtime
  onnxruntime,
  tensorrt,
};

enum class Device {
  automatic,  ///< CUDA where the driver sees a GPU and the back end can use it, else the CPU
  cpu,
  cuda,
};

/// What ONNX Runtime multiplies quantised weights with on the CPU.
enum class Activations {
  int8,     ///< the inputs of each product rounded, to 8 bits, beside 8-bit weights our kernel to 15: fast
  float32,  ///< exact; for 8-bit weights slower than a bundle that is not quantised
};

/// Where to run, and where the libraries lie. Empty paths: see each. The defaults suit most.
struct Options {
  Backend backend = Backend::automatic;
  Device device = Device::automatic;
  int device_id = 0;
  /// Threads of ONNX Runtime inside one step, shared by all sessions of the model; 0: one for each processor core, and
  /// one alone for a model of less than 8 MiB.
  int threads = 0;
  /// Capture a step into CUDA graphs, one for each of the two state buffers, and replay them.
  bool cuda_graph = true;
  /// Positions of a prompt that one pass of prefill takes in, which bounds its memory; 0: 256. On TensorRT no more
  /// than the engine was built for.
  int chunk = 0;
  /// libonnxruntime.so of ONNX Runtime 1.21 or newer. Empty: $XLSTM_ONNXRUNTIME, then the system's. One for a process.
  std::filesystem::path onnxruntime_library;
  /// libxlstm_onnxruntime.so: the cells as custom operators of ONNX Runtime. Empty: their definitions in the bundle are
  /// run.
  std::filesystem::path custom_ops;
  /// A TensorRT engine built from this bundle.
  std::filesystem::path engine;
  /// libnvinfer.so of the major version this library was compiled for. Empty: $XLSTM_NVINFER, then the system's.
  std::filesystem::path tensorrt_library;
  /// libxlstm_tensorrt.so. Empty: the one that lies beside the engine, if any.
  std::filesystem::path plugin_library;
  Activations activations = Activations::int8;
};

/// An input or an output of a model.
struct TensorInfo {
  std::string name;
  std::string dtype;  ///< `float32`, `int64`, `int32`; outputs are float32
  std::vector<std::int64_t>
      shape;           ///< begins with the batch; -1: any, or (of an output of mode `window`) the run tells
  int time_axis = -1;  ///< the dimension that is the number of positions of a pass; -1: there is none
};

/// Of a forecaster, which xlstm/forecast.hpp runs. FORMAT.md says what each entry means.
struct ForecastInfo {
  /// How a window is scaled: by its mean and standard deviation, and, where it is not the standard scaler, then so.
  struct Scaler {
    bool standard = true;
    double floor = 0;      ///< the least scale
    bool arcsinh = false;  ///< scaled values go through arcsinh, and outputs through sinh
    bool binary = false;   ///< a window of no values but 0 and 1 is fed as it is
  };
  /// How far quantiles lie from the median, against what the model says: a factor that grows with the step.
  struct Calibration {
    double band_scale = 1, band_exponent = 0.5;
  };
  /// Which series are fed as differences.
  struct Differencing {
    double score = 0, r_squared = 0;
    Calibration band;
  };

  std::size_t patch = 0;          ///< points of a patch; 0: the model is no forecaster
  std::size_t context = 0;        ///< points that a forecast looks back on
  std::vector<double> quantiles;  ///< levels, ascending
  Scaler scaler;
  std::size_t horizon = 0;  ///< most points of a forecast, all of which come from one window; 0: no bound, any rollout
  std::optional<Differencing> differencing;
  std::optional<Calibration> calibration;  ///< of series that are not differenced
};

/// What a model is: a language model, a block stack (fed vectors, not tokens), or any network, which Session::run
/// feeds.
struct ModelInfo {
  std::string family;  ///< of the checkpoint: `xlstm`, `xlstm-large`, `xlstm-hf`; `network` for a user's own
  std::string dtype;   ///< of weights and activations: `float32`, `float16`, `bfloat16`
  std::string mode;    ///< `step`: one position a pass; `prefill`, `both`: any number; `window`: whole sequences
  std::vector<TensorInfo> inputs, outputs;
  std::size_t vocab_size = 0;            ///< 0: it is no language model
  std::size_t input_width = 0;           ///< values of a row of input: 1 token, or a vector's; 0: only `run` feeds it
  std::size_t output_width = 0;          ///< values of a row of output: the vocabulary, or a vector's; 0: as above
  int batch = 0;                         ///< 0: any
  std::size_t state_bytes = 0;           ///< of one sequence
  bool gives_logits = false;             ///< tokens can be drawn from the output; else it is vectors
  std::int64_t bos_token = -1;           ///< every text begins with it; -1: with none
  std::vector<std::int64_t> eos_tokens;  ///< they end a text
  std::string tokenizer;                 ///< `bytes`, a file in the bundle, or empty: token ids only
  ForecastInfo forecast;                 ///< of a forecaster
  std::string backend;                   ///< `onnxruntime` or `tensorrt`
  std::string device;                    ///< `cpu` or `cuda:0`
  bool cuda_graph = false;               ///< steps are replayed from CUDA graphs
  int chunk = 0;                         ///< most positions of a pass of prefill; 0: it goes step by step
};

/// An input of Session::run: its name, and the values in row-major order of its shape. Refers to both.
class Input {
 public:
  Input(std::string_view name, Span<const float> values) : Input(name, "float32", values) {}
  Input(std::string_view name, Span<const std::int64_t> values) : Input(name, "int64", values) {}
  Input(std::string_view name, Span<const std::int32_t> values) : Input(name, "int32", values) {}

  std::string_view name() const { return name_; }
  std::string_view dtype() const { return dtype_; }
  const void* data() const { return data_; }
  std::size_t size() const { return size_; }

 private:
  template <class T>
  Input(std::string_view name, std::string_view dtype, Span<T> values)
      : name_(name), dtype_(dtype), data_(values.data()), size_(values.size()) {}

  std::string_view name_, dtype_;
  const void* data_;
  std::size_t size_;
};

/// An output of Session::run: float32, dense, on the host.
struct Output {
  std::string_view name;
  const float* data = nullptr;
  Span<const std::int64_t> shape;

  std::size_t size() const {  ///< values
    std::size_t product = 1;
    for (const std::int64_t extent : shape) product *= static_cast<std::size_t>(extent);
    return product;
  }
};

/// The outputs of a pass, in the order of ModelInfo::outputs. They belong to the session and are valid until it is fed
/// again; they may be what it is fed.
class Outputs : public Span<const Output> {
 public:
  using Span::Span;
  using Span::operator[];
  /// Errors: argument (there is no output of this name).
  XLSTM_API const Output& operator[](std::string_view name) const;
};

/// Logits of the vocabulary for every row of the batch (block stacks: outputs), float32, on the host. They belong to
/// the session and are valid until its next step or prefill.
struct Logits {
  const float* data = nullptr;
  std::size_t rows = 0;
  std::size_t width = 0;
  Span<const float> operator[](std::size_t row) const { return {data + row * width, width}; }
};

class Sampler;
class Session;

/// A bundle, loaded: immutable weights that any number of sessions share. Copies refer to the same weights.
class XLSTM_API Model {
 public:
  /// Load the folder that `xlstm-export onnx` wrote.
  /// Errors: bundle, unavailable.
  static Model load(const std::filesystem::path& bundle, const Options& options = {});

  /// `batch` sequences with zero states, which advance together.
  /// Errors: argument (a batch that the bundle or engine was not made for), runtime (out of memory).
  Session session(int batch = 1) const;

  const ModelInfo& info() const noexcept;

  /// SHA-256 (hexadecimal) over architecture and weights: equal for all exports of one checkpoint, whatever their
  /// dtype, batch or back end. A saved state loads into models of equal hash.
  std::string hash() const;

  struct Impl;

 private:
  explicit Model(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<const Impl> impl_;
};

/// The state of `batch` sequences. Keeps its model alive.
class XLSTM_API Session {
 public:
  Session(Session&&) noexcept;
  Session& operator=(Session&&) noexcept;
  ~Session();

  int batch() const noexcept;

  /// Feed one token a row, (batch), and advance the states. Allocates nothing.
  /// Errors: argument (size; a token beyond the vocabulary; a block stack), runtime.
  Logits step(Span<const std::int64_t> tokens);
  /// The same for a batch of 1.
  Logits step(std::int64_t token) { return step(Span<const std::int64_t>(&token, 1)); }

  /// As `step`, then choose a token for each row with `sampler`, in the order of the rows. On a GPU, where the library
  /// was built with XLSTM_CUDA, the choice is made there and only token ids leave it; it is that of the sampler, but
  /// for draws within 1e-12 of the border between two tokens. The ids are valid until the next call.
  /// Errors: as `step`, and argument for a model that gives vectors. The sampler's random numbers may then have been
  /// drawn.
  Span<const std::int64_t> step_and_sample(Span<const std::int64_t> tokens, Sampler& sampler);

  /// For block stacks: feed one vector a row, (batch, width).
  Logits step_vectors(Span<const float> inputs);

  /// Feed a text a row, (batch, length) row by row, in chunks of ModelInfo::chunk positions. Returns the logits after
  /// the last. The first call allocates what all later ones use again, for batch x chunk positions at most.
  /// Errors: as `step`; `argument` leaves the states as they were, `runtime` as after the last good chunk.
  Logits prefill(Span<const std::int64_t> tokens);

  /// The same for texts of different lengths, one a row: each row gets what it would get alone, and its logits are
  /// those after its own last token. An empty text leaves its row as it is; its logits are zeros.
  /// Errors: as above; argument (texts of different lengths, where the model goes step by step).
  Logits prefill(const std::vector<std::vector<std::int64_t>>& prompts);

  /// For block stacks: feed (batch, length, width). Returns the outputs at the last position.
  Logits prefill_vectors(Span<const float> inputs);

  /// One pass of any model: feed each of ModelInfo::inputs once, in any order, and advance the states. How many
  /// positions there are follows from the sizes; an input without a time axis is one value for all of them, and int64
  /// tokens are from 0 to the vocabulary - 1, also in the padding. All positions go through at once: memory grows with
  /// them, and is kept. A pass with as many positions as those before, and every pass of one position, allocates
  /// nothing. `lengths`, (batch): how many positions of each row are there, from 0 on; the rest is padding, and a row
  /// of length 0 keeps its states. Empty: all. An output without a time axis is that of each row's last position. Mode
  /// `step` has one position a pass; mode `window` keeps nothing, and both take no padding. Errors: argument (names,
  /// types, sizes, lengths, tokens; more positions than an engine takes), runtime.
  Outputs run(std::initializer_list<Input> inputs, Span<const std::int32_t> lengths = {}) {
    return run(Span<const Input>(inputs.begin(), inputs.size()), lengths);
  }
  Outputs run(Span<const Input> inputs, Span<const std::int32_t> lengths = {});

  /// Set all states, or those of one row, to zeros: as before the first token.
  void reset();
  void reset(int row);

  /// An independent session with a copy of the states.
  Session fork() const;

  /// The states as a saved state, whose byte format FORMAT.md specifies (installed in share/doc/xlstm); the Python
  /// package reads and writes the same. `load` sets them, and changes nothing where it throws. Errors of load: state
  /// (damaged, or not of this version, model or batch), bundle. The file is written whole or not.
  std::vector<std::uint8_t> save() const;
  void load(Span<const std::uint8_t> bytes);
  void save_file(const std::filesystem::path& path) const;
  void load_file(const std::filesystem::path& path);

  struct Impl;

 private:
  friend class Model;
  explicit Session(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// How to choose a token: `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 keep every token.
struct Sampling {
  double temperature = 0.8;
  std::size_t top_k = 0;
  double top_p = 1.0;
  std::uint32_t seed = 0;
};

/// Draws tokens from one stream of random numbers. From the same logits and seed the Python package draws the same
/// tokens: random numbers, order and sums are the same, so that only a draw within the rounding of `exp`, 1e-15, of the
/// border between two tokens could fall differently.
class XLSTM_API Sampler {
 public:
  /// Errors: argument.
  explicit Sampler(const Sampling& sampling = {});

  /// Choose from the logits (V) of one row. Ties go to the lower token. A NaN (of a broken model) counts as the
  /// greatest logit; where the greatest, divided by the temperature, is not finite, it is chosen.
  std::int64_t operator()(Span<const float> logits);

 private:
  friend class Session;
  double uniform();  // in [0, 1), the next of the stream

  Sampling sampling_;
  std::mt19937 random_;
  std::vector<std::uint32_t> order_;
  std::vector<double> cumulative_;
};

/// Text to token ids and back. Derive from it to plug a tokenizer in.
class XLSTM_API Tokenizer {
 public:
  virtual ~Tokenizer();
  virtual std::vector<std::int64_t> encode(std::string_view text) const = 0;
  virtual std::string decode(Span<const std::int64_t> tokens) const = 0;
};

/// Token = byte.
class XLSTM_API ByteTokenizer : public Tokenizer {
 public:
  std::vector<std::int64_t> encode(std::string_view text) const override;
  std::string decode(Span<const std::int64_t> tokens) const override;
};

/// Version of the library, `0.1.0`.
XLSTM_API const char* version() noexcept;

}  // namespace xlstm
