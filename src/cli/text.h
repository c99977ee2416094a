// What people read: answers of the control API as aligned text.
#pragma once

#include <control/causeway.pb.h>

#include <string>
#include <vector>

namespace causeway::cli {

using Row = std::vector<std::string>;

/// Rows as lines with columns aligned to the left, two blanks apart. Rows may differ in length.
std::string table(const std::vector<Row>& rows);

/// One line per port, under a header.
std::string text(const control::v1::ListPortsResponse& response);
/// Everything about a port: its properties, then a table of its queues.
std::string text(const control::v1::Port& port);
std::string text(const control::v1::RebindResponse& response, const control::v1::RebindRequest& request);
std::string text(const control::v1::InjectResponse& response, const std::string& port);
/// The sums of a capture.
std::string text(const control::v1::CaptureBatch& sums, const std::string& port);
/// A remark on queues that a capture does not see, as a line; empty when there are none.
std::string unseen_queues(const control::v1::CaptureBatch& batch);

}  // namespace causeway::cli
