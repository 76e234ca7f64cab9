// ONNX Runtime, on the CPU or on CUDA. Its library is opened at run time, through its C interface.
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <atomic>
#include <limits>
#include <mutex>

#include "runtime/backend.h"
#include "runtime/cuda_driver.h"
#include "runtime/shared_library.h"

namespace xlstm::internal {
namespace {

// Runs `body`; what ONNX Runtime throws becomes an Error that begins with `doing`.
template <class Body>
auto translated(ErrorCode code, const char* doing, Body&& body) {
  try {
    return body();
  } catch (const Ort::Exception& error) {
    throw Error(code, std::string(doing) + ": " + error.what());
  }
}

// The library and its environment: one for a process, which ends with it (what it registers may not vanish before).
Ort::Env& environment(const Options& options) {
  static std::mutex mutex;
  static std::string* loaded_from = nullptr;
  static Ort::Env* env = nullptr;
  const std::lock_guard lock(mutex);
  std::error_code ignored;
  if (env) {
    const auto& wanted = options.onnxruntime_library;
    if (!wanted.empty() && !std::filesystem::equivalent(wanted, *loaded_from, ignored)) {
      throw Error(ErrorCode::unavailable, "ONNX Runtime is loaded from " + *loaded_from +
                                              " already. A process can use one, not " + wanted.string() + " as well.");
    }
    return *env;
  }
  const SharedLibrary library = SharedLibrary::open(
      "ONNX Runtime", options.onnxruntime_library, "XLSTM_ONNXRUNTIME", {"libonnxruntime.so.1", "libonnxruntime.so"},
      "Name libonnxruntime.so in Options::onnxruntime_library or in the environment variable XLSTM_ONNXRUNTIME; the "
      "pip package onnxruntime-gpu and ONNX Runtime's releases hold one.");
  const OrtApiBase* base = library.function<const OrtApiBase*()>("OrtGetApiBase")();
  const OrtApi* api = base->GetApi(ORT_API_VERSION);
  if (!api) {
    throw Error(ErrorCode::unavailable, library.path() + " is ONNX Runtime " + base->GetVersionString() +
                                            ". Use version 1." + std::to_string(ORT_API_VERSION) + " or newer.");
  }
  Ort::InitApi(api);
  translated(ErrorCode::unavailable, "ONNX Runtime cannot start",
             [&] { env = new Ort::Env(ORT_LOGGING_LEVEL_ERROR, "xlstm"); });
  loaded_from = new std::string(library.path());
  return *env;
}

bool has_cuda_provider() {
  for (const std::string& name : Ort::GetAvailableProviders()) {
    if (name == "CUDAExecutionProvider") return true;
  }
  return false;
}

// Of the custom-op library: whether what stands around the cells runs in its kernels too. They are for the CPU alone.
constexpr const char* kLayersEntry = "ai.xlstm.layers";

// Whether a step's nodes are so short that waking a second thread for them gains nothing.
bool is_tiny(const std::filesystem::path& bundle, const Manifest& manifest) {
  constexpr std::uintmax_t kTinyBytes = 8 << 20;
  std::uintmax_t bytes = 0;
  std::error_code ignored;
  for (const std::string& file : manifest.weight_files) bytes += std::filesystem::file_size(bundle / file, ignored);
  return bytes < kTinyBytes;
}

ONNXTensorElementDataType element_type(const std::string& dtype) {
  if (dtype == "int32") return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
  if (dtype == "float16") return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
  if (dtype == "bfloat16") return ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16;
  return dtype == "int64" ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
}

// What the batches of one model on CUDA share. ONNX Runtime allows one Run at a time on a session with CUDA graphs.
struct Cuda {
  explicit Cuda(int device_index)
      : index(device_index), device(device_index), stream(std::make_shared<const CudaStream>(device)) {}
  int index;
  CudaDevice device;
  std::shared_ptr<const CudaStream> stream;
  std::mutex turn;
  std::atomic<int> next_graph{1};
};

class OnnxRuntimeRunner : public Runner {
 public:
  // `cuda`: null on the CPU. `graph`: capture the steps. Passes' bindings are kept for as long as the next has as many
  // positions.
  OnnxRuntimeRunner(Ort::Session& session, const Manifest& manifest, int batch, BatchBuffers& buffers, Cuda* cuda,
                    bool graph)
      : session_(session),
        manifest_(manifest),
        batch_(batch),
        buffers_(buffers),
        memory_(cuda ? Ort::MemoryInfo("Cuda", OrtDeviceAllocator, cuda->index, OrtMemTypeDefault)
                     : Ort::MemoryInfo("Cpu", OrtDeviceAllocator, 0, OrtMemTypeDefault)) {
    for (const TensorSpec& output : manifest.outputs) told_by_run_ |= !output.is_known();
    if (cuda) pass_options_ = run_options("-1");  // never captured
    for (int turn = 0; turn < 2 && !manifest.is_window(); ++turn) {
      step_[turn].binding = bind(turn, buffers.step);
      if (cuda) options_[turn] = run_options(graph ? std::to_string(cuda->next_graph++) : "-1");
    }
  }

