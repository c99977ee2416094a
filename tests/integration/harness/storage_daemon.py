"""qemu-storage-daemon: another's vhost-user-blk back-end."""

from .process import Program, find_program, wait_for


class StorageDaemon:
    """One qemu-storage-daemon that exports a raw image; start() may follow kill() and stop(). With `reads_per_second`
    it answers reads that slowly, and writes at once: so that requests stay under way, and end in another order."""

    def __init__(self, folder, image, queues=1, reads_per_second=None):
        self.socket = folder / "far.sock"
        disk = f"driver=file,node-name=disk,filename={image}"
        slow_disk = "driver=throttle,node-name=slow-disk,throttle-group=slow,file=disk"
        is_slow = reads_per_second is not None
        nodes = ["--blockdev", disk]
        if is_slow:
            nodes += ["--object", f"throttle-group,id=slow,x-iops-read={reads_per_second}", "--blockdev", slow_disk]
        export = f"type=vhost-user-blk,id=export,node-name={'slow-disk' if is_slow else 'disk'},writable=on," \
                 f"addr.type=unix,addr.path={self.socket},num-queues={queues}"
        self.program = Program("qemu-storage-daemon", [find_program("qemu-storage-daemon"), *nodes, "--export", export],
                               folder / "qemu-storage-daemon.log")

    def start(self, limit=20):
        """Starts it and waits until it listens."""
        self.socket.unlink(missing_ok=True)  # one that was killed leaves it
        self.program.start()
        wait_for(self.socket.exists, limit, "qemu-storage-daemon listens", self.program)

    def stop(self):
        """Ends it with SIGTERM, upon which it finishes the requests that it has taken, and returns its exit code."""
        return self.program.stop()

    def kill(self):
        """Ends it with SIGKILL, if it runs."""
        self.program.kill()
