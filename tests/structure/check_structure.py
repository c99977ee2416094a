#!/usr/bin/env python3
"""Holds src/ against the rules of docs/architecture.md: which module may include which, where casts may stand, file sizes."""

import re
import sys
from pathlib import Path

# What each module may include besides itself.
ALLOWED = {"base": set()}
ALLOWED["memory"] = {"base"}
ALLOWED["virtio"] = ALLOWED["memory"] | {"memory"}
ALLOWED["vdpa"] = ALLOWED["virtio"] | {"virtio"}
ALLOWED["port"] = ALLOWED["vdpa"] | {"vdpa"}
ALLOWED["net"] = ALLOWED["blk"] = ALLOWED["vdpa"] | {"vdpa"}  # a device kind knows neither ports nor servers
ALLOWED["vhost_user"] = ALLOWED["port"] | {"port"}  # a server knows no device kind
ALLOWED["vfio"] = ALLOWED["memory"] | {"memory"}
ALLOWED["vfio_user"] = ALLOWED["vfio"] | {"vfio"}
ALLOWED["virtio_pci"] = ALLOWED["port"] | {"port", "vfio"}  # over any Bus: it knows no socket
ALLOWED["control"] = set()
ALLOWED["daemon"] = ALLOWED["port"] | {"port", "net", "blk", "vhost_user", "vfio", "vfio_user",
                                                                      "virtio_pci", "control"}
ALLOWED["cli"] = {"base", "control"}
TEST_SUPPORT = {"support"}

# Modules that turn addresses into pointers.
MAY_CAST = {"base", "memory"}
LONGEST_FILE = 500


def complaints(root):
    for path in sorted(root.rglob("*.h")) + sorted(root.rglob("*.cpp")):
        module = path.relative_to(root).parts[0]
        is_test = re.search(r"_(test|fuzz)\.cpp$|test_support\.h$|fixture\.h$", path.name)
        text = path.read_text()
        if module not in ALLOWED:
            yield f"{path}: module '{module}' is not in the architecture"
            continue
        for included in re.findall(r'^#include "([a-z_]+)/', text, re.MULTILINE):
            if included != module and included not in ALLOWED[module] | (TEST_SUPPORT if is_test else set()):
                yield f"{path}: '{module}' may not include '{included}'"
        if "reinterpret_cast" in text and module not in MAY_CAST and not is_test:
            yield f"{path}: reinterpret_cast outside of {', '.join(sorted(MAY_CAST))}"
        if text.count("\n") > LONGEST_FILE:
            yield f"{path}: more than {LONGEST_FILE} lines"


def main():
    found = list(complaints(Path(sys.argv[1])))
    print("\n".join(found))
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