  void step() override {
    const int turn = buffers_.states.current();
    buffers_.step.upload();
    translated(ErrorCode::runtime, "ONNX Runtime failed in a step",
               [&] { session_.Run(options_[turn], step_[turn].binding); });
  }

  void prepare() override {
    const PassBuffers& pass = buffers_.pass;
    Bound& bound = pass_[buffers_.states.current()];
    if (bound.positions == pass.positions() && bound.version == pass.version()) return;
    bound = translated(ErrorCode::runtime, "ONNX Runtime cannot bind the bundle's inputs and outputs",
                       [&] { return Bound{bind(buffers_.states.current(), pass), pass.positions(), pass.version()}; });
  }

  void pass() override {
    PassBuffers& pass = buffers_.pass;
    Ort::IoBinding& binding = pass_[buffers_.states.current()].binding;
    const std::string doing = "ONNX Runtime failed in a pass over " + std::to_string(pass.positions()) + " positions";
    pass.upload();
    translated(ErrorCode::runtime, doing.c_str(), [&] {
      if (told_by_run_) bind_told(binding);
      session_.Run(pass_options_, binding);
      if (told_by_run_) tell(binding);
    });
  }

 private:
  struct Bound {
    Ort::IoBinding binding{nullptr};
    std::size_t positions = 0;
    int version = 0;
  };

  Ort::Value value(void* data, std::size_t bytes, const std::vector<std::int64_t>& shape,
                   const std::string& dtype) const {
    return Ort::Value::CreateTensor(memory_, data, bytes, shape.data(), shape.size(), element_type(dtype));
  }

  // `pass`, from state set `turn` to the other.
  Ort::IoBinding bind(int turn, const PassBuffers& pass) const {
    Ort::IoBinding binding(session_);
    const auto value_of = [&](const TensorSpec& spec, void* data) {
      const auto rows = static_cast<std::size_t>(batch_);
      return value(data, spec.bytes(rows, pass.positions()), spec.sized(batch_, pass.positions()), spec.dtype);
    };
    for (std::size_t i = 0; i < manifest_.inputs.size(); ++i) {
      const TensorSpec& spec = manifest_.inputs[i];
      binding.BindInput(spec.name.c_str(), value_of(spec, pass.input(i)));
    }
    for (std::size_t i = 0; i < manifest_.outputs.size(); ++i) {
      const TensorSpec& spec = manifest_.outputs[i];
      if (spec.is_known()) binding.BindOutput(spec.name.c_str(), value_of(spec, pass.output(i)));
    }
    if (!manifest_.lengths.empty()) {
      binding.BindInput(manifest_.lengths.c_str(), value(pass.lengths(), pass.lengths_bytes(), {batch_}, "int32"));
    }
    const StateBuffers& states = buffers_.states;
    for (std::size_t i = 0; i < states.size(); ++i) {
      const StateTensor& state = manifest_.states[i];
      const std::size_t bytes = states.tensor_bytes(i);
      const auto shape = state.sized(batch_);
      binding.BindInput(state.input.c_str(), value(states.tensor(turn, i), bytes, shape, state.dtype));
      binding.BindOutput(state.output.c_str(), value(states.tensor(1 - turn, i), bytes, shape, state.dtype));
    }
    return binding;
  }

