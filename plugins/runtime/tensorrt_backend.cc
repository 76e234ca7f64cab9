// TensorRT. libnvinfer is opened at run time; only its headers are compiled in. A step, with the transfer of its
// input, is captured once for each of the two state sets into a CUDA graph, and replayed from it. Prefill has an
// execution context of its own, on the engine's prefill profile, and is not captured.
#include <NvInferRuntime.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <mutex>
#include <optional>

#include "cells/contract.h"
#include "runtime/backend.h"
#include "runtime/cuda_driver.h"
#include "runtime/engine_choice.h"
#include "runtime/shared_library.h"

#if __has_include(<cuda.h>)
#include <cuda.h>
namespace {
// The driver functions that cuda_driver.h declares pass their parameters as those of cuda.h do.
template <class A, class B>
constexpr bool alike() {
  if constexpr (std::is_pointer_v<A> || std::is_pointer_v<B>) {
    return std::is_pointer_v<A> && std::is_pointer_v<B>;
  } else {
    return sizeof(A) == sizeof(B);
  }
}
template <class... A, class... B>
constexpr bool same_call(int (*)(A...), CUresult (*)(B...)) {
  if constexpr (sizeof...(A) == sizeof...(B)) return (alike<A, B>() && ...);
  return false;
}
#define XLSTM_COMPARE(name, ...) \
  static_assert(same_call(static_cast<int (*)(__VA_ARGS__)>(nullptr), static_cast<decltype(&::name)>(nullptr)), #name);
XLSTM_CUDA_DRIVER(XLSTM_COMPARE)
#undef XLSTM_COMPARE
}  // namespace
#endif

namespace xlstm::internal {
namespace {

constexpr int kThreadLocalCapture = 1;  // CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may allocate meanwhile

// Keeps TensorRT's last error, for the message of the Error that follows.
class Logger : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override {
    if (severity > Severity::kERROR) return;
    const std::lock_guard lock(mutex_);
    try {
      last_ = message;
    } catch (...) {  // no memory for the message: keep the old one
    }
  }

  std::string last() {
    const std::lock_guard lock(mutex_);
    return last_.empty() ? "it gives no reason" : last_;
  }

 private:
  std::mutex mutex_;
  std::string last_;
};

std::string name_of(nvinfer1::DataType type) {
  switch (type) {
    case nvinfer1::DataType::kFLOAT:
      return "float32";
    case nvinfer1::DataType::kHALF:
      return "float16";
    case nvinfer1::DataType::kBF16:
      return "bfloat16";
    case nvinfer1::DataType::kINT32:
      return "int32";
    case nvinfer1::DataType::kINT64:
      return "int64";
    default:
      return "type " + std::to_string(static_cast<int>(type));
  }
}

nvinfer1::Dims dims_of(const std::vector<std::int64_t>& shape) {
  nvinfer1::Dims dims{};
  if (shape.size() > nvinfer1::Dims::MAX_DIMS) {
    throw Error(ErrorCode::bundle, "A tensor has too many dimensions for TensorRT.");
  }
  dims.nbDims = static_cast<std::int32_t>(shape.size());
  std::copy(shape.begin(), shape.end(), dims.d);
  return dims;
}

std::string text_of(const nvinfer1::Dims& dims) {
  std::string text;
  for (int i = 0; i < dims.nbDims; ++i) text += (i ? "x" : "") + std::to_string(dims.d[i]);
  return text;
}

// What the batches of one model share.
struct Shared {
  Manifest manifest;
  CudaDevice device;
  Engine file = {};
  Logger logger = {};
  std::unique_ptr<nvinfer1::IRuntime> runtime = nullptr;
  std::unique_ptr<nvinfer1::ICudaEngine> engine = nullptr;  // its contexts may be used from several threads, one each
};

// An execution context on one of the engine's optimisation profiles.
class Context {
 public:
  // `stream`: where all its work is queued.
  Context(Shared& shared, int profile, int batch, const CudaStream& stream)
      : shared_(shared),
        profile_(profile),
        batch_(batch),
        stream_(stream),
        // Memory for this profile alone: steps need little, prefill much.
        context_(shared.engine->createExecutionContext(Allocation::kON_PROFILE_CHANGE)) {
    if (!context_ || !context_->setOptimizationProfileAsync(profile, stream)) {
      throw Error(ErrorCode::runtime, "TensorRT cannot make an execution context on the engine's " + name() +
                                          " profile: " + shared.logger.last());
    }
    for (const StateTensor& state : shared.manifest.states) set_shape(state.input, state.sized(batch));
    if (const std::string& lengths = shared.manifest.lengths; !lengths.empty()) set_shape(lengths, {batch});
    for (const TensorSpec& input : shared.manifest.inputs) {
      if (input.time_axis() < 0) set_shape(input.name, input.sized(batch, 1));
    }
  }

