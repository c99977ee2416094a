"""DPDK's virtio-user drives a reflecting port with combinations of ring layout, features, ring size and queues.

`scripts/testpmd-matrix` runs them all and prints a table; here run as many as it takes for the values of any three settings to meet.
"""

import unittest

from harness.case import IntegrationCase
from harness.testpmd_matrix import Matrix, all_combinations, covering, label, reflecting_ports


class TestpmdMatrix(IntegrationCase):
    """Whatever virtio-user asks for is negotiated, and packets loop with it."""

    def test_every_three_settings(self):
        ports = reflecting_ports(self.folder)
        matrix = Matrix(self.folder, self.start_daemon(*ports.values()), ports)
        for combination in covering(all_combinations(), 3):
            with self.subTest(label(combination)):
                outcome = matrix.run(combination)
                self.assertEqual(outcome.trouble, "")
                self.assertEqual(outcome.not_granted(), [], f"negotiated: {outcome.negotiated}")


if __name__ == "__main__":
    unittest.main()
