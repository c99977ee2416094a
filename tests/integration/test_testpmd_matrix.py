"""DPDK's virtio-user drives a reflecting port with combinations of ring layout, features, ring size and queues.

`scripts/testpmd-matrix` runs them all and prints a table; here run as many as it takes to see every pair of values.
"""

import unittest

from harness.case import IntegrationCase
from harness.daemon import Port
from harness.testpmd_matrix import SETTINGS, Matrix, all_combinations, label, pairwise


class TestpmdMatrix(IntegrationCase):
    """Whatever virtio-user asks for is negotiated, and packets loop with it."""

    def test_every_pair_of_settings(self):
        ports = {queues: Port(f"net{queues}", self.folder / f"net{queues}.sock", connection="reflect", queue_pairs=queues)
                 for queues in SETTINGS["queues"]}
        matrix = Matrix(self.folder, self.start_daemon(*ports.values()), ports)
        for combination in pairwise(all_combinations()):
            with self.subTest(label(combination)):
                outcome = matrix.run(combination)
                self.assertEqual(outcome.trouble, "")
                self.assertEqual(outcome.not_granted(), [], f"negotiated: {outcome.negotiated}")


if __name__ == "__main__":
    unittest.main()
