/* What the ring models share: memory behind store buffers, notifications, and the places of the fences.
 *
 * Spin interleaves whole steps in one order that all see. A processor does not: its stores wait in a buffer while its
 * later loads go ahead. So each side's stores pass through a queue here, which `Drain` empties whenever it likes, and a
 * full fence waits until the side's own queue is empty. The place whose fence is taken out is MISSING (0: none is).
 */
#ifndef MISSING
#define MISSING 0
#endif
#define DRIVER_PUBLISHES 1
#define DRIVER_ARMS 2
#define DEVICE_PUBLISHES 3
#define DEVICE_ARMS 4

#define DRIVER 0
#define DEVICE 1

/* A store of one more than this many waits until one is out. */
#ifndef BUFFERED
#define BUFFERED 2
#endif

byte mem[LOCATIONS];
chan stores_of_driver = [BUFFERED] of { byte, byte };
chan stores_of_device = [BUFFERED] of { byte, byte };
bool kicked, called;

/* No load needs to look into the own buffer: neither side reads a location that only it writes, and of a packed
 * descriptor the old and the new value both mean "not yet". */
#define STORE(stores, location, value) stores!location, value
#define DRAINED(stores) (len(stores) == 0)
#define FENCE(stores, place) if :: (place == MISSING) :: else -> DRAINED(stores) fi

/* Writing and waiting for an eventfd are locked instructions at the least, hence drain too. That is to the advantage of
 * the code without a fence: what is found against it does not rest on a lazy kernel. */
#define NOTIFY(stores, flag) atomic { DRAINED(stores) -> flag = true }
#define SLEEP(flag) atomic { flag -> flag = false }

proctype Drain(chan stores) {
  byte location, value;
end:
  do
  :: atomic { stores?location, value -> mem[location] = value; location = 0; value = 0 }
  od
}
