// What Session::run is given by name, checked and put into the manifest's order.
#pragma once

#include <string>
#include <vector>

#include "runtime/manifest.h"
#include "runtime/pass_buffers.h"
#include "xlstm/xlstm.hpp"

namespace xlstm::internal {

class NamedInputs {
 public:
  // The manifest outlives it.
  NamedInputs(const Manifest& manifest, int batch);

  // What to feed. It refers to the inputs, to the lengths, and to this, and is valid until the next call; the first
  // allocates what all others use again. Throws Error(argument): names, types, sizes, lengths, tokens.
  Feed check(Span<const Input> inputs, Span<const std::int32_t> lengths);

 private:
  std::size_t positions_of(const TensorSpec& spec, const Input& input) const;
  void check_lengths(Span<const std::int32_t> lengths, std::size_t positions) const;
  std::string described(const TensorSpec& spec) const;
  std::string all_described() const;

  const Manifest& manifest_;
  std::size_t batch_;
  std::vector<const Input*> given_;
  std::vector<const void*> data_;
};

// Throws Error(argument) for a token outside of the vocabulary.
void check_tokens(const Manifest& manifest, Span<const std::int64_t> tokens);

}  // namespace xlstm::internal
