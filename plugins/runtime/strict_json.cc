#include "runtime/strict_json.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <fstream>
#include <limits>

#include "xlstm/xlstm.hpp"

namespace xlstm::internal {
namespace {

constexpr std::size_t kMaxBytes = std::size_t{16} << 20;
constexpr int kMaxDepth = 64;
constexpr std::size_t kMaxDimensions = 8;
constexpr std::int64_t kMaxElements = std::int64_t{1} << 40;

// Finds what the parser would let pass, or does not finish.
class Limits : public nlohmann::json_sax<Json> {
 public:
  std::string fault;

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t& text) override {
    const bool is_integer = text.find_first_of(".eE") == std::string::npos;
    return is_integer ? stop("an integer has more than 64 bits") : true;
  }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(std::size_t) override { return enter(); }
  bool key(string_t&) override { return true; }
  bool end_object() override { return leave(); }
  bool start_array(std::size_t) override { return enter(); }
  bool end_array() override { return leave(); }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception& error) override {
    return stop(error.what());
  }

 private:
  bool enter() {
    return ++depth_ <= kMaxDepth || stop("it is nested more than " + std::to_string(kMaxDepth) + " deep");
  }
  bool leave() { return --depth_, true; }
  bool stop(const std::string& what) {
    fault = what;
    return false;
  }

  int depth_ = 0;
};

std::string shown(const Json& value) {
  const std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  return text.size() <= 60 ? text : text.substr(0, 57) + "...";
}

bool is_integer(const Json& value, std::int64_t least, std::int64_t most) {
  if (!value.is_number_integer()) return false;
  if (value.is_number_unsigned() && value.get<std::uint64_t>() > static_cast<std::uint64_t>(most)) return false;
  return value.get<std::int64_t>() >= least && value.get<std::int64_t>() <= most;
}

bool is_count(const Json& value) { return is_integer(value, 1, kMaxCount); }

bool is_text(const Json& value) {
  if (!value.is_string()) return false;
  const auto& text = value.get_ref<const std::string&>();
  return !text.empty() && text.find('\0') == std::string::npos;
}

bool is_file_name(const Json& value) {
  if (!is_text(value)) return false;
  const auto& name = value.get_ref<const std::string&>();
  return name.find_first_of("/\\") == std::string::npos && name != "." && name != "..";
}

// Shortest digits that read back to the same double; see FORMAT.md.
std::string number_text(double value) {
  char buffer[32];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, std::abs(value), std::chars_format::scientific).ptr;
  const std::string scientific(buffer, end);  // d.ddde+xx, or de+xx
  const std::string sign = std::signbit(value) ? "-" : "";
  const double size = std::abs(value);
  if (size != 0 && (size < 1e-4 || size >= 1e15)) return sign + scientific;
  const std::size_t mark = scientific.find('e');
  const int exponent = std::stoi(scientific.substr(mark + 1));
  std::string digits = scientific.substr(0, mark);
  digits.erase(std::remove(digits.begin(), digits.end(), '.'), digits.end());
  if (exponent < 0) return sign + "0." + std::string(static_cast<std::size_t>(-exponent - 1), '0') + digits;
  const auto whole = static_cast<std::size_t>(exponent) + 1;
  if (digits.size() <= whole) digits.resize(whole + 1, '0');
  return sign + digits.substr(0, whole) + "." + digits.substr(whole);
}

}  // namespace

std::string read_json_file(const std::filesystem::path& path, const std::string& remedy) {
  std::ifstream file(path, std::ios::binary);
  std::string text;
  char block[1 << 16];
  while (text.size() <= kMaxBytes && (file.read(block, sizeof block) || file.gcount() > 0)) {
    text.append(block, static_cast<std::size_t>(file.gcount()));
  }
  if (!file.is_open() || file.bad()) throw Error(ErrorCode::bundle, path.string() + " cannot be read. " + remedy);
  return text;
}

Json parse_json(const std::string& text, const std::string& where, const std::string& remedy) {
  const auto refuse = [&](const std::string& fault) {
    throw Error(ErrorCode::bundle, where + " is not valid JSON (" + fault + "). " + remedy);
  };
  if (text.size() > kMaxBytes) refuse("it has more than " + std::to_string(kMaxBytes) + " bytes");
  // Both of which the parser takes: the one as nothing, the other as the end.
  if (text.compare(0, 3, "\xef\xbb\xbf") == 0) refuse("it begins with a byte order mark");
  if (text.find('\0') != std::string::npos) refuse("it holds a NUL");
  Limits limits;
  if (!Json::sax_parse(text, &limits)) refuse(limits.fault);
  return Json::parse(text);
}

std::string canonical_text(const Json& value) {
  std::string text;
  if (value.is_object()) {
    for (const auto& [key, item] : value.items()) {  // in the order of their bytes
      text += (text.empty() ? "" : ",") + Json(key).dump(-1, ' ', true) + ":" + canonical_text(item);
    }
    return "{" + text + "}";
  }
  if (value.is_array()) {
    for (const Json& item : value) text += (text.empty() ? "" : ",") + canonical_text(item);
    return "[" + text + "]";
  }
  return value.is_number_float() ? number_text(value.get<double>()) : value.dump(-1, ' ', true);
}

Fields::Fields(const Json& data, std::string where, std::string remedy, std::string at)
    : data_(data), where_(std::move(where)), remedy_(std::move(remedy)), at_(std::move(at)) {
  if (data.is_object()) return;
  const std::string name = at_.empty() ? "it" : at_.substr(0, at_.size() - 1);
  fail(name + " is " + shown(data) + ", not an object");
}

void Fields::fail(const std::string& what) const {
  throw Error(ErrorCode::bundle, where_ + ": " + what + ". " + remedy_);
}

