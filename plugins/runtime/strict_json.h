// JSON files as FORMAT.md (xlstm_export/bundle/FORMAT.md) has them, and the checks that manifest and sidecar share: one
// clear Error(bundle) for each fault.
#pragma once

#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace xlstm::internal {

using Json = nlohmann::json;

// The text of a small file. `remedy` is the last sentence of a message.
std::string read_json_file(const std::filesystem::path& path, const std::string& remedy);

// Its value. `where` names the file in messages.
Json parse_json(const std::string& text, const std::string& where, const std::string& remedy);

// The text of a value that is equal for equal values, as FORMAT.md defines it for the model's hash.
std::string canonical_text(const Json& value);

inline constexpr std::int64_t kMaxCount = std::numeric_limits<std::int32_t>::max();

// The entries of one object, each checked when it is taken. What is refused is said in FORMAT.md.
class Fields {
 public:
  // `at`: where in the file the object is, as `states[2].`. The value outlives it.
  Fields(const Json& data, std::string where, std::string remedy, std::string at = "");

  [[noreturn]] void fail(const std::string& what) const;
  void require(std::initializer_list<const char*> keys) const;

  bool is_null(const char* key) const { return raw(key).is_null(); }
  bool is_absent(const char* key) const;  // an optional entry that is left out, or null
  bool is(const char* key, const char* text) const { return raw(key) == text; }
  std::string text(const char* key) const;
  std::string file_name(const char* key) const;
  std::string sha256(const char* key) const;
  std::string choice(const char* key, std::initializer_list<const char*> allowed) const;
  std::int64_t integer(const char* key, std::int64_t least, std::int64_t most) const;
  int count(const char* key) const;
  double number(const char* key) const;
  bool boolean(const char* key) const;
  const Json& mapping(const char* key) const;
  std::vector<int> counts(const char* key, std::size_t length) const;
  std::vector<int> integers(const char* key, int least) const;
  std::vector<double> fractions(const char* key) const;  // numbers written with a fraction or an exponent
  std::vector<std::string> texts(const char* key) const;
  std::vector<std::string> file_names(const char* key) const;
  // `batch`: what the shape begins with, 0 for "batch"; `positions`: one dimension may be "sequence", which becomes 0;
  // `unknown`: dimensions may be null, which becomes -1.
  std::vector<std::int64_t> shape(const char* key, int batch, bool positions, bool unknown) const;

  Fields below(const char* key) const;
  std::vector<Fields> each(const char* key) const;  // of the objects in a list

 private:
  const Json& raw(const char* key) const;
  const Json& items(const char* key) const;
  [[noreturn]] void refuse(const char* key, const std::string& wanted) const;

  const Json& data_;
  std::string where_, remedy_, at_;
};

}  // namespace xlstm::internal
