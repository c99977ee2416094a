"""A PCI function through the kernel's VFIO, in a guest with an IOMMU: its whole life, and why some cannot be had."""

import unittest

from harness.case import IntegrationCase
from harness.guest import PciSlot
from harness.process import wait_for

NIC = "virtio-net-pci,disable-legacy=on,iommu_platform=on,ats=on,page-per-vq=on,vectors=4,romfile="
SERIAL_PORT = "0000:00:08.0"  # of the harness, driven by virtio-pci


class KernelVfio(IntegrationCase):
    """Each test boots a guest with the functions that it needs."""

    def start(self, *slots):
        self.guest = self.start_guest("guest", *slots, iommu=True, programs=("vfio_check",))

    def assert_refused(self, address, *reasons, wrapper="sh -c"):
        """Opening the function fails, and the error says why."""
        result = self.guest.run(f"{wrapper} 'vfio_check {address}'")
        self.assertEqual(result.code, 1, result.output)
        for reason in reasons:
            self.assertIn(reason, result.output)

    def test_life_of_a_function(self):
        self.start(PciSlot((NIC,)))
        address = self.guest.function_address(0)
        self.guest.bind_function(address, "vfio-pci")
        job = self.guest.spawn(f"vfio_check {address}")
        job.await_output("waiting: change the link's state", 30)
        self.assert_refused(address, "another process uses a function of this group")
        self.guest.qmp.execute("set_link", name="slot0.0", up=False)
        job.await_output("waiting: unplug the function", 30)
        self.guest.qmp.execute("device_del", id="slot0.0")
        output = job.wait(30)
        self.assertIn("the kernel wants it back", output)
        self.assertIn("ok: it is unplugged", output)

        def devices():
            return [item["name"] for item in self.guest.qmp.execute("qom-list", path="/machine/peripheral")]

        wait_for(lambda: "slot0.0" not in devices(), 10, "QEMU has taken the function out", self.guest.program)

    def test_what_cannot_be_opened(self):
        self.start(PciSlot((NIC, NIC)))
        first, second = self.guest.function_address(0, 0), self.guest.function_address(0, 1)
        self.assert_refused("1:0.0", "'1:0.0' is no PCI address")
        self.assert_refused("0000:7f:00.0", "no PCI function 0000:7f:00.0")
        self.assert_refused(SERIAL_PORT, f"{SERIAL_PORT} is bound to virtio-pci, not to vfio-pci")
        self.guest.bind_function(first, "vfio-pci")
        self.assert_refused(first, "must be bound to vfio-pci too, or unbound", f"{second} is bound to virtio-pci")
        self.guest.check(f"echo {second} >/sys/bus/pci/devices/{second}/driver/unbind")
        self.assert_refused(second, f"{second} is bound to no driver, not to vfio-pci")
        self.guest.check("mkdir /etc && echo 'user:x:1:1::/:/bin/sh' >/etc/passwd")
        self.assert_refused(first, "this user must be allowed to read and write it", "Permission denied", wrapper="su user -c")


if __name__ == "__main__":
    unittest.main()