  // All that follow: so many positions of every row. Throws Error(argument) where the profile does not take them.
  void set_positions(std::size_t positions) {
    if (positions == positions_) return;
    positions_ = 0;
    for (const TensorSpec& input : shared_.manifest.inputs) {
      if (input.time_axis() >= 0) set_shape(input.name, input.sized(batch_, positions));
    }
    positions_ = positions;
  }

  // Queue a pass from state set `turn` to the other.
  void enqueue(const StateBuffers& states, int turn, const PassBuffers& pass) {
    const Manifest& manifest = shared_.manifest;
    for (std::size_t i = 0; i < manifest.inputs.size(); ++i) bind(manifest.inputs[i].name, pass.input(i));
    for (std::size_t i = 0; i < manifest.outputs.size(); ++i) bind(manifest.outputs[i].name, pass.output(i));
    if (!manifest.lengths.empty()) bind(manifest.lengths, pass.lengths());
    for (std::size_t i = 0; i < states.size(); ++i) {
      bind(manifest.states[i].input, states.tensor(turn, i));
      bind(manifest.states[i].output, states.tensor(1 - turn, i));
    }
    if (!context_->enqueueV3(stream_)) {
      throw Error(ErrorCode::runtime,
                  "TensorRT failed on the engine's " + name() + " profile: " + shared_.logger.last());
    }
  }

 private:
  using Allocation = nvinfer1::ExecutionContextAllocationStrategy;

  std::string name() const {
    const EngineRecord& record = shared_.file.record;
    return record.window ? "window" : profile_ == record.prefill_profile ? "prefill" : "decode";
  }

  void set_shape(const std::string& tensor, const std::vector<std::int64_t>& shape) {
    const nvinfer1::Dims dims = dims_of(shape);
    if (context_->setInputShape(tensor.c_str(), dims)) return;
    using Selector = nvinfer1::OptProfileSelector;
    const auto bound = [&](Selector selector) {
      return text_of(shared_.engine->getProfileShape(tensor.c_str(), profile_, selector));
    };
    throw Error(ErrorCode::argument, "The engine's " + name() + " profile takes " + tensor + " of " +
                                         bound(Selector::kMIN) + " to " + bound(Selector::kMAX) + ", not " +
                                         text_of(dims) +
                                         ". Feed it what it takes, or build the engine again for more.");
  }

  void bind(const std::string& name, void* address) {
    if (!context_->setTensorAddress(name.c_str(), address)) {
      throw Error(ErrorCode::bundle,
                  "The engine does not take the bundle's tensor " + name + ": " + shared_.logger.last());
    }
  }

  Shared& shared_;
  int profile_, batch_;
  const CudaStream& stream_;
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
  std::size_t positions_ = 0;
};

class TensorRTRunner : public Runner {
 public:
  // The states are zeros before and after it is made.
  TensorRTRunner(Shared& shared, int batch, BatchBuffers& buffers, const CudaStream& stream, bool graphs)
      : shared_(shared), batch_(batch), buffers_(buffers), stream_(stream) {
    if (shared.manifest.is_window()) return;
    decode_.emplace(shared, shared.file.record.decode_profile, batch, stream);
    decode_->set_positions(1);
    if (!graphs) return;
    StateBuffers& states = buffers.states;
    for (int turn = 0; turn < 2; ++turn) capture(turn);
    for (int turn = 0; turn < 2; ++turn, states.advance()) states.reset(-1);  // what the first runs left
  }

  void step() override {
    const int turn = buffers_.states.current();
    if (graphs_[turn]) {
      XLSTM_CUDA(shared_.device, cuGraphLaunch, graphs_[turn].get(), stream_);
    } else {
      enqueue(turn);
    }
  }

  void prepare() override {
    const int profile = shared_.file.record.prefill_profile;
    if (profile < 0) {
      throw Error(ErrorCode::argument,
                  "The engine takes one position a pass, not " + std::to_string(buffers_.pass.positions()) +
                      ": it has no prefill profile. Feed one at a time, or build the engine again.");
    }
    if (!prefill_) prefill_.emplace(shared_, profile, batch_, stream_);
    prefill_->set_positions(buffers_.pass.positions());
  }

