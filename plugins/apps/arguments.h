// Command lines of the applications: `--name value` and `--flag`.
#pragma once

#include <xlstm/xlstm.hpp>

#include <map>
#include <set>
#include <string>
#include <vector>

namespace apps {

class Arguments {
 public:
  // Throws xlstm::Error(argument) for an unknown option or a missing value.
  Arguments(int argc, char** argv, const std::set<std::string>& names, const std::set<std::string>& flags) {
    for (int i = 1; i < argc; ++i) {
      const std::string argument = argv[i];
      if (argument.rfind("--", 0) != 0) {
        positional.push_back(argument);
      } else if (flags.count(argument.substr(2))) {
        values_[argument.substr(2)] = "1";
      } else if (names.count(argument.substr(2))) {
        if (++i == argc) fail(argument + " needs a value.");
        values_[argument.substr(2)] = argv[i];
      } else {
        fail("unknown option " + argument + ". See --help.");
      }
    }
  }

  bool has(const std::string& name) const { return values_.count(name) > 0; }

  std::string text(const std::string& name, const std::string& otherwise = "") const {
    return has(name) ? values_.at(name) : otherwise;
  }

  double number(const std::string& name, double otherwise) const {
    if (!has(name)) return otherwise;
    try {
      std::size_t used = 0;
      const double value = std::stod(values_.at(name), &used);
      if (used == values_.at(name).size()) return value;
    } catch (const std::exception&) {
    }
    fail("--" + name + " is " + values_.at(name) + ", not a number.");
  }

  std::uint32_t count(const std::string& name, std::uint32_t otherwise) const {
    const double value = number(name, otherwise);
    if (value < 0 || value > 4294967295.0 || value != static_cast<double>(static_cast<std::uint32_t>(value)))
      fail("--" + name + " is " + text(name) + ": give a whole number from 0 to 4294967295.");
    return static_cast<std::uint32_t>(value);
  }

  // The options of every application; see model_help.
  xlstm::Options model_options() const {
    xlstm::Options options;
    const std::map<std::string, xlstm::Backend> backends{{"automatic", xlstm::Backend::automatic},
                                                         {"onnxruntime", xlstm::Backend::onnxruntime},
                                                         {"tensorrt", xlstm::Backend::tensorrt}};
    const std::map<std::string, xlstm::Device> devices{
        {"automatic", xlstm::Device::automatic}, {"cpu", xlstm::Device::cpu}, {"cuda", xlstm::Device::cuda}};
    options.backend = choice("backend", backends);
    options.device = choice("device", devices);
    options.threads = static_cast<int>(count("threads", 0));
    options.chunk = static_cast<int>(count("chunk", 0));
    options.onnxruntime_library = text("onnxruntime");
    options.custom_op_library = text("ops");
    options.engine = text("engine");
    options.plugin_library = text("plugins");
    return options;
  }

  static std::set<std::string> model_names() {
    return {"backend", "device", "threads", "chunk", "onnxruntime", "ops", "engine", "plugins"};
  }

  [[noreturn]] static void fail(const std::string& message) { throw xlstm::Error(xlstm::ErrorCode::argument, message); }

  std::vector<std::string> positional;

 private:
  template <class T>
  T choice(const std::string& name, const std::map<std::string, T>& allowed) const {
    const auto found = allowed.find(text(name, "automatic"));
    if (found != allowed.end()) return found->second;
    std::string names;
    for (const auto& item : allowed) names += (names.empty() ? "" : ", ") + item.first;
    fail("--" + name + " is " + text(name) + ", not one of " + names + ".");
  }

  std::map<std::string, std::string> values_;
};

inline constexpr char model_help[] =
    "  --backend B        onnxruntime, tensorrt, or automatic (default)\n"
    "  --device D         cpu, cuda, or automatic (default)\n"
    "  --threads N        of ONNX Runtime inside one step (default: one for each core)\n"
    "  --chunk N          positions of a prompt that one pass takes in (default 256, or what the engine takes)\n"
    "  --onnxruntime LIB  libonnxruntime.so (default: $XLSTM_ONNXRUNTIME, then the system's)\n"
    "  --ops LIB          libxlstm_onnxruntime.so: fused cells (default: the definitions in the bundle)\n"
    "  --engine FILE      a TensorRT engine built from this bundle\n"
    "  --plugins LIB      libxlstm_tensorrt.so (default: the one beside the engine)\n";

}  // namespace apps
