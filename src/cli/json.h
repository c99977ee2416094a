// What programs read: answers of the control API as JSON, with the names of the .proto file.
#pragma once

#include "base/result.h"

#include <string>
#include <string_view>
#include <vector>

namespace google::protobuf {
class Message;
}

namespace causeway::cli {

/// The message as JSON, indented, with a line feed at its end. Fields that are zero or empty are there too. 64-bit
/// numbers are strings, as protobuf's mapping to JSON has it.
Result<std::string> json(const google::protobuf::Message& message);
/// The other way. Errc::invalid_value: `text` is no such message; unknown fields are an error too, since they may
/// matter.
Result<void> parse_json(std::string_view text, google::protobuf::Message& to);
/// An array of strings as JSON, with a line feed at its end.
Result<std::string> json(const std::vector<std::string>& words);

}  // namespace causeway::cli
