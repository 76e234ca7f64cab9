// The same model, bound the same way, by bare calls of ONNX Runtime: what the runtime's own cost is measured against.
#pragma once

#include <dlfcn.h>
#include <onnxruntime_cxx_api.h>

#include <cstdlib>

#include "check.h"
#include "runtime/buffer.h"
#include "runtime/manifest.h"

class BareSession {
 public:
  BareSession(const std::string& bundle, int threads, const char* custom_ops = nullptr)
      : manifest_(xlstm::internal::read_manifest(bundle)), api_(init()) {
    Ort::SessionOptions options;
    if (threads) options.SetIntraOpNumThreads(threads);
    if (custom_ops) options.RegisterCustomOpsLibrary(custom_ops);
    session_ = Ort::Session(env_, (bundle + "/model.onnx").c_str(), options);
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault);
    const auto value = [&](const xlstm::internal::Buffer& data, const std::vector<std::int64_t>& shape,
                           std::size_t row) {
      return Ort::Value::CreateTensor<float>(memory, reinterpret_cast<float*>(data.data()), row, shape.data(),
                                             shape.size());
    };
    const std::vector<std::int64_t> one{1, 1};
    const auto& states = manifest_.states;
    for (auto& set : states_) {
      for (const auto& state : states) set.emplace_back(nullptr, state.row_elements() * sizeof(float));
    }
    logits_.emplace_back(nullptr, manifest_.output().row_elements() * sizeof(float));
    for (int turn = 0; turn < 2; ++turn) {
      Ort::IoBinding& binding = bindings_[turn] = Ort::IoBinding(session_);
      binding.BindInput("tokens", Ort::Value::CreateTensor<std::int64_t>(memory, &token, 1, one.data(), 2));
      binding.BindOutput("logits",
                         value(logits_[0], manifest_.output().sized(1, 1), manifest_.output().row_elements()));
      if (!manifest_.lengths.empty()) {
        binding.BindInput("lengths", Ort::Value::CreateTensor<std::int32_t>(memory, &length, 1, one.data(), 1));
      }
      for (std::size_t i = 0; i < states.size(); ++i) {
        const auto shape = states[i].sized(1);
        binding.BindInput(states[i].input.c_str(), value(states_[turn][i], shape, states[i].row_elements()));
        binding.BindOutput(states[i].output.c_str(), value(states_[1 - turn][i], shape, states[i].row_elements()));
      }
    }
  }

  void run() {
    session_.Run(run_options_, bindings_[turn_]);
    turn_ = 1 - turn_;
  }

  std::int64_t token = 0;
  std::int32_t length = 1;

 private:
  static const OrtApi* init() {
    void* library = dlopen(std::getenv("XLSTM_ONNXRUNTIME"), RTLD_NOW);
    CHECK(library);
    const auto base = reinterpret_cast<const OrtApiBase* (*)()>(dlsym(library, "OrtGetApiBase"));
    const OrtApi* api = base()->GetApi(ORT_API_VERSION);
    Ort::InitApi(api);
    return api;
  }

  xlstm::internal::Manifest manifest_;
  const OrtApi* api_;
  Ort::Env env_{ORT_LOGGING_LEVEL_ERROR, "bare"};
  Ort::Session session_{nullptr};
  // Aligned as the runtime aligns its own: that alone makes a step some per cent faster.
  std::vector<xlstm::internal::Buffer> states_[2], logits_;
  Ort::IoBinding bindings_[2] = {Ort::IoBinding(nullptr), Ort::IoBinding(nullptr)};
  Ort::RunOptions run_options_{nullptr};
  int turn_ = 0;
};
