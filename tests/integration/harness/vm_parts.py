"""What guests are made of: the QEMU, kernel and modules of scripts/fetch-vm-parts, and an initramfs of our own."""

import functools
import os
import tempfile
from pathlib import Path

from .process import ProgramFailed, run

REPOSITORY = Path(__file__).resolve().parents[3]
SCRIPTS = REPOSITORY / "scripts"
MODULES = ("virtio_pci", "virtio_console", "virtio_net", "virtio_blk")
PROGRAMS = ("ethtool", "iperf3", "mkfs.ext4", "/usr/sbin/blkdiscard:/bin/discard")
OWN_PROGRAMS = ("blk_check",)  # of tests/guest
RANDOM_BYTES = 1 << 20
_kept_files = []  # a guest may boot from them again


def vm_folder():
    """The folder that scripts/fetch-vm-parts fills."""
    folder = Path(os.environ.get("CAUSEWAY_CACHE", REPOSITORY / ".cache")) / "vm"
    if not (folder / "layout").exists():
        raise ProgramFailed(f"nothing to build guests from in {folder}: run scripts/fetch-vm-parts")
    return folder


def program_folder():
    """Where the programs under test are."""
    return Path(os.environ.get("CAUSEWAY_BIN_DIR", REPOSITORY / "build/release/bin"))


@functools.cache
def random_file():
    """A file of RANDOM_BYTES that every guest has too, as /random: what is known on both sides need not be computed in a guest."""
    file = tempfile.NamedTemporaryFile(prefix="causeway-random-")
    _kept_files.append(file)
    file.write(os.urandom(RANDOM_BYTES))
    file.flush()
    return Path(file.name)


@functools.cache
def initramfs(modules=(), programs=(), files=()):
    """Builds the initramfs that all guests of this run share which want the same more modules, programs of ours, and others
    (as SOURCE:DESTINATION)."""
    # Kept open, so that the file lives as long as this process and no longer.
    file = tempfile.NamedTemporaryFile(prefix="causeway-initramfs-")
    _kept_files.append(file)
    custom_initramfs(Path(file.name), Path(__file__).with_name("guest_init.sh"), (*MODULES, *modules),
                     (*OWN_PROGRAMS, *programs), (*PROGRAMS, f"{random_file()}:/random", *files))
    return Path(file.name)


def custom_initramfs(path, init, modules, programs, files=()):
    """Builds one with this init, modules, programs of ours and others."""
    arguments = [f"--module={name}" for name in modules] + [f"--file={name}" for name in files]
    arguments += [f"--file={program_folder() / name}:/bin/{name}" for name in programs]
    run(SCRIPTS / "build-initramfs", path, "--modules-dir", vm_folder() / "modules", "--init", init, *arguments)
