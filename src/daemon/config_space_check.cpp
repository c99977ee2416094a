#include "daemon/config_space_check.h"

#include "virtio/blk.h"
#include "virtio/net.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <string_view>
#include <utility>

namespace causeway::daemon {
namespace {

using virtio::BlkConfig;
using virtio::BlkFeature;
using virtio::FeatureSet;
using virtio::NetConfig;
using virtio::NetFeature;

/// What must hold between the value here and the one there.
enum class Rule : std::uint8_t {
  same,
  at_least,  ///< no less there
  all_bits,  ///< all bits that are set here are set there
};

struct Field {
  std::string_view name;  ///< the standard's
  std::size_t offset;
  std::size_t size;  ///< bytes, at most 8
  FeatureSet any;    ///< a driver relies on it once it has one of these; empty: always
  Rule rule;
  std::string_view remedy;
  FeatureSet all{};  // NOLINT(readability-redundant-member-init): and all of these; may be left out
};

constexpr FeatureSet kPairs{NetFeature::mq, NetFeature::rss};
constexpr FeatureSet kHash{NetFeature::rss, NetFeature::hash_report};
constexpr std::string_view kSamePairs = "give both ports the same `queue-pairs`";
constexpr std::string_view kAlike = "let the last of the `devices` be alike on both ports";

// The control queue lies behind all pairs, so that a driver of it relies on their very number. The link's state and
// speed, and what is but a hint, may change at any time.
constexpr std::array kNetFields = {
    Field{"mac",
          offsetof(NetConfig, mac),
          sizeof(NetConfig::mac),
          {NetFeature::mac},
          Rule::same,
          "give both ports the same `mac`"},
    Field{"max_virtqueue_pairs",
          offsetof(NetConfig, max_virtqueue_pairs),
          sizeof(NetConfig::max_virtqueue_pairs),
          kPairs,
          Rule::same,
          kSamePairs,
          {NetFeature::ctrl_vq}},
    Field{"max_virtqueue_pairs", offsetof(NetConfig, max_virtqueue_pairs), sizeof(NetConfig::max_virtqueue_pairs),
          kPairs, Rule::at_least, kSamePairs},
    Field{"mtu",
          offsetof(NetConfig, mtu),
          sizeof(NetConfig::mtu),
          {NetFeature::mtu},
          Rule::at_least,
          "raise the `mtu` of the port there"},
    Field{"rss_max_key_size", offsetof(NetConfig, rss_max_key_size), sizeof(NetConfig::rss_max_key_size), kHash,
          Rule::at_least, kAlike},
    Field{"rss_max_indirection_table_length",
          offsetof(NetConfig, rss_max_indirection_table_length),
          sizeof(NetConfig::rss_max_indirection_table_length),
          {NetFeature::rss},
          Rule::at_least,
          kAlike},
    Field{"supported_hash_types", offsetof(NetConfig, supported_hash_types), sizeof(NetConfig::supported_hash_types),
          kHash, Rule::all_bits, kAlike},
};

constexpr std::array kBlkFields = {
    Field{"capacity",
          offsetof(BlkConfig, capacity),
          sizeof(BlkConfig::capacity),
          {},
          Rule::same,
          "both ports must have the same image (after it has grown, `causeway port resize` on both sides)"},
    Field{"size_max",
          offsetof(BlkConfig, size_max),
          sizeof(BlkConfig::size_max),
          {BlkFeature::size_max},
          Rule::at_least,
          kAlike},
    Field{"seg_max",
          offsetof(BlkConfig, seg_max),
          sizeof(BlkConfig::seg_max),
          {BlkFeature::seg_max},
          Rule::at_least,
          kAlike},
    Field{"blk_size",
          offsetof(BlkConfig, blk_size),
          sizeof(BlkConfig::blk_size),
          {BlkFeature::blk_size},
          Rule::same,
          "give both ports the same `block-size`"},
    Field{"num_queues",
          offsetof(BlkConfig, num_queues),
          sizeof(BlkConfig::num_queues),
          {BlkFeature::mq},
          Rule::at_least,
          "raise `queues` of the port there"},
    Field{"max_discard_sectors",
          offsetof(BlkConfig, max_discard_sectors),
          sizeof(BlkConfig::max_discard_sectors),
          {BlkFeature::discard},
          Rule::at_least,
          kAlike},
    Field{"max_discard_seg",
          offsetof(BlkConfig, max_discard_seg),
          sizeof(BlkConfig::max_discard_seg),
          {BlkFeature::discard},
          Rule::at_least,
          kAlike},
    Field{"max_write_zeroes_sectors",
          offsetof(BlkConfig, max_write_zeroes_sectors),
          sizeof(BlkConfig::max_write_zeroes_sectors),
          {BlkFeature::write_zeroes},
          Rule::at_least,
          kAlike},
    Field{"max_write_zeroes_seg",
          offsetof(BlkConfig, max_write_zeroes_seg),
          sizeof(BlkConfig::max_write_zeroes_seg),
          {BlkFeature::write_zeroes},
          Rule::at_least,
          kAlike},
    Field{"write_zeroes_may_unmap",
          offsetof(BlkConfig, write_zeroes_may_unmap),
          sizeof(BlkConfig::write_zeroes_may_unmap),
          {BlkFeature::write_zeroes},
          Rule::at_least,
          kAlike},
    Field{"max_secure_erase_sectors",
          offsetof(BlkConfig, max_secure_erase_sectors),
          sizeof(BlkConfig::max_secure_erase_sectors),
          {BlkFeature::secure_erase},
          Rule::at_least,
          kAlike},
    Field{"max_secure_erase_seg",
          offsetof(BlkConfig, max_secure_erase_seg),
          sizeof(BlkConfig::max_secure_erase_seg),
          {BlkFeature::secure_erase},
          Rule::at_least,
          kAlike},
};

std::span<const Field> fields_of(virtio::DeviceType type) {
  switch (type) {
    case virtio::DeviceType::net:
      return kNetFields;
    case virtio::DeviceType::block:
      return kBlkFields;
  }
  return {};
}

bool is_relied_on(const Field& field, FeatureSet features) {
  return (field.any == FeatureSet() || (field.any & features) != FeatureSet()) && field.all.is_subset_of(features);
}

bool reaches(std::span<const std::byte> space, const Field& field) {
  return space.size() >= field.offset + field.size;
}

std::uint64_t value_of(std::span<const std::byte> space, const Field& field) {
  std::uint64_t value = 0;
  for (std::size_t i = field.size; i > 0; --i) {
    value = value << 8 | std::to_integer<std::uint64_t>(space[field.offset + i - 1]);
  }
  return value;
}

bool holds(Rule rule, std::uint64_t here, std::uint64_t there) {
  switch (rule) {
    case Rule::same:
      return here == there;
    case Rule::at_least:
      return there >= here;
    case Rule::all_bits:
      return (here & ~there) == 0;
  }
  return false;
}

std::string value_text(std::span<const std::byte> space, const Field& field) {
  if (field.rule == Rule::all_bits) return fmt::format("{:#x}", value_of(space, field));
  if (field.name != "mac") return fmt::format("{}", value_of(space, field));
  std::string text;
  for (const std::byte byte : space.subspan(field.offset, field.size)) {
    text += fmt::format("{}{:02x}", text.empty() ? "" : ":", std::to_integer<unsigned>(byte));
  }
  return text;
}

}  // namespace

std::string config_space_obstacle(virtio::DeviceType type, FeatureSet features, std::span<const std::byte> here,
                                  std::span<const std::byte> there) {
  for (const Field& field : fields_of(type)) {
    if (!is_relied_on(field, features)) continue;
    for (const auto& [space, where] : {std::pair(here, "here"), std::pair(there, "there")}) {
      if (reaches(space, field)) continue;
      return fmt::format("the configuration space has {} bytes {}, which does not reach {}", space.size(), where,
                         field.name);
    }
    if (holds(field.rule, value_of(here, field), value_of(there, field))) continue;
    return fmt::format("{} of the configuration space is {} here and {} there: {}", field.name, value_text(here, field),
                       value_text(there, field), field.remedy);
  }
  return {};
}

}  // namespace causeway::daemon
