"""Tests that have daemons and guests in common, so that a guest boots once for all of them."""

from contextlib import ExitStack

from .case import IntegrationCase


class SharedCase(IntegrationCase):
    """What share() starts, and the attributes that it sets, are there for all tests of a class, one after the other. Each test
    leaves them as it found them, which their assert_as_found() looks at. After a test that fails they are ended, and the next one
    has its own."""

    _world = None  # of a class: what ends all that its tests have in common
    _attributes = {}  # that share() has set
    _is_sharing = False

    def share(self):
        """Starts what the tests have in common."""
        raise NotImplementedError

    def setUp(self):
        if self._world is None:
            self._make_world()
        self.__dict__.update(self._attributes)
        self.addCleanup(self._keep_logs)

    def tearDown(self):
        self.assert_as_found()

    def _make_world(self):
        type(self)._world = ExitStack()
        type(self)._attributes = {}
        self._is_sharing = True
        try:
            super().setUp()
            self.share()
        except BaseException:
            self._end_world()
            raise
        finally:
            self._is_sharing = False

    def __setattr__(self, name, value):
        super().__setattr__(name, value)
        if self._is_sharing and name != "_is_sharing":
            self._attributes[name] = value

    def addCleanup(self, function, /, *arguments, **options):
        if self._is_sharing:
            self._world.callback(function, *arguments, **options)
        else:
            super().addCleanup(function, *arguments, **options)

    def _after_run(self, is_successful):
        if is_successful:
            return
        try:
            self._end_world()
        except Exception as error:  # the test has failed anyway, and the others are to go on
            print(f"the end of what its class has in common: {error}", flush=True)

    @classmethod
    def tearDownClass(cls):
        cls._end_world()

    @classmethod
    def _end_world(cls):
        world, cls._world, cls._attributes = cls._world, None, {}
        if world is not None:
            world.close()
