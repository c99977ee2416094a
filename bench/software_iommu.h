// The owner of an IOMMU between a driver and its port, in this process: what QEMU is to a guest, without the sockets.
#pragma once

#include "memory/iotlb.h"
#include "port/port.h"

#include <cstdint>
#include <vector>

namespace causeway::bench {

/// What a driver's buffers are mapped by, and how the port hears of it.
enum class Mappings : std::uint8_t {
  none,           ///< there is no IOMMU
  passthrough,    ///< one mapping of all memory, for ever
  pushed,         ///< one for each burst, told before the port can see the burst, and ended when it is used
  asked,          ///< likewise, but told when the port asks for a page of it: all of it in one answer
  asked_by_page,  ///< likewise, with an answer for each page that is asked for, as intel-iommu gives them
};

/// Addresses of mappings that end are not used again before many others were, so that nothing of an earlier burst's can
/// be of use to a later one.
/// Thread: control. Throws when the port refuses something: then there is nothing to be measured.
class SoftwareIommu final : public port::DriverSide {
 public:
  /// The port, which must outlive it, has this driver side from now on.
  SoftwareIommu(port::Port& port, Mappings mappings);
  ~SoftwareIommu() override { port_.detach(); }

  /// The driver's address of memory that stays mapped, as rings do, or everything with `passthrough`; and to tell the
  /// port so, once a queue has started: at that moment it forgets what it was told before.
  memory::Iova at_for_ever(memory::Iova memory) const;
  void tell_for_ever(const memory::IovaRange& memory);
  /// The driver's address of a burst's buffers, until `unmap` of that address, after which no Device can use it.
  memory::Iova map(const memory::IovaRange& memory);
  void unmap(memory::Iova at);
  /// Answers what the port has asked for meanwhile.
  void answer();

  // DriverSide
  void config_changed() override {}
  void memory_lost() override {}
  void offer_notify_area(vdpa::QueueIndex /*queue*/, const vdpa::NotifyArea& /*area*/) override {}
  void withdraw_notify_area(vdpa::QueueIndex /*queue*/) override {}
  port::Doorbell doorbell(vdpa::QueueIndex /*queue*/) const override { return port::Doorbell::none; }
  bool translates() const override { return mappings_ != Mappings::none; }
  void translation_missed(const memory::Miss& miss) override { asked_.push_back(miss); }

 private:
  struct Mapped {
    memory::IovaRange at;  ///< by the driver's addresses
    memory::Iova memory;
    bool is_told = false;  ///< since the port was last answered: its other questions are answered too
  };
  bool is_strict() const { return mappings_ != Mappings::none && mappings_ != Mappings::passthrough; }
  void tell(const Mapped& mapped, const memory::IovaRange& part);

  port::Port& port_;
  Mappings mappings_;
  std::vector<Mapped> mapped_;  // a few: those of the bursts under way
  std::vector<memory::Miss> asked_;
  std::uint64_t serial_ = 0;
};

}  // namespace causeway::bench
