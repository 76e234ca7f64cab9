// A shared library opened at run time, so that an application starts without it and says what is missing.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace xlstm::internal {

class SharedLibrary {
 public:
  // Opens `chosen`; where that is empty, the path in the environment variable; where that is not set, the first of
  // `names` that the system's loader finds. `what` names it in messages, `advice` says how to get it.
  // Throws Error(unavailable). The library stays loaded until the process ends: what it registered may not vanish.
  static SharedLibrary open(const std::string& what, const std::filesystem::path& chosen, const char* environment,
                            const std::vector<std::string>& names, const std::string& advice);

  template <class Function>
  Function* function(const char* name) const {
    return reinterpret_cast<Function*>(symbol(name));
  }

  const std::string& path() const { return path_; }

 private:
  SharedLibrary(void* handle, std::string path) : handle_(handle), path_(std::move(path)) {}
  void* symbol(const char* name) const;  // throws Error(unavailable)

  void* handle_;
  std::string path_;
};

}  // namespace xlstm::internal
