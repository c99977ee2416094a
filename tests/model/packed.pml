/* Kick and call on a packed ring of N entries, which need be no power of two, with chains of one or two descriptors.
 * With EVENT_IDX a side asks for a notification at one descriptor, else it enables or disables. Spec: virtio 1.3 section
 * 2.8.7, 2.8.10, 2.8.14.
 *
 * As in split.pml the driver may sleep only while it has chains in flight, so both asleep is a wake-up that was lost.
 * Chains become visible one by one here, which includes what a side that shows a whole batch at once may meet; a batch is
 * no longer than the ring.
 */
#define N 3
#define M 16 /* what the event arithmetic counts modulo: 65536 in truth */

/* Locations 0 to N - 1 are the descriptors' flags. */
#define DRIVER_AREA N
#define DEVICE_AREA (N + 1)
#define LOCATIONS (N + 2)

#include "handshake.pml"

/* A position is a place in one of two laps, which the wrap counter tells apart: it is 1 in the first. */
#define PLACE(position) ((position) % N)
#define WRAP(position) ((position) < N)
#define AFTER(position, steps) (((position) + (steps)) % (2 * N))

/* A descriptor: AVAIL and USED bits, and what a chain's slots are: of an available one whether a second follows, of a
 * used one how many slots the driver gets back, which in truth its id says. */
#define SLOTS(descriptor) ((descriptor) >> 2)
#define AVAILABLE(position, slots) (((slots) << 2) | (WRAP(position) -> 1 : 2))
#define USED(position, slots) (((slots) << 2) | (WRAP(position) -> 3 : 0))
#define IS_AVAILABLE(position) ((mem[PLACE(position)] & 3) == (WRAP(position) -> 1 : 2))
#define IS_USED(position) ((mem[PLACE(position)] & 3) == (WRAP(position) -> 3 : 0))

/* What the slots of chains already reaped were matters no more; forgetting it saves states. */
#define FORGET(place) mem[place] = (mem[place] & 3) | 4

#define DISABLED 255
#ifdef EVENT_IDX
#define ARMED(position) (position)
#ifdef BREAK_WRAP /* an event of the lap before taken for one of this lap: must be found */
#define LAP(event, now) 0
#else
#define LAP(event, now) (WRAP(event) == WRAP(now) -> 0 : N)
#endif
#define EVENT(event, now) (PLACE(event) - LAP(event, now))
#ifdef BREAK_EVENT /* off by one: must be found */
#define BEHIND 0
#else
#define BEHIND 1
#endif
/* virtio::passes_event: (now - event - 1) < (now - (now - moved)), modulo M. */
#define PASSES(event, now, moved) ((PLACE(now) - EVENT(event, now) - BEHIND + M) % M < moved)
#define WANTED(area, now, moved) (mem[area] != DISABLED && PASSES(mem[area], now, moved))
#else
#define ARMED(position) 0
#define WANTED(area, now, moved) (mem[area] != DISABLED)
#endif

/* Neither has a step between its loads and its stores that the other could notice, nor does what it does with its own
 * variables show: atomic keeps Spin from counting those states. */
proctype Driver() {
  byte avail, used, was, moved;
  byte free = N;
  do
  :: free > 0 ->
     do
     :: atomic { free > 0 -> STORE(stores_of_driver, PLACE(avail), AVAILABLE(avail, 1));
        avail = AFTER(avail, 1); free = free - 1; moved = moved + 1 }
     :: atomic { free > 1 -> STORE(stores_of_driver, PLACE(AFTER(avail, 1)), AVAILABLE(AFTER(avail, 1), 1));
        STORE(stores_of_driver, PLACE(avail), AVAILABLE(avail, 2));
        avail = AFTER(avail, 2); free = free - 2; moved = moved + 2 }
     :: moved > 0 -> break
     od;
     FENCE(stores_of_driver, DRIVER_PUBLISHES);
     if
     :: WANTED(DEVICE_AREA, avail, moved) -> moved = 0; NOTIFY(stores_of_driver, kicked)
     :: else -> moved = 0
     fi
  :: atomic { free < N && IS_USED(used) ->
     assert(SLOTS(mem[PLACE(used)]) > 0 && SLOTS(mem[PLACE(used)]) <= N - free);
     free = free + SLOTS(mem[PLACE(used)]);
     was = PLACE(used);
     used = AFTER(used, SLOTS(mem[PLACE(used)]));
     FORGET(was); was = 0 }
  :: free < N ->
     STORE(stores_of_driver, DRIVER_AREA, ARMED(used));
     FENCE(stores_of_driver, DRIVER_ARMS);
     if
     :: IS_USED(used)
     :: else -> SLEEP(called); STORE(stores_of_driver, DRIVER_AREA, DISABLED)
     fi
  od
}

proctype Device() {
  byte position, slots, was, moved; /* all that is taken is used at once */
  do
  :: IS_AVAILABLE(position) ->
     do
     :: atomic { IS_AVAILABLE(position) && moved + SLOTS(mem[PLACE(position)]) <= N ->
        slots = SLOTS(mem[PLACE(position)]);
        assert(slots == 1 || IS_AVAILABLE(AFTER(position, 1)));
#ifdef IN_ORDER
        /* One used descriptor may stand for several chains (2.8.7). */
        do
        :: moved + slots < N && IS_AVAILABLE(AFTER(position, slots)) ->
           was = PLACE(AFTER(position, slots));
           slots = slots + SLOTS(mem[was]);
           FORGET(was); was = 0
        :: break
        od;
#endif
        STORE(stores_of_device, PLACE(position), USED(position, slots));
        position = AFTER(position, slots); moved = moved + slots; slots = 0 }
     :: moved > 0 -> break
     od;
     FENCE(stores_of_device, DEVICE_PUBLISHES);
     if
     :: WANTED(DRIVER_AREA, position, moved) -> moved = 0; NOTIFY(stores_of_device, called)
     :: else -> moved = 0
     fi
  :: ! IS_AVAILABLE(position) ->
     STORE(stores_of_device, DEVICE_AREA, ARMED(position));
     FENCE(stores_of_device, DEVICE_ARMS);
     if
     :: IS_AVAILABLE(position)
     :: else -> SLEEP(kicked); STORE(stores_of_device, DEVICE_AREA, DISABLED)
     fi
  od
}

init {
  atomic {
    mem[DRIVER_AREA] = 0;
    run Drain(stores_of_driver);
    run Drain(stores_of_device);
    run Driver();
    run Device()
  }
  /* Stays for good, so that its end does not count. */
end:
  false
}
