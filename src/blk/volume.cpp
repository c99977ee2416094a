#include "blk/volume.h"

#include "virtio/blk.h"

#include <fmt/format.h>

namespace causeway::blk {
namespace {

std::string_view name_of(Operation::Kind kind) {
  switch (kind) {
    case Operation::Kind::read:
      return "read";
    case Operation::Kind::write:
      return "write";
    case Operation::Kind::flush:
      return "flush";
    case Operation::Kind::discard:
      return "discard";
    case Operation::Kind::zero:
    case Operation::Kind::unmap:
      return "write zeroes";
  }
  return "do";
}

}  // namespace

void Volume::report(const Operation& operation) {
  if (!log_limit_.allow()) return;
  const auto held_back = log_limit_.take_suppressed();
  log::error("port {}: {}{}", port_,
             system_error(fmt::format("cannot {} {} bytes at sector {} of {}", name_of(operation.kind),
                                      operation.length, operation.offset / virtio::kSectorSize, store_->name()),
                          operation.error)
                 .text(),
             held_back == 0 ? std::string() : fmt::format(" ({} such lines held back)", held_back));
}

}  // namespace causeway::blk