  // Outputs whose shapes the run tells are ONNX Runtime's own memory, on the host, made by each run anew.
  void bind_told(Ort::IoBinding& binding) const {
    const Ort::MemoryInfo host("Cpu", OrtDeviceAllocator, 0, OrtMemTypeDefault);
    for (const TensorSpec& output : manifest_.outputs) {
      if (!output.is_known()) binding.BindOutput(output.name.c_str(), host);
    }
  }

  void tell(const Ort::IoBinding& binding) {
    told_ = binding.GetOutputValues();
    const std::vector<std::string> names = binding.GetOutputNames();
    for (std::size_t i = 0; i < manifest_.outputs.size(); ++i) {
      const TensorSpec& output = manifest_.outputs[i];
      if (output.is_known()) continue;
      const auto found = std::find(names.begin(), names.end(), output.name) - names.begin();
      const Ort::Value& result = told_[static_cast<std::size_t>(found)];
      buffers_.pass.tell(i, result.GetTensorData<float>(), result.GetTensorTypeAndShapeInfo().GetShape());
    }
  }

  // `graph`: the CUDA graph that the run is captured into and replayed from; -1: none.
  static Ort::RunOptions run_options(const std::string& graph) {
    Ort::RunOptions options;
    options.AddConfigEntry("disable_synchronize_execution_providers", "1");  // the stream is waited for by its user
    options.AddConfigEntry("gpu_graph_id", graph.c_str());
    return options;
  }

  Ort::Session& session_;
  const Manifest& manifest_;
  int batch_;
  BatchBuffers& buffers_;
  Ort::MemoryInfo memory_;
  bool told_by_run_ = false;  // of some output, the shape
  std::vector<Ort::Value> told_;
  Bound step_[2], pass_[2];
  Ort::RunOptions options_[2] = {Ort::RunOptions(nullptr), Ort::RunOptions(nullptr)};
  Ort::RunOptions pass_options_{nullptr};
};

class OnnxRuntimeBundle : public LoadedBundle {
 public:
  OnnxRuntimeBundle(const std::filesystem::path& bundle, const Manifest& manifest, const Options& options)
      : env_(environment(options)), manifest_(manifest), kernels_(!options.custom_ops.empty()) {
    const bool possible = options.device != Device::cpu && cuda_device_count() > 0;
    if (options.device == Device::cuda || (possible && has_cuda_provider())) {
      if (!has_cuda_provider()) {
        throw Error(
            ErrorCode::unavailable,
            "This ONNX Runtime has no CUDA provider. Use that of the pip package onnxruntime-gpu, or run on the "
            "CPU (Device::cpu).");
      }
      cuda_ = std::make_unique<Cuda>(options.device_id);
    } else if (manifest.dtype == "bfloat16") {
      throw Error(
          ErrorCode::unavailable,
          bundle.string() +
              " is in bfloat16, which ONNX Runtime cannot compute on the CPU. Export it with --dtype float32 or "
              "float16, or run it on CUDA or TensorRT.");
    }
    const std::string model = (bundle / kModelFile).string();
    const int threads = options.threads ? options.threads : is_tiny(bundle, manifest) ? 1 : 0;
    const auto load = [&] { return Ort::Session(env_, model.c_str(), session_options(options, threads)); };
    graph_ = cuda_ && options.cuda_graph && !manifest.is_window();
    if (graph_) {
      try {
        session_ = load();
        return;
      } catch (const Ort::Exception&) {
        // A graph that is not wholly on the GPU cannot be captured: run it node by node. ModelInfo::cuda_graph tells.
        graph_ = false;
      }
    }
    session_ = translated(ErrorCode::bundle, ("ONNX Runtime cannot load " + model).c_str(), load);
  }

