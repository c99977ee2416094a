#include "cli/json.h"

#include <google/protobuf/struct.pb.h>
#include <google/protobuf/util/json_util.h>

namespace causeway::cli {

Result<std::string> json(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = true;
  options.always_print_primitive_fields = true;
  options.preserve_proto_field_names = true;
  std::string result;
  const auto status = google::protobuf::util::MessageToJsonString(message, &result, options);
  if (!status.ok()) return fail(Errc::invalid_value, "cannot write the answer as JSON: " + status.ToString());
  if (!result.ends_with('\n')) result += '\n';
  return result;
}

Result<void> parse_json(std::string_view text, google::protobuf::Message& to) {
  const auto status = google::protobuf::util::JsonStringToMessage({text.data(), text.size()}, &to);
  if (!status.ok()) return fail(Errc::invalid_value, "not the JSON that was expected: " + status.ToString());
  return {};
}

Result<std::string> json(const std::vector<std::string>& words) {
  google::protobuf::ListValue list;
  for (const auto& word : words) list.add_values()->set_string_value(word);
  return json(list);
}

}  // namespace causeway::cli
