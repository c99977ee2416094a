// What programs read: answers of the control API as JSON, with the names of the .proto file.
#pragma once

#include "base/result.h"

#include <string>
#include <vector>

namespace google::protobuf {
class Message;
}

namespace causeway::cli {

/// The message as JSON, indented, with a line feed at its end. Fields that are zero or empty are there too. 64-bit
/// numbers are strings, as protobuf's mapping to JSON has it.
Result<std::string> json(const google::protobuf::Message& message);
/// An array of strings as JSON, with a line feed at its end.
Result<std::string> json(const std::vector<std::string>& words);

}  // namespace causeway::cli
