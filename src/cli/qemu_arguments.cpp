#include "cli/qemu_arguments.h"

#include <fmt/format.h>

#include <control/causeway.pb.h>

#include <algorithm>

namespace causeway::cli {
namespace {

namespace api = control::v1;

/// QEMU ends a value at a comma, unless there are two.
std::string escape(std::string_view value) {
  std::string result;
  for (const char character : value) {
    result += character;
    if (character == ',') result += character;
  }
  return result;
}

bool is_server(const api::Port& port) {
  return port.role() == "server";
}

std::string chardev(const api::Port& port) {
  // Where we listen, QEMU connects again when we were restarted; where QEMU listens, we do.
  return fmt::format("socket,id=chr-{},path={},{}", port.name(), escape(port.socket()),
                     is_server(port) ? "reconnect-ms=1000" : "server=on,wait=off");
}

/// QEMU's rings of a disk have 128 entries, which our longest request just fits.
std::string disk(const api::Port& port) {
  const api::BlkPort& blk = port.blk();
  constexpr std::uint32_t kQemuDefaultRing = 128;
  constexpr std::uint32_t kQemuLargestRing = 1024;
  return fmt::format("vhost-user-blk-pci,chardev=chr-{},disable-legacy=on,num-queues={},queue-size={}", port.name(),
                     blk.queues(), std::clamp(blk.queue_size(), kQemuDefaultRing, kQemuLargestRing));
}

std::string nic(const api::Port& port) {
  const api::NetPort& net = port.net();
  // One vector per queue, one for the control queue, one for configuration changes.
  std::string result = fmt::format("virtio-net-pci,netdev=net-{},mac={},disable-legacy=on,vectors={}", port.name(),
                                   net.mac(), 2 * net.queue_pairs() + 2);
  if (net.queue_pairs() > 1) result += ",mq=on";
  constexpr std::uint32_t kQemuDefaultRing = 256;
  constexpr std::uint32_t kQemuLargestRing = 1024;
  const std::uint32_t ring = std::min(net.queue_size(), kQemuLargestRing);
  if (ring > kQemuDefaultRing) result += fmt::format(",rx_queue_size={0},tx_queue_size={0}", ring);
  if (net.has_mtu()) result += fmt::format(",host_mtu={}", net.mtu());
  return result;
}

bool needs_quotes(std::string_view word) {
  constexpr std::string_view kPlain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_=,./:+@%";
  return word.empty() || word.find_first_not_of(kPlain) != std::string_view::npos;
}

}  // namespace

Result<std::vector<std::string>> qemu_arguments(const api::Port& port, std::string_view memory) {
  std::vector<std::string> arguments{
      "-m",       fmt::format("size={}", memory),
      "-object",  fmt::format("memory-backend-memfd,id=causeway-mem,size={},share=on", memory),
      "-machine", "memory-backend=causeway-mem",
      "-chardev", chardev(port),
  };
  if (port.has_blk()) {
    arguments.insert(arguments.end(), {"-device", disk(port)});
    return arguments;
  }
  constexpr std::uint32_t kQemuSmallestRing = 256;
  if (port.net().queue_size() < kQemuSmallestRing) {
    return fail(Errc::not_supported,
                fmt::format("port {}: its queue-size is {}, but QEMU's rings have at least {} entries", port.name(),
                            port.net().queue_size(), kQemuSmallestRing));
  }
  const std::string netdev =
      fmt::format("vhost-user,id=net-{0},chardev=chr-{0},queues={1}", port.name(), port.net().queue_pairs());
  arguments.insert(arguments.end(), {"-netdev", netdev, "-device", nic(port)});
  return arguments;
}

std::string qemu_notes(const api::Port& port, std::string_view memory) {
  std::string notes = fmt::format(
      "Add these to the guest's command line. The guest has {} of memory: choose another size with --memory.\n"
      "For a guest with several ports, take -m, -object and -machine once, and the rest for each port.\n",
      memory);
  if (is_server(port)) notes += "QEMU older than 9.2 writes reconnect=1 in place of reconnect-ms=1000.\n";
  return notes;
}

std::string shell_line(const std::vector<std::string>& arguments) {
  std::string line;
  for (const auto& word : arguments) {
    if (!line.empty()) line += ' ';
    if (!needs_quotes(word)) {
      line += word;
      continue;
    }
    line += '\'';
    for (const char character : word) line += character == '\'' ? std::string("'\\''") : std::string(1, character);
    line += '\'';
  }
  return line + '\n';
}

}  // namespace causeway::cli