  void pass() override {
    buffers_.pass.upload();
    prefill_->enqueue(buffers_.states, buffers_.states.current(), buffers_.pass);
  }

 private:
  struct DestroyGraph {
    const CudaDevice* device;
    void operator()(CUgraphExec_st* graph) const { device->cuGraphExecDestroy(graph); }
  };
  using Graph = std::unique_ptr<CUgraphExec_st, DestroyGraph>;

  // Queue one step from state set `turn` to the other, with the transfer of its inputs.
  void enqueue(int turn) {
    buffers_.step.upload();
    decode_->enqueue(buffers_.states, turn, buffers_.step);
  }

  void capture(int turn) {
    enqueue(turn);  // the first run of a context does work that cannot be captured
    stream_.synchronize();
    const CudaDevice& device = shared_.device;
    CUgraph_st* graph = nullptr;
    XLSTM_CUDA(device, cuStreamBeginCapture_v2, stream_, kThreadLocalCapture);
    try {
      enqueue(turn);
    } catch (const Error& error) {
      device.cuStreamEndCapture(stream_, &graph);
      if (graph) device.cuGraphDestroy(graph);
      throw Error(ErrorCode::runtime, std::string("A step cannot be captured into a CUDA graph: ") + error.what() +
                                          " Set Options::cuda_graph to false to run without.");
    }
    XLSTM_CUDA(device, cuStreamEndCapture, stream_, &graph);
    CUgraphExec_st* executable = nullptr;
    const int result = device.cuGraphInstantiateWithFlags(&executable, graph, 0ull);
    device.cuGraphDestroy(graph);
    device.check(result, "cuGraphInstantiateWithFlags");
    graphs_[turn].reset(executable);
  }

  Shared& shared_;
  int batch_;
  BatchBuffers& buffers_;
  const CudaStream& stream_;
  std::optional<Context> decode_;   // but in mode window
  std::optional<Context> prefill_;  // made when first needed, as its buffers
  Graph graphs_[2] = {Graph(nullptr, DestroyGraph{&shared_.device}), Graph(nullptr, DestroyGraph{&shared_.device})};
};

class TensorRTBundle : public LoadedBundle {
 public:
  TensorRTBundle(const std::filesystem::path& bundle, const Manifest& manifest, const Options& options)
      : library_(open_library(options)),
        shared_{manifest, CudaDevice(device_index(options))},
        index_(options.device_id),
        graphs_(options.cuda_graph && !manifest.is_window()) {
    for (const TensorSpec& output : manifest.outputs) {
      if (output.is_known()) continue;
      throw Error(ErrorCode::unavailable, "How large the output " + output.name +
                                              " is, the run tells, which this library does not ask of TensorRT. Run "
                                              "the bundle with ONNX Runtime (Backend::onnxruntime).");
    }
    const Engine& file = shared_.file = choose_engine({bundle, manifest.batch, NV_TENSORRT_MAJOR}, options.engine);
    const auto create = library_.function<void*(void*, std::int32_t)>("createInferRuntime_INTERNAL");
    shared_.runtime.reset(static_cast<nvinfer1::IRuntime*>(create(&shared_.logger, NV_TENSORRT_VERSION)));
    if (!shared_.runtime) throw Error(ErrorCode::unavailable, "TensorRT cannot start: " + shared_.logger.last());
    shared_.runtime->setEngineHostCodeAllowed(true);  // version-compatible engines carry their runtime
    if (!file.record.plugins.empty() || !options.plugin_library.empty()) load_plugins(options.plugin_library);
    std::ifstream stream(file.path, std::ios::binary);
    const std::vector<char> bytes{std::istreambuf_iterator<char>(stream), {}};
    shared_.engine.reset(shared_.runtime->deserializeCudaEngine(bytes.data(), bytes.size()));
    if (!shared_.engine) {
      throw Error(ErrorCode::unavailable,
                  "TensorRT cannot load " + file.path.string() + ": " + shared_.logger.last() +
                      ". Engines fit the GPU and the TensorRT version they were built for; build it "
                      "again on this machine.");
    }
    for (const TensorSpec& t : manifest.inputs) check_tensor(t.name, t.dtype, nvinfer1::TensorIOMode::kINPUT);
    for (const TensorSpec& t : manifest.outputs) check_tensor(t.name, t.dtype, nvinfer1::TensorIOMode::kOUTPUT);
    if (!manifest.lengths.empty()) check_tensor(manifest.lengths, "int32", nvinfer1::TensorIOMode::kINPUT);
    if (const int profiles = shared_.engine->getNbOptimizationProfiles();
        std::max(file.record.decode_profile, file.record.prefill_profile) >= profiles ||
        file.record.window != manifest.is_window()) {
      throw Error(ErrorCode::bundle,
                  file.path.string() + " has " + std::to_string(profiles) +
                      " optimisation profiles, and not those that the bundle and the file beside it name. Build the "
                      "engine again from this bundle.");
    }
    for (const StateTensor& state : manifest.states) {
      check_tensor(state.input, state.dtype, nvinfer1::TensorIOMode::kINPUT);
      check_tensor(state.output, state.dtype, nvinfer1::TensorIOMode::kOUTPUT);
    }
  }