void Fields::require(std::initializer_list<const char*> keys) const {
  std::string missing;
  for (const char* key : keys) {
    if (!data_.contains(key)) missing += (missing.empty() ? "" : ", ") + at_ + key;
  }
  if (!missing.empty()) fail(missing + " missing");
}

bool Fields::is_absent(const char* key) const {
  const auto found = data_.find(key);
  return found == data_.end() || found->is_null();
}

std::string Fields::text(const char* key) const {
  if (!is_text(raw(key))) refuse(key, "a text");
  return raw(key).get<std::string>();
}

std::string Fields::file_name(const char* key) const {
  if (!is_file_name(raw(key))) refuse(key, "a plain file name");
  return raw(key).get<std::string>();
}

std::string Fields::sha256(const char* key) const {
  const Json& value = raw(key);
  const std::string text = value.is_string() ? value.get<std::string>() : "";
  if (text.size() != 64 || text.find_first_not_of("0123456789abcdef") != std::string::npos) {
    refuse(key, "a SHA-256 in 64 lower-case hexadecimal digits");
  }
  return text;
}

std::string Fields::choice(const char* key, std::initializer_list<const char*> allowed) const {
  std::string names;
  for (const char* name : allowed) {
    if (raw(key) == name) return name;
    names += (names.empty() ? "\"" : ", \"") + std::string(name) + "\"";
  }
  refuse(key, "one of " + names);
}

std::int64_t Fields::integer(const char* key, std::int64_t least, std::int64_t most) const {
  if (!is_integer(raw(key), least, most)) {
    refuse(key, "an integer from " + std::to_string(least) + " to " + std::to_string(most));
  }
  return raw(key).get<std::int64_t>();
}

int Fields::count(const char* key) const { return static_cast<int>(integer(key, 1, kMaxCount)); }

double Fields::number(const char* key) const {
  if (!raw(key).is_number() || raw(key).get<double>() < 0) refuse(key, "a number that is not negative");
  return raw(key).get<double>();
}

bool Fields::boolean(const char* key) const {
  if (!raw(key).is_boolean()) refuse(key, "true or false");
  return raw(key).get<bool>();
}

const Json& Fields::mapping(const char* key) const {
  if (!raw(key).is_object()) refuse(key, "an object");
  return raw(key);
}

std::vector<int> Fields::counts(const char* key, std::size_t length) const {
  const Json& list = items(key);
  if (list.size() != length || !std::all_of(list.begin(), list.end(), is_count)) {
    refuse(key, "a list of " + std::to_string(length) + " positive numbers");
  }
  return list.get<std::vector<int>>();
}

std::vector<int> Fields::integers(const char* key, int least) const {
  const Json& list = items(key);
  const auto fits = [least](const Json& value) { return is_integer(value, least, kMaxCount); };
  if (!std::all_of(list.begin(), list.end(), fits)) {
    refuse(key, "a list of integers from " + std::to_string(least) + " on");
  }
  return list.get<std::vector<int>>();
}

std::vector<double> Fields::fractions(const char* key) const {
  const Json& list = items(key);
  if (!std::all_of(list.begin(), list.end(), [](const Json& value) { return value.is_number_float(); })) {
    refuse(key, "a list of fractions");
  }
  return list.get<std::vector<double>>();
}

std::vector<std::string> Fields::texts(const char* key) const {
  const Json& list = items(key);
  if (!std::all_of(list.begin(), list.end(), is_text)) refuse(key, "a list of texts");
  return list.get<std::vector<std::string>>();
}

std::vector<std::string> Fields::file_names(const char* key) const {
  const Json& list = items(key);
  if (!std::all_of(list.begin(), list.end(), is_file_name)) refuse(key, "a list of plain file names");
  return list.get<std::vector<std::string>>();
}

std::vector<std::int64_t> Fields::shape(const char* key, int batch, bool positions, bool unknown) const {
  const std::string first = batch ? std::to_string(batch) : "batch";
  const auto check = [&](bool good) {
    if (!good) refuse(key, "a list of " + first + " and then positive numbers");
  };
  const Json& list = items(key);
  check(!list.empty() && list.size() <= kMaxDimensions);
  check(batch ? is_integer(list[0], batch, batch) : list[0] == "batch");
  std::vector<std::int64_t> shape{batch};
  std::int64_t elements = 1;
  for (std::size_t i = 1; i < list.size(); ++i) {
    if (positions && list[i] == "sequence") {
      shape.push_back(0);
      positions = false;  // there is one
    } else if (unknown && list[i].is_null()) {
      shape.push_back(-1);
    } else {
      check(is_count(list[i]));
      shape.push_back(list[i].get<std::int64_t>());
      check(!__builtin_mul_overflow(elements, shape[i], &elements) && elements < kMaxElements);
    }
  }
  return shape;
}

Fields Fields::below(const char* key) const { return Fields(raw(key), where_, remedy_, at_ + key + "."); }

std::vector<Fields> Fields::each(const char* key) const {
  std::vector<Fields> result;
  const Json& list = items(key);
  result.reserve(list.size());
  for (std::size_t i = 0; i < list.size(); ++i) {
    result.emplace_back(list[i], where_, remedy_, at_ + key + "[" + std::to_string(i) + "].");
  }
  return result;
}

const Json& Fields::raw(const char* key) const {
  const auto found = data_.find(key);
  if (found == data_.end()) fail(at_ + key + " missing");
  return *found;
}

const Json& Fields::items(const char* key) const {
  if (!raw(key).is_array()) refuse(key, "a list");
  return raw(key);
}

void Fields::refuse(const char* key, const std::string& wanted) const {
  fail(at_ + key + " is " + shown(raw(key)) + ", not " + wanted);
}

}  // namespace xlstm::internal
