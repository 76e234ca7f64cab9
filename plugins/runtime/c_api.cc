// xlstm.h over xlstm.hpp: exceptions become statuses.
#include "xlstm/xlstm.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "xlstm/xlstm.hpp"

struct xlstm_model {
  explicit xlstm_model(xlstm::Model loaded)
      : model(std::move(loaded)), inputs(views(model.info().inputs)), outputs(views(model.info().outputs)) {}

  xlstm::Model model;
  std::vector<xlstm_tensor> inputs, outputs;

 private:
  static std::vector<xlstm_tensor> views(const std::vector<xlstm::TensorInfo>& infos) {
    std::vector<xlstm_tensor> result;
    for (const xlstm::TensorInfo& info : infos) {
      const xlstm_dtype dtype = info.dtype == "int64"   ? XLSTM_INT64
                                : info.dtype == "int32" ? XLSTM_INT32
                                                        : XLSTM_FLOAT32;
      result.push_back({info.name.c_str(), dtype, info.shape.data(), info.shape.size(), info.time_axis});
    }
    return result;
  }
};
struct xlstm_session {
  explicit xlstm_session(xlstm::Session made) : session(std::move(made)) {}

  xlstm::Session session;
  std::vector<xlstm::Input> inputs;  // of a run, used again by the next
  std::vector<xlstm_output> outputs;
};
struct xlstm_sampler {
  xlstm::Sampler sampler;
};

namespace {

thread_local std::string last_error;

template <class Body>
xlstm_status guarded(Body&& body) noexcept {
  try {
    body();
    return XLSTM_OK;
  } catch (const xlstm::Error& error) {
    last_error = error.what();
    return static_cast<xlstm_status>(error.code());
  } catch (const std::exception& error) {
    try {
      last_error = error.what();
    } catch (...) {  // no memory for the message
      last_error.clear();
    }
    return XLSTM_ERROR_OTHER;
  }
}

template <class... Pointers>
void require(const Pointers*... pointers) {
  if (((pointers == nullptr) || ...)) throw xlstm::Error(xlstm::ErrorCode::argument, "An argument is NULL.");
}

xlstm::Input to_input(const xlstm_input& input) {
  require(input.name);
  if (input.count) require(input.values);
  int dtype = 0;  // C's enumerations may hold any number
  std::memcpy(&dtype, &input.dtype, sizeof dtype);
  switch (dtype) {
    case XLSTM_FLOAT32:
      return {input.name, xlstm::Span<const float>(static_cast<const float*>(input.values), input.count)};
    case XLSTM_INT64:
      return {input.name, xlstm::Span<const int64_t>(static_cast<const int64_t*>(input.values), input.count)};
    case XLSTM_INT32:
      return {input.name, xlstm::Span<const int32_t>(static_cast<const int32_t*>(input.values), input.count)};
    default:
      throw xlstm::Error(xlstm::ErrorCode::argument, std::string("Input ") + input.name + " has the dtype " +
                                                         std::to_string(dtype) + ", which is no xlstm_dtype.");
  }
}

const char* or_empty(const char* path) { return path ? path : ""; }

xlstm::Options to_options(const xlstm_options* c) {
  xlstm::Options options;
  if (!c) return options;
  if (c->size != sizeof *c) {
    throw xlstm::Error(xlstm::ErrorCode::argument,
                       "xlstm_options has another size than this library's: start from xlstm_default_options().");
  }
  options.backend = static_cast<xlstm::Backend>(c->backend);
  options.device = static_cast<xlstm::Device>(c->device);
  options.device_id = c->device_id;
  options.threads = c->threads;
  options.cuda_graph = c->cuda_graph != 0;
  options.onnxruntime_library = or_empty(c->onnxruntime_library);
  options.custom_ops = or_empty(c->custom_ops);
  options.engine = or_empty(c->engine);
  options.tensorrt_library = or_empty(c->tensorrt_library);
  options.plugin_library = or_empty(c->plugin_library);
  options.chunk = c->chunk;
  options.activations = static_cast<xlstm::Activations>(c->activations);
  return options;
}

}  // namespace

