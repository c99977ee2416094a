/* Kick and call on a split ring of N entries, indices counting modulo M (65536 in truth). With EVENT_IDX suppression is
 * by used_event and avail_event, else by the two flags. Spec: virtio 1.3 sections 2.7.7, 2.7.9, 2.7.10.
 *
 * The driver may sleep only while it has chains in flight; so both asleep is a wake-up that was lost, and a state in
 * which nothing can go on, which Spin finds.
 */
#define N 2
#define M 8

#define AVAIL_INDEX 0
#define USED_INDEX 1
#define DRIVER_AREA 2 /* used_event, or the flags of the available ring */
#define DEVICE_AREA 3 /* avail_event, or the flags of the used ring */
#define LOCATIONS 4

#include "handshake.pml"

#define MINUS(a, b) ((a + M - (b)) % M)
#ifdef BREAK_EVENT /* off by one: must be found */
#define PASSES(event, new, old) (MINUS(new, event) < MINUS(new, old))
#else
#define PASSES(event, new, old) (MINUS(new, event + 1) < MINUS(new, old))
#endif

#ifdef EVENT_IDX
#define WANTED(seen, new, old) PASSES(seen, new, old)
#define ARMED(position) position
#else
#define SUPPRESSED 1
#define WANTED(seen, new, old) (seen != SUPPRESSED)
#define ARMED(position) 0
#endif

proctype Driver() {
  byte avail, published, used, seen; /* free-running positions; what was read last */
  do
  :: MINUS(avail, used) < N ->
     do
     :: MINUS(avail, used) < N -> avail = (avail + 1) % M
     :: avail != published -> break
     od;
     STORE(stores_of_driver, AVAIL_INDEX, avail);
     FENCE(stores_of_driver, DRIVER_PUBLISHES);
     if
     :: WANTED(mem[DEVICE_AREA], avail, published) -> NOTIFY(stores_of_driver, kicked)
     :: else
     fi;
     published = avail
  :: used = mem[USED_INDEX]; assert(MINUS(avail, used) <= N)
  :: avail != used ->
     STORE(stores_of_driver, DRIVER_AREA, ARMED(used));
     FENCE(stores_of_driver, DRIVER_ARMS);
     seen = mem[USED_INDEX];
     if
     :: seen == used -> SLEEP(called)
     :: else
     fi;
     used = seen; seen = 0;
     assert(MINUS(avail, used) <= N)
#ifndef EVENT_IDX
  :: STORE(stores_of_driver, DRIVER_AREA, SUPPRESSED)
#endif
  od
}

proctype Device() {
  byte known, used, published, seen;
  do
  :: known = mem[AVAIL_INDEX]; assert(MINUS(known, used) <= N)
  :: known != used ->
     do
     :: known != used -> used = (used + 1) % M
     :: used != published -> break
     od;
     STORE(stores_of_device, USED_INDEX, used);
     FENCE(stores_of_device, DEVICE_PUBLISHES);
     if
     :: WANTED(mem[DRIVER_AREA], used, published) -> NOTIFY(stores_of_device, called)
     :: else
     fi;
     published = used
  :: known == used ->
     STORE(stores_of_device, DEVICE_AREA, ARMED(used));
     FENCE(stores_of_device, DEVICE_ARMS);
     seen = mem[AVAIL_INDEX];
     if
     :: seen == used -> SLEEP(kicked)
     :: else
     fi;
     known = seen; seen = 0;
     assert(MINUS(known, used) <= N)
#ifndef EVENT_IDX
  :: STORE(stores_of_device, DEVICE_AREA, SUPPRESSED)
#endif
  od
}

init {
  atomic {
    run Drain(stores_of_driver);
    run Drain(stores_of_device);
    run Driver();
    run Device()
  }
  /* Stays asleep for good, so that its end does not count. */
end:
  false
}
