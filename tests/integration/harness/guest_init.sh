#!/bin/sh
# The first process of a test guest: loads the modules, then runs the commands that the harness sends over a
# virtio-serial port, which QEMU itself serves: no unbind, reset or failure of the devices under test touches it.
# (A second UART was tried; under TCG it loses what it holds now and then.)
# A request is one line "ID SECONDS COMMAND", the command as printf's %b takes it, and its answer "ID EXIT-CODE BASE64(output)".
# Each program that is started here is milliseconds of every request, so the shell does what it can by itself.
export PATH=/bin HOME=/
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
while read -r module; do insmod "/modules/$module.ko" || echo "init: cannot load $module"; done </modules/order
ifconfig lo up

# The port's node comes a moment after its driver; opening it before would make a plain file in its place.
# Its number is that of the virtio device, which depends on what else is plugged in.
until ls /dev/vport*p1 >/dev/null 2>&1; do sleep 0.1; done
port=$(echo /dev/vport*p1)
exec 3<>"$port"
echo "init: ready"
echo ready >&3
while read -r id seconds command <&3; do
  printf %b "$command" >/tmp/command
  timeout -s KILL "$seconds" sh /tmp/command </dev/null >/tmp/output 2>&1 3>&-
  code=$? output=
  [ -s /tmp/output ] && output=$(base64 -w 0 /tmp/output)
  echo "$id $code $output" >&3
done
