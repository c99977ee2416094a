"""Real programs for the integration tests: guests, testpmd, network namespaces and the daemon itself."""
