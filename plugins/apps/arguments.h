// Command lines of the applications: `--name value`, `--help`, and what all of them take.
#pragma once

#include <xlstm/xlstm.hpp>

#include <cstdio>
#include <limits>
#include <map>
#include <set>
#include <string>

namespace apps {

[[noreturn]] inline void fail(const std::string& message) { throw xlstm::Error(xlstm::ErrorCode::argument, message); }

class Arguments {
 public:
  // `names`, `flags`: of the application's own options, with and without a value. Throws xlstm::Error(argument) for an
  // unknown option or a missing value.
  Arguments(int argc, char** argv, std::set<std::string> names, const std::set<std::string>& flags) {
    names.insert(
        {"backend", "device", "threads", "chunk", "onnxruntime", "custom-ops", "engine", "plugins", "activations"});
    for (int i = 1; i < argc; ++i) {
      const std::string argument = argv[i];
      if (argument == "--help") {
        help_ = true;
      } else if (argument.rfind("--", 0) != 0) {
        if (!bundle_.empty()) fail("There are two bundles, " + bundle_ + " and " + argument + ". Give one.");
        bundle_ = argument;
      } else if (flags.count(argument.substr(2))) {
        values_[argument.substr(2)] = "";
      } else if (names.count(argument.substr(2))) {
        if (++i == argc) fail(argument + " needs a value.");
        values_[argument.substr(2)] = argv[i];
      } else {
        fail("There is no option " + argument + ". See --help.");
      }
    }
  }

  bool wants_help() const { return help_; }
  bool has_bundle() const { return !bundle_.empty(); }
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
    } catch (const std::exception&) {  // as below
    }
    fail("--" + name + " is " + values_.at(name) + "; give a number.");
  }

  std::uint32_t count(const std::string& name, std::uint32_t otherwise,
                      std::uint32_t most = std::numeric_limits<std::int32_t>::max()) const {
    const double value = number(name, otherwise);
    if (!(value >= 0 && value <= most) || value != static_cast<double>(static_cast<std::uint32_t>(value))) {
      fail("--" + name + " is " + text(name) + "; give a whole number from 0 to " + std::to_string(most) + ".");
    }
    return static_cast<std::uint32_t>(value);
  }

  // `threads`: where the user does not say.
  xlstm::Model load(std::uint32_t threads = 0) const {
    const std::map<std::string, xlstm::Backend> backends{{"automatic", xlstm::Backend::automatic},
                                                         {"onnxruntime", xlstm::Backend::onnxruntime},
                                                         {"tensorrt", xlstm::Backend::tensorrt}};
    const std::map<std::string, xlstm::Device> devices{
        {"automatic", xlstm::Device::automatic}, {"cpu", xlstm::Device::cpu}, {"cuda", xlstm::Device::cuda}};
    xlstm::Options options;
    options.backend = choice("backend", backends);
    options.device = choice("device", devices);
    options.threads = static_cast<int>(count("threads", threads));
    options.chunk = static_cast<int>(count("chunk", 0));
    options.onnxruntime_library = text("onnxruntime");
    options.custom_ops = text("custom-ops");
    options.engine = text("engine");
    options.plugin_library = text("plugins");
    const std::map<std::string, xlstm::Activations> activations{{"int8", xlstm::Activations::int8},
                                                                {"float32", xlstm::Activations::float32}};
    options.activations = choice("activations", activations, "int8");
    return xlstm::Model::load(bundle_, options);
  }

 private:
  template <class T>
  T choice(const std::string& name, const std::map<std::string, T>& allowed,
           const std::string& otherwise = "automatic") const {
    const auto found = allowed.find(text(name, otherwise));
    if (found != allowed.end()) return found->second;
    std::string names;
    for (const auto& item : allowed) names += (names.empty() ? "" : ", ") + item.first;
    fail("--" + name + " is " + text(name) + "; give one of " + names + ".");
  }

  std::string bundle_;
  std::map<std::string, std::string> values_;
  bool help_ = false;
};

inline constexpr char kCommonHelp[] =
    "  --backend B        onnxruntime, tensorrt, or automatic (default)\n"
    "  --device D         cpu, cuda, or automatic (default)\n"
    "  --threads N        threads of ONNX Runtime inside one step (default: by the size of the model)\n"
    "  --chunk N          positions of a prompt that one pass takes in (default 256, or what the engine takes)\n"
    "  --onnxruntime LIB  libonnxruntime.so (default: $XLSTM_ONNXRUNTIME, then the system's)\n"
    "  --custom-ops LIB   libxlstm_onnxruntime.so, the cells as custom operators (default: their definitions)\n"
    "  --activations A    what quantised weights are multiplied with on a CPU: int8 (default, fast) or float32 "
    "(exact)\n"
    "  --engine FILE      a TensorRT engine built from this bundle\n"
    "  --plugins LIB      libxlstm_tensorrt.so (default: the one beside the engine)\n";

// What main() does: calls `run(arguments)`, or shows `help`, which describes the options `names` and `flags`. An error
// is one line.
template <class Run>
int application(int argc, char** argv, const char* help, const std::set<std::string>& names,
                const std::set<std::string>& flags, Run&& run) {
  try {
    const Arguments arguments(argc, argv, names, flags);
    if (arguments.wants_help() || !arguments.has_bundle()) {
      std::fprintf(arguments.wants_help() ? stdout : stderr, "%s%s", help, kCommonHelp);
      return arguments.wants_help() ? 0 : 2;
    }
    run(arguments);
    return 0;
  } catch (const xlstm::Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
  }
}

}  // namespace apps