  std::unique_ptr<Batch> batch(int size) const override {
    shared_.device.make_current();
    const auto stream = std::make_shared<const CudaStream>(shared_.device);
    return std::make_unique<Batch>(shared_.manifest, size, Place{stream}, [&](BatchBuffers& buffers) {
      return std::make_unique<TensorRTRunner>(shared_, size, buffers, *stream, graphs_);
    });
  }

  std::string device() const override { return "cuda:" + std::to_string(index_); }
  bool cuda_graph() const override { return graphs_; }
  int max_chunk() const override { return shared_.file.record.window ? 0 : shared_.file.record.max_chunk; }

 private:
  static SharedLibrary open_library(const Options& options) {
    const std::string major = std::to_string(NV_TENSORRT_MAJOR);
    const SharedLibrary library =
        SharedLibrary::open("TensorRT", options.tensorrt_library, "XLSTM_NVINFER", {"libnvinfer.so." + major},
                            "Install TensorRT " + major + ", or name its libnvinfer.so." + major +
                                " in Options::tensorrt_library or in the environment variable XLSTM_NVINFER.");
    const std::int32_t version = library.function<std::int32_t()>("getInferLibVersion")();
    if (const std::int32_t found = version / 10000; found != NV_TENSORRT_MAJOR) {
      throw Error(ErrorCode::unavailable, library.path() + " is TensorRT " + std::to_string(found) +
                                              "; this libxlstm_runtime was compiled for TensorRT " + major +
                                              ". Compile it against the headers of that version.");
    }
    return library;
  }

  static int device_index(const Options& options) {
    if (options.device == Device::cpu) {
      throw Error(ErrorCode::argument,
                  "TensorRT runs on a GPU alone. Choose Device::cuda, or the ONNX Runtime back end.");
    }
    return options.device_id;
  }

  // `named`: by the user; empty: the library beside the engine.
  void load_plugins(const std::filesystem::path& named) {
    nvinfer1::IPluginRegistry& registry = shared_.runtime->getPluginRegistry();
    if (registry.getCreator(kMlstm.name, kPluginVersion, kDomain)) return;  // the application has loaded them
    const Engine& file = shared_.file;
    const auto path = named.empty() ? file.path.parent_path() / file.record.plugins : named;
    std::error_code ignored;
    if (!std::filesystem::is_regular_file(path, ignored)) {
      throw Error(ErrorCode::unavailable,
                  file.path.string() + " needs the plugin library " + path.string() +
                      ", which is not there. Copy libxlstm_tensorrt.so beside the engine, or name it in "
                      "Options::plugin_library.");
    }
    if (!registry.loadLibrary(path.string().c_str())) {
      throw Error(ErrorCode::unavailable,
                  "TensorRT cannot load the plugin library " + path.string() + ": " + shared_.logger.last());
    }
  }

  void check_tensor(const std::string& name, const std::string& dtype, nvinfer1::TensorIOMode mode) const {
    if (shared_.engine->getTensorIOMode(name.c_str()) != mode) {
      throw Error(ErrorCode::bundle, "The engine has no " +
                                         std::string(mode == nvinfer1::TensorIOMode::kINPUT ? "input " : "output ") +
                                         name + ", which the bundle names. Build the engine again from this bundle.");
    }
    if (const std::string found = name_of(shared_.engine->getTensorDataType(name.c_str())); found != dtype) {
      throw Error(ErrorCode::bundle, "The engine's " + name + " is " + found + ", not " + dtype +
                                         " as in the bundle. Build the "
                                         "engine again from this bundle.");
    }
  }

  SharedLibrary library_;
  mutable Shared shared_;
  int index_;
  bool graphs_;
};

}  // namespace

std::unique_ptr<LoadedBundle> load_tensorrt(const std::filesystem::path& bundle, const Manifest& manifest,
                                            const Options& options) {
  return std::make_unique<TensorRTBundle>(bundle, manifest, options);
}

}  // namespace xlstm::internal
