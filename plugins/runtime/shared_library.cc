#include "runtime/shared_library.h"

#include <dlfcn.h>

#include <cstdlib>

#include "xlstm/xlstm.hpp"

namespace xlstm::internal {

SharedLibrary SharedLibrary::open(const std::string& what, const std::filesystem::path& chosen, const char* environment,
                                  const std::vector<std::string>& names, const std::string& advice) {
  std::vector<std::string> candidates = names;
  const char* from_environment = environment ? std::getenv(environment) : nullptr;
  if (!chosen.empty()) {
    candidates = {chosen.string()};
  } else if (from_environment && *from_environment) {
    candidates = {from_environment};
  }
  std::string reasons;
  for (const std::string& name : candidates) {
    if (void* handle = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL)) return {handle, name};
    const char* reason = dlerror();
    reasons += std::string(reasons.empty() ? "" : "; ") + (reason ? reason : name + ": cannot be opened");
  }
  throw Error(ErrorCode::unavailable, what + " cannot be loaded (" + reasons + "). " + advice);
}

void* SharedLibrary::symbol(const char* name) const {
  void* address = dlsym(handle_, name);
  if (!address) {
    throw Error(ErrorCode::unavailable, path_ + " has no function " + name + ": it is another library or version.");
  }
  return address;
}

}  // namespace xlstm::internal
