#!/bin/sh
# The first process of a guest inside a guest: nobody sends it commands. It writes to its disk for the time that the kernel's
# command line says, verifies what it has written, says what it found on its console, and ends.
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
while read -r module; do insmod "/modules/$module.ko" || echo "init: cannot load $module"; done </modules/order
until [ -b /dev/vda ]; do sleep 0.1; done
seconds=$(sed 's/.*check_seconds=\([0-9]*\).*/\1/' /proc/cmdline)
blocks=$(sed 's/.*check_blocks=\([0-9]*\).*/\1/' /proc/cmdline)
echo "blk_check: $(blk_check soak /dev/vda 1 "$blocks" "$seconds")"
poweroff -f
