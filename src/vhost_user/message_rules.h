// The rules of the message table, applied to one message before it is decoded.
#pragma once

#include "base/result.h"
#include "vhost_user/message_table.h"

#include <cstddef>
#include <span>

namespace causeway::vhost_user {

/// Checks that we handle the message, and that its payload and its number of descriptors are as the table says.
/// Errc::not_supported, Errc::peer_violation; the text does not name the message.
Result<void> check_rules(const MessageSpec& spec, std::span<const std::byte> body, std::size_t descriptors);

}  // namespace causeway::vhost_user