  std::unique_ptr<Batch> batch(int size) const override {
    const Place place = cuda_ ? Place{cuda_->stream, &cuda_->turn} : Place{nullptr, nullptr, kernels_};
    return translated(ErrorCode::runtime, "ONNX Runtime cannot bind the bundle's inputs and outputs", [&] {
      return std::make_unique<Batch>(manifest_, size, place, [&](BatchBuffers& buffers) {
        return std::make_unique<OnnxRuntimeRunner>(session_, manifest_, size, buffers, cuda_.get(), graph_);
      });
    });
  }

  std::string device() const override { return cuda_ ? "cuda:" + std::to_string(cuda_->index) : "cpu"; }
  bool cuda_graph() const override { return graph_; }
  int max_chunk() const override { return manifest_.lengths.empty() ? 0 : std::numeric_limits<int>::max(); }

 private:
  // `threads`: 0: one for each core.
  Ort::SessionOptions session_options(const Options& options, int threads) const {
    Ort::SessionOptions result;
    result.SetLogSeverityLevel(ORT_LOGGING_LEVEL_ERROR);
    if (threads) result.SetIntraOpNumThreads(threads);
    const bool exact = options.activations == Activations::float32;
    result.AddConfigEntry("session.qdq_matmulnbits_accuracy_level", exact ? "1" : "4");
    // Threads that wait for the next pass in a loop take the cores from all else, another session's pass above all.
    result.AddConfigEntry("session.force_spinning_stop", "1");
    if (const auto& library = options.custom_ops; !library.empty()) {
      std::error_code failure;
      const auto path = std::filesystem::canonical(library, failure);
      if (failure) {
        throw Error(ErrorCode::unavailable,
                    "There is no custom-op library at " + library.string() +
                        ". Build libxlstm_onnxruntime.so, or leave Options::custom_ops empty to run the cells' "
                        "definitions.");
      }
      result.AddConfigEntry(kLayersEntry, cuda_ ? "0" : "1");
      translated(ErrorCode::unavailable, ("ONNX Runtime cannot use " + path.string()).c_str(),
                 [&] { result.RegisterCustomOpsLibrary(path.c_str()); });
    }
    if (cuda_) {
      const OrtApi& api = Ort::GetApi();
      OrtCUDAProviderOptionsV2* cuda = nullptr;
      Ort::ThrowOnError(api.CreateCUDAProviderOptions(&cuda));
      const std::unique_ptr<OrtCUDAProviderOptionsV2, void (*)(OrtCUDAProviderOptionsV2*)> owner(
          cuda, api.ReleaseCUDAProviderOptions);
      const std::string id = std::to_string(cuda_->index);
      const char* const keys[] = {"device_id", "use_tf32", "enable_cuda_graph"};  // float32 means float32
      const char* const values[] = {id.c_str(), "0", graph_ ? "1" : "0"};
      Ort::ThrowOnError(api.UpdateCUDAProviderOptions(cuda, keys, values, std::size(keys)));
      Ort::ThrowOnError(api.UpdateCUDAProviderOptionsWithValue(cuda, "user_compute_stream",
                                                               static_cast<CUstream_st*>(*cuda_->stream)));
      result.AppendExecutionProvider_CUDA_V2(*cuda);
    }
    return result;
  }

  Ort::Env& env_;  // first: without the library, not even empty handles can be destroyed
  Manifest manifest_;
  bool kernels_;  // run the cells
  bool graph_ = false;
  std::unique_ptr<Cuda> cuda_;
  mutable Ort::Session session_{nullptr};  // Run is safe from several threads
};

}  // namespace

std::unique_ptr<LoadedBundle> load_onnxruntime(const std::filesystem::path& bundle, const Manifest& manifest,
                                               const Options& options) {
  return std::make_unique<OnnxRuntimeBundle>(bundle, manifest, options);
}

}  // namespace xlstm::internal
