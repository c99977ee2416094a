"""Our driver side against DPDK's back-end, over all that both can negotiate; `scripts/own-driver-matrix` prints the table."""

import unittest

from harness.case import IntegrationCase
from harness.own_driver import OwnDriver, all_combinations
from harness.testpmd import net_vhost

LEAST_RATE = 10_000  # packets a second: far below any machine's, far above none


class OwnDriverMatrix(IntegrationCase):
    """Packets that our driver sends through net_vhost come back, whatever the layout, and DPDK is none the worse."""

    def test_every_combination(self):
        for queues in (1, 4):
            socket = self.folder / f"dpdk{queues}.sock"
            backend = self.make_testpmd(f"backend{queues}", net_vhost(socket, queues), queue_pairs=queues, core=1,
                                        listens_on=socket)
            backend.start()
            backend.start_forwarding()
            for combination in all_combinations():
                if combination["queues"] == queues:
                    with self.subTest(**combination):
                        self.assert_packets_return(socket, combination)
            backend.quit()

    def assert_packets_return(self, socket, combination):
        driver = OwnDriver(socket, "both", combination)
        try:
            self.assertGreater(max(driver.rate(0.1) for _ in range(3)), LEAST_RATE)
        finally:
            driver.close()


if __name__ == "__main__":
    unittest.main()
