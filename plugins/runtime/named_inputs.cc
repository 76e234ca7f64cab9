#include "runtime/named_inputs.h"

#include <algorithm>
#include <limits>

namespace xlstm::internal {
namespace {

[[noreturn]] void refuse(const std::string& message) { throw Error(ErrorCode::argument, message); }

std::string counted(std::size_t count, const char* what) {
  return std::to_string(count) + " " + what + (count == 1 ? "" : "s");
}

}  // namespace

NamedInputs::NamedInputs(const Manifest& manifest, int batch)
    : manifest_(manifest),
      batch_(static_cast<std::size_t>(batch)),
      given_(manifest.inputs.size()),
      data_(manifest.inputs.size()) {}

Feed NamedInputs::check(Span<const Input> inputs, Span<const std::int32_t> lengths) {
  std::fill(given_.begin(), given_.end(), nullptr);
  for (const Input& input : inputs) {
    const auto found = std::find_if(manifest_.inputs.begin(), manifest_.inputs.end(),
                                    [&](const TensorSpec& spec) { return spec.name == input.name(); });
    const std::string_view name = input.name();
    if (found == manifest_.inputs.end()) {
      refuse("There is no input " + std::string(name) + ". The model takes " + all_described() + ".");
    }
    const Input*& place = given_[static_cast<std::size_t>(found - manifest_.inputs.begin())];
    if (place) refuse("Input " + std::string(name) + " is given twice.");
    place = &input;
  }
  std::size_t positions = 0;
  const TensorSpec* first = nullptr;  // with a time axis
  for (std::size_t i = 0; i < given_.size(); ++i) {
    const TensorSpec& spec = manifest_.inputs[i];
    if (!given_[i]) refuse("Input " + spec.name + " is missing. The model takes " + all_described() + ".");
    const std::size_t here = positions_of(spec, *given_[i]);
    data_[i] = given_[i]->data();
    if (spec.time_axis() < 0) continue;
    if (first && here != positions) {
      refuse("Input " + spec.name + " has " + counted(here, "position") + ", but input " + first->name + " has " +
             std::to_string(positions) + ". Give all inputs the same number.");
    }
    first = first ? first : &spec;
    positions = here;
  }
  positions = first ? positions : 1;
  if (manifest_.vocab_size) {
    check_tokens(manifest_, {static_cast<const std::int64_t*>(given_[0]->data()), given_[0]->size()});
  }
  check_lengths(lengths, positions);
  return {positions, data_.data(), lengths.empty() ? nullptr : lengths.data()};
}

std::size_t NamedInputs::positions_of(const TensorSpec& spec, const Input& input) const {
  if (input.dtype() != spec.dtype) {
    refuse("Input " + spec.name + " is " + std::string(input.dtype()) + ", expected " + described(spec) + ".");
  }
  const std::size_t of_one = spec.row_elements() * batch_;  // which fits: a session of more is not made
  const bool any = spec.time_axis() >= 0;
  if (any ? input.size() == 0 || input.size() % of_one : input.size() != of_one) {
    refuse("Input " + spec.name + " has " + counted(input.size(), "value") + ", expected " + described(spec) + ": " +
           (any ? std::to_string(of_one) + " for each position." : counted(of_one, "value") + "."));
  }
  const std::size_t positions = any ? input.size() / of_one : 1;
  if (positions > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max())) {
    refuse("Input " + spec.name + " has " + std::to_string(positions) + " positions. Feed it in parts.");
  }
  return positions;
}

void NamedInputs::check_lengths(Span<const std::int32_t> lengths, std::size_t positions) const {
  if (lengths.empty()) return;
  if (lengths.size() != batch_) {
    refuse("There are " + counted(lengths.size(), "length") + " for a batch of " + std::to_string(batch_) +
           ". Give one for each row, or none.");
  }
  for (std::size_t row = 0; row < batch_; ++row) {
    const std::int32_t length = lengths[row];
    if (length < 0 || static_cast<std::size_t>(length) > positions) {
      refuse("The length of row " + std::to_string(row) + " is " + std::to_string(length) + "; give 0 to " +
             std::to_string(positions) + ".");
    }
    if (manifest_.lengths.empty() && static_cast<std::size_t>(length) != positions) {
      refuse("The length of row " + std::to_string(row) + " is " + std::to_string(length) + " of " +
             counted(positions, "position") + ", but a bundle of mode " + manifest_.mode +
             " takes no padding. Leave the lengths out, or export it with --mode both.");
    }
  }
}

// `float32 (2, positions, 3)`
std::string NamedInputs::described(const TensorSpec& spec) const {
  std::string text = spec.dtype + " (" + std::to_string(batch_);
  for (std::size_t i = 1; i < spec.shape.size(); ++i) {
    text += ", " + (spec.shape[i] == kSequence ? "positions" : std::to_string(spec.shape[i]));
  }
  return text + ")";
}

std::string NamedInputs::all_described() const {
  std::string text;
  for (const TensorSpec& spec : manifest_.inputs) {
    text += (text.empty() ? "" : ", ") + spec.name + ": " + described(spec);
  }
  return text;
}

void check_tokens(const Manifest& manifest, Span<const std::int64_t> tokens) {
  for (const std::int64_t token : tokens) {
    if (static_cast<std::uint64_t>(token) < manifest.vocab_size) continue;
    refuse("Token " + std::to_string(token) + " is outside the vocabulary of " + std::to_string(manifest.vocab_size) +
           ". Give tokens from 0 to " + std::to_string(manifest.vocab_size - 1) + ".");
  }
}

}  // namespace xlstm::internal
