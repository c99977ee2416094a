#include "port/record.h"

#include "port/sealed.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <concepts>
#include <utility>

namespace causeway::port {
namespace {

constexpr std::uint32_t kFirst = std::to_underlying(RecordFormat::first);
constexpr std::uint32_t kSecond = std::to_underlying(RecordFormat::second);
constexpr std::uint32_t kThird = std::to_underlying(RecordFormat::third);
constexpr std::uint32_t kCurrent = std::to_underlying(RecordFormat::current);
constexpr Seal kSeal{.magic = 0x54505743, .first = kFirst, .last = kCurrent, .name = "record of a port"};  // "CWPT"

// --- Writing --------------------------------------------------------------------------------------------------------

void write(ParcelWriter& to, const FileIdentity& file) {
  to.number(file.device);
  to.number(file.inode);
}

void write(ParcelWriter& to, const RegionRecord& region) {
  to.number(region.iova);
  to.number(region.frontend_va);
  to.number(region.size);
  to.number(region.offset);
  write(to, region.file);
}

void write(ParcelWriter& to, const QueueRecord& queue) {
  to.number(queue.size);
  to.flag(queue.addresses.has_value());
  if (queue.addresses) {
    to.flag(queue.addresses->kind == RingAddressKind::guest);
    to.number(queue.addresses->descriptors);
    to.number(queue.addresses->available);
    to.number(queue.addresses->used);
  }
  to.flag(queue.place.has_value());
  if (queue.place) {
    write(to, queue.place->file);
    to.number(queue.place->offset);
  }
  to.flag(queue.started);
  to.flag(queue.enabled);
  to.text(queue.device);
  to.flag(queue.start.has_value());
  if (queue.start) port::write(to, *queue.start);
}

template <class List>
void write_list(ParcelWriter& to, const List& list) {
  to.number(static_cast<std::uint32_t>(list.size()));
  for (const auto& entry : list) write(to, entry);
}

void write_body(ParcelWriter& to, const PortRecord& record, RecordFormat format) {
  to.text(record.port);
  to.number(static_cast<std::uint32_t>(std::to_underlying(record.type)));
  to.number(record.features.bits());
  to.number(std::to_underlying(record.status));
  write_list(to, record.memory);
  write_list(to, record.queues);
  to.number(static_cast<std::uint32_t>(record.control.size()));
  for (const auto& [topic, command] : record.control) {
    to.number(topic);
    to.bytes(command);
  }
  to.number(record.rebinds);
  if (format == RecordFormat::first) return;
  to.number(static_cast<std::uint32_t>(record.config.size()));
  for (const auto& [offset, value] : record.config) {
    to.number(offset);
    to.number(std::to_integer<std::uint8_t>(value));
  }
  to.flag(record.mtu.has_value());
  if (record.mtu) to.number(*record.mtu);
  if (format == RecordFormat::second) return;
  for (const QueueRecord& queue : record.queues) to.text(queue.preferred);
  if (format == RecordFormat::third) return;
  for (const QueueRecord& queue : record.queues) {
    to.number(queue.device_queue);
    to.number(queue.preferred_queue);
    to.flag(queue.path.has_value());
    if (queue.path) to.flag(*queue.path == Path::relay);
  }
}

// --- Reading --------------------------------------------------------------------------------------------------------

template <std::unsigned_integral T>
void read(ParcelReader& from, T& number) {
  number = from.number<T>();
}

void read(ParcelReader& from, RegionRecord& region);
void read(ParcelReader& from, virtio::PackedDescriptor& descriptor);
void read(ParcelReader& from, virtio::InFlight& chain);
void read(ParcelReader& from, QueueRecord& queue);

template <class Entry>
void read_list(ParcelReader& from, std::vector<Entry>& list, std::size_t least) {
  const std::uint32_t count = from.count(least);
  for (std::uint32_t i = 0; i < count && !from.has_failed(); ++i) read(from, list.emplace_back());
}

void read(ParcelReader& from, FileIdentity& file) {
  read(from, file.device);
  read(from, file.inode);
}

void read(ParcelReader& from, RegionRecord& region) {
  read(from, region.iova);
  read(from, region.frontend_va);
  read(from, region.size);
  read(from, region.offset);
  read(from, region.file);
}

void read(ParcelReader& from, virtio::PackedDescriptor& descriptor) {
  read(from, descriptor.address);
  read(from, descriptor.length);
  read(from, descriptor.id);
  read(from, descriptor.flags);
}

void read(ParcelReader& from, virtio::InFlight& chain) {
  read(from, chain.id);
  read_list(from, chain.descriptors, sizeof(virtio::PackedDescriptor));
}

void read(ParcelReader& from, QueueRecord& queue) {
  read(from, queue.size);
  if (from.flag()) {
    RingAddresses& addresses = queue.addresses.emplace();
    addresses.kind = from.flag() ? RingAddressKind::guest : RingAddressKind::frontend;
    read(from, addresses.descriptors);
    read(from, addresses.available);
    read(from, addresses.used);
  }
  if (from.flag()) {
    MemoryPlace& place = queue.place.emplace();
    read(from, place.file);
    read(from, place.offset);
  }
  queue.started = from.flag();
  queue.enabled = from.flag();
  queue.device = from.text();
  if (from.flag()) port::read(from, queue.start.emplace());
  if (queue.size > virtio::QueueSize::kMax) from.refuse(fmt::format("a ring of {} entries", queue.size));
  if (queue.started && (queue.size == 0 || !queue.addresses)) from.refuse("a queue that runs without a ring");
}

/// The keys of a map come in order, each once, so that each record has one form only.
template <class Map>
void insert_in_order(ParcelReader& from, Map& map, typename Map::key_type key, typename Map::mapped_type value) {
  if (!map.empty() && key <= map.rbegin()->first) from.refuse("entries out of order");
  map.emplace_hint(map.end(), key, std::move(value));
}

PortRecord read_body(ParcelReader& from, std::uint32_t format) {
  PortRecord record;
  record.port = from.text();
  record.type = static_cast<virtio::DeviceType>(from.number<std::uint32_t>());
  record.features = virtio::FeatureSet(from.number<std::uint64_t>());
  record.status = static_cast<vdpa::Status>(from.number<std::uint8_t>());
  read_list(from, record.memory, sizeof(RegionRecord));
  read_list(from, record.queues, 1);
  const auto commands = from.count(sizeof(std::uint64_t));
  for (std::uint32_t i = 0; i < commands; ++i) {
    const auto topic = from.number<std::uint64_t>();
    insert_in_order(from, record.control, topic, from.bytes());
  }
  read(from, record.rebinds);
  for (std::size_t i = 0; i < record.queues.size(); ++i) {
    record.queues[i].preferred = record.queues[i].device;
    record.queues[i].device_queue = record.queues[i].preferred_queue = static_cast<std::uint16_t>(i);
  }
  if (format == kFirst) return record;
  const auto written = from.count(sizeof(std::uint32_t) + 1);
  for (std::uint32_t i = 0; i < written; ++i) {
    const auto offset = from.number<std::uint32_t>();
    insert_in_order(from, record.config, offset, std::byte{from.number<std::uint8_t>()});
  }
  if (from.flag()) record.mtu = from.number<std::uint16_t>();
  if (format == kSecond) return record;
  for (QueueRecord& queue : record.queues) queue.preferred = from.text();
  if (format == kThird) return record;
  for (QueueRecord& queue : record.queues) {
    read(from, queue.device_queue);
    read(from, queue.preferred_queue);
    if (from.flag()) queue.path = from.flag() ? Path::relay : Path::direct;
  }
  return record;
}

}  // namespace

void write(ParcelWriter& to, const virtio::QueueState& state) {
  to.number(state.avail);
  to.number(state.used);
  to.number(static_cast<std::uint32_t>(state.in_flight.size()));
  for (const virtio::InFlight& chain : state.in_flight) {
    to.number(chain.id);
    to.number(static_cast<std::uint32_t>(chain.descriptors.size()));
    for (const virtio::PackedDescriptor& descriptor : chain.descriptors) {
      to.number(descriptor.address);
      to.number(descriptor.length);
      to.number(descriptor.id);
      to.number(descriptor.flags);
    }
  }
}

void read(ParcelReader& from, virtio::QueueState& state) {
  read(from, state.avail);
  read(from, state.used);
  read_list(from, state.in_flight, sizeof(std::uint16_t) + sizeof(std::uint32_t));
}

RegionRecord RegionRecord::of(const memory::Region& region) {
  return {.iova = region.iova.value(),
          .frontend_va = region.frontend_va.value(),
          .size = region.size,
          .offset = region.offset,
          .file = region.identity};
}

bool PortRecord::has_driver() const {
  return std::ranges::any_of(queues, [](const QueueRecord& queue) { return queue.place.has_value(); });
}

std::vector<std::byte> encode(const PortRecord& record, RecordFormat format) {
  ParcelWriter body;
  write_body(body, record, format);
  return seal(kSeal, std::to_underlying(format), body.contents());
}

Result<PortRecord> decode(std::span<const std::byte> bytes) {
  CW_TRY(const auto sealed, unseal(kSeal, bytes));
  ParcelReader reader(Parcel{.bytes = {sealed.body.begin(), sealed.body.end()}, .fds = {}});
  PortRecord record = read_body(reader, sealed.format);
  if (auto whole = reader.finish(); !whole) return fail(std::move(whole).error().context("it contradicts itself"));
  return record;
}

std::vector<std::string> differences(const PortRecord& before, const PortRecord& now) {
  std::vector<std::string> found;
  if (before.features != now.features) {
    found.push_back(fmt::format("features: no longer {{{}}}, newly {{{}}}",
                                virtio::text(now.type, before.features.minus(now.features)),
                                virtio::text(now.type, now.features.minus(before.features))));
  }
  const auto bytes = [](const PortRecord& record) {
    std::uint64_t sum = 0;
    for (const RegionRecord& region : record.memory) sum += region.size;
    return sum;
  };
  if (before.memory != now.memory) {
    const auto kept = std::ranges::count_if(now.memory, [&](const RegionRecord& region) {
      return std::ranges::find(before.memory, region) != before.memory.end();
    });
    found.push_back(fmt::format("memory: {} regions with {} bytes, before {} with {}, the same are {}",
                                now.memory.size(), bytes(now), before.memory.size(), bytes(before), kept));
  }
  for (std::size_t i = 0; i < std::max(before.queues.size(), now.queues.size()); ++i) {
    const QueueRecord then = i < before.queues.size() ? before.queues[i] : QueueRecord{};
    const QueueRecord current = i < now.queues.size() ? now.queues[i] : QueueRecord{};
    if (!current.place || !then.place) continue;
    if (then.size != current.size) {
      found.push_back(fmt::format("queue {}: a ring of {} entries, before {}", i, current.size, then.size));
    } else if (then.place != current.place) {
      found.push_back(fmt::format("queue {}: its ring lies elsewhere", i));
    }
  }
  if (before.config != now.config) found.push_back("config: the driver had written other values into it");
  return found;
}

}  // namespace causeway::port