extern "C" {

const char* xlstm_version(void) { return xlstm::version(); }

const char* xlstm_last_error(void) { return last_error.c_str(); }

xlstm_options xlstm_default_options(void) {
  xlstm_options options{};
  options.size = sizeof options;
  options.cuda_graph = 1;
  return options;
}

xlstm_status xlstm_model_load(const char* bundle, const xlstm_options* options, xlstm_model** model) {
  return guarded([&] {
    require(bundle, model);
    *model = new xlstm_model{xlstm::Model::load(bundle, to_options(options))};
  });
}

void xlstm_model_free(xlstm_model* model) { delete model; }
const char* xlstm_model_mode(const xlstm_model* model) { return model->model.info().mode.c_str(); }
size_t xlstm_model_inputs(const xlstm_model* model, const xlstm_tensor** tensors) {
  *tensors = model->inputs.data();
  return model->inputs.size();
}
size_t xlstm_model_outputs(const xlstm_model* model, const xlstm_tensor** tensors) {
  *tensors = model->outputs.data();
  return model->outputs.size();
}
size_t xlstm_model_vocab_size(const xlstm_model* model) { return model->model.info().vocab_size; }
size_t xlstm_model_input_width(const xlstm_model* model) { return model->model.info().input_width; }
size_t xlstm_model_output_width(const xlstm_model* model) { return model->model.info().output_width; }
size_t xlstm_model_state_bytes(const xlstm_model* model) { return model->model.info().state_bytes; }
int64_t xlstm_model_bos_token(const xlstm_model* model) { return model->model.info().bos_token; }
size_t xlstm_model_eos_tokens(const xlstm_model* model, const int64_t** tokens) {
  *tokens = model->model.info().eos_tokens.data();
  return model->model.info().eos_tokens.size();
}

xlstm_status xlstm_session_create(const xlstm_model* model, int batch, xlstm_session** session) {
  return guarded([&] {
    require(model, session);
    *session = new xlstm_session{model->model.session(batch)};
  });
}

xlstm_status xlstm_session_fork(const xlstm_session* session, xlstm_session** fork) {
  return guarded([&] {
    require(session, fork);
    *fork = new xlstm_session{session->session.fork()};
  });
}

void xlstm_session_free(xlstm_session* session) { delete session; }

xlstm_status xlstm_session_step(xlstm_session* session, const int64_t* tokens, size_t count, const float** logits) {
  return guarded([&] {
    require(session, tokens, logits);
    *logits = session->session.step(xlstm::Span<const int64_t>(tokens, count)).data;
  });
}

xlstm_status xlstm_session_step_and_sample(xlstm_session* session, xlstm_sampler* sampler, const int64_t* tokens,
                                           size_t count, int64_t* drawn) {
  return guarded([&] {
    require(session, sampler, tokens, drawn);
    const auto result = session->session.step_and_sample({tokens, count}, sampler->sampler);
    std::copy(result.begin(), result.end(), drawn);
  });
}

xlstm_status xlstm_session_step_vectors(xlstm_session* session, const float* inputs, size_t count,
                                        const float** outputs) {
  return guarded([&] {
    require(session, inputs, outputs);
    *outputs = session->session.step_vectors({inputs, count}).data;
  });
}

xlstm_status xlstm_session_prefill(xlstm_session* session, const int64_t* tokens, size_t count, const float** logits) {
  return guarded([&] {
    require(session, tokens, logits);
    *logits = session->session.prefill({tokens, count}).data;
  });
}

xlstm_status xlstm_session_prefill_rows(xlstm_session* session, const int64_t* tokens, const size_t* lengths,
                                        size_t rows, const float** logits) {
  return guarded([&] {
    require(session, tokens, lengths, logits);
    std::vector<std::vector<int64_t>> prompts;
    for (size_t row = 0; row < rows; tokens += lengths[row++]) prompts.emplace_back(tokens, tokens + lengths[row]);
    *logits = session->session.prefill(prompts).data;
  });
}

xlstm_status xlstm_session_prefill_vectors(xlstm_session* session, const float* inputs, size_t count,
                                           const float** outputs) {
  return guarded([&] {
    require(session, inputs, outputs);
    *outputs = session->session.prefill_vectors({inputs, count}).data;
  });
}

xlstm_status xlstm_session_run(xlstm_session* session, const xlstm_input* inputs, size_t count, const int32_t* lengths,
                               const xlstm_output** outputs) {
  return guarded([&] {
    require(session, outputs);
    if (count) require(inputs);
    session->inputs.clear();
    for (size_t i = 0; i < count; ++i) session->inputs.push_back(to_input(inputs[i]));
    const size_t rows = lengths ? static_cast<size_t>(session->session.batch()) : 0;
    const xlstm::Outputs results = session->session.run(session->inputs, {lengths, rows});
    session->outputs.clear();
    for (const xlstm::Output& one : results) {
      // NOLINTNEXTLINE(bugprone-suspicious-stringview-data-usage): the manifest's own std::string, which ends in a NUL
      session->outputs.push_back({one.name.data(), one.data, one.size(), one.shape.data(), one.shape.size()});
    }
    *outputs = session->outputs.data();
  });
}

xlstm_status xlstm_session_reset(xlstm_session* session, int row) {
  return guarded([&] {
    require(session);
    row == -1 ? session->session.reset() : session->session.reset(row);
  });
}

xlstm_status xlstm_session_save(const xlstm_session* session, void* bytes, size_t capacity, size_t* size) {
  return guarded([&] {
    require(session, size);
    const auto saved = session->session.save();
    *size = saved.size();
    if (!bytes) return;
    if (capacity < saved.size()) {
      throw xlstm::Error(xlstm::ErrorCode::argument, "The saved state takes " + std::to_string(saved.size()) +
                                                         " bytes; there is room for " + std::to_string(capacity) + ".");
    }
    std::memcpy(bytes, saved.data(), saved.size());
  });
}

xlstm_status xlstm_session_load(xlstm_session* session, const void* bytes, size_t size) {
  return guarded([&] {
    require(session, bytes);
    session->session.load({static_cast<const std::uint8_t*>(bytes), size});
  });
}

xlstm_status xlstm_session_save_file(const xlstm_session* session, const char* path) {
  return guarded([&] {
    require(session, path);
    session->session.save_file(path);
  });
}

xlstm_status xlstm_session_load_file(xlstm_session* session, const char* path) {
  return guarded([&] {
    require(session, path);
    session->session.load_file(path);
  });
}

xlstm_status xlstm_sampler_create(double temperature, size_t top_k, double top_p, uint32_t seed,
                                  xlstm_sampler** sampler) {
  return guarded([&] {
    require(sampler);
    *sampler = new xlstm_sampler{xlstm::Sampler({temperature, top_k, top_p, seed})};
  });
}

void xlstm_sampler_free(xlstm_sampler* sampler) { delete sampler; }

xlstm_status xlstm_sampler_draw(xlstm_sampler* sampler, const float* logits, size_t count, int64_t* token) {
  return guarded([&] {
    require(sampler, logits, token);
    *token = sampler->sampler({logits, count});
  });
}

}  // extern "C"
